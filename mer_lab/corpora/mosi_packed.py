"""CMU-MOSI from the SDK's .csd files and from MMSA's pickle; :mod:`mer_lab.corpora.mosi` has the formats.

Both are somebody else's files: the pickle is never unpickled, and no HDF5 link or size is trusted.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from mer_lab.corpora.attach import Row, write_attached
from mer_lab.corpora.importing import Report, some
from mer_lab.corpora.tables import MAX_ARRAY
from mer_lab.corpora.unpickle import load_plain
from mer_lab.errors import MerLabError

PARTS = {"train": "train", "valid": "validation", "test": "test"}
"""MMSA's name of each part, and the split it becomes."""
_DAMAGED = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)  # what h5py raises


@dataclass
class Found:
    """What a source holds.

    Attributes:
        rows: one a segment, with the columns of a corpus that the source knows, and ``where`` it stands.
        words: utterance id, word, start, end in seconds from the segment's start; None where nothing times
            words.
        features: by name: channel, numbers a frame, and the frames of each utterance id.
        untimed: ids whose end is before their start, as the SDK's files have it for 2WGyTLYerpo_44.
    """

    rows: list[dict] = field(default_factory=list)
    words: list[tuple[str, str, float, float]] | None = None
    features: dict[str, tuple[str, int, dict[str, Row]]] = field(default_factory=dict)
    untimed: list[str] = field(default_factory=list)

    def add(self, where: str, video: str, n: int, score: float, text: str = "",
            start: float = math.nan, end: float = math.nan, split: str = "") -> str:  # fmt: skip
        """Check a segment and keep it, without times if they run backwards; returns its id.

        Raises:
            MerLabError: an id that is no file name, a number below 1, a score or times that cannot be.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", video):
            raise MerLabError(f"{where}: the video id is {video[:80]!r}, expected letters, digits, _ and -.")
        if n < 1:
            raise MerLabError(f"{where}: the segment number is {n}, expected 1 or more.")
        if not -3 <= score <= 3:
            raise MerLabError(f"{where}: the score is {score:g}, expected a number from -3 to 3.")
        if math.isinf(start) or math.isinf(end):
            raise MerLabError(f"{where}: the times are {start:g} to {end:g} s, expected finite numbers.")
        uid = f"{video}_{n}"
        if not (start <= end or (math.isnan(start) and math.isnan(end))):
            self.untimed.append(uid)
            start = end = math.nan
        text = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
        score = round(float(score), 4) + 0.0  # so that float32 and decimals agree, and -0 is 0
        self.rows.append({"utterance_id": uid, "dialogue_id": video, "turn": n, "split": split, "text": text,
                          "start": start, "end": end, "score": score, "where": where})  # fmt: skip
        return uid


def write_features(found: Found, ids: list[str], folder: Path, sound: bool, report: Report) -> None:
    """Write each kind of features as ``folder/NAME.safetensors``, in the form of ``mer-lab add-features``."""
    for name, (channel, width, rows) in found.features.items():
        if channel == "audio" and not sound:
            continue
        one = Report()
        columns = [f"{i}" for i in range(width)]
        write_attached(folder / f"{name}.safetensors", name, channel, columns, ids, rows, one)
        if missing := [u for u in ids if u not in rows]:
            one.warnings.append(
                f"{len(missing)} segments have none and get one frame of NaN: {some(missing)}."
            )
        report.notes += one.notes
        report.warnings += [f"{name}: {w}" for w in one.warnings]
        report.counts[name] = one.counts


@dataclass
class _Sequence:
    """One .csd file: what it holds, and features and intervals (T, 2) of each key with rows."""

    path: Path
    name: str
    kind: str
    parts: dict[str, tuple[h5py.Dataset, np.ndarray]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def cut(self, row: dict) -> tuple[h5py.Dataset, np.ndarray, np.ndarray] | None:
        """Features, intervals, and the rows that belong to a segment."""
        aligned = self.parts.get(f"{row['dialogue_id']}[{row['turn'] - 1}]")
        if aligned is not None:
            return *aligned, np.arange(len(aligned[1]))
        if row["dialogue_id"] not in self.parts:
            return None
        features, times = self.parts[row["dialogue_id"]]
        middle = times.mean(1)
        return features, times, np.flatnonzero((row["start"] <= middle) & (middle < row["end"]))

    def read(self, features: h5py.Dataset, index: np.ndarray) -> np.ndarray:
        """Some rows, in order, of shape ``(len(index), D)``."""
        try:
            return features[index[0] : index[-1] + 1][index - index[0]].reshape(len(index), -1)
        except _DAMAGED as error:
            raise _damaged(self.path, error) from None


def read_csd(root: Path, paths: list[Path], report: Report, files: ExitStack) -> Found:
    """Read labels, words and features of the .csd files; ``files`` keeps them open until all is written.

    Raises:
        MerLabError: no labels, two files of a kind, damaged files, shapes that do not fit.
    """
    found, kinds = Found(), {}
    for sequence in (_open(path, files) for path in paths):
        key = sequence.name if sequence.kind in ("text", "audio") else sequence.kind
        if not sequence.kind:
            report.notes.append(
                f"{sequence.path.name}: left out; only labels, words, text and sound are read."
            )
        elif key in kinds:
            raise MerLabError(
                f"{kinds[key].path} and {sequence.path} hold the same and differ; give the folder of one."
            )
        else:
            kinds[key] = sequence
        if sequence.empty:
            told = f"{len(sequence.empty)} entries have no rows, left out: {some(sequence.empty)}."
            report.warnings.append(f"{sequence.path.name}: {told}")
    labels, words = kinds.pop("labels", None), kinds.pop("words", None)
    if labels is None:
        raise MerLabError(
            f"{root}: none of its .csd files holds the labels, CMU_MOSI_Opinion_Labels.csd; add it."
        )
    for key in sorted(labels.parts):
        features, times = labels.parts[key]
        one = re.fullmatch(r"(.+)\[(\d{1,9})\]", key)
        video, first = (one[1], int(one[2])) if one else (key, 0)
        scores = labels.read(features, np.arange(len(times)))
        for k, (score, (start, end)) in enumerate(zip(scores, times, strict=True)):
            found.add(f"{labels.path}, {key} row {k}", video, first + k + 1, float(score[0]), "", start, end)
    if words is None:
        report.warnings.append("no .csd file holds words, so the segments have no text.")
    else:
        found.words = []
        for row in found.rows:
            timed = _words(words, row)
            if not math.isnan(row["start"]):
                found.words += [(row["utterance_id"], *word) for word in timed]
            row["text"] = " ".join(word for word, *_ in timed)
    for name, sequence in kinds.items():
        rows: dict[str, Row] = {}
        for row in found.rows:
            if (cut := sequence.cut(row)) is not None and len(cut[2]):
                rows[row["utterance_id"]] = Row(len(cut[2]), lambda s=sequence, c=cut: s.read(c[0], c[2]))
        width = math.prod(next(iter(sequence.parts.values()))[0].shape[1:])
        found.features[name] = (sequence.kind, width, rows)
    report.notes.append("the .csd files hold no sound, so there are features but no recordings.")
    return found


def _words(sequence: _Sequence, row: dict) -> list[tuple[str, float, float]]:
    cut = sequence.cut(row)
    if cut is None or not len(cut[2]):
        return []
    length, timed = row["end"] - row["start"], []
    for word, (start, end) in zip(sequence.read(cut[0], cut[2])[:, 0], cut[1][cut[2]], strict=True):
        word = word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)
        word = " ".join(word.replace("\0", " ").split())
        if word and word != "sp":
            first = min(max(start - row["start"], 0.0), length)
            timed.append((word, first, min(max(end - row["start"], first), length)))
    return timed


def _open(path: Path, files: ExitStack) -> _Sequence:
    try:
        file = files.enter_context(h5py.File(path, "r"))
        groups = list(file)
        if len(groups) != 1:
            raise MerLabError(f"{path}: has {len(groups)} root groups, a .csd file has one; get it again.")
        root = _member(path, file, groups[0], h5py.Group)
        data = _member(path, root, "data", h5py.Group)
        entries = {key: _member(path, data, key, h5py.Group) for key in data}
        all_features = (_member(path, e, "features", h5py.Dataset) for e in entries.values())
        first = next((f for f in all_features if f.size), None)
        if first is None:
            raise MerLabError(f"{path}: holds no data; get it from its publisher again.")
        name = re.sub(r"[^a-z0-9]+", "_", groups[0].lower()).strip("_")[:64] or "features"
        kind = _kind(f"{groups[0]} {_root_name(path, root)}".lower(), first)
        result = _Sequence(path, name, kind)
        size = 0
        for key, entry in entries.items() if kind else ():  # what is not read need not be right
            features, times = (_member(path, entry, n, h5py.Dataset) for n in ("features", "intervals"))
            where = f"{path}, {key}"
            if not features.size and not times.size:
                result.empty.append(key)
                continue
            if features.ndim < 2 or times.ndim != 2 or times.shape != (len(features), 2):
                raise MerLabError(
                    f"{where}: features {features.shape} and intervals {times.shape} do not fit."
                )
            size += times.size * 8
            if max(size, features.size * features.dtype.itemsize) > MAX_ARRAY:
                raise MerLabError(f"{where}: is larger than {MAX_ARRAY / 2**30:g} GiB; this is not CMU-MOSI.")
            if times.dtype.kind not in "fiu":
                raise MerLabError(f"{where}: the intervals are {times.dtype}, expected numbers.")
            result.parts[key] = features, times[()].astype(float)
    except _DAMAGED as error:
        raise _damaged(path, error) from None
    shapes = {(f.shape[1:], f.dtype.kind) for f, _ in result.parts.values()}
    if len(shapes) > 1:
        raise MerLabError(f"{path}: its features differ from key to key: {some([str(s) for s in shapes])}.")
    return result


def _kind(names: str, features: h5py.Dataset) -> str:
    """labels, words, text or audio, by what a root group is called and by what it holds; else nothing."""
    if h5py.check_string_dtype(features.dtype) is not None:
        return "" if "phon" in names else "words"
    if features.dtype.kind not in "fiub":
        return ""
    if features.shape[1:] == (1,) and re.search("label|opinion|sentiment", names):
        return "labels"
    if re.search("facet|openface|visual|vision", names):
        return ""
    if re.search("glove|vector|embedding|bert", names):
        return "text"
    return "audio" if re.search("covarep|opensmile|acoustic|audio", names) else ""


def _root_name(path: Path, root: h5py.Group) -> str:
    """The name that the metadata give, where there are any; they are JSON in a dataset of one string."""
    try:
        metadata = _member(path, root, "metadata", h5py.Group)
        name = json.loads(_member(path, metadata, "root name", h5py.Dataset)[0])
        return name if isinstance(name, str) else ""
    except (MerLabError, OSError, ValueError, TypeError, LookupError, RecursionError):
        return ""


def _member(path: Path, group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """A member of a group that lies in this file: a link or a dataset elsewhere could be any file."""
    inside = isinstance(group.get(name, getlink=True), h5py.HardLink)
    item = group[name] if inside else None
    if not isinstance(item, kind) or (kind is h5py.Dataset and (item.external or item.is_virtual)):
        expected = f"{group.name.rstrip('/')}/{name} as a {kind.__name__.lower()} of this file"
        raise MerLabError(f"{path}: lacks {expected}, which a .csd file has; get it again.")
    return item


def _damaged(path: Path, error: Exception) -> MerLabError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return MerLabError(f"{path}: cannot be read as HDF5 ({reason}); copy it again.")


def read_mmsa(root: Path, paths: list[Path], report: Report, files: ExitStack) -> Found:
    """Read MMSA's pickle; padding is cut off by the lengths it gives, else where only zeros follow.

    Raises:
        MerLabError: a pickle that is more than data, or without what MMSA's have.
    """
    path, found = paths[0], Found()
    data = load_plain(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(p), dict) for p in PARTS):
        raise MerLabError(f"{path}: holds no train, valid and test, as MMSA's pickles do.")
    for part, split in PARTS.items():
        one, where = data[part], f"{path}, {part}"
        ids = _texts(where, one, "id")
        scores = [float(x) for x in _numbers(where, one, "regression_labels", (len(ids),))]
        texts = _texts(where, one, "raw_text", len(ids)) if "raw_text" in one else [""] * len(ids)
        uids = []
        for k, (key, score, text) in enumerate(zip(ids, scores, texts, strict=True)):
            video, mark, n = key.rpartition("$_$")
            if not mark or not re.fullmatch("[0-9]{1,9}", n):
                raise MerLabError(f"{where} row {k}: the id is {key[:80]!r}, expected video$_$number.")
            uids.append(found.add(f"{where} row {k}", video, int(n), score, text, split=split))
        for channel in ("text", "audio"):
            if channel in one:
                _take(found, where, one, channel, uids)
    report.notes.append("an MMSA pickle holds no sound, word times or segment times; its vision is left out.")
    return found


def _take(found: Found, where: str, one: dict, channel: str, uids: list[str]) -> None:
    frames = _numbers(where, one, channel, (len(uids), None, None))
    lengths = None
    if channel == "text" and "text_bert" in one:  # tokens, mask, segments; BERT's padding is not zero
        lengths = _numbers(where, one, "text_bert", (len(uids), 3, frames.shape[1]))[:, 1].sum(1)
    elif f"{channel}_lengths" in one:
        lengths = _numbers(where, one, f"{channel}_lengths", (len(uids),))
    if lengths is None:
        lengths = (frames.any(2) * np.arange(1, frames.shape[1] + 1)).max(1, initial=0)
    if uids and not (0 <= lengths.min() and lengths.max() <= frames.shape[1]):
        raise MerLabError(f"{where}: a length of {channel} is not within its {frames.shape[1]} frames.")
    _, width, rows = found.features.setdefault(f"mmsa_{channel}", (channel, frames.shape[2], {}))
    if width != frames.shape[2]:
        raise MerLabError(
            f"{where}: {channel} has {frames.shape[2]} numbers a frame, the part before {width}."
        )
    for uid, one_frames, n in zip(uids, frames, lengths, strict=True):
        rows[uid] = Row(int(n), lambda x=one_frames[: int(n)]: x)


def _texts(where: str, one: dict, key: str, length: int | None = None) -> list[str]:
    """A list of strings; those of Python 2 and of numpy's S arrays are bytes."""
    values = one.get(key)
    values = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else values
    if not isinstance(values, list) or (length is not None and len(values) != length):
        many = "a list" if length is None else f"a list of {length}"
        raise MerLabError(f"{where}: {key!r} must be {many}, as in MMSA's pickles.")
    for k, x in enumerate(values):
        if not isinstance(x, (str, bytes)):
            raise MerLabError(f"{where} row {k}: {key!r} is a {type(x).__name__}, expected a string.")
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in values]


def _numbers(where: str, one: dict, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of the shape, or a flat list; None in the shape is any number."""
    values = one.get(key)
    if isinstance(values, np.ndarray) and values.dtype.hasobject and values.ndim == 1:
        values = values.tolist()
    if isinstance(values, list) and all(isinstance(x, (bool, int, float, np.number)) for x in values):
        values = np.array(values, np.float64 if not values else None)
    if not isinstance(values, np.ndarray):  # numpy takes for ever over lists in lists that share their items
        values = np.zeros((), object)
    fits = values.ndim == len(shape) and all(s in (None, n) for s, n in zip(shape, values.shape, strict=True))
    if not fits or values.dtype.kind not in "fiub":
        wanted = " × ".join("n" if s is None else str(s) for s in shape)
        raise MerLabError(f"{where}: {key!r} must be {wanted} numbers, as in MMSA's pickles.")
    return values
