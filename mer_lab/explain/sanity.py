"""Would the explanation look the same if the system knew nothing? Randomised weights, labels, seeds.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: an explanation that hardly changes when the
weights are random, or when the labels that they were learnt from were, explains the input and not the system.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError


def with_random_weights(model: nn.Module, share: float = 1.0, seed: int = 0) -> nn.Module:
    """A copy whose weights are shuffled, each tensor's numbers among themselves; from the last layers on.

    Shuffled instead of drawn anew, every tensor keeps the size of its numbers, and nothing depends on how a
    layer is initialised. What an encoder has measured on the training frames (mean, deviation) stays.

    Args:
        share: of the tensors, counted from the classifier backwards.

    Raises:
        MerLabError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise MerLabError(f"share is {share}, expected a number from 0 to 1.")
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    tensors = [p for p in other.parameters()][::-1]
    with torch.no_grad():
        for p in tensors[: round(share * len(tensors))]:
            order = torch.randperm(p.numel(), generator=generator).to(p.device)
            p.copy_(p.flatten()[order].view_as(p))
    return other.eval()


def with_random_labels(data: Dataset, seed: int = 0) -> Dataset:
    """The same utterances under each other's labels: what is learnt from them is learnt by heart."""
    other = copy.copy(data)
    other.targets = data.targets.copy()
    known = np.flatnonzero(other.targets >= 0)
    other.targets[known] = np.random.default_rng(seed).permutation(other.targets[known])
    return other


def similarity(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Rank correlation (Spearman) of two explanations of the same utterances ``(B,)``.

    Args:
        a, b: what each word adds ``(B, W)`` and each span ``(B, S)``, NaN where there is none, as of
            :meth:`mer_lab.explain.units.Units.sums`.

    Returns:
        the mean of the two channels; NaN where both have fewer than three units, or all alike.
    """
    both = np.array([[_spearman(*row) for row in zip(x, y, strict=True)] for x, y in zip(a, b, strict=True)])
    known = np.isfinite(both)
    with np.errstate(invalid="ignore"):
        return np.where(known, both, 0).sum(0) / known.sum(0)


def stability(
    explanations: Sequence[Sequence[np.ndarray]], classes: Sequence[np.ndarray]
) -> np.ndarray:
    """Mean :func:`similarity` of all pairs, such as of a recipe's seeds: ``(B,)``.

    Args:
        classes: ``(B,)`` of each explanation, which class it explains: a pair counts where both explain the
            same one; NaN where no pair does.
    """
    pairs = []
    for k, a in enumerate(explanations):
        for j in range(k + 1, len(explanations)):
            alike = similarity(a, explanations[j])
            pairs.append(np.where(classes[k] == classes[j], alike, np.nan))
    known = np.isfinite(pairs)
    with np.errstate(invalid="ignore"):
        return np.where(known, pairs, 0).sum(0) / known.sum(0)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3:
        return np.nan
    x, y = (rankdata(v[known]) - (known.sum() + 1) / 2 for v in (x, y))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else np.nan  # all alike: no order to agree with
