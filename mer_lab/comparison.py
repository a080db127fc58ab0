"""From results to a table one may trust: score, spread, interval, what fusion adds, what it costs.

Everything is computed from per-utterance predictions; nothing is typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from mer_lab.batches import Dataset
from mer_lab.calibration import expected_calibration_error, temper
from mer_lab.errors import MerLabError
from mer_lab.experiments import open_corpus, prepare
from mer_lab.modality import modality_value
from mer_lab.records import Recipe, Result
from mer_lab.statistics import (
    holm,
    mcnemar_exact,
    paired_difference,
    score_interval,
    seed_summary,
    utterances_needed,
)

RESAMPLES = 10_000


class Truth(NamedTuple):
    """What the test split is: class index and dialogue of each utterance ``(U,)``."""

    label: np.ndarray
    dialogue: np.ndarray


def truth_of(result: Result) -> Truth:
    """From the result where the corpus may be handed on, else from the user's own copy of it.

    Raises:
        MerLabError: the corpus is not here, or holds other test utterances than the result.
    """
    if result.truth:
        return Truth(np.array(result.truth["label"]), np.array(result.truth["dialogue"]))
    test = asked(result.recipe)
    if test.corpus.ids != result.utterances:
        raise MerLabError(
            f"{result.recipe.name} was tested on other utterances than corpus {test.corpus.name} holds now."
        )
    return Truth(test.targets, test.corpus.table["dialogue_id"].to_numpy())


def asked(recipe: Recipe) -> Dataset:
    """A recipe's test utterances, without features."""
    bare = replace(recipe, model={"name": "majority"}, audio={}, text={}, encoder={})
    return prepare(bare, open_corpus(recipe))[0]["test"]


def compare(
    results: Sequence[Result], control: Mapping[str, str], truth: Truth, n: int = RESAMPLES
) -> pd.DataFrame:
    """A row a result, in the order given; scores and differences in points (0 to 100).

    Args:
        results: of one corpus and one label scheme, classes as targets.
        control: name → name of the text-only control that it is held against.
        truth: of the test split.
        n: resamples of each interval; a p value is at least ``2 / (n + 1)``.

    Returns:
        columns:
        ``seeds``; ``score, spread, low, high``: mean and standard deviation over seeds of the recipe's
        monitor, and its interval over dialogues and seeds;
        ``control, gain, gain_low, gain_high, p, p_holm``: the paired difference to the control, and its p
        value before and after Holm's correction over the table; ``mcnemar, mcnemar_holm``: of the first
        seeds, exact; ``needed``: utterances that would show a gain of one point between these trained models
        with a power of 0.8 (what seeds differ by is not counted: more utterances do not lessen it);
        ``value_text, value_audio``: Shapley values over all four coalitions; ``emap_gap``: what is more than
        addition;
        ``ece, ece_tempered``: expected calibration error before and after the temperature that validation
        chose; ``learnt, seconds_epoch, peak_mib, utterances_per_second``: medians over seeds.
        NaN where a column does not apply.

    Raises:
        MerLabError: results of different test sets or metrics.
    """
    by_name = {r.recipe.name: r for r in results}
    first = results[0]
    metric = first.recipe.train.monitor
    for r in results:
        if r.utterances != first.utterances or r.recipe.train.monitor != metric:
            raise MerLabError(
                f"{r.recipe.name} and {first.recipe.name} have no test set and score in common; compare "
                "results of one corpus."
            )
    rows = {}
    for name, r in by_name.items():
        against = by_name.get(control.get(name, ""))
        rows[name] = {"metric": metric, **_score(r, metric, truth, n), **_gain(r, against, metric, truth, n)}
        rows[name] |= _worth(r, metric, truth) | _calibration(r, truth) | _cost(r)
    frame = pd.DataFrame(rows).T.infer_objects()
    for raw in ("p", "mcnemar"):
        tested = frame[raw].notna()
        frame[f"{raw}_holm"] = np.nan
        frame.loc[tested, f"{raw}_holm"] = holm(frame.loc[tested, raw].astype(float))
    return frame[[*COLUMNS]]


COLUMNS = (
    "metric", "seeds", "score", "spread", "low", "high", "control", "gain", "gain_low", "gain_high", "p",
    "p_holm", "mcnemar", "mcnemar_holm", "needed", "value_text", "value_audio", "emap_gap", "ece",
    "ece_tempered", "learnt", "seconds_epoch", "peak_mib", "utterances_per_second",
)  # fmt: skip


def _score(r: Result, metric: str, truth: Truth, n: int) -> dict:
    values = seed_summary([row[metric] for row in r.test])
    interval = score_interval(metric, truth.label, np.array(r.predictions), truth.dialogue, n=n)
    points = {"score": values.mean, "spread": values.std, "low": interval.low, "high": interval.high}
    return {"seeds": values.n} | {k: 100 * v for k, v in points.items()}


def _gain(r: Result, against: Result | None, metric: str, truth: Truth, n: int) -> dict:
    empty = dict.fromkeys(("gain", "gain_low", "gain_high", "p", "mcnemar", "needed"), np.nan)
    if against is None:
        return {"control": "", **empty}
    a, b = np.array(r.predictions), np.array(against.predictions)
    d = paired_difference(metric, truth.label, a, b, truth.dialogue, n=n)
    fixed = paired_difference(metric, truth.label, a, b, truth.dialogue, n=n, resample_seeds=False)
    return {
        "control": against.recipe.name, "gain": 100 * d.estimate, "gain_low": 100 * d.low,
        "gain_high": 100 * d.high, "p": d.p, "mcnemar": mcnemar_exact(truth.label, a[0], b[0]).p,
        "needed": utterances_needed(fixed, int((truth.label >= 0).sum())),
    }  # fmt: skip


def _worth(r: Result, metric: str, truth: Truth) -> dict:
    seeds = [modality_value(truth.label, decided, metric) for decided in r.coalitions]
    values = {"value_text": "shapley_text", "value_audio": "shapley_audio", "emap_gap": "gap"}
    return {
        name: 100 * float(np.mean([getattr(v, of) for v in seeds])) if seeds else np.nan
        for name, of in values.items()
    }


def _calibration(r: Result, truth: Truth) -> dict:
    if not r.probabilities:
        return {"ece": np.nan, "ece_tempered": np.nan}
    p = r.proba()
    cooled = np.stack([temper(x, row["temperature"]) for x, row in zip(p, r.measures, strict=True)])
    return {
        "ece": 100 * expected_calibration_error(p, truth.label),
        "ece_tempered": 100 * expected_calibration_error(cooled, truth.label),
    }


def _cost(r: Result) -> dict:
    def median(rows: Sequence[dict], name: str) -> float:
        values = [row[name] for row in rows if row.get(name) is not None]
        return float(np.median(values)) if values else np.nan

    costs = ("seconds_epoch", "peak_mib", "utterances_per_second")
    return {"learnt": median(r.validation, "learnt")} | {name: median(r.measures, name) for name in costs}


def on_front(cost: pd.Series, score: pd.Series) -> pd.Series:
    """Whether nothing is both cheaper and better: the accuracy-cost front."""
    return pd.Series(
        {k: not ((cost <= cost[k]) & (score >= score[k]) & ((cost < cost[k]) | (score > score[k]))).any()
         for k in cost.index}
    )  # fmt: skip


SCORES = {"wa": "accuracy", "ua": "UA", "weighted_f1": "weighted F1", "macro_f1": "macro F1"}


def as_text(frame: pd.DataFrame, markdown: bool = False) -> str:
    """The table for a terminal, or in Markdown."""
    p = p_values(frame)
    heads = {
        "system": "system", "score": SCORES[frame["metric"].iloc[0]], "interval": "95% interval",
        "gain": "gain over text alone", "p": "p (Holm)", "needed": "needed", "text": "Shapley text",
        "audio": "audio", "gap": "EMAP gap", "ece": "ECE", "epoch": "s/epoch",
    }  # fmt: skip
    lines = [list(heads.values())]
    for name, row in frame.iterrows():
        interval = "" if np.isnan(row.gain) else f"{row.gain:+.1f} [{row.gain_low:.1f}, {row.gain_high:.1f}]"
        cells = [
            f"{row.score:.1f} ± {row.spread:.1f}" if row.seeds > 1 else f"{row.score:.1f}",
            f"[{row.low:.1f}, {row.high:.1f}]",
            interval,
            p[name],
            _cell(row.needed, "{:,.0f}"),
            _cell(row.value_text, "{:.0f}"),
            _cell(row.value_audio, "{:.0f}"),
            _cell(row.emap_gap, "{:.1f}"),
            _cell(row.ece, "{:.1f}") and f"{row.ece:.1f} → {row.ece_tempered:.1f}",
            _cell(row.seconds_epoch, "{:.2f}"),
        ]
        lines.append([str(name), *(cell.replace("-", "\N{MINUS SIGN}") for cell in cells)])
    if markdown:
        rule = ["---"] + ["---:"] * (len(heads) - 1)
        return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    return "\n".join(
        "  ".join(c.rjust(w) if k else c.ljust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def p_values(frame: pd.DataFrame) -> pd.Series:
    """Corrected p values as text, with "≤" where every resample was on one side; "" without a control."""
    shown = frame["p_holm"].astype(float).map("{:.3f}".format)
    return shown.mask(frame["p"].astype(float) <= 2.001 / (RESAMPLES + 1), "≤ " + shown).replace("nan", "")


def _cell(value: float, form: str) -> str:
    return "" if np.isnan(value) else form.format(value)
