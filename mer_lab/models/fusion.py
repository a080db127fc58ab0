"""Fusion of two pooled channels: at the decision, early, gated, low-rank. Lesson 04 builds it.

Each channel is read by a BiLSTM and pooled by attention into one vector, as in lesson 03; then the two meet.
Frames and words are gone by then, and none of these learns which word was stressed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.errors import check_choices
from mer_lab.models.layers import AttentionPooling, BiLSTM
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import average_steps

FUSIONS = ("mean", "product", "learned", "early", "gated", "low-rank")


@dataclass(frozen=True)
class FusionConfig:
    """Settings of :class:`PooledFusion`. The sizes are ours; the papers worked on other data.

    Attributes:
        fusion: "mean", "product" or "learned" at the decision (Kittler et al., PAMI 1998); "early", a network
            on the two vectors side by side; "gated" (Arevalo et al. 2017); "low-rank" (Liu et al. 2018).
        width: of each recurrent network, per direction.
        hidden: of the fused vector.
        rank: of the low-rank tensor.
        dropout: on what enters the recurrent networks, and on fused vectors.
        stride: average this many neighbouring frames first, for speed.
    """

    fusion: str = "early"
    width: int = 48
    hidden: int = 64
    rank: int = 4
    dropout: float = 0.2
    stride: int = 4

    def __post_init__(self) -> None:
        check_choices(self, fusion=FUSIONS)


class Fused(NamedTuple):
    """``logits (U, classes)``, the ``vector (U, D)`` they are read from, a gated unit's ``gate (U, D)``."""

    logits: Tensor
    vector: Tensor
    gate: Tensor | None = None


class DecisionFusion(nn.Module):
    """Each channel decides for itself, then the two decisions are added up: ``f(text) + g(audio)``.

    "mean": ``log((p_a + p_t) / 2)``; "product": ``log p_a + log p_t``; "learned": ``w_a * log p_a + w_t * log
    p_t``, a weight for each channel and class. For mean and product each channel is trained as a classifier
    of its own: in training a coin picks the channel that answers an utterance, so that the expected loss is
    the mean of the two cross-entropies. "learned" is trained as it answers.
    """

    def __init__(self, width: int, classes: int, config: FusionConfig) -> None:
        super().__init__()
        self.rule = config.fusion
        self.hears, self.reads = nn.Linear(width, classes), nn.Linear(width, classes)
        self.weights = nn.Parameter(torch.ones(2, classes)) if self.rule == "learned" else None
        self.dropout = nn.Dropout(config.dropout)

    def decisions(self, a: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(U, classes)`` of the audio channel and of the text channel."""
        return self.hears(self.dropout(a)).log_softmax(-1), self.reads(self.dropout(t)).log_softmax(-1)

    def forward(self, a: Tensor, t: Tensor) -> Fused:
        log_a, log_t = self.decisions(a, t)
        if self.rule == "learned":
            logits = self.weights[0] * log_a + self.weights[1] * log_t
        elif self.training:
            logits = torch.where(torch.rand(len(a), 1, device=a.device) < 0.5, log_a, log_t)
        else:
            logits = log_a + log_t if self.rule == "product" else torch.logaddexp(log_a, log_t) - math.log(2)
        return Fused(logits, torch.cat([a, t], dim=-1))


class EarlyFusion(nn.Module):
    """Both vectors side by side into a network with one hidden layer: ``h = ReLU(W [a; t] + b)``."""

    def __init__(self, width: int, classes: int, config: FusionConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * width, config.hidden)
        self.classify = nn.Linear(config.hidden, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, a: Tensor, t: Tensor) -> Fused:
        h = self.mix(self.dropout(torch.cat([a, t], dim=-1))).relu()  # (U, hidden)
        return Fused(self.classify(self.dropout(h)), h)


class GatedFusion(nn.Module):
    """A gate weighs voice against words, number by number, anew for every utterance.

    The gated multimodal unit (Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017, arXiv
    1702.01992): ``h = z * tanh(W_a a) + (1 - z) * tanh(W_t t)``, ``z = sigmoid(W_z [a; t])``.
    """

    def __init__(self, width: int, classes: int, config: FusionConfig) -> None:
        super().__init__()
        self.W_a = nn.Linear(width, config.hidden, bias=False)
        self.W_t = nn.Linear(width, config.hidden, bias=False)
        self.W_z = nn.Linear(2 * width, config.hidden, bias=False)
        self.classify = nn.Linear(config.hidden, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, a: Tensor, t: Tensor) -> Fused:
        z = torch.sigmoid(self.W_z(torch.cat([a, t], dim=-1)))  # (U, hidden)
        h = z * torch.tanh(self.W_a(a)) + (1 - z) * torch.tanh(self.W_t(t))
        return Fused(self.classify(self.dropout(h)), h, z)


class LowRankFusion(nn.Module):
    """Every number of the voice times every number of the words, without the tensor that this would take.

    The outer product ``[a; 1] [t; 1]^T`` goes through a linear map ``W (Da + 1, Dt + 1, hidden)``, which is
    kept as ``rank`` pairs of factors and never built (Liu et al., "Efficient Low-rank Multimodal Fusion with
    Modality-Specific Factors", ACL 2018): ``h = sum_r (W_a^r [a; 1]) * (W_t^r [t; 1])``. The ones keep each
    channel's own part in the sum.
    """

    def __init__(self, width: int, classes: int, config: FusionConfig) -> None:
        super().__init__()
        scale = (2 / (width + 1)) ** 0.5 / config.rank**0.25
        self.W_a = nn.Parameter(torch.randn(config.rank, width + 1, config.hidden) * scale)
        self.W_t = nn.Parameter(torch.randn(config.rank, width + 1, config.hidden) * scale)
        self.classify = nn.Linear(config.hidden, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, a: Tensor, t: Tensor) -> Fused:
        a, t = (nn.functional.pad(self.dropout(x), (0, 1), value=1.0) for x in (a, t))  # [a; 1], [t; 1]
        heard = torch.einsum("ud,rdh->urh", a, self.W_a)  # (U, rank, hidden)
        read = torch.einsum("ud,rdh->urh", t, self.W_t)
        h = (heard * read).sum(1)  # (U, hidden)
        return Fused(self.classify(self.dropout(h)), h)


_LAYERS = {"early": EarlyFusion, "gated": GatedFusion, "low-rank": LowRankFusion}


class PooledFusion(System):
    """Two pooled channels and one of six ways to fuse them."""

    Config = FusionConfig

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: FusionConfig = FusionConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        both = 2 * config.width
        self.hear, self.read = BiLSTM(audio.width, config.width), BiLSTM(text.width, config.width)
        self.pool_audio, self.pool_text = AttentionPooling(both), AttentionPooling(both)
        self.fuse = _LAYERS.get(config.fusion, DecisionFusion)(both, classes, config)
        self.dropout = nn.Dropout(config.dropout)

    def channels(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One vector ``(U, 2 width)`` of the voice, one of the words, and what each was pooled with."""
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        x, frames = average_steps(x, frames, self.config.stride)
        a, heard = self.pool_audio(self.hear(self.dropout(x), frames), frames)
        t, read = self.pool_text(self.read(self.dropout(w), words), words)
        return a, t, {"audio pooling": heard[:, None, None], "text pooling": read[:, None, None]}

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        a, t, attention = self.channels(batch)
        fused = self.fuse(a, t)
        return Output(fused.logits, attention if need_attention else {}, fused.vector)

    def pairs(self, batch: Batch) -> Tensor:
        """Logits ``(U, U, classes)`` of text i with audio j, each channel read once: for ``mer_lab.emap``."""
        a, t, _ = self.channels(batch)
        return torch.stack([self.fuse(a, row.expand_as(t)).logits for row in t])
