"""Intervals and paired tests for systems trained with several seeds and tested on dialogues.

Utterances of one dialogue are not independent, so the intervals draw whole dialogues ("clusters"). Pass
speakers or sessions as clusters where dialogues share those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mer_lab.errors import MerLabError
from mer_lab.metrics import from_confusion, labelled


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    low: float
    high: float
    estimate: float


class Difference(NamedTuple):
    """A minus B, the ends of its interval, and a two-sided p value."""

    low: float
    high: float
    estimate: float
    p: float


class McNemar(NamedTuple):
    """Utterances that only A, only B got right, and the exact two-sided p value."""

    only_a: int
    only_b: int
    p: float


class SeedSummary(NamedTuple):
    """Mean, sample standard deviation (n - 1) and t interval of the mean over n seeds."""

    mean: float
    std: float
    n: int
    low: float
    high: float


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Iterable[object],
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap over clusters, for any statistic (Davison & Hinkley 1997, section 3.8).

    Each of the ``n`` resamples draws as many clusters as there are, with replacement, and keeps every
    utterance of a drawn cluster. The interval covers the choice of dialogues and nothing else: not the
    training seed, not the choice of speakers that dialogues share. For :data:`mer_lab.metrics.METRICS` use
    :func:`score_interval`: the same numbers for one seed, far faster.

    Args:
        statistic: gets the positions ``(M,)`` of the resampled utterances; resamples with NaN are left out.
        clusters: the cluster (dialogue) of each utterance ``(U,)``, any type.
        n, seed, level: resamples, seed of the resampling, and coverage between 0 and 1.

    Raises:
        MerLabError: fewer than two clusters, an utterance without one, or no valid level.
    """
    codes, count = _codes(clusters)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=count))[:-1])
    draws = np.random.default_rng(seed).integers(0, count, (n, count))
    draws = tqdm(draws, desc="bootstrap", delay=2, leave=False)
    values = np.array([statistic(np.concatenate([members[c] for c in row])) for row in draws], float)
    return _percentile(values, float(statistic(np.arange(len(codes)))), level)


def score_interval(
    metric: str,
    target: np.ndarray,
    predictions: np.ndarray,
    clusters: Iterable[object],
    *,
    resample_seeds: bool = True,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a system's score: mean over its seeds, on dialogues like these.

    The estimate is the mean over seeds of the score on all labelled utterances. The interval covers

    - with several seeds (the default): another draw of dialogues *and* another draw of training seeds, so
      the expected score of the recipe. Dialogues and seeds are resampled independently (the "pigeonhole"
      bootstrap, Owen 2007), S - 1 of the S seeds at a time, which makes the variance due to seeds unbiased
      (McCarthy & Snowden 1985). Where seeds disagree dialogue by dialogue it errs on the wide side; where
      seeds vary more than dialogues it is too narrow, as a handful shows no tails: see :func:`seed_summary`.
    - with one seed, or ``resample_seeds=False``: another draw of dialogues for exactly these trained models.

    It never covers other training data, other evaluators, or what several clusters share, such as speakers.

    Args:
        metric: one of :data:`mer_lab.metrics.METRICS`.
        target: class indices ``(U,)``; utterances with -1 are left out.
        predictions: class indices ``(S, U)``, or ``(U,)`` for one seed.
        clusters: the dialogue of each utterance ``(U,)``, any type.
        n, seed, level: as in :func:`cluster_bootstrap`.

    Raises:
        MerLabError: shapes do not fit, no such metric, or fewer than two clusters.
    """
    tables = _tables(target, predictions, clusters=clusters)
    rng = np.random.default_rng(seed)
    weights = _weights(rng, n, tables.shape[1])
    estimate, values = _resampled(metric, tables, weights, rng, resample_seeds)
    return _percentile(values, estimate, level)


def accuracy_by(
    groups: Iterable[object],
    target: np.ndarray,
    predictions: np.ndarray,
    clusters: Iterable[object],
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy within each group of utterances (a cue, a speaker), its interval over clusters.

    Args:
        groups: the group of each utterance ``(U,)``.
        target: class indices ``(U,)``; utterances with -1 are left out.
        predictions: class indices ``(S, U)``, or ``(U,)`` for one seed; the accuracy is the seeds' mean.
        clusters: the dialogue of each utterance ``(U,)``; the interval draws dialogues, not seeds.

    Returns:
        one row a group, in order of appearance, and one ``"all"``: ``estimate, low, high, utterances``.
    """
    groups, target = np.asarray(groups, object), np.asarray(target)
    hits = (np.atleast_2d(predictions) == target).mean(0) * (target >= 0)  # (U,)
    codes, count = _codes(clusters)
    weights = _weights(np.random.default_rng(seed), n, count)  # (n, clusters)
    rows = {}
    for name in [*dict.fromkeys(groups), "all"]:
        member = (target >= 0) & ((groups == name) | (name == "all"))
        right = np.bincount(codes, hits * member, count)
        total = np.bincount(codes, member, count)
        with np.errstate(invalid="ignore"):
            values = (weights @ right) / (weights @ total)
        interval = _percentile(values, float(right.sum() / max(total.sum(), 1)), level)
        rows[name] = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
        rows[name]["utterances"] = int(total.sum())
    return pd.DataFrame(rows).T.astype({"utterances": int})


def paired_difference(
    metric: str,
    target: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    clusters: Iterable[object],
    *,
    resample_seeds: bool = True,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Score of A minus score of B on the same utterances, with interval and p value.

    Both systems see the same resampled dialogues, so what is hard for both cancels; seeds are drawn for each
    system on its own, since seed 0 of one has nothing to do with seed 0 of the other, and their numbers may
    differ: ``(Sa, U)``, ``(Sb, U)``. Arguments, errors and what the interval covers: :func:`score_interval`.
    ``p`` is two-sided: twice the smaller share of resamples on either side of no difference, the data counted
    in, so never below 2 / (n + 1). Correct several with :func:`holm`.
    """
    clusters = list(clusters)
    a, b = (_tables(target, p, clusters=clusters) for p in (predictions_a, predictions_b))
    rng = np.random.default_rng(seed)
    weights = _weights(rng, n, a.shape[1])
    (estimate_a, values_a), (estimate_b, values_b) = (
        _resampled(metric, x, weights, rng, resample_seeds) for x in (a, b)
    )
    values = values_a - values_b
    values[np.abs(values) < 1e-12] = 0.0  # equal scores summed in another order are no difference
    tail = min((values <= 0).sum(), (values >= 0).sum())
    interval = _percentile(values, estimate_a - estimate_b, level)
    return Difference(*interval, p=float(min(1.0, 2 * (tail + 1) / (n + 1))))


def mean_interval(
    values: np.ndarray,
    clusters: Iterable[object],
    *,
    resample_seeds: bool = True,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a mean of numbers that utterances have: over the utterances, then over the seeds.

    Args:
        values: ``(S, U)``, or ``(U,)`` for one seed; NaN where an utterance has none with that seed.
        clusters: the dialogue of each utterance ``(U,)``.
        resample_seeds, n, seed, level: as of :func:`score_interval`.

    Returns:
        NaN where no utterance has a number.
    """
    values = np.atleast_2d(np.asarray(values, float))
    codes, count = _codes(clusters)
    known = np.isfinite(values)
    sums, sizes = (
        np.stack([np.bincount(codes, row, count) for row in table])  # (S, C)
        for table in (np.where(known, values, 0.0), known.astype(float))
    )
    rng = np.random.default_rng(seed)
    weights = _weights(rng, n, count)
    with np.errstate(invalid="ignore"):
        drawn = (weights @ sums.T) / (weights @ sizes.T)  # (n, S)
        means = sums.sum(1) / sizes.sum(1)
    s = len(values)
    shares = _weights(rng, n, s, s - 1) / (s - 1) if resample_seeds and s > 1 else np.full((n, s), 1 / s)
    return _percentile((drawn * shares).sum(1), float(means.mean()), level)


def mcnemar_exact(target: np.ndarray, a: np.ndarray, b: np.ndarray) -> McNemar:
    """McNemar's exact test on two sets of predictions ``(U,)``: are A's and B's errors equally many?

    It takes utterances as independent and one seed each, so within dialogues it is too sure of itself: prefer
    :func:`paired_difference`. Utterances with target -1 are left out.
    """
    from scipy import stats  # a second to import, and most intervals here are drawn
    target, both = labelled(target, np.stack([a, b]))
    right = both == target
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))


def holm(pvalues: Iterable[float]) -> np.ndarray:
    """Holm's (1979) adjusted p values, in the order given: compare with 0.05 for a family tested at 5 %."""
    p = np.asarray(list(pvalues), float)
    if not ((p >= 0) & (p <= 1)).all():
        raise MerLabError(f"p values must lie in 0..1; got {p[~((p >= 0) & (p <= 1))][0]}.")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def utterances_needed(
    difference: Difference, utterances: int, gain: float = 0.01, power: float = 0.8
) -> float:
    """Test utterances that would show a true gain at a level of 5 %, in a corpus otherwise like this one.

    The standard error of a paired difference falls with the root of the number of dialogues, so from its
    interval on ``utterances`` follows the number at which ``gain`` is as large as ``z(0.975) + z(power)``
    standard errors (Card et al., "With Little Power Comes Great Responsibility", EMNLP 2020).

    Args:
        difference: of level 0.95, as :func:`paired_difference` gives it with ``resample_seeds=False``: what
            comes from training seeds does not fall with more utterances.
        utterances: those it was computed on.
        gain: in the unit of the difference.

    Raises:
        MerLabError: a power outside (0, 1), or a gain that is not positive.
    """
    if not 0 < power < 1 or gain <= 0:
        raise MerLabError(f"power {power} must lie between 0 and 1, and the gain {gain} above 0.")
    from scipy import stats
    error = (difference.high - difference.low) / (2 * stats.norm.ppf(0.975))
    return float(utterances * ((stats.norm.ppf(0.975) + stats.norm.ppf(power)) * error / gain) ** 2)


def seed_summary(values: Iterable[float], level: float = 0.95) -> SeedSummary:
    """Mean, standard deviation and t interval of one score over seeds.

    The interval covers the training seed alone, on exactly these test utterances; NaN for one seed.
    """
    x = np.asarray(list(values), float)
    if not x.size:
        raise MerLabError("there are no seeds to summarise; train at least one.")
    _check_level(level)
    mean, std = float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else float("nan")
    from scipy import stats
    half = float(stats.t.ppf((1 + level) / 2, max(len(x) - 1, 1)) * std / np.sqrt(len(x)))
    return SeedSummary(mean, std, len(x), mean - half, mean + half)


def _codes(clusters: Iterable[object]) -> tuple[np.ndarray, int]:
    """Cluster numbers ``(U,)``, numbered by name so that the order of utterances changes nothing."""
    column = pd.Series(list(clusters), dtype=object)
    if column.hasnans:
        raise MerLabError(f"{column.isna().sum()} utterance(s) have no dialogue; fill that column.")
    names, codes = np.unique(column.map(str).to_numpy(str), return_inverse=True)
    if len(names) < 2:
        raise MerLabError(f"{len(names)} dialogue(s) to resample; an interval needs at least two.")
    return codes, len(names)


def _weights(rng: np.random.Generator, n: int, count: int, size: int | None = None) -> np.ndarray:
    """How often each of ``count`` things is drawn, ``size`` at a time, in each resample ``(n, count)``."""
    flat = rng.integers(0, count, (n, size or count)) + np.arange(n)[:, None] * count
    return np.bincount(flat.ravel(), minlength=n * count).reshape(n, count).astype(float)


def _tables(target: np.ndarray, predictions: np.ndarray, clusters: Iterable[object]) -> np.ndarray:
    """Confusion matrices of every seed and cluster ``(S, C, K, K)``."""
    clusters = pd.Series(list(clusters), dtype=object)
    target, predictions = np.asarray(target), np.atleast_2d(np.asarray(predictions))
    if len(clusters) != len(target):
        raise MerLabError(f"{len(clusters)} clusters for {len(target)} utterances; pass one for each.")
    kept, predictions = labelled(target, predictions)
    codes, count = _codes(clusters[target != -1])
    k, s = int(max(kept.max(), predictions.max())) + 1, len(predictions)
    cells = ((np.arange(s)[:, None] * count + codes) * k + kept) * k + predictions
    return np.bincount(cells.ravel(), minlength=s * count * k * k).reshape(s, count, k, k).astype(float)


def _resampled(
    metric: str, tables: np.ndarray, weights: np.ndarray, rng: np.random.Generator, resample_seeds: bool
) -> tuple[float, np.ndarray]:
    """The mean score over seeds, and the same in every resample ``(n,)``."""
    s, count, k, _ = tables.shape
    sums = weights @ tables.transpose(1, 0, 2, 3).reshape(count, -1)
    values = from_confusion(metric, sums.reshape(len(weights), s, k, k))
    shares = _weights(rng, len(weights), s, s - 1) / (s - 1) if resample_seeds and s > 1 else 1 / s
    return float(from_confusion(metric, tables.sum(1)).mean()), (values * shares).sum(1)


def _percentile(values: np.ndarray, estimate: float, level: float) -> Interval:
    _check_level(level)
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else (np.nan, np.nan)
    return Interval(float(low), float(high), float(estimate))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise MerLabError(f"level {level} must lie between 0 and 1, for example 0.95.")
