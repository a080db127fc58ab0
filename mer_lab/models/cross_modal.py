"""Cross-modal attention: each channel asks the other. Lesson 06 builds it.

Krishna D N: "Using Large Pre-Trained Models with Cross-Modal Attention for Multi-Modal Emotion Recognition",
arXiv 2108.09669 (2021). Words below say how sure a value is: [V] read in the published material (its
abstract), [C-3rd] in code of a third party, [M] general knowledge, [?] not found and our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.errors import MerLabError, check_choices
from mer_lab.models.layers import (
    BiLSTM,
    MultiHeadAttention,
    Nearness,
    StatisticsPooling,
    positions,
    relative,
)
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import average_steps

_CHOICES = {
    "directions": ("both", "audio", "text"),
    "statistics": ("mean+std", "mean"),
    "positions": ("none", "sinusoidal", "nearness"),
    "recurrent_on": ("both", "audio"),
}


@dataclass(frozen=True)
class CrossModalConfig:
    """Settings of :class:`CrossModalAttention`; the defaults are the preset ``krishna2021``.

    Attributes:
        directions: which queries: "both" [V], or only "audio" or "text".
        attention: whether the channels ask each other [V]; without, each one's own vectors are pooled.
        statistics: over time: "mean+std" [V], or "mean".
        width: that both channels are projected into. [?]
        heads: [?]; ``width`` is a multiple.
        kernel: steps that the projection sees: 1, linear; more, the Conv1D after both encoders of a rebuild
            [C-3rd, weak]; odd.
        recurrent: layers of a BiLSTM, ``width / 2`` a direction, before the attention. 0; the rebuild has one
            on "audio" (``recurrent_on``) [C-3rd, weak]. On "both" it is ours: a small encoder trained from
            nothing, where none is pretrained.
        positions: "none" (the abstract mentions none). Ours: "sinusoidal", added to the projected vectors; or
            "nearness", which lets a word look first where its sound should be (:class:`Nearness`).
        relative: put beside each frame its distance from its own utterance's mean, in deviations (ours): a
            word is stressed for this speaker, in this sentence.
        dropout: [?]
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
    """

    directions: str = "both"
    attention: bool = True
    statistics: str = "mean+std"
    width: int = 256
    heads: int = 4
    kernel: int = 1
    recurrent: int = 0
    recurrent_on: str = "both"
    positions: str = "none"
    relative: bool = False
    dropout: float = 0.2
    stride: int = 1

    def __post_init__(self) -> None:
        check_choices(self, **_CHOICES)
        if self.width % self.heads or (self.recurrent and self.width % 2):
            raise MerLabError(f"width {self.width} cannot be shared by {self.heads} heads, or 2 directions.")
        if self.kernel % 2 == 0:
            raise MerLabError(f"kernel is {self.kernel}; it must be odd, to be centred on its own step.")


class CrossModalAttention(System):
    """Words ask the frames and frames ask the words; statistics of both answers are classified."""

    Config = CrossModalConfig
    paper = (
        "Krishna 2021, Using Large Pre-Trained Models with Cross-Modal Attention for Multi-Modal Emotion "
        "Recognition"
    )

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: CrossModalConfig = CrossModalConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        width, kept = config.width, ("audio", "text")
        if config.directions != "both":
            kept = (config.directions,)
        self.project = nn.ModuleDict(
            {
                channel: nn.Conv1d(size, width, config.kernel, padding=config.kernel // 2)
                for channel, size in (("audio", audio.width * (1 + config.relative)), ("text", text.width))
                if config.attention or channel in kept
            }
        )
        self.recurrent = nn.ModuleDict(
            {
                channel: BiLSTM(width, width // 2, config.recurrent, config.dropout)
                for channel in self.project
                if config.recurrent and config.recurrent_on in ("both", channel)
            }
        )
        self.attend = nn.ModuleDict(
            {query: MultiHeadAttention(width, config.heads) for query in kept if config.attention}
        )
        self.near = nn.ModuleDict(
            {query: Nearness(config.heads) for query in self.attend if config.positions == "nearness"}
        )
        self.pool = StatisticsPooling()
        self.kept = kept
        self.classify = nn.Linear(len(kept) * width * (1 + (config.statistics == "mean+std")), classes)
        self.dropout = nn.Dropout(config.dropout)

    def prepare(self, channel: str, x: Tensor, mask: Tensor) -> Tensor:
        """``(U, T, D)`` of one channel to A or T of the equations, ``(U, T, width)``, zeros in padding."""
        x = self.dropout(x) * mask.unsqueeze(-1)  # a kernel sees the steps after the end
        h = self.project[channel](x.transpose(1, 2)).transpose(1, 2)
        if self.config.positions == "sinusoidal":
            h = h + positions(h.shape[1], h.shape[2], h.device, h.dtype)
        h = h * mask.unsqueeze(-1)
        return self.recurrent[channel](h, mask) if channel in self.recurrent else h

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        x, frames = average_steps(x, frames, self.config.stride)
        if self.config.relative:
            x = torch.cat([x, relative(x, frames)], dim=-1)
        mask, other = {"audio": frames, "text": words}, {"audio": "text", "text": "audio"}
        h = {c: self.prepare(c, v, mask[c]) for c, v in (("audio", x), ("text", w)) if c in self.project}
        attention, pooled = {}, []
        for query in self.kept:
            z, key = h[query], other[query]
            if self.config.attention:  # CMA_a = MHA(A, T, T), CMA_t = MHA(T, A, A)
                bias = self.near[query](mask[query], mask[key]) if query in self.near else None
                z, attention[f"{query} to {key}"] = self.attend[query](z, h[key], mask[key], bias=bias)
            pooled.append(self.pool(z, mask[query]))  # (U, 2 width): mean ; std
        if self.config.statistics == "mean":
            pooled = [p.chunk(2, dim=-1)[0] for p in pooled]
        c = torch.cat(pooled, dim=-1)
        return Output(self.classify(self.dropout(c)), attention if need_attention else {}, c)
