"""Whether a system knows when it is wrong: calibration, temperature, and accuracy where it may decline.

Probabilities are ``(S, U, K)`` for S seeds or ``(U, K)`` for one; targets ``(U,)`` are class indices, and -1
marks an utterance without a label, which is left out. The confidence of an answer is its probability.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mer_lab.errors import MerLabError
from mer_lab.metrics import labelled

TEMPERATURES = (0.05, 20.0)
"""The range in which :func:`fit_temperature` searches."""

_FLOOR = 1e-12  # a probability that was rounded to 0 has no logarithm


def fit_temperature(probabilities: np.ndarray, target: np.ndarray) -> float:
    """The temperature T > 0 that makes ``softmax(log p / T)`` most likely (Guo et al. 2017, section 4.2).

    T > 1 says that the system was too sure of itself. Fit on the *validation* split, one seed at a time, and
    hand the result to :func:`temper` for the test split. Where every answer is right no finite confidence is
    best, and T is the lower end of :data:`TEMPERATURES`.

    Args:
        probabilities: ``(V, K)`` of the V utterances of validation.
        target: ``(V,)``.

    Raises:
        MerLabError: several seeds at once, or what :func:`negative_log_likelihood` raises.
    """
    if np.ndim(probabilities) != 2:
        raise MerLabError(
            f"a temperature is fitted to the probabilities (V, K) of one seed, not to an array of shape "
            f"{np.shape(probabilities)}; fit each seed on its own."
        )
    from scipy.optimize import minimize_scalar  # slow to import, and most who read this module do not fit

    p, target = checked(probabilities, target)

    def loss(log_temperature: float) -> float:
        return _mean_surprise(temper(p, np.exp(log_temperature)), target)

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def temper(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """``softmax(log p / T)``, in the shape given; which class leads, and so every answer, stays the same.

    Args:
        probabilities: ``(U, K)`` or ``(S, U, K)``.
        temperature: one for all, or, for several seeds, one a seed ``(S,)``.

    Raises:
        MerLabError: a temperature that is not above 0, or not as many as there are seeds.
    """
    p, t = np.asarray(probabilities, float), np.asarray(temperature, float)
    if not (t > 0).all():
        raise MerLabError(f"temperature {t[~(t > 0)].flat[0]} must be above 0.")
    if t.ndim and (p.ndim != 3 or t.shape != p.shape[:1]):
        raise MerLabError(f"{t.size} temperatures for probabilities {p.shape}; pass one, or one a seed.")
    logits = np.log(np.clip(p, _FLOOR, None)) / t.reshape(-1, *[1] * (p.ndim - 1) if t.ndim else ())
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def negative_log_likelihood(probabilities: np.ndarray, target: np.ndarray) -> float:
    """Mean of ``-log p(target)`` in nats, over utterances and seeds.

    Raises:
        MerLabError: shapes that do not fit, rows that are no probabilities, or no utterance with a label.
    """
    p, target = checked(probabilities, target)
    return _mean_surprise(p, target)


def brier(probabilities: np.ndarray, target: np.ndarray) -> float:
    """Squared distance of p from the truth, summed over classes: 0 to 2 (Brier 1950); mean over seeds."""
    p, target = checked(probabilities, target)
    return float(((p - np.eye(p.shape[-1])[target]) ** 2).sum(-1).mean())


def expected_calibration_error(probabilities: np.ndarray, target: np.ndarray, bins: int = 15) -> float:
    """ECE: how far accuracy is from confidence, on average over utterances, in bins of equal width.

    ``sum_b n_b / N |accuracy_b - confidence_b|``, bin b of B being ``((b - 1) / B, b / B]`` (Naeini et al.
    2015; Guo et al. 2017, section 2); the mean over seeds. Chance alone makes it positive: compare systems on
    the same utterances, and with the same number of bins.

    Raises:
        MerLabError: fewer than one bin, or what :func:`negative_log_likelihood` raises.
    """
    confidence, hits = _answers(probabilities, target)
    place = _bin(confidence, bins) + np.arange(len(confidence))[:, None] * bins  # seeds apart
    gaps = np.bincount(place.ravel(), (hits - confidence).ravel())
    return float(np.abs(gaps).sum() / confidence.size)


def reliability(probabilities: np.ndarray, target: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """What is drawn in a reliability diagram, seeds pooled (DeGroot & Fienberg 1983; Guo et al. 2017).

    Returns:
        One row a bin of confidence that is not empty: its ends ``low`` and ``high``, mean ``confidence``,
        ``accuracy``, and ``count`` of answers, of which each utterance has one a seed.

    Raises:
        MerLabError: as :func:`expected_calibration_error`.
    """
    confidence, hits = (x.ravel() for x in _answers(probabilities, target))
    answers = pd.DataFrame({"bin": _bin(confidence, bins), "confidence": confidence, "accuracy": hits})
    groups = answers.groupby("bin")
    table = groups.mean().assign(count=groups.size()).reset_index()
    edges = np.linspace(0, 1, bins + 1)
    table.insert(0, "low", edges[table["bin"]])
    table.insert(1, "high", edges[table["bin"] + 1])
    return table.drop(columns="bin")


def selective(probabilities: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    """Accuracy on the utterances that a system is most confident about, for every share of them.

    A classifier that may decline answers only where its confidence is high enough; what it gains by declining
    is the risk-coverage curve (El-Yaniv & Wiener 2010), here with the softmax response as confidence (Geifman
    & El-Yaniv 2017) and accuracy, 1 - risk, as height. Utterances with equal confidence count with their
    mean accuracy, that is, as if they were picked among at random: their order changes nothing.

    Returns:
        ``coverage``, 1/N to 1 for N labelled utterances, and ``accuracy``, the mean over seeds.

    Raises:
        MerLabError: as :func:`negative_log_likelihood`.
    """
    confidence, hits = _answers(probabilities, target)
    n = hits.shape[1]
    curves = []
    for sure, right in zip(-confidence, hits, strict=True):
        _, level = np.unique(sure, return_inverse=True)  # level 0: the most confident
        expected = np.bincount(level, right) / np.bincount(level)
        curves.append(np.cumsum(expected[np.sort(level)]) / np.arange(1, n + 1))
    return pd.DataFrame({"coverage": np.arange(1, n + 1) / n, "accuracy": np.mean(curves, 0)})


def area_under_selective(probabilities: np.ndarray, target: np.ndarray) -> float:
    """Mean accuracy over all coverages of :func:`selective`; 1 - the area under the risk-coverage curve.

    It rises with accuracy as well as with confidence that ranks well, so read it beside the accuracy.
    """
    return float(selective(probabilities, target)["accuracy"].mean())


def checked(probabilities: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities ``(S, N, K)`` and targets ``(N,)`` of the N labelled utterances.

    Raises:
        MerLabError: shapes that do not fit, rows that are no probabilities, or no utterance with a label.
    """
    p = np.asarray(probabilities, float)
    if p.ndim not in (2, 3) or not p.size:
        raise MerLabError(f"probabilities have the shape {p.shape}; expected (U, K), or (S, U, K) for seeds.")
    p = p.reshape(-1, *p.shape[-2:])
    kept, _ = labelled(target, p.argmax(-1), p.shape[-1])
    p = p[:, np.asarray(target) != -1]
    if not ((p >= 0).all() and np.allclose(p.sum(-1), 1, atol=0.01)):
        raise MerLabError("an utterance's probabilities must be 0 or more and sum to 1; apply a softmax.")
    return p, kept


def _answers(probabilities: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and rightness (0.0 or 1.0) of each answer, ``(S, N)`` both."""
    p, target = checked(probabilities, target)
    return p.max(-1), (p.argmax(-1) == target).astype(float)


def _mean_surprise(p: np.ndarray, target: np.ndarray) -> float:
    return float(-np.log(np.clip(p[:, np.arange(len(target)), target], _FLOOR, None)).mean())


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    if bins < 1:
        raise MerLabError(f"{bins} bins of confidence; expected at least one.")
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
