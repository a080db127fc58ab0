"""Alignment attention: each word looks for its sound. Lesson 05 builds it.

Xu, Zhang, Han, Wang, Chen, Li: "Learning Alignment for Multimodal Emotion Recognition from Speech",
Interspeech 2019, arXiv 1909.05645, section 2. Words below say how sure a value is: [V] read in the published
material, [C] in code, [M] general knowledge, [?] not found and our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.errors import MerLabError
from mer_lab.models.layers import AttentionPooling, BiGRU, BiLSTM, MultiHeadAttention, masked_softmax
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import average_steps

SCORES = ("published", "interacting", "dot")


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of :class:`AlignmentAttention`; the defaults are the preset ``xu2019``.

    Attributes:
        score: of word j and frame i. "published" [V]: ``tanh(u^T s_i + v^T h_j + b)``. "interacting" (ours):
            ``v^T tanh(W_s s_i + W_h h_j)``, Bahdanau's additive form. "dot" [C-author]: scaled dot product,
            ``heads`` of them.
        cell: "lstm" [V], or "gru" [C-author].
        width: of a recurrent network, per direction. 100 [M; C-author].
        heads: of the dot product. 8 [C-author].
        pool: over words: "max" [V], or "attention" [C-author].
        dropout: [?]; 0.5 in the toolkit [C-author].
        project: width of a ReLU layer on the frames before the recurrent network, 0 for none. 512 in the
            toolkit [C-author].
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
    """

    score: str = "published"
    cell: str = "lstm"
    width: int = 100
    heads: int = 8
    pool: str = "max"
    dropout: float = 0.2
    project: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        for name, known in {"score": SCORES, "cell": ("lstm", "gru"), "pool": ("max", "attention")}.items():
            if getattr(self, name) not in known:
                raise MerLabError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}.")


class AdditiveAlignment(nn.Module):
    """For each word the weighted mean of all frames, by an additive score.

    >>> align = AdditiveAlignment(8, 6, score="interacting")
    >>> words, frames = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    >>> aligned, alpha = align(words, frames, torch.ones(2, 5, dtype=torch.bool))
    >>> aligned.shape, alpha.shape
    (torch.Size([2, 3, 6]), torch.Size([2, 3, 5]))
    """

    def __init__(self, words: int, frames: int, score: str = "published", hidden: int = 64) -> None:
        super().__init__()
        inner = 1 if score == "published" else hidden
        self.u = nn.Linear(frames, inner, bias=False)  # u^T, or W_s
        self.v = nn.Linear(words, inner)  # v^T and b, or W_h
        self.last = nn.Identity() if score == "published" else nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Tensor, s: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``h (U, Tt, words)``, ``s (U, Ta, frames)`` to s~ ``(U, Tt, frames)`` and alpha ``(U, Tt, Ta)``."""
        a = self.last(torch.tanh(self.v(h)[:, :, None] + self.u(s)[:, None])).squeeze(-1)  # (U, Tt, Ta)
        alpha = masked_softmax(a, mask[:, None])  # over the frames, per word
        return alpha @ s, alpha


class AlignmentAttention(System):
    """Words take their sound from the frames by attention; a second BiLSTM reads the pairs."""

    Config = AlignmentConfig
    paper = "Xu et al. 2019, Learning Alignment for Multimodal Emotion Recognition from Speech"

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: AlignmentConfig = AlignmentConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        recurrent = BiLSTM if config.cell == "lstm" else BiGRU
        frames = config.project or audio.width
        self.project = nn.Identity()
        if config.project:
            self.project = nn.Sequential(nn.Linear(audio.width, frames), nn.ReLU())
        self.hear = recurrent(frames, config.width)
        self.read = recurrent(text.width, config.width)
        both = 2 * config.width
        if config.score == "dot":
            self.align = MultiHeadAttention(both, config.heads)
        else:
            self.align = AdditiveAlignment(both, both, config.score)
        self.fuse = recurrent(2 * both, config.width)
        self.pool = AttentionPooling(both) if config.pool == "attention" else None
        self.classify = nn.Linear(both, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        x, frames = average_steps(x, frames, self.config.stride)
        s = self.hear(self.dropout(self.project(x)), frames)  # (U, Ta, 2 width)
        h = self.read(self.dropout(w), words)  # (U, Tt, 2 width)
        aligned, alpha = self.align(h, s, frames)  # s~ (U, Tt, 2 width); (U, Tt, Ta), or (U, heads, Tt, Ta)
        fused = self.fuse(self.dropout(torch.cat([aligned, h], dim=-1)), words)  # (U, Tt, 2 width)
        attention = {}
        if self.pool is not None:
            c, beta = self.pool(fused, words)
            attention = {"pooling": beta[:, None, None]}
        else:
            c = fused.masked_fill(~words.unsqueeze(-1), -2.0).amax(1)  # an LSTM's outputs lie above -1
        logits = self.classify(self.dropout(c))  # (U, classes)
        if need_attention:
            attention["alignment"] = alpha if alpha.dim() == 4 else alpha[:, None]
        return Output(logits, attention if need_attention else {}, c)
