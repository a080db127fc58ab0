"""Corpus: utterances in dialogues, in order, with a label scheme and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mer_lab.errors import MerLabError

SPLITS = ("train", "validation", "test")
COLUMNS = ("dialogue_id", "turn", "speaker", "split", "label", "text", "audio", "start", "end")
"""Columns that every table has; `score` is there where the corpus has one, any further column is metadata."""


@dataclass(frozen=True)
class Corpus:
    """Utterances grouped in dialogues.

    Attributes:
        name: short name, used in file names.
        labels: the label scheme, in order; class ``k`` of every model is ``labels[k]``.
        table: one row an utterance, indexed by ``utterance_id``, dialogues together and turns in order,
            with the columns of :data:`COLUMNS`. Missing text, audio and label are ``""``; missing times
            are NaN, in seconds. ``audio`` is a path relative to ``root``.
        words: word timings or None: ``utterance_id, word, start, end`` in order, in seconds from the
            utterance's start, further columns kept.
        root: the folder the audio paths are relative to.
        schemes: other label schemes by name, see :meth:`scheme`.
        info: everything else that ``corpus.toml`` holds.
    """

    name: str
    labels: tuple[str, ...]
    table: pd.DataFrame
    words: pd.DataFrame | None = None
    root: Path | None = None
    licence: str = ""
    source: str = ""
    schemes: Mapping[str, dict] = field(default_factory=dict)
    info: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [c for c in COLUMNS if c not in self.table.columns]
        if missing:
            raise MerLabError(f"corpus {self.name}: the table lacks the column(s) {', '.join(missing)}.")
        if len(set(self.labels)) != len(self.labels):
            raise MerLabError(f"corpus {self.name}: a label stands twice in the scheme {list(self.labels)}.")
        ids = self.table.index
        if not ids.is_unique:
            raise MerLabError(
                f"corpus {self.name}: the utterance id {ids[ids.duplicated()][0]!r} stands twice."
            )
        unknown = sorted(set(self.table["label"]) - {*self.labels, ""}, key=str)
        if unknown:
            raise MerLabError(
                f"corpus {self.name}: label {unknown[0]!r} is not in the scheme {', '.join(self.labels)}; "
                "add it to the labels or map it with relabel()."
            )
        unknown = sorted(set(self.table["split"]) - {*SPLITS, ""}, key=str)
        if unknown:
            raise MerLabError(
                f"corpus {self.name}: split {unknown[0]!r} does not exist; "
                f"the splits are {', '.join(SPLITS)}."
            )

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{s} {n}" for s, n in self.table["split"].value_counts().items() if s)
        dialogues, speakers = self.table["dialogue_id"].nunique(), self.table["speaker"].nunique()
        counts = f"{len(self)} utterances, {dialogues} dialogues, {speakers} speakers"
        return f"Corpus({self.name}: {counts}; {sizes})"

    @property
    def ids(self) -> list[str]:
        """Utterance ids, in order."""
        return self.table.index.tolist()

    @property
    def targets(self) -> np.ndarray:
        """Class index of each utterance ``(U,)`` int64; -1 where it has no label."""
        index = {label: k for k, label in enumerate(self.labels)}
        return np.array([index.get(label, -1) for label in self.table["label"]], np.int64)

    @property
    def has_audio(self) -> bool:
        """True when every utterance has an audio file."""
        return bool(len(self)) and bool((self.table["audio"] != "").all())

    def select(self, keep: Iterable | None = None, *, split: str | None = None) -> Corpus:
        """The corpus of some utterances, in the corpus's order.

        Args:
            keep: a boolean mask over the corpus, or ids.
            split: one split (of what is kept).

        Raises:
            MerLabError: an id or the split does not exist, the mask has another length, the split is empty.
        """
        table = self.table
        if keep is not None:
            table = table[self._mask(keep)]
        if split is not None:
            if split not in SPLITS:
                raise MerLabError(f"split {split!r} does not exist; the splits are {', '.join(SPLITS)}.")
            table = table[table["split"] == split]
            if table.empty:
                raise MerLabError(
                    f"corpus {self.name} has no utterances in the split {split!r}; see its split column."
                )
        words = self.words
        if words is not None:
            words = words[words["utterance_id"].isin(table.index)]
        return replace(self, table=table, words=words)

    def _mask(self, keep: Iterable) -> np.ndarray:
        keep = list(keep)
        if keep and all(isinstance(k, (bool, np.bool_)) for k in keep):
            if len(keep) != len(self):
                raise MerLabError(f"corpus {self.name}: a mask of {len(keep)} for {len(self)} utterances.")
            return np.array(keep)
        known = set(self.table.index)
        unknown = [u for u in keep if u not in known]
        if unknown:
            raise MerLabError(f"corpus {self.name} has no utterance {unknown[0]!r}.")
        return self.table.index.isin(keep)

    def relabel(self, mapping: Mapping[str, str | None], labels: Iterable[str] | None = None) -> Corpus:
        """Merge, rename or drop classes: ``{"excited": "happy", "other": None}``; the rest stays.

        Utterances mapped to None keep their place in the dialogue and lose their label, so that a
        contextual model still hears them.

        Raises:
            MerLabError: the corpus has no such label, or ``labels`` lack one that a label is mapped to.
        """
        unknown = [label for label in mapping if label not in self.labels]
        if unknown:
            raise MerLabError(
                f"corpus {self.name} has no label {unknown[0]!r} to map; "
                f"its labels are {', '.join(self.labels)}."
            )
        new = {label: mapping.get(label, label) for label in self.labels}
        order = tuple(labels) if labels else tuple(dict.fromkeys(v for v in new.values() if v is not None))
        column = self.table["label"].map(lambda x: new.get(x) or "")
        return replace(self, labels=order, table=self.table.assign(label=column))

    def scheme(self, name: str) -> Corpus:
        """The corpus under one of its other label schemes (``[schemes.NAME]`` in ``corpus.toml``).

        A scheme is either ``column`` (another column holds the labels) or ``map`` (old label to new).

        Raises:
            MerLabError: no such scheme.
        """
        if name not in self.schemes:
            known = ", ".join(self.schemes) or "none besides its own labels"
            raise MerLabError(f"corpus {self.name} has no label scheme {name!r}; it has {known}.")
        spec = self.schemes[name]
        if "column" in spec:
            return replace(
                self, labels=tuple(spec["labels"]), table=self.table.assign(label=self.table[spec["column"]])
            )
        mapping = {label: spec["map"].get(label) for label in self.labels}
        return self.relabel(mapping, spec.get("labels"))

    def with_splits(self, split: pd.Series | Mapping[str, str] | Iterable[str]) -> Corpus:
        """The same utterances under other splits: a mapping from id, or one value an utterance in order.

        Raises:
            MerLabError: an utterance gets no split, or one that does not exist; ``""`` belongs to none.
        """
        if isinstance(split, (Mapping, pd.Series)):
            missing = [u for u in self.table.index if u not in split]
            if missing:
                raise MerLabError(f"corpus {self.name}: utterance {missing[0]!r} gets no split.")
            split = [split[u] for u in self.table.index]
        split = list(split)
        if len(split) != len(self):
            raise MerLabError(f"corpus {self.name}: {len(split)} splits given for {len(self)} utterances.")
        return replace(self, table=self.table.assign(split=split))

    def audio_path(self, utterance_id: str) -> Path:
        """Path of an utterance's audio file.

        Raises:
            MerLabError: the utterance has no audio.
        """
        relative = self.table.at[utterance_id, "audio"]
        if not relative:
            raise MerLabError(f"utterance {utterance_id} of corpus {self.name} has no audio.")
        return (self.root or Path()) / relative

    def word_timings(self, utterance_id: str) -> pd.DataFrame:
        """Rows of ``words`` for one utterance, in order (empty where there are none)."""
        if self.words is None:
            return pd.DataFrame(columns=["utterance_id", "word", "start", "end"])
        return self.words[self.words["utterance_id"] == utterance_id].reset_index(drop=True)
