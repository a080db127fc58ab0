"""Where a step stands in its utterance, and how a frame stands out from it; ours, in no paper's preset."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def place(mask: Tensor) -> Tensor:
    """Where each step is, as a share of its utterance ``(U, T)``: the middle of the first of four is 1/8."""
    return (mask.cumsum(1) - 0.5) / mask.sum(1, keepdim=True).clamp(min=1)


class Nearness(nn.Module):
    """What a score loses by distance: ``-slope |p_i - p_j|``, with p the :func:`place` of query and key.

    Half of the words are said when half of the time is over, about, so a word starts to look for its sound
    nearby. A slope a head, learned, 40 at first: a step of 0.1 then costs a factor of ``exp(4)``. Press et
    al. (ICLR 2022) bias attention within a text like this, with fixed slopes.

    >>> words, frames = torch.ones(3, 4).bool(), torch.ones(3, 9).bool()
    >>> Nearness(heads=2)(words, frames).shape
    torch.Size([3, 2, 4, 9])
    """

    def __init__(self, heads: int, slope: float = 40.0) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.full((heads, 1, 1), math.log(slope)))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Masks ``(U, Tq)`` and ``(U, Tk)`` to a bias ``(U, heads, Tq, Tk)``."""
        return -self.log_slope.exp() * (place(queries)[:, None, :, None] - place(keys)[:, None, None]).abs()


def relative(x: Tensor, mask: Tensor) -> Tensor:
    """Frames ``(U, T, D)`` standardised by their own utterance's mean and deviation; 0 in padding.

    A stressed word is high *for this speaker in this sentence*, and speakers differ by more than that.
    """
    real, count = mask.unsqueeze(-1), mask.sum(1).clamp(min=1)[:, None, None]
    x = (x - (x * real).sum(1, keepdim=True) / count) * real
    return x / (x.square().sum(1, keepdim=True) / count + 0.01).sqrt()
