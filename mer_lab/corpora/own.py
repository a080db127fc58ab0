"""Bring your own: a CSV and a folder of recordings, or a CSV alone, becomes a native corpus folder.

Columns are found by their usual names (:data:`NAMES`), the rest is kept as metadata. Labels are written in
lower case and sorted, so that the order of the rows does not change what class 0 is. Where several rows name
one recording and there are times, the whole table is taken for times within recordings: each row is cut out.

Spreadsheets run a cell that looks like a formula. Speech may begin with ``-``, ``+``, ``=)`` or ``@``, so
such a cell is kept as it is, unless it calls a function or a program: ``=HYPERLINK(``, ``@SUM(``, ``+cmd|``.
"""

from __future__ import annotations

import csv
import io
import math
import re
import shlex
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mer_lab.corpora.corpus import COLUMNS, SPLITS, Corpus
from mer_lab.corpora.importing import Report, importing, some
from mer_lab.corpora.native import read_folder, read_number, read_text, write_tables
from mer_lab.corpora.recordings import Tell, find_recordings, take_recordings
from mer_lab.corpora.splits import grouped_split
from mer_lab.errors import MerLabError
from mer_lab.files import explain_os_errors

NAMES = {
    "utterance_id": "utterance_id utt_id uid id clip_id segment_id",
    "dialogue_id": "dialogue_id dialogue dialog_id dialog conversation_id conversation",
    "turn": "turn turn_id turn_number",
    "speaker": "speaker speaker_id spk actor participant participant_id",
    "split": "split partition subset",
    "label": "label emotion category class sentiment",
    "text": "text transcript sentence utterance transcription",
    "audio": "audio file filename file_name path wav clip",
    "start": "start start_time begin onset",
    "end": "end end_time stop offset",
    "score": "score",
}
"""What a column is taken as, and the headers that say so: case, spaces and hyphens do not count."""

_SPLITS = {**{s: s for s in SPLITS}, "training": "train", "testing": "test", "": ""}
_SPLITS |= dict.fromkeys(("dev", "val", "valid", "eval", "development"), "validation")
_FORMULA = re.compile(  # in time linear in the cell, which may hold megabytes, and no memory
    r"[=@＝＠][A-Za-z][\w.]{0,30}\("  # a function; behind operands, or + and -, in capitals or risky
    r"|[=+\-@＝＋－＠](?:[\s\d.,:$%&*/^+\-(]|\"[^\"]*\"|[A-Z]{1,3}\$?\d)*+"
    r"(([A-Z][A-Z0-9.]{1,30}|(?i:hyperlink|webservice|dde|image|import[a-z]{2,9}))\(|'?[A-Za-z]\w{0,30}'?\|)"
)
_MOST_LABELS, _SHOWN = 20, 20
_RECIPE = (
    "from mer_lab.audio import read_audio; from transformers import pipeline; "
    "print(pipeline('automatic-speech-recognition', 'openai/whisper-small')(read_audio('clip.wav'))['text'])"
)


def prepare_own(
    table: str | Path,
    out: str | Path,
    audio: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split_by: str = "",
    name: str = "",
) -> tuple[Corpus, Report]:
    """Turn a CSV file, with or without recordings, into a native corpus folder.

    Args:
        table: UTF-8 CSV, one row an utterance, separated by comma, semicolon or tab.
        out: the new folder; absent or empty.
        audio: folder of the recordings. The audio column is looked up as path in it, as file name at any
            depth, or without ending; without such a column, the utterance ids are. wav, flac, ogg and mp3
            are linked; other formats, and what is cut by times, become 16 kHz mono wav.
        columns: role to header where :data:`NAMES` does not fit, ``{"text": "line"}``; ``""`` for no column.
        split_by: without a split column, keep together what shares this column, 70 : 10 : 20.
        name: of the corpus; the file's by default.

    Returns:
        The corpus, and a report: which column was taken as what, what is missing and how to get it.

    Raises:
        MerLabError: one sentence with the number of problems and, the one place where an error has more than
            one sentence, the list of all of them by line, at most 20. Nothing is left behind.
    """
    table, out, audio = Path(table), Path(out), None if audio is None else Path(audio)
    columns, report = dict(columns or {}), Report()
    name = name or re.sub(r"[^\w-]+", "_", table.stem)[:64]
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise MerLabError(f"the corpus' name is {name!r}; use letters, digits, _, - and . (at most 64).")
    if unknown := set(columns) - set(NAMES):
        raise MerLabError(f"a column cannot be taken as {min(unknown)!r}; choose one of {', '.join(NAMES)}.")
    if audio is not None and not audio.is_dir():
        raise MerLabError(f"{audio}: there is no such folder; give the folder of the recordings.")
    with importing(table, out, "your CSV file") as folder, explain_os_errors(out):
        shutil.rmtree(folder / "audio", ignore_errors=True)  # of a killed run: the table may have changed
        try:
            corpus = _import(table, folder, audio, columns, split_by, name, report)
            write_tables(corpus, folder)
            read_folder(folder)
        except BaseException:
            shutil.rmtree(folder / "audio", ignore_errors=True)
            raise
    if not (corpus.table["split"] != "").any():
        again = ["mer-lab", "prepare", "own", str(table), "--out", str(out)]
        again += [x for c in columns.items() for x in ("--column", "=".join(c))]
        again += ["--audio", str(audio)] * (audio is not None)
        again += ["--split-by", "speaker" if corpus.table["speaker"].nunique() > 2 else "dialogue_id"]
        report.warnings.append(
            "there are no splits, so nothing can be trained yet; random ones leak, with the same voice and "
            f"dialogue in training and test; delete {out} and run `{shlex.join(again)}`."
        )
    report.todo = f"`{shlex.join(['mer-lab', 'audit', str(out)])}`"
    return read_folder(out), report


def _import(
    table: Path, folder: Path, audio: Path | None, columns: dict, split_by: str, name: str, report: Report
) -> Corpus:
    problems: list[tuple[int, str]] = []

    def tell(line: int, text: str) -> None:
        problems.append((line, text))

    header, rows = _read(table, report, tell)
    roles = _roles(header, columns, tell)
    if audio is None and roles["audio"]:
        report.warnings.append(
            f"the column {roles['audio']!r} names recordings, but no folder was given, so the corpus has "
            "text only; add --audio FOLDER to take them."
        )
        roles["audio"] = ""
    if not rows:
        tell(1, "there are no utterances below the header")
    elif audio is None and not any(row.get(roles["text"]) for _, row in rows):
        tell(1, "no column holds texts; name one with --column text=COLUMN, or give recordings with --audio")
    if audio is not None and not roles["audio"] and not roles["utterance_id"]:
        tell(1, "no column names the recordings; choose one with --column audio=COLUMN")
        audio = None
    if roles["split"] and split_by:
        tell(1, f"--split-by {split_by}: there are splits in {roles['split']!r}; drop it, or --column split=")
    reserved = {*COLUMNS, "utterance_id", "score", "recording"}
    metadata = {h: h + "_given" * (h in reserved) for h in header if h not in roles.values()}
    if len(set(metadata.values())) < len(metadata):
        tell(1, "a column called X_given stands beside an unused column X; rename one")
    records = [_record(table, line, row, roles, tell) for line, row in rows]
    if audio is not None:
        find_recordings(audio, records, bool(roles["audio"]), report, tell)
    _name(records, bool(roles["utterance_id"]), tell)
    labels = _labels(records, roles, "label" in columns, report, tell)
    if audio is not None:
        take_recordings(audio, folder, records, bool(roles["start"] and roles["end"]), report, tell)
    by = next((role for role, h in roles.items() if h and h == split_by), metadata.get(split_by, split_by))
    by = "recording" if by == "audio" else by
    if split_by and by not in {*roles, "recording", *metadata.values()}:
        tell(1, f"--split-by {split_by}: the columns are {', '.join(header)}")
    _refuse(table, problems)
    core = ["utterance_id", *COLUMNS, *["score"] * bool(roles["score"])]
    core += ["recording"] * any("recording" in r for r in records)
    frame = pd.DataFrame(
        [{c: r.get(c, "") for c in core} | {m: row[h] for h, m in metadata.items()}
         for r, (_, row) in zip(records, rows, strict=True)]
    ).set_index("utterance_id")  # fmt: skip
    corpus = Corpus(name, labels, frame, root=folder, source=f"own data: {table.name}")
    if split_by:
        try:
            corpus = grouped_split(corpus, by, stratify=bool(labels))
        except MerLabError as error:
            _refuse(table, [(0, f"--split-by {split_by}: {str(error).rstrip('.')}")])
    used = ", ".join(f"{h!r} is the {role}" for role, h in roles.items() if h)
    kept = ", ".join(repr(h) if h == m else f"{h!r} as {m!r}" for h, m in metadata.items())
    report.notes.insert(1, f"Columns: {used}; kept as metadata: {kept or 'none'}.")
    _missing(corpus, report)
    return corpus


def _refuse(table: Path, problems: list[tuple[int, str]]) -> None:
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        lines = [f"{table}: {count}, so nothing was written; mend the table or the recordings."]
        for n, text in sorted(problems, key=lambda p: p[0])[:_SHOWN]:
            lines.append(f"line {n}: {text}." if n else f"{text}.")
        more = [f"and {len(problems) - _SHOWN} more"] * (len(problems) > _SHOWN)
        raise MerLabError("\n  ".join([*lines, *more]))


def _read(table: Path, report: Report, tell: Tell) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and ``(line, row)``, cells stripped, empty rows left out."""
    text = unicodedata.normalize("NFC", read_text(table))  # so that é is é, whichever system wrote it
    header: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    empty = 0
    try:
        first = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
        if told := re.fullmatch(r"sep=([,;\t|])\s*", first, re.IGNORECASE):  # Excel's, not a header
            delimiter, text = told[1], text.replace(first, "", 1)
    except csv.Error as error:
        raise MerLabError(f"{table}, line 1: not valid CSV ({error}).") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            if not header:
                raise MerLabError(f"{table}, line {line}: not valid CSV ({error}).") from None
            tell(line, f"not valid CSV ({error})")
            continue
        if values is None:
            break
        values = [v.strip() for v in values]
        for value in filter(_FORMULA.match, values):
            tell(line, f"{value[:40]!r} is a formula, which a spreadsheet would run; remove it")
        if not any(values):
            empty += bool(values)
        elif not header:
            header = [v or f"column_{k}" for k, v in enumerate(values, 1)]
            if twice := [h for h in header if header.count(h) > 1]:
                raise MerLabError(f"{table}, line {line}: the column {twice[0]!r} stands twice.")
        else:
            while len(values) > len(header) and not values[-1]:  # spreadsheets pad
                values.pop()
            if len(values) == len(header):
                rows.append((line, dict(zip(header, values, strict=True))))
            else:
                mend = f"quote a text that contains {delimiter!r}"
                tell(line, f"{len(values)} values where the header names {len(header)} columns; {mend}")
    if not header:
        raise MerLabError(f"{table}: is empty; the first line must name the columns.")
    report.counts |= {"utterances": len(rows), "empty_rows": empty}
    skipped = f"; {empty} empty rows left out" * bool(empty)
    report.notes.append(f"{table}: {len(rows)} utterances, columns separated by {delimiter!r}{skipped}.")
    return header, rows


def _plain(header: str) -> str:
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", header).lower()).strip("_")


def _roles(header: list[str], columns: Mapping[str, str], tell: Tell) -> dict[str, str]:
    """Role to header, ``""`` where the table has no such column."""
    roles = dict.fromkeys(NAMES, "")
    for role, wanted in columns.items():
        fits = [h for h in header if h == wanted] or [h for h in header if _plain(h) == _plain(wanted)]
        if wanted and len(fits) != 1:
            tell(1, f"--column {role}={wanted}: {len(fits) or 'none'} of the columns {', '.join(header)} fit")
        roles[role] = fits[0] if wanted and fits else ""
    for role in (r for r in NAMES if r not in columns):
        fits = [h for h in header if _plain(h) in NAMES[role].split()]
        if len(fits) > 1:
            choices = " or ".join(shlex.join(["--column", f"{role}={h}"]) for h in fits)
            tell(1, f"{' and '.join(map(repr, fits))} may each be the {role}; choose: {choices}")
        roles[role] = fits[0] if fits else ""
    return roles


def _record(table: Path, line: int, row: dict, roles: dict[str, str], tell: Tell) -> dict:
    r: dict = {role: row[h] if h else "" for role, h in roles.items()} | {"line": line, "path": None}
    for role in ("turn", "start", "end", "score"):
        try:
            cell = re.sub(r"^(\d+)\.0+$", r"\1", r[role])  # as pandas writes 1 where another is missing
            r[role] = read_number(table, line, h, cell, role == "turn") if (h := roles[role]) else math.nan
        except MerLabError as error:
            tell(line, str(error).removeprefix(f"{table}, line {line}: ").rstrip("."))
            r[role] = math.nan
    if r["end"] < r["start"]:
        tell(line, f"end {r['end']:g} lies before start {r['start']:g} (seconds)")
    if r["split"].lower() not in _SPLITS:
        tell(line, f"split is {r['split']!r}, expected train, validation (or dev), test or nothing")
    r["split"] = _SPLITS.get(r["split"].lower(), "")
    return r | {"label": " ".join(r["label"].lower().split()), "spelling": r["label"]}


def _name(records: list[dict], given: bool, tell: Tell) -> None:
    """Ids, dialogues and turns where there are none; each only once."""
    seen: dict[str, int] = {}
    turns: dict[tuple[str, int], int] = {}
    following: dict[str, int] = {}
    again: dict[str, int] = {}
    for n, r in enumerate(records, 1):
        uid, line = r["utterance_id"], r["line"]
        if not given:
            uid = stem = unicodedata.normalize("NFC", r["path"].stem).strip() if r["path"] else f"row{n}"
            while uid in seen:
                again[stem] = again.get(stem, 1) + 1
                uid = f"{stem}_{again[stem]}"
        elif not uid:
            tell(line, "the utterance id is empty")
        elif uid in seen:
            tell(line, f"the utterance id {uid!r} stands already on line {seen[uid]}")
        seen.setdefault(uid, line)
        r["utterance_id"] = uid
        dialogue = r["dialogue_id"] = r["dialogue_id"] or uid
        if math.isnan(r["turn"]):
            r["turn"] = following[dialogue] = following.get(dialogue, -1) + 1
        elif (first := turns.setdefault((dialogue, r["turn"]), line)) != line:
            tell(line, f"turn {r['turn']} of dialogue {dialogue!r} stands already on line {first}")


def _labels(records: list[dict], roles: dict, chosen: bool, report: Report, tell: Tell) -> tuple[str, ...]:
    spellings: dict[str, set[str]] = {}
    for r in (r for r in records if r["label"]):
        spellings.setdefault(r["label"], set()).add(r["spelling"])
    counts = dict(sorted(Counter(r["label"] for r in records if r["label"]).items()))
    labelled = sum(counts.values())
    if len(counts) > max(8, 0.8 * labelled) or not chosen and len(counts) > _MOST_LABELS:
        mend = "choose one, this or another, with --column label=COLUMN, or none with --column label="
        found = f"{len(counts)} different labels in {labelled} rows"
        tell(1, f"{roles['label']!r} has {found}, so it is hardly a column of labels; {mend}")
    report.counts["labels"] = counts
    if counts:
        rest = f"; without a label, and kept: {len(records) - labelled}" * (labelled < len(records))
        listed = ", ".join(f"{x} {n}" for x, n in counts.items())
        report.notes.append(f"Labels, in lower case and sorted: {listed}{rest}.")
    elif not roles["score"]:
        report.warnings.append("no row has a label or a score; name their column with --column label=COLUMN")
    if folded := [" = ".join(map(repr, sorted(s))) for s in spellings.values() if len(s) > 1]:
        report.notes.append(f"Spellings folded into one label: {some(folded, 10)}.")
    return tuple(counts)


def _missing(corpus: Corpus, report: Report) -> None:
    """Say what is missing in a corpus that is otherwise right, and how to get it."""
    table, n = corpus.table, len(corpus)
    without = {c: int((table[c] == "").sum()) for c in ("text", "audio", "speaker", "split")}
    report.counts |= {f"without_{c}": k for c, k in without.items()}
    if k := without["text"]:
        report.warnings.append(
            f"{k} of {n} utterances have no text, and none was guessed: type it into a column 'text', or let "
            f'a speech recogniser write a draft, python -c "{_RECIPE}", and correct it by hand.'
        )
    if 0 < (k := without["audio"]) < n:
        report.warnings.append(f"{k} of {n} utterances have no recording.")
    if k := int(((table["text"] == "") & (table["audio"] == "")).sum()):
        report.warnings.append(f"{k} of {n} utterances have neither text nor recording.")
    if k := without["speaker"]:
        report.warnings.append(f"{k} of {n} utterances have no speaker: splits cannot keep speakers apart.")
    if 0 < (k := without["split"]) < n:
        report.warnings.append(f"{k} of {n} utterances belong to no split and are not used.")
    if k < n:
        sizes = table["split"].value_counts()
        report.notes.append(f"Splits: {', '.join(f'{s} {sizes.get(s, 0)}' for s in SPLITS)}.")
    if "recording" in table and (table["dialogue_id"] == table.index).all():
        hint = "--column dialogue_id=COLUMN, such as the column of the recordings, joins them"
        report.notes.append(f"Each utterance is a dialogue of its own; {hint}.")
