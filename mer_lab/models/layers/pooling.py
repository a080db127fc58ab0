"""From a sequence of vectors to one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pooled(NamedTuple):
    """``vector (U, D)`` and the ``weights (U, T)`` it was summed with; rows sum to 1 over real steps."""

    vector: Tensor
    weights: Tensor


class AttentionPooling(nn.Module):
    """Additive self-attention pooling: ``alpha = softmax(v^T tanh(W h_t))``, ``c = sum_t alpha_t h_t``.

    The form of Yang et al. (NAACL 2016, equations 5 to 7), used for speech emotion by Mirsamadi et al.
    (ICASSP 2017).

    >>> pool = AttentionPooling(8)
    >>> h, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, False, False, False]])
    >>> out = pool(h, mask)
    >>> out.vector.shape, out.weights[1, 2:].tolist()
    (torch.Size([2, 8]), [0.0, 0.0, 0.0])
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.W = nn.Linear(width, hidden)
        self.v = nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Tensor, mask: Tensor) -> Pooled:
        """``h (U, T, D)``, ``mask (U, T)``; an utterance without a real step gets zeros, not NaN."""
        score = self.v(torch.tanh(self.W(h))).squeeze(-1)  # (U, T)
        weights = masked_softmax(score, mask)
        return Pooled(torch.einsum("ut,utd->ud", weights, h), weights)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over the real steps, side by side (Snyder et al., ICASSP 2018).

    >>> x = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> StatisticsPooling()(x, torch.tensor([[True, True, False]])).round(decimals=2).tolist()
    [[2.0, 1.0]]
    """

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x (U, T, D)``, ``mask (U, T)`` to ``(U, 2 D)``; without a real step the mean is 0."""
        real = mask.unsqueeze(-1)
        count = mask.sum(1, keepdim=True).clamp(min=1)  # (U, 1)
        mean = (x * real).sum(1) / count  # (U, D)
        variance = ((x - mean[:, None]).square() * real).sum(1) / count
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1)  # no infinite slope at 0


def masked_softmax(score: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the real entries; a row without any is all zeros.

    >>> masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False] * 3])).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    weights = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(dim)
    return weights * mask  # a row of equal minima came out uniform
