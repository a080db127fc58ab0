"""One channel: a sequence encoder, attention pooling and a classifier. Lesson 03 builds it."""

from __future__ import annotations

import torch
from torch import nn

from mer_lab.batches import Batch
from mer_lab.models.layers import AttentionPooling, BiLSTM, StatisticsPooling, TransformerEncoder
from mer_lab.models.output import Output


class UnimodalBiLSTM(nn.Module):
    """BiLSTM over words or frames, additive attention pooling, linear classifier.

    Args:
        encoder: turns what the batch holds into vectors and their mask; has a ``width``.
        channel: ``"audio"`` or ``"text"``.
        stride: average this many neighbouring frames first; a recurrent network takes them one by one.
    """

    def __init__(
        self, encoder: nn.Module, channel: str, classes: int, width: int = 64, layers: int = 1,
        dropout: float = 0.3, stride: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channel, self.stride = channel, stride
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.lstm = BiLSTM(encoder.width, width, layers, dropout)
        self.pool = AttentionPooling(2 * width)
        self.classify = nn.Linear(2 * width, classes)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, mask = batch.channel(self.channel)  # (U, T, D), (U, T)
        x, mask = average_steps(*self.encoder(x, mask), self.stride)  # (U, T / stride, D)
        h = self.lstm(self.dropout(x), mask)  # (U, T / stride, 2 width)
        c, alpha = self.pool(h, mask)  # (U, 2 width), (U, T)
        logits = self.classify(self.dropout(c))  # (U, classes)
        attention = {"pooling": alpha[:, None, None, :]} if need_attention else {}
        return Output(logits, attention, c)


class UnimodalTransformer(nn.Module):
    """Transformer encoder over words or frames, attention pooling, linear classifier.

    Args:
        encoder: turns what the batch holds into vectors and their mask; has a ``width``.
        channel: ``"audio"`` or ``"text"``.
        stride: average this many neighbouring frames first; attention costs the square of the length.
    """

    def __init__(
        self, encoder: nn.Module, channel: str, classes: int, width: int = 64, layers: int = 2,
        heads: int = 4, dropout: float = 0.2, stride: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channel, self.stride = channel, stride
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.transformer = TransformerEncoder(encoder.width, width, layers, heads, dropout)
        self.pool = AttentionPooling(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, mask = batch.channel(self.channel)  # (U, T, D), (U, T)
        x, mask = average_steps(*self.encoder(x, mask), self.stride)  # (U, T / stride, D)
        h, maps = self.transformer(self.dropout(x), mask)  # (U, T, width)
        c, alpha = self.pool(h, mask)
        logits = self.classify(self.dropout(c))
        attention = {}
        if need_attention:
            attention = {f"self {k + 1}": weights for k, weights in enumerate(maps)}
            attention["pooling"] = alpha[:, None, None, :]
        return Output(logits, attention, c)


class UnimodalPooling(nn.Module):
    """Attention pooling and the maximum over the encoder's vectors, linear classifier.

    For strong frames: a pretrained encoder has already mixed its steps, so none is mixed here. What attention
    averages, and the largest value of every dimension over time, stand side by side.

    Args:
        encoder: turns what the batch holds into vectors and their mask; has a ``width``.
        channel: ``"audio"`` or ``"text"``.
    """

    def __init__(
        self, encoder: nn.Module, channel: str, classes: int, width: int = 256, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.channel = channel
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(encoder.width, width)
        self.pool = AttentionPooling(width)
        self.classify = nn.Linear(2 * width, classes)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, mask = self.encoder(*batch.channel(self.channel))  # (U, T, D), (U, T)
        h = self.project(self.dropout(x)).relu() * mask.unsqueeze(-1)  # (U, T, width), none below 0
        mean, alpha = self.pool(h, mask)  # (U, width), (U, T)
        c = torch.cat([mean, h.amax(1)], dim=-1)  # (U, 2 width)
        logits = self.classify(self.dropout(c))  # (U, classes)
        attention = {"pooling": alpha[:, None, None, :]} if need_attention else {}
        return Output(logits, attention, c)


class UnimodalStatistics(nn.Module):
    """Mean and standard deviation over time of the encoder's vectors, layer norm, linear classifier.

    The statistics pooling of x-vectors (Snyder et al., ICASSP 2018). No step is chosen, so there is no
    attention to show; with few speakers to learn from, that is an advantage.

    Args:
        encoder: turns what the batch holds into vectors and their mask; has a ``width``.
        channel: ``"audio"`` or ``"text"``.
    """

    def __init__(self, encoder: nn.Module, channel: str, classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.channel = channel
        self.encoder = encoder
        self.pool = StatisticsPooling()
        self.norm = nn.LayerNorm(2 * encoder.width)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * encoder.width, classes)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, mask = self.encoder(*batch.channel(self.channel))  # (U, T, D), zeros in padding
        c = self.norm(self.pool(x, mask))  # (U, 2 D)
        return Output(self.classify(self.dropout(c)), {}, c)


def average_steps(x, mask, stride: int):
    """Mean of every ``stride`` neighbouring real steps: ``(U, T, D)`` to ``(U, ceil(T / stride), D)``."""
    if stride == 1:
        return x, mask
    pad = -x.shape[1] % stride
    x = nn.functional.pad(x * mask.unsqueeze(-1), (0, 0, 0, pad))
    count = nn.functional.pad(mask, (0, pad)).unflatten(1, (-1, stride)).sum(2)  # (U, T/stride)
    total = x.unflatten(1, (-1, stride)).sum(2)
    return total / count.clamp(min=1).unsqueeze(-1), count > 0
