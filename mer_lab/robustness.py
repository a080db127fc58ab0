"""How a trained system's score falls as its test data get worse: curves over levels, and their areas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from mer_lab.batches import Dataset
from mer_lab.corpora import Corpus
from mer_lab.degrade import KINDS, check_kind, clean_test, degraded, possible
from mer_lab.errors import MerLabError
from mer_lab.metrics import score_metrics
from mer_lab.prediction import predict
from mer_lab.records import Recipe
from mer_lab.statistics import Interval, cluster_bootstrap, score_interval


def robustness(
    models: Sequence[nn.Module],
    recipe: Recipe,
    corpus: Corpus,
    kinds: Iterable[str] | Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The recipe's monitor on the clean test split and under every degradation.

    Args:
        models: the recipe's model, one a training seed.
        recipe, corpus: what they were trained by and on, all splits.
        kinds: of :data:`mer_lab.degrade.KINDS`, or their levels by name, mild ones first; by default all
            that the recipe's features can be put under. Of a channel that the recipe does not read, the curve
            is flat.
        seed: of what the degradations draw; all levels and models meet the same.

    Returns:
        ``kind, level, estimate, low, high``: a row of kind ``"clean"`` (its level NaN), then one a level.
        The estimate is the mean over models, the interval that of
        :func:`~mer_lab.statistics.score_interval`: other dialogues and, of several, other training seeds. All
        rows score the same dialogues, so intervals that overlap may still differ for certain.

    Raises:
        MerLabError: there is no model, no such degradation or level, or one that the recipe cannot be put
            under (see :func:`mer_lab.degrade.degraded`).
    """
    if not models:
        raise MerLabError("there is no model to test; pass the trained model of at least one seed.")
    kinds = possible(recipe) if kinds is None else [kinds] if isinstance(kinds, str) else kinds
    levels = kinds if isinstance(kinds, Mapping) else {kind: None for kind in kinds}
    for kind in levels:
        check_kind(kind, 0.0)
    steps = [(kind, float(x)) for kind, own in levels.items() for x in own or KINDS[kind].levels]
    for step in steps:  # what is mistyped shows before anything is computed
        check_kind(*step)
    clean = clean_test(recipe, corpus)
    intact = _score(models, recipe, clean)
    rows = [("clean", np.nan, intact)]
    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    for kind, level in tqdm(steps, desc="degraded tests", leave=False, **quiet):
        data = degraded(recipe, corpus, kind, level, seed, clean)
        rows.append((kind, level, intact if data is clean else _score(models, recipe, data)))
    columns = ("kind", "level", "estimate", "low", "high")
    values = [(kind, level, x.estimate, x.low, x.high) for kind, level, x in rows]
    return pd.DataFrame(values, columns=columns)


def area(frame: pd.DataFrame) -> pd.Series:
    """Area under each curve of :func:`robustness`, by kind, in units of the score.

    The curve runs in straight lines from the clean score through those of the levels in their order, all
    steps equally wide, since ratios in dB and shares of words have no common measure; divided by its width it
    is a mean score: that of a system which nothing harms is its clean score.

    Raises:
        MerLabError: the frame has not exactly one row of kind ``"clean"``.
    """
    clean = frame.loc[frame["kind"] == "clean", "estimate"]
    if len(clean) != 1:
        raise MerLabError(f"the frame has {len(clean)} rows of kind 'clean', expected one to start from.")
    areas = {}
    for kind, rows in frame[frame["kind"] != "clean"].groupby("kind", sort=False):
        curve = np.concatenate([clean, rows["estimate"]])
        areas[kind] = float((curve[1:] + curve[:-1]).mean() / 2)
    return pd.Series(areas, name="area", dtype=float)


def areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Areas of several systems, told apart by the column ``system``: a row a system, with its clean score.

    Of what is on or off, with one level and so no curve, the score there.
    """
    rows = {}
    for system, frame in curves.groupby("system", sort=False):
        by_kind = frame.groupby("kind", sort=False)["estimate"]
        scores = by_kind.first()[by_kind.size() == 1]  # "clean" among them
        rows[system] = {"clean": scores["clean"], **area(frame), **scores}
    return pd.DataFrame(rows).T


def _score(models: Sequence[nn.Module], recipe: Recipe, data: Dataset) -> Interval:
    metric, dialogues = recipe.train.monitor, data.corpus.table["dialogue_id"]
    answers = [predict(model, data) for model in models]
    if recipe.train.target == "label":
        return score_interval(metric, data.targets, np.stack([p.argmax(1) for p in answers]), dialogues)
    known = np.isfinite(data.scores)
    truth, values = data.scores[known], [p[known, 0] for p in answers]

    def mean_score(rows: np.ndarray) -> float:
        return float(np.mean([score_metrics(truth[rows], v[rows])[metric] for v in values]))

    return cluster_bootstrap(mean_score, dialogues[known])
