"""Encoders of a sequence: recurrent and self-attending."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mer_lab.models.layers.pooling import masked_softmax


class BiLSTM(nn.Module):
    """A bidirectional LSTM that does not see padding; :class:`BiGRU` is the same with gated units.

    Each direction is an LSTM of its own; the backward one reads every utterance reversed *within its length*,
    so that both directions meet the padding last. Packing the sequences gives the same numbers and is 8 times
    slower on a CPU.

    >>> BiLSTM(5, 4)(torch.randn(2, 7, 5), torch.ones(2, 7, dtype=torch.bool)).shape
    torch.Size([2, 7, 8])
    """

    cell: type[nn.RNNBase] = nn.LSTM

    def __init__(self, width: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = 2 * hidden
        widths = [width, *[2 * hidden] * (layers - 1)]
        self.forwards = nn.ModuleList(self.cell(w, hidden, batch_first=True) for w in widths)
        self.backwards = nn.ModuleList(self.cell(w, hidden, batch_first=True) for w in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x (U, T, D)``, ``mask (U, T)`` to ``(U, T, 2 hidden)``, zeros after the end."""
        steps = torch.arange(x.shape[1], device=x.device)
        length = mask.sum(1, keepdim=True)
        order = torch.where(steps < length, length - 1 - steps, steps)  # (U, T), its own inverse
        order = order.unsqueeze(-1)
        for k, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            x = self.dropout(x) if k else x
            reversed_x = x.gather(1, order.expand_as(x))
            h = back(reversed_x)[0]
            x = torch.cat([ahead(x)[0], h.gather(1, order.expand_as(h))], dim=-1) * mask.unsqueeze(-1)
        return x


class BiGRU(BiLSTM):
    """A bidirectional GRU that does not see padding.

    >>> BiGRU(5, 4)(torch.randn(2, 7, 5), torch.ones(2, 7, dtype=torch.bool)).shape
    torch.Size([2, 7, 8])
    """

    cell = nn.GRU


class TransformerEncoder(nn.Module):
    """Self-attention layers with pre-normalisation and sinusoidal positions (Vaswani et al. 2017).

    >>> encoder = TransformerEncoder(5, 8, heads=2)
    >>> h, attention = encoder(torch.randn(2, 7, 5), torch.ones(2, 7, dtype=torch.bool))
    >>> h.shape, attention[0].shape
    (torch.Size([2, 7, 8]), torch.Size([2, 2, 7, 7]))
    """

    def __init__(
        self, width: int, hidden: int, layers: int = 1, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.width = hidden
        self.project = nn.Linear(width, hidden)
        self.layers = nn.ModuleList(_TransformerLayer(hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``x (U, T, D)`` to ``(U, T, hidden)``, and each layer's map ``(U, heads, T, T)``."""
        h = self.project(x)
        h = h + positions(h.shape[1], h.shape[2], h.device, h.dtype)
        maps = []
        for layer in self.layers:
            h, weights = layer(h, mask)
            maps.append(weights)
        return self.norm(h) * mask.unsqueeze(-1), maps


class _TransformerLayer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        U, T, D = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(U, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        score = q @ k.transpose(-2, -1) / math.sqrt(D // self.heads)  # (U, heads, T, T)
        weights = masked_softmax(score, mask[:, None, None, :])
        h = h + self.dropout(self.out((weights @ v).transpose(1, 2).reshape(U, T, D)))
        return h + self.dropout(self.ffn(self.norm2(h))), weights


def positions(steps: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sinusoidal positions ``(steps, width)`` (Vaswani et al. 2017, section 3.5)."""
    t = torch.arange(steps, device=device, dtype=dtype)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=dtype) * (-math.log(10000.0) / width))
    out = torch.zeros(steps, width, device=device, dtype=dtype)
    out[:, 0::2], out[:, 1::2] = torch.sin(t * rate), torch.cos(t * rate[: width // 2])
    return out
