"""Scaled dot-product attention with several heads, from one sequence to another."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from mer_lab.errors import MerLabError
from mer_lab.models.layers.pooling import masked_softmax


class Attended(NamedTuple):
    """``vector (U, Tq, D)`` and the ``weights (U, heads, Tq, Tk)`` it was summed with."""

    vector: Tensor
    weights: Tensor


class MultiHeadAttention(nn.Module):
    """Each query takes a weighted mean of the values, once a head: ``softmax(Q K^T / sqrt(d)) V``.

    Vaswani et al. 2017, section 3.2. A query whose keys are all padding gets weights and a mean of zero,
    where ``nn.MultiheadAttention`` gives NaN; the two agree elsewhere.

    Args:
        width: of the queries and of what comes out.
        key_width: of keys and values, ``width`` by default.
        inner: width of all heads together, ``width`` by default; a multiple of ``heads``.
        dropout: of the weights, in training.

    Raises:
        MerLabError: the heads do not divide the width.

    >>> attend = MultiHeadAttention(8, heads=2, key_width=6)
    >>> words, frames = torch.randn(3, 4, 8), torch.randn(3, 9, 6)
    >>> out = attend(words, frames, torch.ones(3, 9, dtype=torch.bool))
    >>> out.vector.shape, out.weights.shape
    (torch.Size([3, 4, 8]), torch.Size([3, 2, 4, 9]))
    """

    def __init__(
        self, width: int, heads: int = 1, key_width: int | None = None, inner: int | None = None,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        inner = inner or width
        if inner % heads:
            raise MerLabError(f"{inner} dimensions cannot be shared by {heads} heads; choose a multiple.")
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(key_width or width, inner)
        self.value = nn.Linear(key_width or width, inner)
        self.out = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query: Tensor, key: Tensor, mask: Tensor, value: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Attended:  # fmt: skip
        """``query (U, Tq, D)``, ``key (U, Tk, Dk)``, ``value`` the keys by default.

        ``mask``, True = may be attended to, is ``(U, Tk)``, or ``(U, Tq, Tk)`` where queries differ in it.
        ``bias`` is added to the scores ``(U, heads, Tq, Tk)``, or to what broadcasts to them.
        """
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (U, heads, T, d)
            for project, x in (
                (self.query, query), (self.key, key), (self.value, key if value is None else value),
            )
        )  # fmt: skip
        score = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (U, heads, Tq, Tk)
        score = score if bias is None else score + bias
        weights = masked_softmax(score, mask[:, None, None] if mask.dim() == 2 else mask[:, None])
        mixed = self.dropout(weights) @ v  # (U, heads, Tq, d)
        return Attended(self.out(mixed.transpose(1, 2).flatten(2)), weights)
