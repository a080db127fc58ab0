"""Scores of predicted emotions and sentiment, and how far the evaluators who chose the labels agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mer_lab.errors import MerLabError

SCORE_RULES = {
    "negative-vs-nonnegative": ("negative", "nonnegative"),
    "drop-zero": ("negative", "positive"),
    "nonpositive-vs-positive": ("nonpositive", "positive"),
}
"""Ways to make two classes of a sentiment score; see :func:`two_classes`."""

METRICS = ("wa", "ua", "weighted_f1", "macro_f1")
"""The headline scores, in 0..1; see :func:`from_confusion`."""


def labelled(
    target: np.ndarray, prediction: np.ndarray, classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Targets ``(N,)`` and predictions ``(..., N)`` of the N utterances that have a label, checked.

    Args:
        target: class indices ``(U,)``; -1 where an utterance has no label.
        prediction: class indices ``(..., U)``; what stands beside a target of -1 is ignored.
        classes: number of classes, where it is known.

    Raises:
        MerLabError: the lengths differ, an index is no class, or no utterance has a label.
    """
    target, prediction = np.asarray(target), np.asarray(prediction)
    if target.ndim != 1 or prediction.ndim < 1 or prediction.shape[-1] != len(target):
        raise MerLabError(
            f"targets of shape {target.shape} and predictions of shape {prediction.shape} do not fit; "
            "pass one class index an utterance in both."
        )
    for name, values in (("target", target), ("prediction", prediction)):
        if values.size and values.dtype.kind not in "iu":
            raise MerLabError(f"a {name} must be a class index, not {values.dtype}; use labels.index(name).")
    keep = target != -1
    target, prediction = target[keep].astype(np.int64), prediction[..., keep].astype(np.int64)
    if not target.size:
        raise MerLabError("no utterance has a label, so there is nothing to score; check the label column.")
    for name, values in (("target", target), ("prediction", prediction)):
        bad = values[(values < 0) | (values >= (classes or np.inf))]
        if bad.size:
            limit = f"0..{classes - 1}" if classes else "0 or more"
            raise MerLabError(f"{name} {bad[0]} is no class; the classes are {limit}.")
    return target, prediction


def from_confusion(metric: str, confusion: np.ndarray) -> np.ndarray:
    """One of :data:`METRICS` from confusion matrices ``(..., K, K)``, rows = target; returns ``(...)``.

    - ``wa``, weighted accuracy: the share of utterances that are right.
    - ``ua``, unweighted accuracy: mean recall over the classes that occur in the target
      (``sklearn.metrics.balanced_accuracy_score``); an absent class is left out, not counted as 0.
    - ``weighted_f1``: F1 of each class, weighted by its share of the target; an absent class weighs nothing.
    - ``macro_f1``: mean F1 over the classes that occur in target or prediction, as in scikit-learn: a class
      that is absent but was predicted counts as 0.

    The intervals of :mod:`mer_lab.statistics` use this same function. A matrix of zeros gives NaN.

    Raises:
        MerLabError: no such metric.
    """
    if metric not in METRICS:
        raise MerLabError(f"metric {metric!r} does not exist; the metrics are {', '.join(METRICS)}.")
    confusion = np.asarray(confusion, float)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "wa":
            return right.sum(-1) / support.sum(-1)
        if metric == "ua":
            return np.where(support > 0, right / support, 0.0).sum(-1) / (support > 0).sum(-1)
        seen = support + predicted  # F1 = 2 TP / (2 TP + FP + FN), and this is that denominator
        f1 = np.divide(2 * right, seen, where=seen > 0, out=np.zeros_like(right))
        weight = support if metric == "weighted_f1" else (seen > 0).astype(float)
        return (f1 * weight).sum(-1) / weight.sum(-1)


def count_confusion(target: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix ``(K, K)`` of class indices ``(U,)`` that :func:`labelled` has checked; rows = target.

    Plain counting: scikit-learn, which gives the same, takes two seconds to import, and every command scores.
    """
    pairs = np.bincount(classes * target + prediction, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def scores(
    target: np.ndarray, prediction: np.ndarray, labels: Sequence[str], zero_division: float = 0.0
) -> dict[str, object]:
    """All scores of one set of predictions, ready for JSON.

    Args:
        target: class indices ``(U,)``; utterances with -1 (no label) are left out.
        prediction: class indices ``(U,)``.
        labels: names of the K classes, in order.
        zero_division: precision of a class that is never predicted and recall of one that never occurs, in
            ``per_class`` only. The headline scores treat absent classes as :func:`from_confusion` says.

    Returns:
        ``wa``, ``ua``, ``weighted_f1``, ``macro_f1`` in 0..1; ``per_class``: label → precision, recall, f1,
        support; ``confusion``: K lists of K counts, rows = target; ``n``: utterances scored.

    Raises:
        MerLabError: see :func:`labelled`.
    """
    target, prediction = labelled(target, prediction, len(labels))
    confusion = count_confusion(target, prediction, len(labels))
    right, support, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    shares = {"precision": (right, predicted), "recall": (right, support)}
    shares["f1"] = 2 * right, support + predicted
    columns = {
        name: np.where(whole > 0, part / np.maximum(whole, 1), zero_division)
        for name, (part, whole) in shares.items()
    }
    per_class = {
        label: {name: float(values[k]) for name, values in columns.items()} | {"support": int(support[k])}
        for k, label in enumerate(labels)
    }
    headline = {metric: float(from_confusion(metric, confusion)) for metric in METRICS}
    return {**headline, "per_class": per_class, "confusion": confusion.tolist(), "n": len(target)}


def by_group(
    target: np.ndarray, prediction: np.ndarray, groups: Iterable[object], labels: Sequence[str]
) -> pd.DataFrame:
    """Headline scores within each group (cue, speaker, dialogue, scripted or improvised, ...).

    Args:
        target, prediction: class indices ``(U,)``.
        groups: the group of each utterance ``(U,)``, any type; a missing one (None, NaN) is in no group.
        labels: names of the K classes, in order.

    Returns:
        One row a group, sorted, with ``n`` and :data:`METRICS`. A group without labelled utterances has n = 0
        and NaN. UA within a group is over the classes that occur in that group.
    """
    target, prediction = np.asarray(target), np.asarray(prediction)
    groups = pd.Series(list(groups), dtype=object)
    if len(groups) != len(target):
        raise MerLabError(f"{len(groups)} groups for {len(target)} utterances; pass one group an utterance.")
    rows = {}
    for group, index in groups.groupby(groups).indices.items():
        if (target[index] == -1).all():
            rows[group] = {"n": 0} | dict.fromkeys(METRICS, np.nan)
        else:
            result = scores(target[index], prediction[index], labels)
            rows[group] = {key: result[key] for key in ("n", *METRICS)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", *METRICS])


def two_classes(score: np.ndarray, rule: str) -> np.ndarray:
    """Class index, int64, of sentiment scores of any shape under one of :data:`SCORE_RULES`.

    ``negative-vs-nonnegative``: < 0 and >= 0. ``nonpositive-vs-positive``: <= 0 and > 0. ``drop-zero``: < 0
    and > 0, and -1 (no label) where the score is 0. NaN is -1.

    Raises:
        MerLabError: no such rule.
    """
    if rule not in SCORE_RULES:
        raise MerLabError(f"the two-class rule {rule!r} does not exist; rules are {', '.join(SCORE_RULES)}.")
    score = np.asarray(score, float)
    positive = score >= 0 if rule == "negative-vs-nonnegative" else score > 0
    dropped = np.isnan(score) | ((score == 0) & (rule == "drop-zero"))
    return np.where(dropped, -1, positive).astype(np.int64)


def seven_classes(score: np.ndarray) -> np.ndarray:
    """Sentiment scores cut to [-3, 3] and rounded to int64, a half to the even neighbour: -0.5 → 0, 1.5 → 2.

    So does the public evaluation code of CMU-MOSI (``np.round`` of the clipped score) [C-3rd].
    """
    return np.rint(np.clip(score, -3, 3)).astype(np.int64)


def score_metrics(truth: np.ndarray, prediction: np.ndarray) -> dict[str, object]:
    """Scores of predicted sentiment in [-3, 3], ready for JSON where the correlation is defined.

    Args:
        truth: scores ``(U,)``; utterances with NaN (no score) are left out.
        prediction: scores ``(U,)``, on the same scale, not clipped.

    Returns:
        ``mae``; ``correlation``, Pearson's, NaN where either side is constant; ``acc7``, see
        :func:`seven_classes`; ``acc2`` and ``weighted_f1``: rule of :data:`SCORE_RULES` → value, NaN where
        the rule leaves no utterance; ``n``: utterances scored. ``drop-zero`` leaves out the utterances whose
        true score is 0; a prediction of exactly 0 then counts as negative [C-3rd].

    Raises:
        MerLabError: the shapes differ, a prediction is not finite, no utterance has a score.
    """
    truth, prediction = np.asarray(truth, float), np.asarray(prediction, float)
    if truth.ndim != 1 or truth.shape != prediction.shape:
        raise MerLabError(
            f"true scores of shape {truth.shape} and predicted ones of shape {prediction.shape} do not fit; "
            "pass one score an utterance in both."
        )
    truth, prediction = truth[~np.isnan(truth)], prediction[~np.isnan(truth)]
    if not truth.size:
        raise MerLabError("no utterance has a score, so there is nothing to compare; check the score column.")
    if not np.isfinite(prediction).all():
        raise MerLabError("a predicted score is NaN or infinite; look at the training before the metrics.")
    constant = np.ptp(truth) == 0 or np.ptp(prediction) == 0
    result: dict[str, object] = {
        "mae": float(np.abs(truth - prediction).mean()),
        "correlation": float("nan") if constant else float(np.corrcoef(truth, prediction)[0, 1]),
        "acc7": float((seven_classes(truth) == seven_classes(prediction)).mean()),
        "n": len(truth),
    }
    acc2, weighted_f1 = {}, {}
    for rule in SCORE_RULES:
        classes = two_classes(truth, rule)
        guess = two_classes(prediction, rule).clip(0)
        table = np.array([[((classes == t) & (guess == g)).sum() for g in (0, 1)] for t in (0, 1)])
        acc2[rule] = float(from_confusion("wa", table))
        weighted_f1[rule] = float(from_confusion("weighted_f1", table))
    return result | {"acc2": acc2, "weighted_f1": weighted_f1}


def count_votes(evaluators: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    """Votes ``(U, K)`` from the ``evaluators`` column, ``"happy;happy;sad"``; further labels do not count."""
    rows = [[vote.strip() for vote in str(row).split(";")] for row in evaluators]
    return np.array([[row.count(x) for x in labels] for row in rows], np.int64).reshape(-1, len(labels))


def fleiss_kappa(votes: np.ndarray) -> float:
    """Agreement of evaluators beyond chance (Fleiss 1971): 1 = perfect, 0 = as drawn from overall shares.

    Args:
        votes: counts ``(U, K)``: how many evaluators gave utterance u the label k; as many evaluators for
            every utterance, not necessarily the same people.

    Returns:
        Kappa; NaN when every vote is the same label, where chance alone agrees.

    Raises:
        MerLabError: negative counts, or utterances with different numbers of votes or fewer than two.
    """
    votes = _votes(votes)
    per_utterance = votes.sum(1)
    if per_utterance.min() != per_utterance.max() or per_utterance[0] < 2:
        fewest, most = per_utterance.min(), per_utterance.max()
        raise MerLabError(
            f"Fleiss' kappa needs the same number of votes, at least two, on every utterance, not {fewest:g} "
            f"to {most:g}; use krippendorff_alpha."
        )
    m = per_utterance[0]
    observed = (((votes**2).sum(1) - m) / (m * (m - 1))).mean()
    expected = ((votes.sum(0) / votes.sum()) ** 2).sum()
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def krippendorff_alpha(votes: np.ndarray) -> float:
    """Krippendorff's alpha for nominal labels (2011): agreement beyond chance with missing votes allowed.

    Args:
        votes: counts ``(U, K)``; utterances with fewer than two votes cannot agree and are left out.

    Returns:
        Alpha; NaN when nothing can be compared or every vote is the same label.
    """
    votes = _votes(votes)
    votes = votes[votes.sum(1) >= 2]
    m, totals, n = votes.sum(1), votes.sum(0), votes.sum()
    disagree_expected = n**2 - (totals**2).sum()
    if disagree_expected == 0:
        return float("nan")
    disagree_observed = ((m**2 - (votes**2).sum(1)) / (m - 1)).sum()
    return float(1 - (n - 1) * disagree_observed / disagree_expected)


def _votes(votes: np.ndarray) -> np.ndarray:
    votes = np.asarray(votes, float)
    if votes.ndim != 2 or not votes.size or not np.isfinite(votes).all() or (votes < 0).any():
        raise MerLabError(f"votes must be a table of counts, utterances by labels; got shape {votes.shape}.")
    return votes
