"""The native folder: ``corpus.toml`` + ``utterances.csv`` (+ ``words.csv``, ``audio/``, ``features/``).

Anyone's own data is one CSV away::

    mine/
        corpus.toml       name = "mine"
                          labels = ["angry", "happy"]
        utterances.csv    utterance_id,dialogue_id,turn,speaker,split,label,text,audio,start,end
        audio/            what the audio column points to, relative to the folder

Only ``utterance_id`` and one of ``text`` and ``audio`` must be there: a missing ``dialogue_id`` makes each
utterance its own dialogue, a missing ``turn`` numbers the rows of a dialogue in file order.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import shutil
import tomllib
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import tomli_w

from mer_lab.corpora.corpus import COLUMNS, SPLITS, Corpus
from mer_lab.errors import MerLabError
from mer_lab.files import atomic_folder, write_text

_TEXT_COLUMNS = ("dialogue_id", "speaker", "split", "label", "text", "audio")
_OWN = {"corpus.toml", "utterances.csv", "words.csv", "audio", "features"}
csv.field_size_limit(10_000_000)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file with or without byte order mark.

    Raises:
        MerLabError: a missing file, a workbook, UTF-16, bytes that are not UTF-8, NUL bytes; with line.
    """
    save = "in a spreadsheet, save it as 'CSV UTF-8'"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MerLabError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise MerLabError(f"{path}: cannot be read ({error.strerror}).") from None
    if data.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise MerLabError(f"{path}: is a workbook or a zip file, not CSV; {save}.")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise MerLabError(f"{path}, line 1: is UTF-16, expected UTF-8; {save}.")
    data = data.removeprefix(codecs.BOM_UTF8)  # first: decoding counts places from behind it
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MerLabError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; {save}."
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise MerLabError(f"{path}, line {line}: contains a NUL byte; this is not a CSV file.")
    return text


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and ``(line number, row)`` of a UTF-8 CSV file.

    Raises:
        MerLabError: missing or empty file, bytes that are not UTF-8, a row of the wrong length; with line.
    """
    text = read_text(Path(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        header = next(reader, None)
        if not header:
            raise MerLabError(f"{path}: is empty; the first line must name the columns.")
        header = [c.strip() for c in header]
        if len(set(header)) != len(header):
            twice = next(c for c in header if header.count(c) > 1)
            raise MerLabError(f"{path}, line 1: the column {twice!r} stands twice.")
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise MerLabError(
                    f"{path}, line {reader.line_num}: {len(values)} values where the header names "
                    f"{len(header)} columns; quote a text that contains commas."
                )
            rows.append((reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise MerLabError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from None
    return header, rows


def read_number(path: Path, line: int, column: str, value: str, whole: bool = False) -> float:
    """A number of a CSV cell; NaN where the cell is empty (not for whole numbers)."""
    if not value.strip() and not whole:
        return math.nan
    try:
        number = int(value) if whole else float(value)
        if not abs(number) < 2**63:  # neither does NaN pass, nor what an int64 cannot hold
            raise ValueError
        return number
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise MerLabError(f"{path}, line {line}: {column} is {value!r}, expected {kind}.") from None


def _read_toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MerLabError(
            f"{path.parent} is not a corpus folder: it has no corpus.toml; "
            'write one with at least name = "..." and labels = ["..."].'
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MerLabError(f"{path}: not valid TOML: {error}.") from None
    except OSError as error:
        raise MerLabError(f"{path}: cannot be read ({error.strerror}).") from None


def safe_relative(folder: Path, value: str, where: str) -> None:
    """Refuse an absolute path and one that climbs out of the corpus folder.

    Raises:
        MerLabError: with ``where`` as the place.
    """
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    if (
        posix.is_absolute()
        or windows.is_absolute()
        or windows.drive
        or ".." in posix.parts
        or ".." in windows.parts
    ):
        raise MerLabError(
            f"{where}: audio path {value!r} leaves the corpus folder; give a path inside {folder}."
        )


def read_folder(folder: str | Path, check_audio: bool = True) -> Corpus:
    """Read a native corpus folder.

    Args:
        folder: holds ``corpus.toml`` and ``utterances.csv``.
        check_audio: also require that every audio file named is there.

    Raises:
        MerLabError: anything wrong, with file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MerLabError(
            f"{folder}: there is no such folder; give 'staged', a corpus folder, or the name of one in "
            "$MER_LAB_DATA/corpora."
        )
    toml_path, path = folder / "corpus.toml", folder / "utterances.csv"
    spec = _read_toml(toml_path)
    labels = spec.pop("labels", None)
    name = spec.pop("name", None)
    if not isinstance(name, str) or not name:
        raise MerLabError(f'{toml_path}: needs name = "..." (a string).')
    if not isinstance(labels, list) or not all(isinstance(x, str) and x for x in labels):
        raise MerLabError(f'{toml_path}: needs labels = ["...", ...] (a list of strings, in order).')
    if len(set(labels)) != len(labels):
        twice = next(x for x in labels if labels.count(x) > 1)
        raise MerLabError(f"{toml_path}: the label {twice!r} stands twice in labels.")
    header, rows = read_rows(path)
    if "utterance_id" not in header:
        raise MerLabError(f"{path}, line 1: the column utterance_id is missing; found {', '.join(header)}.")
    if "text" not in header and "audio" not in header:
        raise MerLabError(f"{path}, line 1: needs a column text or audio; found {', '.join(header)}.")
    if not rows:
        raise MerLabError(f"{path}: has a header and no utterances.")
    columns: dict[str, list] = {c: [] for c in dict.fromkeys([*COLUMNS, *header]) if c != "utterance_id"}
    ids: list[str] = []
    seen: dict[str, int] = {}
    places: dict[tuple[str, int], int] = {}
    next_turn: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        uid = row["utterance_id"].strip()
        if not uid:
            raise MerLabError(f"{where}: the utterance_id is empty.")
        if uid in seen:
            raise MerLabError(
                f"{where}: utterance_id {uid!r} stands already on line {seen[uid]}; ids must be unique."
            )
        seen[uid] = line
        ids.append(uid)
        cells = {c: row.get(c, "").strip() for c in _TEXT_COLUMNS}
        cells["dialogue_id"] = cells["dialogue_id"] or uid
        if cells["split"] and cells["split"] not in SPLITS:
            raise MerLabError(
                f"{where}: split is {cells['split']!r}, expected train, validation, test or nothing."
            )
        if cells["label"] and cells["label"] not in labels:
            raise MerLabError(
                f"{where}: label {cells['label']!r} is not among the labels of corpus.toml "
                f"({', '.join(labels)})."
            )
        if cells["audio"]:
            safe_relative(folder, cells["audio"], where)
            if check_audio and not os.path.isfile(folder / cells["audio"]):  # no error for a wild name
                raise MerLabError(f"{where}: the audio file {folder / cells['audio']} is missing.")
        dialogue = cells["dialogue_id"]
        if "turn" in header:
            turn = int(read_number(path, line, "turn", row["turn"], whole=True))
        else:
            turn = next_turn.get(dialogue, 0)
            next_turn[dialogue] = turn + 1
        if (dialogue, turn) in places:
            first = places[dialogue, turn]
            raise MerLabError(
                f"{where}: turn {turn} of dialogue {dialogue!r} stands already on line {first}."
            )
        places[dialogue, turn] = line
        start, end = (read_number(path, line, c, row.get(c, "")) for c in ("start", "end"))
        if end < start:
            raise MerLabError(f"{where}: end {end:g} lies before start {start:g} (seconds).")
        cells.update(turn=turn, start=start, end=end)
        if "score" in header:
            cells["score"] = read_number(path, line, "score", row["score"])
        for column in columns:
            columns[column].append(cells[column] if column in cells else row[column])
    table = pd.DataFrame(columns, index=pd.Index(ids, name="utterance_id")).astype({"turn": np.int64})
    order = {d: k for k, d in enumerate(dict.fromkeys(table["dialogue_id"]))}
    rank = table["dialogue_id"].map(order)
    table = table.iloc[np.lexsort((table["turn"], rank))]
    return Corpus(
        name=name,
        labels=tuple(labels),
        table=table,
        words=_read_words(folder / "words.csv", seen) if (folder / "words.csv").exists() else None,
        root=folder,
        licence=str(spec.pop("licence", "")),
        source=str(spec.pop("source", "")),
        schemes=_schemes(toml_path, spec.pop("schemes", {}), table, labels),
        info=spec,
    )


def _schemes(path: Path, schemes: object, table: pd.DataFrame, labels: list[str]) -> dict[str, dict]:
    if not isinstance(schemes, dict):
        raise MerLabError(f"{path}: schemes must be tables, [schemes.NAME].")
    for name, spec in schemes.items():
        where = f"{path}: [schemes.{name}]"
        if not isinstance(spec, dict) or ("column" in spec) == ("map" in spec):
            raise MerLabError(f"{where} needs either column (with labels) or map.")
        own = spec.get("labels")
        if own is not None and not (isinstance(own, list) and own and all(isinstance(x, str) for x in own)):
            raise MerLabError(f'{where} needs labels = ["...", ...] (a list of strings, in order).')
        if "map" in spec:
            given = spec["map"]
            if not isinstance(given, dict) or not all(isinstance(x, str) and x for x in given.values()):
                raise MerLabError(f"{where} needs map = {{ old = new }}; leave out what loses its label.")
            if unknown := set(given) - set(labels):
                raise MerLabError(f"{where} maps {min(unknown)!r}, which is not among the labels.")
            if own is not None and (unknown := set(given.values()) - set(own)):
                raise MerLabError(f"{where} maps to {min(unknown)!r}, which is not among its labels.")
        else:
            if own is None or spec["column"] not in table.columns:
                raise MerLabError(f"{where} needs labels, and a column that utterances.csv has.")
            if unknown := set(table[spec["column"]]) - {*own, ""}:
                found = min(unknown, key=str)
                raise MerLabError(f"{where}: the column holds {found!r}, which is not among its labels.")
    return schemes


def _read_words(path: Path, utterances: dict[str, int]) -> pd.DataFrame:
    header, rows = read_rows(path)
    for column in ("utterance_id", "word", "start", "end"):
        if column not in header:
            raise MerLabError(f"{path}, line 1: the column {column} is missing; found {', '.join(header)}.")
    for line, row in rows:
        row["utterance_id"] = row["utterance_id"].strip()  # as in utterances.csv
        if row["utterance_id"] not in utterances:
            raise MerLabError(
                f"{path}, line {line}: utterance_id {row['utterance_id']!r} is not in utterances.csv."
            )
        row["start"], row["end"] = (read_number(path, line, c, row[c]) for c in ("start", "end"))
        if not row["start"] <= row["end"]:
            raise MerLabError(
                f"{path}, line {line}: a word needs start and end, end not before start (seconds)."
            )
    return pd.DataFrame([row for _, row in rows], columns=header)


def write_tables(corpus: Corpus, folder: Path) -> None:
    """Write ``corpus.toml``, ``utterances.csv`` and ``words.csv`` of a corpus into a folder.

    Numbers are written with four decimals, line ends within a text as ``\\n``.
    """
    spec = {
        "name": corpus.name,
        "labels": list(corpus.labels),
        "licence": corpus.licence,
        "source": corpus.source,
    }
    if corpus.schemes:
        spec["schemes"] = dict(corpus.schemes)
    write_text(folder / "corpus.toml", tomli_w.dumps(spec | dict(corpus.info)))
    csv_options = {"lineterminator": "\n", "float_format": "%.4f"}
    plain = {"\r\n?": "\n"}  # the writer would leave a lone \r unquoted, and the reader refuse it
    table = corpus.table.replace(plain, regex=True)
    write_text(folder / "utterances.csv", table.to_csv(index_label="utterance_id", **csv_options))
    if corpus.words is not None:
        words = corpus.words.replace(plain, regex=True)
        write_text(folder / "words.csv", words.to_csv(index=False, **csv_options))


def save_corpus(corpus: Corpus, folder: str | Path) -> Corpus:
    """Write a corpus as a native folder: all of it or nothing. Audio and attached features are copied in.

    Raises:
        MerLabError: the folder exists and is not a corpus, or holds other things, which replacing it would
            lose; an audio file is missing; the disk is full.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise MerLabError(f"{folder} is a file; choose another place for the corpus folder.")
    there = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    if there and "corpus.toml" not in there:
        raise MerLabError(f"{folder} exists and is not a corpus folder; choose another one.")
    used = {PurePosixPath(relative).parts[0] for relative in corpus.table["audio"] if relative}
    if foreign := sorted(set(there) - used - _OWN):
        raise MerLabError(f"{folder} holds {foreign[0]!r}, no part of a corpus; choose another folder.")
    features = (corpus.root or folder) / "features"
    with atomic_folder(folder) as temporary:
        for uid, relative in corpus.table["audio"].items():
            if not relative:
                continue
            safe_relative(folder, relative, f"utterance {uid}")
            source, target = corpus.audio_path(uid), temporary / relative
            if not source.is_file():
                raise MerLabError(f"utterance {uid}: the audio file {source} is missing.")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if features.is_dir():
            shutil.copytree(features, temporary / "features")
        write_tables(corpus, temporary)
        read_folder(temporary)  # what was written must be readable before it takes its place
    return read_folder(folder)
