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
from mer_lab.errors import check_choices
from mer_lab.models.layers import (
    AttentionPooling,
    BiGRU,
    BiLSTM,
    MultiHeadAttention,
    Nearness,
    masked_softmax,
    relative,
)
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
        nearness: (ours) 0 for none, else the slope ``lambda`` that learning starts from: a score falls with
            the distance of word and frame, ``lambda |p_i - p_j|``, each at its share ``p`` of the utterance
            (:class:`~mer_lab.models.layers.Nearness`); inside the tanh of the published score.
        relative: (ours) beside each frame, its distance from the utterance's mean, in deviations.
        raw: (ours) words take the frames themselves beside their states, which blur into each other.
    """

    score: str = "published"
    cell: str = "lstm"
    width: int = 100
    heads: int = 8
    pool: str = "max"
    dropout: float = 0.2
    project: int = 0
    stride: int = 1
    nearness: float = 0.0
    relative: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        check_choices(self, score=SCORES, cell=("lstm", "gru"), pool=("max", "attention"))


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
        self.published = score == "published"
        inner = 1 if self.published else hidden
        self.u = nn.Linear(frames, inner, bias=False)  # u^T, or W_s
        self.v = nn.Linear(words, inner)  # v^T and b, or W_h
        self.last = None if self.published else nn.Linear(hidden, 1, bias=False)  # the interacting v^T

    def forward(
        self, h: Tensor, s: Tensor, mask: Tensor, near: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """``h (U, Tt, words)``, ``s (U, Ta, frames)`` to s~ ``(U, Tt, frames)`` and alpha ``(U, Tt, Ta)``.

        ``near (U, Tt, Ta)`` is added to the score; inside the tanh to the published one, which stays bounded.
        """
        inside = self.v(h)[:, :, None] + self.u(s)[:, None]  # (U, Tt, Ta, 1 or hidden)
        if self.published:
            a = torch.tanh(inside.squeeze(-1) + near)  # (U, Tt, Ta)
        else:
            a = self.last(torch.tanh(inside)).squeeze(-1) + near
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
        given = audio.width * (2 if config.relative else 1)
        frames = config.project or given
        self.project = nn.Sequential(nn.Linear(given, frames), nn.ReLU()) if config.project else nn.Identity()
        self.hear = recurrent(frames, config.width)
        self.read = recurrent(text.width, config.width)
        both, dot = 2 * config.width, config.score == "dot"
        self.align = (
            MultiHeadAttention(both, config.heads) if dot else AdditiveAlignment(both, both, config.score)
        )
        self.near = Nearness(config.heads if dot else 1, config.nearness) if config.nearness else None
        self.fuse = recurrent(2 * both + frames * config.raw, config.width)
        self.pool = AttentionPooling(both) if config.pool == "attention" else None
        self.classify = nn.Linear(both, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        if self.config.relative:
            x = torch.cat([x, relative(x, frames)], dim=-1)  # (U, Ta, 2 Da)
        x, frames = average_steps(x, frames, self.config.stride)
        x = self.project(x)
        s = self.hear(self.dropout(x), frames)  # (U, Ta, 2 width)
        h = self.read(self.dropout(w), words)  # (U, Tt, 2 width)
        aligned, alpha = self._align(h, s, words, frames)  # s~ (U, Tt, 2 width), alpha (U, heads, Tt, Ta)
        parts = [aligned, alpha.mean(1) @ x, h] if self.config.raw else [aligned, h]
        fused = self.fuse(self.dropout(torch.cat(parts, dim=-1)), words)  # (U, Tt, 2 width)
        attention = {"alignment": alpha}
        if self.pool is not None:
            c, beta = self.pool(fused, words)
            attention["pooling"] = beta[:, None, None]
        else:
            c = fused.masked_fill(~words.unsqueeze(-1), -2.0).amax(1)  # a state lies above -1
        logits = self.classify(self.dropout(c))  # (U, classes)
        return Output(logits, attention if need_attention else {}, c)

    def _align(self, h: Tensor, s: Tensor, words: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        near = None if self.near is None else self.near(words, frames)  # (U, heads, Tt, Ta)
        if self.config.score == "dot":
            return self.align(h, s, frames, bias=near)
        aligned, alpha = self.align(h, s, frames, 0.0 if near is None else near[:, 0])
        return aligned, alpha[:, None]
