"""Prediction sets: instead of one label, as many as are needed to hold the right one in nine cases of ten.

Split conformal prediction (Vovk, Gammerman & Shafer 2005; Lei et al. 2018) with the score ``1 - p(label)``
of Sadinle, Lei & Wasserman 2019. It needs nothing of the system but its probabilities, and promises its
coverage for utterances that are exchangeable with those of validation: the same kind of speakers, rooms,
microphones, topics and labelling. For others it promises nothing, as lesson 11 shows, and it promises an
average: of one label or speaker it may hold less. Where validation has chosen epoch and temperature too, it
holds nearly and not exactly; and utterances of one dialogue are alike, so with few dialogues the coverage
found scatters more than their number says.
"""

from __future__ import annotations

import math

import numpy as np

from mer_lab.calibration import checked
from mer_lab.errors import MerLabError

COVERAGE = 0.9
"""Share of utterances whose set is to hold their label."""


def fit_threshold(probabilities: np.ndarray, target: np.ndarray, coverage: float = COVERAGE) -> float:
    """The score up to which labels belong to a set: the ``ceil((n + 1) coverage)``-th smallest of n scores.

    Args:
        probabilities: ``(V, K)`` of validation, one seed; ``target (V,)``, -1 for no label.
        coverage: above 0 and below 1.

    Returns:
        a number from 0 to 1; 1, with which every label belongs to every set, where there are too few
        utterances to promise the coverage.

    Raises:
        MerLabError: the coverage, or what :func:`mer_lab.calibration.checked` refuses.
    """
    if not 0 < coverage < 1:
        raise MerLabError(f"coverage is {coverage}, expected a share above 0 and below 1, such as 0.9.")
    if np.ndim(probabilities) != 2:
        raise MerLabError(f"a threshold is fitted to one seed (V, K), not to {np.shape(probabilities)}.")
    p, target = checked(probabilities, target)
    scores = np.sort(1 - p[0, np.arange(len(target)), target])
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(scores[rank - 1]) if rank <= len(scores) else 1.0


def prediction_sets(probabilities: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Which labels belong to the set of each utterance, ``(U, K)`` of bool; the likeliest always does.

    Args:
        probabilities: ``(U, K)``, or ``(S, U, K)`` of S seeds: then a label belongs that any seed would keep,
            so that the promise of each seed holds for all.
        threshold: of :func:`fit_threshold`; one a seed ``(S,)``.
    """
    p = np.asarray(probabilities, float)
    p = p.reshape(-1, *p.shape[-2:])
    kept = 1 - p <= np.asarray(threshold, float).reshape(-1, 1, 1)
    return (kept | (p == p.max(-1, keepdims=True))).any(0)


def coverage_of(sets: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Share of labelled utterances whose set ``(U, K)`` holds their label, and the mean size of their sets.

    Raises:
        MerLabError: no utterance has a label.
    """
    known = np.asarray(target) >= 0
    if not known.any():
        raise MerLabError("no utterance has a label, so no coverage can be counted.")
    rows = np.asarray(sets)[known]
    return float(rows[np.arange(len(rows)), np.asarray(target)[known]].mean()), float(rows.sum(1).mean())
