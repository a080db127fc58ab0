"""Does an explanation find what was planted? Words, spans of time and turns that decide, on Staged.

Counted are utterances that the system gets right for the planted reason, as far as one can know: what it
decides is the emotion that the process planted. Where it is wrong, nothing says that it should have used the
planted word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution
from mer_lab.explain.question import Question
from mer_lab.explain.units import Units, timed_words, units_of

SLACK = 0.05
"""Seconds by which a word's span is widened: about as well as people agree on its onset."""


class Truth(NamedTuple):
    """Which units decide: True, of each utterance ``(W,)``, ``(S,)`` or ``(N,)``; None where all or none do.

    Attributes:
        words: by their meaning. ``spans``: by their sound. ``turns``: of the conversation, for the cue that
            only the conversation decides.
    """

    words: list[np.ndarray | None]
    spans: list[np.ndarray | None]
    turns: list[np.ndarray | None]


def planted(question: Question, units: Units | None = None) -> Truth:
    """The planted truth of every utterance of a question.

    Raises:
        MerLabError: the corpus has none.
    """
    corpus, units = question.data.corpus, units or units_of(question)
    if corpus.words is None or "decides_text" not in corpus.words or "decided_by" not in corpus.table:
        raise MerLabError(f"corpus {corpus.name} has no planted truth; only Staged knows what decides.")
    truth = Truth([], [], [])
    for b, row in enumerate(question.rows):
        words = timed_words(question.data, int(row))
        heard = np.zeros(int(units.spans[b]), bool)
        said = np.zeros(int(units.words[b]), bool)
        if words is not None and len(words) == len(said):
            said = (words["decides_text"].astype(str) == "1").to_numpy()
            sounds = words[words["decides_audio"].astype(str) == "1"]
            if 0 < len(sounds) < len(words):
                at = span_centres(question, units, b)
                for start, end in zip(sounds["start"], sounds["end"], strict=True):
                    heard |= (at >= start - SLACK) & (at <= end + SLACK)
        decided = corpus.table["decided_by"].iloc[int(row)]
        ids = [corpus.ids[k] if k >= 0 else "" for k in question.turns[b]]
        felt = np.array([bool(decided) and u == decided for u in ids])
        for kept, found in zip(truth, (said, heard, felt), strict=True):
            kept.append(found if 0 < found.sum() < len(found) else None)
    return truth


def span_centres(question: Question, units: Units, b: int) -> np.ndarray:
    """Centre of each span of the ``b``-th utterance, in seconds ``(S,)``."""
    span = units.span[b][units.span[b] >= 0]
    size = np.bincount(span)
    middle = np.bincount(span, np.arange(len(span))) / size
    return question.first + question.hop * middle


def right(question: Question) -> np.ndarray:
    """``(B,)``: whether the class that is explained is the planted emotion."""
    table = question.data.corpus.table.iloc[question.rows]
    named = np.array(question.data.corpus.labels)[question.target.cpu().numpy()]
    return named == table["emotion"].to_numpy(str)


def found(values: Attribution, units: Units | None = None, truth: Truth | None = None) -> pd.DataFrame:
    """How well the largest attributions name what decides.

    Returns:
        one row an utterance and kind of unit (words, spans, turns): ``row`` in the data, ``dialogue, cue, of,
        units, true``; ``pointing``, 1 where the unit with the largest attribution decides (the pointing game,
        Zhang et al., IJCV 2018; of several largest the share that decides), and its chance; ``precision`` of
        the k largest, k being how many decide; ``auprc``, the area under precision and recall (average
        precision), and its chance.
    """
    question = values.question
    units = units or units_of(question)
    truth = truth or planted(question, units)
    words, spans = units.sums(values)
    scored = zip(truth._fields, truth, (words, spans, values.turns), strict=True)
    kinds = {of: (decides, scores) for of, decides, scores in scored}
    table, counted, rows = question.data.corpus.table, right(question), []
    for b in np.flatnonzero(counted):
        about = table.iloc[int(question.rows[b])]
        for of, (decides, scores) in kinds.items():
            if decides[b] is None:
                continue
            true = decides[b]
            score = np.nan_to_num(scores[b][: len(true)].astype(float))
            if of == "turns":  # the turn itself says nothing: it is not among those it may have answered
                keep = np.arange(len(true)) != int(question.place[b])
                keep &= question.turns[b] >= 0
                true, score = true[keep], score[keep]
                if not 0 < true.sum() < len(true):
                    continue
            rows.append(
                {
                    "row": int(question.rows[b]), "dialogue": about["dialogue_id"], "cue": about["cue"],
                    "of": of, "units": len(true), "true": int(true.sum()),
                    "pointing": float(true[score == score.max()].mean()), "chance": float(true.mean()),
                    "precision": _precision(true, score),
                    "auprc": float(average_precision_score(true, score)),
                    "auprc_chance": chance_precision(len(true), int(true.sum())),
                }
            )  # fmt: skip
    columns = ["row", "dialogue", "cue", "of", "units", "true", "pointing", "chance", "precision", "auprc",
               "auprc_chance"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _precision(true: np.ndarray, score: np.ndarray) -> float:
    """Share of the k largest that decide, k being how many decide; equal ones count in equal shares."""
    last = np.sort(score)[::-1][true.sum() - 1]
    sure, tied = score > last, score == last
    return float((true[sure].sum() + (true.sum() - sure.sum()) * true[tied].mean()) / true.sum())


def chance_precision(n: int, true: int) -> float:
    """Expected average precision of a random order of n units of which some decide (Bestgen 2015).

    >>> chance_precision(4, 4), chance_precision(2, 1)
    (1.0, 0.75)
    """
    harmonic = float(np.sum(1 / np.arange(1, n + 1)))
    if n == 1:
        return 1.0
    return ((true - 1) / (n - 1) * (n - harmonic) + harmonic) / n
