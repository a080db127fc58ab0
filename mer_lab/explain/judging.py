"""Methods held against criteria: one row a method, criterion and utterance, and the table that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mer_lab.batches import Dataset
from mer_lab.explain.attention import attention_relevance
from mer_lab.explain.attribution import Attribution, attribute
from mer_lab.explain.faithfulness import deleter_of, faithfulness, max_sensitivity
from mer_lab.explain.methods import METHODS
from mer_lab.explain.question import Question
from mer_lab.explain.sanity import similarity, stability, with_random_weights
from mer_lab.explain.truth import found, planted
from mer_lab.explain.units import units_of
from mer_lab.models import System
from mer_lab.statistics import Interval, mean_interval

CRITERIA = {
    "words": "higher", "accents, words": "higher", "accents, spans": "higher", "turns": "higher",
    "AUPRC, words": "higher", "AUPRC, spans": "higher",
    "comprehensiveness": "higher", "sufficiency": "lower", "deletion of 20 %": "higher",
    "infidelity": "lower", "sensitivity": "lower", "completeness error": "lower",
    "random weights": "zero", "random labels": "zero", "other seeds": "higher",
}  # fmt: skip
"""What is asked of a method, and which way is better; likeness to an explanation of a system that has learnt
nothing should be nothing, and a negative one is no better than a positive. The first four are pointing
accuracies: the deciding word where words decide (cue lexical), the stressed word and its span (cue accent),
the turn that decides (cue contextual)."""
ASKED = (*METHODS, "attention")
FIXED = 64
"""Steps of an integral where random weights or moved inputs are asked: weights that have learnt nothing can
be as rugged as they like, and no promise hangs on them."""
SAMPLES = 256
"""Coalitions that KernelSHAP is given here: about four a unit, with which its ranks still waver."""


class Judged(NamedTuple):
    """What one trained system's explanations are worth.

    Attributes:
        table: ``method, criterion, row, dialogue, cue, value, chance``.
        sums: of each method, what every word ``(B, W)`` and every span ``(B, S)`` adds.
        rows, target: ``(B,)`` what was explained: utterances, and the class of each.
    """

    table: pd.DataFrame
    sums: dict[str, tuple[np.ndarray, np.ndarray]]
    rows: np.ndarray
    target: np.ndarray


def choose(data: Dataset, each: int | Mapping[str, int] = 12, seed: int = 0) -> np.ndarray:
    """Rows of some utterances of each cue, drawn at random, in the corpus's order.

    Args:
        each: how many, of all cues or by cue; fewer where there are fewer.
    """
    rng, cues = np.random.default_rng(seed), data.corpus.table["cue"].to_numpy(str)
    rows = []
    for cue in dict.fromkeys(cues):
        count = each if isinstance(each, int) else each.get(cue, 0)
        rows.append(rng.permutation(np.flatnonzero(cues == cue))[:count])
    return np.sort(np.concatenate(rows))


def explain(question: Question, method: str, **options) -> Attribution:
    """:func:`~mer_lab.explain.attribution.attribute`, or what attention gives."""
    if method == "attention":
        return attention_relevance(question)
    return attribute(question, method, refuse=False, **options)


def judge(
    model: System, data: Dataset, rows: Sequence[int], methods: Sequence[str] = ASKED, seed: int = 0,
    sensitive: int = 12, progress: bool = True,
) -> Judged:  # fmt: skip
    """Every criterion but stability over seeds, which :func:`over_seeds` adds, for one trained system.

    Args:
        data: of the Staged corpus. ``rows``: utterances of it; the class that the system decides on is
            explained.
        sensitive: of about as many utterances it is asked how their explanations move with the inputs, which
            takes two more of each.
    """
    question = Question(model, data, rows)
    units = units_of(question)
    truth, deleter = planted(question, units), deleter_of(question)
    unlearnt = Question(with_random_weights(model, seed=seed), data, rows, question.target)
    about = data.corpus.table.iloc[question.rows]
    dialogue, cue = about["dialogue_id"].to_numpy(str), about["cue"].to_numpy(str)
    parts, kept = [], {}

    def note(method: str, criterion: str, values: np.ndarray) -> None:
        parts.append(pd.DataFrame({
            "method": method, "criterion": criterion, "row": question.rows, "dialogue": dialogue, "cue": cue,
            "value": values, "chance": np.nan,
        }))  # fmt: skip

    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    for method in tqdm(methods, desc="judging", leave=False, **quiet):
        full = {"samples": SAMPLES} if method == "kernel-shap" else {}
        fixed = {"steps": FIXED} if method == "integrated-gradients" else full
        values = explain(question, method, seed=seed, **full)
        kept[method] = units.sums(values)
        parts.append(planted_rows(found(values, units, truth), method))
        for name, numbers in zip(
            ("comprehensiveness", "sufficiency", "deletion of 20 %", "infidelity"),
            faithfulness(kept[method], deleter), strict=True,
        ):  # fmt: skip
            note(method, name, numbers)
        if values.complete:
            note(method, "completeness error", values.error)
        if method == "kernel-shap":
            continue  # it is the slowest, and occlusion takes the same things away
        other = explain(unlearnt, method, seed=seed + 1, **fixed)
        note(method, "random weights", similarity(kept[method], units.sums(other)))
        parts.append(planted_rows(found(other, units, truth), f"{method}, random weights"))
        if sensitive and method in METHODS:
            step = max(1, len(rows) // sensitive)
            few = Question(model, data, rows[::step])
            part = explain(few, method, seed=seed, **fixed)
            moved = np.full(len(question), np.nan)
            moved[::step] = max_sensitivity(part, draws=2, seed=seed, **fixed)
            note(method, "sensitivity", moved)
    return Judged(pd.concat(parts, ignore_index=True), kept, question.rows, question.target.cpu().numpy())


def planted_rows(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """The criteria that planted truth allows."""
    parts = []
    for criterion, of, cues, column, chance in (
        ("words", "words", ("lexical",), "pointing", "chance"),
        ("accents, words", "words", ("accent",), "pointing", "chance"),
        ("accents, spans", "spans", ("accent",), "pointing", "chance"),
        ("turns", "turns", ("contextual",), "pointing", "chance"),
        ("AUPRC, words", "words", ("lexical", "redundant", "incongruent", "accent"), "auprc", "auprc_chance"),
        ("AUPRC, spans", "spans", ("accent",), "auprc", "auprc_chance"),
    ):
        rows = frame[(frame["of"] == of) & frame["cue"].isin(cues)]
        part = rows[["row", "dialogue", "cue"]].assign(value=rows[column], chance=rows[chance])
        parts.append(part.assign(method=method, criterion=criterion))
    return pd.concat(parts, ignore_index=True)


def over_seeds(judged: Sequence[Judged]) -> pd.DataFrame:
    """All seeds' rows with a column ``seed``; stability over seeds as a criterion of each method.

    Stability is one number an utterance, of all pairs of seeds: its interval is over dialogues only.
    """
    parts = [one.table.assign(seed=k) for k, one in enumerate(judged)]
    if len(judged) > 1:
        whole = parts[0][parts[0]["criterion"] == "comprehensiveness"]  # has a row of every utterance
        for method in judged[0].sums:
            values = stability([one.sums[method] for one in judged], [one.target for one in judged])
            about = whole[whole["method"] == method]
            parts.append(about.assign(criterion="other seeds", value=values))
    return pd.concat(parts, ignore_index=True)


def table(rows: pd.DataFrame, n: int = 1000) -> pd.DataFrame:
    """Means by method and criterion, intervals over dialogues and seeds.

    Returns:
        ``method, criterion, estimate, low, high, chance, utterances``.
    """
    out = []
    for (method, criterion), part in rows.dropna(subset="value").groupby(["method", "criterion"], sort=False):
        interval = _interval(part, n)
        out.append({
            "method": method, "criterion": criterion, "estimate": interval.estimate, "low": interval.low,
            "high": interval.high, "chance": part["chance"].mean(), "utterances": part["row"].nunique(),
        })  # fmt: skip
    return pd.DataFrame(out)


def difference(rows: pd.DataFrame, criterion: str, a: str, b: str, n: int = 2000) -> Interval:
    """Method ``a`` less method ``b`` on the same utterances; the interval draws dialogues and seeds."""
    one = rows[rows["criterion"] == criterion]
    keys = ["seed", "row", "dialogue"]
    paired = one[one["method"] == a].merge(one[one["method"] == b], on=keys, suffixes=("_a", "_b"))
    return _interval(paired.assign(value=paired["value_a"] - paired["value_b"]), n)


def _interval(part: pd.DataFrame, n: int) -> Interval:
    wide = part.pivot_table(index=["dialogue", "row"], columns="seed", values="value")
    clusters = wide.index.get_level_values("dialogue")
    if clusters.nunique() < 2:
        return Interval(np.nan, np.nan, float(np.nanmean(wide.to_numpy())) if len(wide) else np.nan)
    return mean_interval(wide.to_numpy().T, clusters, n=n)
