"""IEMOCAP: ten actors in five sessions of two, scripted plays and improvised scenes, ten emotions.

Busso et al. 2008, "IEMOCAP: Interactive emotional dyadic motion capture database". Restricted by its release
form: the user brings their own copy, nothing is downloaded, nothing may be passed on. Counts and formats:
PAPERS.md, section E.

**Which set is it?** Numbers compare only on the same utterances. The official labels give 5531 utterances in
the usual four classes (excited counted as happy; scheme ``four``), 4490 without the excited ones
(``four-without-excited``) and 7380 in six classes (``six``). A widely shared pickle of features has 7433 in
its six classes, with 648 happy utterances where the official labels have 595: no number on it compares with
one on the 7380.

**Whose turn is it?** In ``Ses01F_impro01_M000`` the F says who wears the markers; the man speaks. Official
numbers run for each speaker apart, so turns are ranked by their start.

**Evaluators.** The ``evaluators`` column holds one vote an evaluator, so that votes can be counted
(:func:`mer_lab.metrics.count_votes`): the first answer of those who gave several ("Neutral; Anger;"). The
official majority may rest on a further answer, so ``agreement`` is the share of evaluators with the label
among all their answers. Both are our choice. What the actors themselves said of the utterance (``C-F1``,
``C-M1``) is no part of the label and stands apart, in ``self_evaluation``.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from mer_lab.audio import read_audio
from mer_lab.corpora.corpus import SPLITS, Corpus
from mer_lab.corpora.importing import Report, importing, link, some, write_corpus
from mer_lab.corpora.native import read_folder
from mer_lab.errors import MerLabError

CODES = {
    "ang": "anger", "hap": "happiness", "exc": "excitement", "sad": "sadness", "neu": "neutral",
    "fru": "frustration", "sur": "surprise", "fea": "fear", "dis": "disgust", "oth": "other", "xxx": "",
}  # fmt: skip
"""Official label codes; ``xxx``, no majority, is no label: such an utterance is kept for its context."""
LABELS = tuple(label for label in CODES.values() if label)
SPLIT = {"1": "validation", "2": "train", "3": "train", "4": "train", "5": "test"}
"""Session to split, as in HCAM's lineage: 3205/1085/1241 utterances of four classes."""

PUBLISHED = dict(zip(CODES.values(), (1103, 595, 1041, 1084, 1708, 1849, 107, 40, 2, 3, 2507), strict=True))
"""Utterances of each label; ``""`` has no majority."""
PUBLISHED_SESSIONS = {"1": 1819, "2": 1811, "3": 2136, "4": 2103, "5": 2170}
PUBLISHED_PARTS = {"scripted": 5255, "improvised": 4784}
PUBLISHED_FOUR = {
    "1": (229, 135, 143, 194, 384), "2": (137, 117, 210, 197, 362), "3": (240, 135, 151, 305, 320),
    "4": (327, 65, 238, 143, 258), "5": (170, 143, 299, 245, 384),
}  # fmt: skip
"""Utterances of each session: anger, happiness, excitement, sadness, neutral, the first five of LABELS."""
DIALOGUES = 151

_FOUR = dict(anger="angry", happiness="happy", excitement="happy", sadness="sad", neutral="neutral")
_SIX = _FOUR | {"excitement": "excited", "frustration": "frustrated"}
SCHEMES = {
    "four": {"map": _FOUR},
    "four-without-excited": {"map": {k: v for k, v in _FOUR.items() if k != "excitement"}},
    "six": {"map": _SIX},
}
"""Label schemes; their labels stand in the order of the official ones."""

MAX_OVERHANG = 0.5  # seconds that an alignment may run past its utterance
_ANSWERS = {label: label for label in LABELS} | {"excited": "excitement"}
_UTTERANCE = r"(Ses0([1-5])[FM]_(impro|script)\w*)_([FM])\d{3,}"  # groups: dialogue, session, part, speaker
_TIME, _MEAN = r"(-?\d+(?:\.\d+)?)", r"([^,\]]*)"
_HEADER = re.compile(rf"\[{_TIME}\s*-\s*{_TIME}\]\s+({_UTTERANCE})\s+(\w+)\s+\[{_MEAN},{_MEAN},{_MEAN}\]")
_CATEGORIES = re.compile(r"C-([EFM])\d*:\s*([^(]*)")
_RATINGS = re.compile(r"A-[EFM]\d*:\s*val\s*([\d.]*)\s*;\s*act\s*([\d.]*)\s*;\s*dom\s*([\d.]*)\s*;")
_TRANSCRIPT = re.compile(rf"({_UTTERANCE})\s*\[[\d.]+\s*-\s*[\d.]+\]\s*:\s*(.*)")
_WORD = re.compile(r"(\d{1,7})\s+(\d{1,7})\s+\S+\s+(\S+)")
_NO_WORD = re.compile(r"</?s>|<sil>|\+\+.*\+\+")

_TOLD = {  # what is met on the way: where it is told, and how
    "without_majority": ("notes", "utterances have no majority and no label, kept for context"),
    "other_transcript_lines": ("notes", "transcript lines skipped: other voices, ids with XX or told before"),
    "several_answers": ("notes", "times an evaluator gave several answers"),
    "empty_ratings": ("notes", "ratings of valence, activation or dominance are empty"),
    "missing_alignments": ("notes", "utterances have no file of word timings"),
    "missing_transcripts": ("warnings", "utterances have no transcript"),
    "odd_means": ("warnings", "means of valence, activation or dominance are no numbers and left empty"),
    "odd_evaluation_lines": ("warnings", "lines of the evaluations are not understood and do not count"),
    "quarantined": ("warnings", "sound files or word timings are not usable, see quarantine.csv"),
}
Seen = defaultdict[str, list[str]]


def prepare_iemocap(root: str | Path, out: str | Path, audio: bool = True) -> tuple[Corpus, Report]:
    """Turn an official copy of IEMOCAP into a native corpus folder.

    Args:
        root: holds ``Session1`` to ``Session5``, at any depth; some of them will do.
        out: the new folder; absent or empty. After a kill the same command starts again and ends alike.
        audio: link the sentences' wav files, as they are (16 kHz), to ``audio/``; copy where the disk cannot.

    Returns:
        The corpus: official utterance and dialogue ids, ten labels (see the module), the schemes ``four``,
        ``four-without-excited`` and ``six``, speakers like ``Ses01_F``, times in seconds within the dialogue,
        session 5 for test and 1 for validation (``leave_one_group_out(corpus, "session")`` has the other
        folds), word timings in seconds from the utterance's start, and the metadata ``session``, ``scripted``
        (``scripted`` or ``improvised``), ``sex``, ``valence``, ``activation``, ``dominance`` (the evaluators'
        means, 1 to 5), ``evaluators``, ``self_evaluation`` and ``agreement``; and a report. Missing or
        damaged wav files and damaged alignments are listed in ``quarantine.csv``; the utterance stays.

    Raises:
        MerLabError: no session, or one twice; an evaluation header that does not parse, with an unknown label
            or an end before its start; an utterance that stands twice; with file and line.
    """
    root, out = Path(root), Path(out)
    report, seen = Report(), defaultdict(list)
    with importing(root, out, "IEMOCAP's folders Session1 to Session5", f"audio={audio}") as folder:
        sessions = _find(root)
        rows: dict[str, dict] = {}
        for session, place in sessions.items():
            rows |= _read_session(place, session, seen)
        if not rows:
            raise MerLabError(f"{root}: the evaluations hold no utterance; copy dialog/EmoEvaluation again.")
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("utterance_id")
        table = table.sort_values(["dialogue_id", "start", "end", "utterance_id"])
        table["turn"] = table.groupby("dialogue_id").cumcount()
        bad: list[tuple[str, str, str]] = []
        words = []
        for row in tqdm(table.itertuples(), "IEMOCAP", len(table), unit="utterance"):
            sentences, name = sessions[row.session] / "sentences", f"{row.dialogue_id}/{row.Index}"
            wav, wdseg = sentences / "wav" / f"{name}.wav", sentences / "ForcedAlignment" / f"{name}.wdseg"
            if audio and (reason := _link_sound(wav, folder / row.audio)):
                table.at[row.Index, "audio"] = ""
                bad.append((row.Index, wav.relative_to(root).as_posix(), reason))
            if not wdseg.is_file():
                seen["missing_alignments"].append(row.Index)
                continue
            try:
                words += [(row.Index, *word) for word in read_wdseg(wdseg, row.end - row.start)]
            except ValueError as error:
                bad.append((row.Index, wdseg.relative_to(root).as_posix(), str(error)))
        seen["quarantined"] = [f"{uid} ({Path(file).suffix})" for uid, file, _ in bad]
        corpus = Corpus(
            name="iemocap",
            labels=LABELS,
            table=table if audio else table.assign(audio=""),
            words=pd.DataFrame(words, columns=["utterance_id", "word", "start", "end"]) if words else None,
            root=folder,
            licence="restricted by IEMOCAP's release form: not to be passed on",
            source="IEMOCAP, Busso et al. 2008, https://sail.usc.edu/iemocap",
            schemes=SCHEMES,
            info={"splits": "session 5 test, session 1 validation; speaker independent"},
        )
        write_corpus(corpus, folder, bad)
    _verify(table, list(sessions), seen, report)
    return read_folder(out), report


def _find(root: Path) -> dict[str, Path]:
    """Session number → its folder, at any depth under root."""
    found: dict[str, Path] = {}
    visited: set[str] = set()
    for folder, subfolders, _ in os.walk(root, followlinks=True):  # clusters link to their data
        if (real := os.path.realpath(folder)) in visited:
            subfolders.clear()
        visited.add(real)
        subfolders.sort()
        for name in tuple(subfolders):
            place, session = Path(folder) / name, name[-1]
            if not re.fullmatch("Session[1-5]", name) or not (place / "dialog" / "EmoEvaluation").is_dir():
                continue
            if not place.samefile(found.setdefault(session, place)):
                raise MerLabError(f"{found[session]} and {place} are one session; give the folder you mean.")
            subfolders.remove(name)
    if not found:
        wanted = "Session1 to Session5 with dialog/EmoEvaluation"
        raise MerLabError(f"{root}: holds no folder {wanted}; give the folder of IEMOCAP's full release.")
    return dict(sorted(found.items()))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and content of each line, stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise MerLabError(f"{path}: cannot be read ({error.strerror}); copy it again.") from None
    return [(k, line.strip()) for k, line in enumerate(text.replace("\0", "\ufffd").split("\n"), 1)]


def _read_session(place: Path, session: str, seen: Seen) -> dict[str, dict]:
    """Utterance id → row of everything that was evaluated in a session."""
    rows: dict[str, dict] = {}
    # The pattern leaves out the ._Ses*.txt that macOS writes to other disks.
    evaluations, transcripts = (
        sorted(f for f in (place / "dialog" / kind).glob("Ses*.txt") if f.is_file())
        for kind in ("EmoEvaluation", "transcriptions")
    )
    if not evaluations:
        raise MerLabError(f"{place / 'dialog' / 'EmoEvaluation'}: holds no Ses*.txt; copy the folder again.")
    for path in evaluations:
        _read_evaluation(path, session, rows, seen)
    for path in transcripts:
        for number, line in _lines(path):
            match = _TRANSCRIPT.fullmatch(line)
            if match and not rows.get(match[1], {"text": "unknown"})["text"]:
                rows[match[1]]["text"] = match[6]
            elif line:
                seen["other_transcript_lines"].append(f"{path.name} line {number}")
    seen["missing_transcripts"] += [uid for uid, row in rows.items() if not row["text"]]
    return rows


def _read_evaluation(path: Path, session: str, rows: dict[str, dict], seen: Seen) -> None:
    """Add a dialogue's utterances to rows."""
    uid = ""  # of the block; none between blocks
    answers: dict[str, dict[str, list[list[str]]]] = {}  # of each utterance, by E: evaluators, F, M: actors
    for number, line in _lines(path):
        if not line:
            uid = ""
        elif line.startswith("[") or re.match(r"[^%AC].*Ses0\d[FM]_", line):
            uid, row = _read_header(line, f"{path}, line {number}", session, seen)
            if uid in rows:
                raise MerLabError(
                    f"{path}, line {number}: {uid} is evaluated a second time; keep one of them."
                )
            rows[uid], answers[uid] = row, {"E": [], "F": [], "M": []}
            if not row["label"]:
                seen["without_majority"].append(uid)
        elif uid and (match := _CATEGORIES.match(line)):
            given = [a.strip().lower() for a in match[2].split(";") if a.strip()]
            if known := [_ANSWERS[a] for a in given if a in _ANSWERS]:
                answers[uid][match[1]].append(known)
            if len(known) > 1 and match[1] == "E":
                seen["several_answers"].append(uid)
            if not known or len(known) < len(given):
                seen["odd_evaluation_lines"].append(f"{path.name} line {number}")
        elif uid and (match := _RATINGS.match(line)):
            seen["empty_ratings"] += [uid] * match.groups().count("")
        elif not line.startswith("%"):
            seen["odd_evaluation_lines"].append(f"{path.name} line {number}")
    for uid, given in answers.items():
        row, votes = rows[uid], given["E"]
        row["evaluators"] = ";".join(vote[0] for vote in votes)
        row["self_evaluation"] = ";".join(vote[0] for vote in given["F"] + given["M"])
        if row["label"] and votes:
            row["agreement"] = f"{sum(row['label'] in vote for vote in votes) / len(votes):.4f}"


def _read_header(line: str, where: str, session: str, seen: Seen) -> tuple[str, dict]:
    """Id and row of an utterance."""
    match = _HEADER.fullmatch(line)
    if not match or match[5] != session:
        raise MerLabError(
            f"{where}: expected [START - END], an utterance of session {session}, its label and [V, A, D], "
            f"found {line[:80]!r}; copy the file again."
        )
    start, end, uid, dialogue, _, part, sex, code, *means = match.groups()
    if code not in CODES:
        raise MerLabError(f"{where}: the label {code!r} is unknown; expected one of {', '.join(CODES)}.")
    if float(end) < float(start):
        raise MerLabError(f"{where}: the end {end} lies before the start {start} (seconds).")
    means = [mean.strip() for mean in means]
    odd = [mean for mean in means if not re.fullmatch(r"(\d+(\.\d+)?)?", mean)]
    seen["odd_means"] += [uid] * len(odd)
    means = ["" if mean in odd else mean for mean in means]
    return uid, {
        "dialogue_id": dialogue, "turn": 0, "speaker": f"Ses0{session}_{sex}", "split": SPLIT[session],
        "label": CODES[code], "text": "", "audio": f"audio/{uid}.wav", "start": float(start),
        "end": float(end), "session": session, "scripted": "scripted" if part == "script" else "improvised",
        "sex": "female" if sex == "F" else "male", "valence": means[0], "activation": means[1],
        "dominance": means[2], "evaluators": "", "self_evaluation": "", "agreement": "",
    }  # fmt: skip


def read_wdseg(path: Path, seconds: float) -> list[tuple[str, float, float]]:
    """Words of a CMU Sphinx alignment, ``(word, start, end)`` in seconds from the utterance's start.

    Frames last 10 ms and the last one belongs to the word. Silence and noises are dropped, and the number of
    a pronunciation: ``WORD(2)`` is WORD.

    Args:
        path: a ``.wdseg`` file.
        seconds: the utterance's duration.

    Raises:
        ValueError: the file is not usable, with line and reason.
    """
    lines = [(number, line) for number, line in _lines(path) if line]
    if not lines or lines[0][1].split() != ["SFrm", "EFrm", "SegAScr", "Word"]:
        raise ValueError("line 1: the header SFrm EFrm SegAScr Word is missing")
    if not lines[-1][1].startswith("Total score:"):
        raise ValueError(f"line {lines[-1][0]}: the file ends before its total score")
    words, free = [], 0  # free: the first frame that no word has
    for number, line in lines[1:-1]:
        match = _WORD.fullmatch(line)
        if not match:
            raise ValueError(f"line {number}: expected two frames, a score and a word, found {line[:40]!r}")
        first, last, word = int(match[1]), int(match[2]), match[3]
        if not free <= first <= last:
            raise ValueError(f"line {number}: frames {first} to {last} go back in time")
        free = last + 1
        if _NO_WORD.fullmatch(word):
            continue
        if free / 100 > seconds + MAX_OVERHANG:
            raise ValueError(f"line {number}: a word ends at {free / 100:.2f} s of {seconds:.2f} s")
        words.append((re.sub(r"\(\d+\)$", "", word), first / 100, free / 100))
    return words


def _link_sound(wav: Path, target: Path) -> str:
    """Link a sound file that can be decoded; the reason why it is not usable, or nothing."""
    target.unlink(missing_ok=True)  # a killed run's, of a file that may have changed since
    if not wav.is_file():
        return "the file is missing"
    try:
        read_audio(wav)
    except MerLabError as error:
        return str(error).replace(str(wav), wav.name)
    link(wav, target)
    return ""


def _verify(table: pd.DataFrame, sessions: list[str], seen: Seen, report: Report) -> None:
    """Tell what was met, and where the counts are not the published ones."""
    dialogues = table["dialogue_id"].nunique()
    report.notes.append(f"{len(table)} utterances in {dialogues} dialogues of {len(sessions)} sessions.")
    for kind, (where, told) in _TOLD.items():
        report.counts[kind] = len(seen[kind])
        if seen[kind]:
            getattr(report, where).append(f"{len(seen[kind])} {told}: {some(seen[kind])}.")
    label, session = table["label"].replace("", "no majority"), "session " + table["session"]
    found = Counter([*label, *session, *table["scripted"], *(session + " " + label)], dialogues=dialogues)
    report.counts |= {"utterances": len(table), **found}
    expected = {f"session {s}": PUBLISHED_SESSIONS[s] for s in sessions}
    for s in sessions:
        expected |= {f"session {s} {x}": n for x, n in zip(LABELS[:5], PUBLISHED_FOUR[s], strict=True)}
    if len(sessions) == len(SPLIT):
        totals = {name or "no majority": n for name, n in PUBLISHED.items()}
        expected = totals | PUBLISHED_PARTS | {"dialogues": DIALOGUES} | expected
    else:
        missing = ", ".join(f"Session{s}" for s in SPLIT if s not in sessions)
        empty = " and ".join(s for s in SPLITS if s not in set(table["split"])) or "none"
        report.warnings.append(f"{missing} not found; splits without an utterance: {empty}.")
    if differ := [f"{name} {found[name]} ({n})" for name, n in expected.items() if found[name] != n]:
        report.warnings.append(
            f"counts differ from the published ones (in brackets): {some(differ, 6)}; results on this copy "
            "do not compare with published ones."
        )
