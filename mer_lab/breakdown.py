"""What a single accuracy hides: accuracy by class, cue, speaker, length, kind of speech and emotion shift."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.statistics import accuracy_by

SHIFTS = ("first turn", "same as before", "after a shift")
LENGTHS = ("short", "medium", "long")
OTHERS = "other speakers"
ENOUGH = 20
"""Labelled utterances from which on a speaker is a group of their own."""


class Disparity(NamedTuple):
    """The groups with the lowest and the highest accuracy, and how far apart they are (0..1)."""

    worst: str
    best: str
    gap: float


def groups(corpus: Corpus, split: str = "test") -> pd.DataFrame:
    """The ways to divide a split into groups of utterances, as far as the corpus knows them.

    Returns:
        One row an utterance of the split, in the corpus's order; one column a way, and only those that make
        two groups or more; ``""`` where an utterance is in no group:

        - ``class``: its label.
        - ``cue``: what carries the emotion (the Staged corpus).
        - ``speaker``: those with at least :data:`ENOUGH` labelled utterances; all others together.
        - ``length``: thirds by the number of words, named by what they span: ``"short (1-4 words)"``. Equally
          long utterances stay together, so the thirds are equal only as far as that allows.
        - ``speech``: scripted or improvised (IEMOCAP).
        - ``shift``: whether the label differs from the last one that the same speaker had in this dialogue,
          whatever the split: one of :data:`SHIFTS`.

    Raises:
        MerLabError: the split does not exist or is empty.
    """
    table = corpus.select(split=split).table
    known = table["label"] != ""
    columns = {"class": table["label"]}
    if "cue" in table:
        columns["cue"] = table["cue"]
    columns["speaker"] = _speakers(table["speaker"], known)
    columns["length"] = _lengths(table["text"], known)
    if "scripted" in table:
        columns["speech"] = table["scripted"]
    columns["shift"] = _shifts(corpus.table).loc[table.index]
    frame = pd.DataFrame(columns, table.index).fillna("").astype(str)
    divides = [c for c in frame if frame.loc[known & (frame[c] != ""), c].nunique() > 1]
    return frame[divides]


def breakdown(predictions: np.ndarray, corpus: Corpus, by: str, split: str = "test") -> pd.DataFrame:
    """Accuracy in each group, with its interval over dialogues: :func:`mer_lab.statistics.accuracy_by`.

    Args:
        predictions: class indices ``(S, U)`` of the split's U utterances in the corpus's order, or ``(U,)``.
        by: a column of :func:`groups`.

    Returns:
        One row a group that has a labelled utterance, and last ``"all"``, which is all of these groups
        together: ``estimate, low, high, utterances``. By ``class`` an estimate is the recall of that class.

    Raises:
        MerLabError: the corpus cannot be divided like that, predictions that do not fit, one dialogue only.
    """
    part, frame = corpus.select(split=split), groups(corpus, split)
    if by not in frame:
        ways = ", ".join(frame) or "nothing"
        raise MerLabError(f"corpus {corpus.name} cannot be divided by {by!r}; it can be by {ways}.")
    predictions = np.atleast_2d(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(part):
        raise MerLabError(
            f"predictions of shape {predictions.shape} for {len(part)} utterances of the split {split!r}; "
            "pass one class index an utterance, in the corpus's order."
        )
    target, group = part.targets, frame[by].to_numpy(object)
    keep = (target >= 0) & (group != "")
    clusters = part.table["dialogue_id"].to_numpy(object)
    found = accuracy_by(group[keep], target[keep], predictions[:, keep], clusters[keep])
    return found.loc[[*_in_order(found.index[:-1], corpus), "all"]]


def disparity(frame: pd.DataFrame) -> Disparity:
    """The worst and the best group of a :func:`breakdown`, and the gap between them; ``"all"`` is no group.

    The gap of many small groups is wide by chance alone: look at their intervals.

    Raises:
        MerLabError: there is no group.
    """
    estimates = frame["estimate"].drop("all", errors="ignore").dropna()
    if estimates.empty:
        raise MerLabError("there is no group to compare; pass what breakdown() returns.")
    worst, best = estimates.idxmin(), estimates.idxmax()
    return Disparity(worst, best, float(estimates[best] - estimates[worst]))


def _speakers(speaker: pd.Series, known: pd.Series) -> pd.Series:
    counts = speaker[known].value_counts()
    return speaker.where(speaker.isin(counts.index[counts >= ENOUGH]) | (speaker == ""), OTHERS)


def _lengths(text: pd.Series, known: pd.Series) -> pd.Series:
    words = text.str.split().str.len()
    told = words[known & (words > 0)]
    if told.nunique() < 2:
        return pd.Series("", text.index)
    share = told.value_counts(normalize=True).sort_index().cumsum().iloc[:-1]
    cuts = [(share - third).abs().idxmin() for third in (1 / 3, 2 / 3)]
    third = np.searchsorted(cuts, words)  # a cut is the most words that its third allows
    names = pd.Series("", text.index, dtype=object)
    for k, name in enumerate(LENGTHS):
        member = (third == k) & (words > 0)
        if member.any():
            low, high = words[member].min(), words[member].max()
            span = f"{low}-{high}" if low < high else f"{low}"
            names[member] = f"{name} ({span} word{'s' if high > 1 else ''})"
    return names


def _shifts(table: pd.DataFrame) -> pd.Series:
    label = table["label"].astype(object).where(table["label"] != "")
    voice = [table["dialogue_id"], table["speaker"]]
    before = label.groupby(voice).ffill().groupby(voice).shift()
    names = np.where(before.isna(), SHIFTS[0], np.where(before == label, SHIFTS[1], SHIFTS[2]))
    return pd.Series(names, table.index, dtype=object).where(label.notna(), "")


def _in_order(names: pd.Index, corpus: Corpus) -> list[str]:
    """Groups in the order that a reader expects, or that of their appearance; other speakers last."""
    place = {name: k for k, name in enumerate([*corpus.labels, *LENGTHS, *SHIFTS])}
    return sorted(names, key=lambda name: (name == OTHERS, place.get(name.split(" (")[0], len(place))))
