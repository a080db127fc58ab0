"""MulT: stacks of cross-modal Transformer layers, one a direction. A rival of lesson 06.

Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov: "Multimodal Transformer for Unaligned Multimodal Language
Sequences", ACL 2019, section 3, for two channels instead of three. Its values are general knowledge here, not
read again [M]; "ours" marks what differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.errors import MerLabError, check_choices
from mer_lab.models.layers import MultiHeadAttention, Nearness, positions, relative
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import average_steps

OTHER = {"audio": "text", "text": "audio"}  # who asks whom


@dataclass(frozen=True)
class MulTConfig:
    """Settings of :class:`MulT`; the defaults are the preset ``mult``.

    Attributes:
        width: of everything after the convolutions. 40 [M]
        heads: 10 [M]; 8 on another of its corpora.
        layers: of each cross-modal stack. 4 [M]
        self_layers: of self-attention over each stack's output. 3 [M]
        kernel: steps of the temporal convolution before everything; odd. 3 [M]
        nearness: whether cross-modal scores fall with distance, as in
            :class:`~mer_lab.models.layers.Nearness`: ours.
        relative: whether each frame also comes as its distance from the utterance's mean: ours.
        pool: "last", the last real step [M], or "mean" (ours).
        dropout: of the input, the residual branches and the weights; the paper has one for each. 0.1 [M]
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
    """

    width: int = 40
    heads: int = 10
    layers: int = 4
    self_layers: int = 3
    kernel: int = 3
    nearness: bool = False
    relative: bool = False
    pool: str = "last"
    dropout: float = 0.1
    stride: int = 1

    def __post_init__(self) -> None:
        check_choices(self, pool=("last", "mean"))
        if self.width % self.heads:
            raise MerLabError(f"width {self.width} cannot be shared by {self.heads} heads.")
        if self.kernel % 2 == 0:
            raise MerLabError(f"kernel is {self.kernel}; it must be odd, to be centred on its own step.")


class CrossmodalLayer(nn.Module):
    """``Z' = Z + MHA(LN(Z), LN(Y), LN(Y))``, then ``Z' + FFN(LN(Z'))``; with ``Y = Z`` it is self-attention.

    The order of normalisation and residual is that of the authors' code [M], one norm for queries and keys.

    >>> layer = CrossmodalLayer(8, heads=2)
    >>> words, frames = torch.randn(3, 4, 8), torch.randn(3, 9, 8)
    >>> z, weights = layer(words, frames, torch.ones(3, 9, dtype=torch.bool))
    >>> z.shape, weights.shape
    (torch.Size([3, 4, 8]), torch.Size([3, 2, 4, 9]))
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = MultiHeadAttention(width, heads, dropout=dropout)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, z: Tensor, y: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``z (U, T, D)`` asks ``y (U, T', D)``, ``mask (U, T')``; the map is ``(U, heads, T, T')``."""
        taken, weights = self.attend(self.norm1(z), self.norm1(y), mask, bias=bias)
        z = z + self.dropout(taken)
        return z + self.dropout(self.ffn(self.norm2(z))), weights


class MulT(System):
    """Per direction, layer upon layer of one channel asking the other's low-level features; then itself."""

    Config = MulTConfig
    paper = "Tsai et al. 2019, Multimodal Transformer for Unaligned Multimodal Language Sequences"

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: MulTConfig = MulTConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        width, kernel = config.width, config.kernel

        def stack(layers: int) -> nn.ModuleList:
            return nn.ModuleList(CrossmodalLayer(width, config.heads, config.dropout) for _ in range(layers))

        def each(make: Callable[[], nn.Module]) -> nn.ModuleDict:
            return nn.ModuleDict({channel: make() for channel in OTHER})

        self.project = nn.ModuleDict(
            {
                channel: nn.Conv1d(size, width, kernel, padding=kernel // 2, bias=False)
                for channel, size in (("audio", audio.width * (1 + config.relative)), ("text", text.width))
            }
        )
        self.cross, self.itself = each(lambda: stack(config.layers)), each(lambda: stack(config.self_layers))
        self.near = each(lambda: Nearness(config.heads)) if config.nearness else {}
        self.between, self.norm = each(lambda: nn.LayerNorm(width)), each(lambda: nn.LayerNorm(width))
        both = 2 * width
        self.mlp = nn.Sequential(
            nn.Linear(both, both), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(both, both)
        )
        self.classify = nn.Linear(both, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        x, frames = average_steps(x, frames, self.config.stride)
        if self.config.relative:
            x = torch.cat([x, relative(x, frames)], dim=-1)
        mask = {"audio": frames, "text": words}
        low = {c: self._low(c, v, mask[c]) for c, v in (("audio", x), ("text", w))}  # Z^[0] (U, T, width)
        attention, pooled = {}, []
        for channel, other in OTHER.items():
            z = low[channel]
            bias = self.near[channel](mask[channel], mask[other]) if self.near else None
            for k, layer in enumerate(self.cross[channel]):
                z, weights = layer(z, low[other], mask[other], bias)  # the source stays low-level
                attention[f"{channel} to {other} {k + 1}"] = weights
            z = self._placed(self.between[channel](z))
            for k, layer in enumerate(self.itself[channel]):
                z, weights = layer(z, z, mask[channel])
                attention[f"{channel} to itself {k + 1}"] = weights
            pooled.append(self._pool(self.norm[channel](z), mask[channel]))
        c = torch.cat(pooled, dim=-1)  # (U, 2 width)
        c = c + self.mlp(c)
        return Output(self.classify(c), attention if need_attention else {}, c)

    def _low(self, channel: str, x: Tensor, mask: Tensor) -> Tensor:
        x = x * mask.unsqueeze(-1)  # the kernel sees the steps after the end
        return self._placed(self.project[channel](x.transpose(1, 2)).transpose(1, 2))

    def _placed(self, z: Tensor) -> Tensor:
        z = math.sqrt(z.shape[-1]) * z
        return self.dropout(z + positions(z.shape[1], z.shape[2], z.device, z.dtype))

    def _pool(self, z: Tensor, mask: Tensor) -> Tensor:
        if self.config.pool == "mean":
            return (z * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        last = (mask.sum(1) - 1).clamp(min=0)
        return z[torch.arange(len(z), device=z.device), last]
