"""Attach a table of features that someone else extracted to a corpus folder, by utterance id.

A table is a CSV or Parquet file (a key column, further columns are numbers, one row an utterance), or an npz
or safetensors file (one array ``(T, D)`` or ``(D,)`` an utterance, named by its key). It becomes
``features/NAME.safetensors``: ``frames`` float32 ``(N, D)``, all utterances in the corpus's order, and
``offsets`` int64 ``(U + 1)``, utterance ``u`` owns ``frames[offsets[u]:offsets[u + 1]]``; the header's
metadata holds, under ``mer_lab``, JSON with ``name, channel, columns, utterance_ids, version, hop``.

Three prosody tables keyed by clip name, where clip names restart in each split::

    add_features("meld", "prosody", {"train": "prosody_train.csv", "validation": "prosody_dev.csv",
                                     "test": "prosody_test.csv"}, key="filename", match="clip")
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mer_lab.corpora.corpus import SPLITS, Corpus
from mer_lab.corpora.importing import Report, some
from mer_lab.corpora.native import read_folder
from mer_lab.corpora.tables import Table, read_table
from mer_lab.errors import MerLabError
from mer_lab.ragged import write_ragged

VERSION = 1
_ENDINGS = (".wav", ".flac", ".mp3", ".mp4", ".ogg", ".m4a", ".avi", ".npy", ".txt")


def add_features(
    corpus_folder: str | Path,
    name: str,
    table: str | Path | Mapping[str, str | Path],
    key: str = "utterance_id",
    channel: str = "audio",
    *,
    match: str = "utterance_id",
    drop: Iterable[str] = (),
    overwrite: bool = False,
) -> Report:
    """Attach pre-extracted features to a corpus folder as ``features/NAME.safetensors``.

    Nothing is silent: the report tells missing values (kept as NaN, for a model to impute with the means of
    the training set; infinite values become NaN), utterances without a row (they get one frame of NaN) and
    rows without an utterance.

    Args:
        corpus_folder: a native corpus folder.
        name: what to call the features: letters, digits, ``_`` and ``-``.
        table: one file, or one file a split (``{"train": ..., "validation": ..., "test": ...}``); a file
            given for a split can only reach the utterances of that split.
        key: the column of a CSV or Parquet file that names the utterance.
        channel: ``audio`` or ``text``.
        match: the column of the corpus that the key is compared with: the id, or metadata such as MELD's
            ``clip``. A key's folder and media ending (``.wav``) do not count. A key that fits more than one
            utterance is refused.
        drop: columns of the table to leave out; any other that is not numeric is refused.
        overwrite: replace features of that name.

    Raises:
        MerLabError: an unreadable, ambiguous or unmatched table, objects that would need a pickle, arrays
            over the size limits of :mod:`mer_lab.corpora.tables`; with the file and the line or array.
    """
    folder = Path(corpus_folder)
    target = folder / "features" / f"{name}.safetensors"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise MerLabError(f"the features' name is {name!r}; use letters, digits, _ and - (at most 64).")
    if channel not in ("audio", "text"):
        raise MerLabError(f"the channel is {channel!r}, expected audio or text.")
    corpus = read_folder(folder, check_audio=False)
    if target.exists() and not overwrite:
        raise MerLabError(
            f"{target} exists already; give all tables in one command, choose another name, or overwrite it."
        )
    if match != "utterance_id" and match not in corpus.table.columns:
        raise MerLabError(
            f"corpus {corpus.name} has no column {match!r} to match; see the head of utterances.csv."
        )
    given = dict(table) if isinstance(table, Mapping) else {"": table}
    if not given:
        raise MerLabError("no table was given; give one file, or one for each split.")
    for split in given:
        if split and split not in SPLITS:
            raise MerLabError(
                f"the table {given[split]} is given for {split!r}; splits are {', '.join(SPLITS)}."
            )
    report = Report()
    sources: dict[str, Row] = {}
    first: Table | None = None
    extra: list[str] = []
    for split, path in given.items():
        one = read_table(Path(path), key, set(drop))
        if first is not None:
            _check_same_columns(first, one)
        first = first or one
        part = corpus.select(split=split) if split else corpus
        rows, unused = _match(one, part, match)
        sources |= rows
        extra += [f"{Path(path).name} {k}" for k in unused]
        where = f" of {split}" if split else ""
        report.notes.append(
            f"{Path(path).name}: {len(one.keys)} rows, {len(rows)} of {len(part)} utterances{where}."
        )
        if len(rows) < len(part) / 2:
            report.warnings.append(
                f"{Path(path).name} covers less than half of the utterances{where}: is it the right one?"
            )
    write_attached(target, name, channel, first.columns, corpus.ids, sources, report)
    missing = [u for u in corpus.ids if u not in sources]
    report.counts |= {"utterances": len(corpus), "matched": len(sources), "missing": missing, "extra": extra}
    if missing:
        report.warnings.append(
            f"{len(missing)} utterances have no row and get one frame of NaN: {some(missing)}."
        )
    if extra:
        report.warnings.append(f"{len(extra)} rows belong to no utterance and are left out: {some(extra)}.")
    return report


@dataclass(frozen=True)
class Row:
    """An utterance's frames: how many, and how to read them."""

    frames: int
    read: Callable[[], np.ndarray]


def _check_same_columns(first: Table, other: Table) -> None:
    if first.columns != other.columns:
        differ = sorted(set(first.columns) ^ set(other.columns))
        what = (
            f"the columns {some(differ)} stand in one only"
            if differ
            else "the columns stand in another order"
        )
        raise MerLabError(f"{first.path} and {other.path} do not fit together: {what}.")


def _plain(key: str) -> str:
    """A key without folder and media ending: ``clips/dia0_utt3.wav`` → ``dia0_utt3``."""
    name = PurePosixPath(key.replace("\\", "/")).name
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _match(table: Table, part: Corpus, match: str) -> tuple[dict[str, Row], list[str]]:
    """Utterance id → row, and the keys that belong to no utterance."""
    values = part.table.index if match == "utterance_id" else part.table[match].astype(str)
    exact = pd.Series(part.table.index, index=values).groupby(level=0).agg(list).to_dict()
    plain: dict[str, list[str]] = {}
    for value, ids in exact.items():
        plain.setdefault(_plain(value), []).extend(ids)
    rows: dict[str, Row] = {}
    owner: dict[str, str] = {}
    extra: list[str] = []
    for k, key in enumerate(table.keys):
        ids = exact.get(key) or plain.get(_plain(key)) or []
        if not key or not ids:
            extra.append(key)
            continue
        if len(ids) > 1:
            raise MerLabError(
                f"{table.place(k)}: the key {key!r} fits {len(ids)} utterances ({some(ids)}); give one table "
                "for each split, or match another column."
            )
        if ids[0] in owner:
            raise MerLabError(
                f"{table.place(k)}: the keys {owner[ids[0]]!r} and {key!r} both name {ids[0]}; keep one row."
            )
        owner[ids[0]] = key
        rows[ids[0]] = Row(table.lengths[k], lambda k=k: table.read(k))
    if not rows:
        raise MerLabError(
            f"{table.path}: no key fits the corpus's column {match}: keys are like {table.keys[0]!r}, the "
            f"column holds values like {list(values)[0]!r}; choose another key or match column."
        )
    return rows, extra


def write_attached(
    target: Path,
    name: str,
    channel: str,
    columns: list[str],
    ids: list[str],
    sources: Mapping[str, Row],
    report: Report,
) -> None:
    """Write the frames one utterance after the other, counting what is missing on the way."""
    width = len(columns)
    lengths = [max(1, sources[u].frames) if u in sources else 1 for u in ids]
    total = sum(lengths)
    meta = {"name": name, "channel": channel, "columns": columns, "utterance_ids": ids}
    meta |= {"version": VERSION, "hop": None}
    nan = np.zeros(width, np.int64)
    infinite = empty = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal infinite, empty
        for uid in tqdm(ids, desc=f"writing {name}", unit="utt", disable=total < 20_000):
            if uid not in sources or not sources[uid].frames:
                empty += uid in sources
                yield np.full((1, width), np.nan, np.float32)
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                frames = sources[uid].read().astype(np.float32)
            wrong = np.isinf(frames)
            infinite += int(wrong.sum())
            frames[wrong] = np.nan
            nan[:] += np.isnan(frames).sum(0)
            yield frames

    write_ragged(target, meta, lengths, width, chunks())
    with_nan = {c: int(n) for c, n in zip(columns, nan, strict=True) if n}
    report.counts |= {
        "frames": total,
        "columns": width,
        "nan": with_nan,
        "infinite": infinite,
        "empty": empty,
    }
    report.notes.append(f"{target.name}: {total} frames of {width} numbers for {len(ids)} utterances.")
    if with_nan:
        told = some([f"{c} {n}" for c, n in sorted(with_nan.items(), key=lambda x: -x[1])], 5)
        report.warnings.append(f"{int(math.fsum(with_nan.values()))} missing values are kept as NaN: {told}.")
    if infinite:
        report.warnings.append(
            f"{infinite} infinite values are kept as NaN (counted among the missing values)."
        )
    if empty:
        report.warnings.append(f"{empty} utterances have an array without frames and get one frame of NaN.")
