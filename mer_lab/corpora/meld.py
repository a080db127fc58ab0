"""MELD: dialogues of a television series, seven emotions, from the official CSV files and clips.

Poria et al. 2019, "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations".
The user brings their own copy; nothing is downloaded.

Speakers are characters. The six leads hold 83 % of the utterances and stand in all three official splits,
so **MELD's official splits are not speaker independent**: no number on them says how a model does on a new
voice. Other named characters keep their name, because they really recur (Janice is Janice). A role
("Woman", "The Director", "All", "Ross and Joey") is a different person from one episode to the next, so it
is qualified by its episode: ``Woman (s07e07)``. A lead in costume ("Joey/Drake") is the lead.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from mer_lab.audio import read_audio, write_audio
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.corpora.importing import Report, importing, some, write_corpus
from mer_lab.corpora.native import read_folder, read_number, read_rows
from mer_lab.errors import MerLabError

LABELS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
SENTIMENTS = ("neutral", "positive", "negative")
PARTS = {"train": "train", "dev": "validation", "test": "test"}
"""The official name of each part, and the split it becomes."""

PUBLISHED = {
    "train": (4710, 1743, 1205, 1109, 683, 271, 268),
    "dev": (470, 163, 150, 153, 111, 22, 40),
    "test": (1256, 402, 281, 345, 208, 68, 50),
}
"""Utterances of each part by emotion, in the order of LABELS; they sum to 9989, 1109 and 2610."""
PUBLISHED_SENTIMENT = {"train": (4710, 2334, 2945), "dev": (470, 233, 406), "test": (1256, 521, 833)}

CLIP_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
_NUMBERS = ("Dialogue_ID", "Utterance_ID")
_TIMES = ("StartTime", "EndTime")
_REQUIRED = ("Utterance", "Speaker", "Emotion", "Sentiment", *_NUMBERS, "Season", "Episode", *_TIMES)

_LEADS = ("Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross")
_ROLES = set(
    "actress all an announcer attendant bastard bitch both boy clerk cleaner commercial conductor "
    "critic croupier customer director doctor employee fan fireman friend friends gambler girl grip "
    "guard guest guide guy guys hitchhiker host instructor interviewer janitor judge leader lecturer "
    "librarian lurker manager man message nurse official paleontologist passerby policeman presenter "
    "receptionist roommate scientist singer stranger stripper student supervisor tape teacher vendor "
    "voice volunteer waiter waitress woman".split()
)
_ROLE_FORM = re.compile(r"^(the|a|an|another)\s|\d|\sand\s|\son\s|[,&]", re.IGNORECASE)
_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d)[,.](\d{1,3})")

# U+0080..U+009F are control characters that no line of dialogue holds; where cp1252 has a character for the
# same byte, the file was decoded with the wrong table, and only then is the repair certain.
_C1 = {b: ch for b in range(0x80, 0xA0) if (ch := bytes([b]).decode("cp1252", errors="ignore"))}


def seconds(time: str) -> float:
    """Seconds of ``hh:mm:ss,ms``. Digits after the comma are a decimal fraction: ``,28`` is 0.28 s.

    Three official rows lost the zero at the end; their clips are as long as this reading says.

    Raises:
        ValueError: not a time.
    """
    match = _TIME.fullmatch(time.strip())
    if not match:
        raise ValueError(time)
    hours, minutes, secs, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(secs) + float(f"0.{fraction}")


def speaker_of(name: str, season: str, episode: str) -> str:
    """The speaker's id: a character's own name, or a role qualified by its episode (see the module)."""
    name = " ".join(name.split()).rstrip(".")
    first = name.split("/")[0].strip()
    if first in _LEADS:
        return first
    words = re.split(r"[\s/-]+", name.lower())
    if _ROLE_FORM.search(name) or words[-1] in _ROLES:
        return f"{name} (s{season.strip():0>2}e{episode.strip():0>2})"
    return name


def undo_mojibake(text: str) -> str:
    """Text with cp1252 bytes that were decoded as Latin-1, or UTF-8 decoded as cp1252, read as was meant."""
    text = text.translate(_C1)
    if "â€" in text or "Ã" in text:
        try:
            return text.encode("cp1252").decode("utf-8")
        except UnicodeError:  # some of it is not mojibake: nothing is certain, so nothing is changed
            return text
    return text


def prepare_meld(root: str | Path, out: str | Path, clips: bool = True) -> tuple[Corpus, Report]:
    """Turn an official copy of MELD into a native corpus folder.

    Args:
        root: holds ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv`` and, for audio,
            the folders ``train_splits``, ``dev_splits_complete`` and ``output_repeated_splits_test``, at any
            depth.
        out: the new folder; absent or empty. After a kill the same command continues where it stopped.
        clips: decode the clips to 16 kHz mono where they are there.

    Returns:
        The corpus, with ids like ``train_dia0_utt3``, the label scheme ``sentiment`` beside the seven
        emotions, and the metadata ``sentiment``, ``clip`` (``dia0_utt3``, unique within a split only),
        ``utterance_number``, ``season``, ``episode`` and ``character`` (the name as written); and a report.
        Clips that are missing, cannot be decoded, or whose duration differs from End - Start by more than
        1 s and more than 50 % are listed in ``quarantine.csv``: the utterance keeps its text, without audio.

    Raises:
        MerLabError: a missing file or column, bytes that are not UTF-8, an unknown emotion, a bad time
            stamp, an utterance that stands twice; with file and line.
    """
    root, out = Path(root), Path(out)
    report = Report()
    with importing(root, out, "MELD's official CSV files", f"clips={clips}") as partial:
        csv_files, clip_folders = _find(root)
        table = pd.concat([_read_part(csv_files[part], part, report) for part in PARTS])
        bad: list[tuple[str, str, str]] = []
        if clips:
            table = _decode(table, clip_folders, partial, report, bad)
        write_corpus(_corpus(table, partial), partial, bad)
    return read_folder(out), report


def _corpus(table: pd.DataFrame, root: Path) -> Corpus:
    return Corpus(
        name="meld",
        labels=LABELS,
        table=table,
        root=root,
        licence="GPL-3.0 (annotations); lines and clips of a television series, for research use",
        source="MELD, Poria et al. 2019, https://github.com/declare-lab/MELD",
        schemes={"sentiment": {"column": "sentiment", "labels": list(SENTIMENTS)}},
        info={
            "metric": "weighted F1",
            "splits": "official; not speaker independent: the leads are in all of them",
        },
    )


def _find(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The CSV file and the clip folder (where there is one) of each part, at any depth under root."""
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    folders: dict[str, Path] = {}
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        for part in PARTS:
            if f"{part}_sent_emo.csv" in files:
                found[part].append(Path(folder) / f"{part}_sent_emo.csv")
            if CLIP_FOLDERS[part] in subfolders:
                folders.setdefault(part, Path(folder) / CLIP_FOLDERS[part])
    for part, paths in found.items():
        if not paths:
            raise MerLabError(
                f"{root}: {part}_sent_emo.csv is not here nor in a subfolder; give the folder with MELD's "
                "three official CSV files."
            )
        if len({path.read_bytes() for path in paths}) > 1:
            raise MerLabError(f"{paths[0]} and {paths[1]} differ; keep the one that you mean.")
    return {part: paths[0] for part, paths in found.items()}, folders


def _read_part(path: Path, part: str, report: Report) -> pd.DataFrame:
    header, rows = read_rows(path)
    missing = [c for c in _REQUIRED if c not in header]
    if missing:
        raise MerLabError(
            f"{path}, line 1: the column(s) {', '.join(missing)} are missing; found {', '.join(header)}."
        )
    seen: dict[tuple[int, int], int] = {}
    records: list[dict[str, object]] = []
    repaired = 0
    for line, row in rows:
        where = f"{path}, line {line}"
        emotion, sentiment = row["Emotion"].strip().lower(), row["Sentiment"].strip().lower()
        for kind, value, known in (("emotion", emotion, LABELS), ("sentiment", sentiment, SENTIMENTS)):
            if value not in known:
                raise MerLabError(
                    f"{where}: the {kind} {value!r} is unknown; expected one of {', '.join(known)}."
                )
        dialogue, number = (int(read_number(path, line, c, row[c], whole=True)) for c in _NUMBERS)
        if (dialogue, number) in seen:
            first = seen[dialogue, number]
            raise MerLabError(
                f"{where}: utterance {number} of dialogue {dialogue} stands already on line {first}."
            )
        seen[dialogue, number] = line
        times = []
        for column in _TIMES:
            try:
                times.append(seconds(row[column]))
            except ValueError:
                raise MerLabError(f"{where}: {column} is {row[column]!r}, expected hh:mm:ss,ms.") from None
        if times[1] < times[0]:
            raise MerLabError(f"{where}: EndTime {row['EndTime']} lies before StartTime {row['StartTime']}.")
        text, character = (undo_mojibake(row[c].strip()) for c in ("Utterance", "Speaker"))
        repaired += text != row["Utterance"].strip()
        clip = f"dia{dialogue}_utt{number}"
        records.append(
            {
                "utterance_id": f"{part}_{clip}", "dialogue_id": f"{part}_dia{dialogue}", "turn": 0,
                "speaker": speaker_of(character, row["Season"], row["Episode"]), "split": PARTS[part],
                "label": emotion, "text": text, "audio": "", "start": times[0], "end": times[1],
                "sentiment": sentiment, "clip": clip, "utterance_number": number,
                "season": row["Season"].strip(), "episode": row["Episode"].strip(), "character": character,
            }
        )  # fmt: skip
    if not records:
        raise MerLabError(f"{path}: has a header and no utterances.")
    table = pd.DataFrame(records).set_index("utterance_id")
    # The official numbers have gaps; turns are the ranks. Dialogues stay in the order of the file.
    rank = table["dialogue_id"].map({d: k for k, d in enumerate(dict.fromkeys(table["dialogue_id"]))})
    table = table.iloc[np.lexsort((table["utterance_number"], rank))]
    table["turn"] = table.groupby("dialogue_id", sort=False).cumcount()
    _verify(table, part, repaired, report)
    return table[[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)]]


def _verify(table: pd.DataFrame, part: str, repaired: int, report: Report) -> None:
    report.counts[part] = {label: int((table["label"] == label).sum()) for label in LABELS}
    report.notes.append(f"{part}: {len(table)} utterances in {table['dialogue_id'].nunique()} dialogues.")
    report.counts[f"{part}_repaired_texts"] = repaired
    if repaired:
        report.notes.append(f"{part}: repaired wrongly decoded punctuation in {repaired} texts.")
    for column, names, published in (
        ("label", LABELS, PUBLISHED),
        ("sentiment", SENTIMENTS, PUBLISHED_SENTIMENT),
    ):
        for name, expected in zip(names, published[part], strict=True):
            count = int((table[column] == name).sum())
            if count != expected:
                report.warnings.append(
                    f"{part}: {count} utterances are {name} where the published table has {expected}; "
                    "results on this copy do not compare with published ones."
                )


def _decode(
    table: pd.DataFrame, folders: dict[str, Path], partial: Path, report: Report, bad: list
) -> pd.DataFrame:
    """Decode the clips into ``partial/audio``; the table with its audio column. What fails goes to bad."""
    for part, name in CLIP_FOLDERS.items():
        if part not in folders:
            report.warnings.append(f"{part}: there is no folder {name}, so these utterances have text only.")
    if not folders:
        return table
    audio = table["audio"].copy()
    parts = {split: part for part, split in PARTS.items()}
    rows = [(row, parts[row.split]) for row in table.itertuples() if parts[row.split] in folders]
    for row, part in tqdm(rows, desc="decoding clips", unit="clip"):
        clip = folders[part] / f"{row.clip}.mp4"
        reason = _decode_one(clip, partial / "audio" / f"{row.Index}.wav", row.end - row.start)
        if reason:
            bad.append((row.Index, f"{folders[part].name}/{clip.name}", reason))
        else:
            audio[row.Index] = f"audio/{row.Index}.wav"
    for part, folder in folders.items():
        known = set(table.loc[table["split"] == PARTS[part], "clip"])
        there = [p for p in folder.glob("*.mp4") if not p.name.startswith("._")]
        extra = sorted(p.name for p in there if p.stem not in known)
        report.counts[f"{part}_extra_clips"] = len(extra)
        if extra:
            report.notes.append(f"{part}: {len(extra)} clips belong to no utterance: {some(extra)}.")
    report.counts |= {"decoded": len(rows) - len(bad), "quarantined": len(bad)}
    report.notes.append(f"{len(rows) - len(bad)} clips decoded.")
    if bad:
        report.warnings.append(
            f"{len(bad)} clips are missing, damaged or mis-cut and their utterances have text only: "
            f"{some([uid for uid, *_ in bad])}; quarantine.csv has the reasons."
        )
    return table.assign(audio=audio)


def _decode_one(clip: Path, wav: Path, expected: float) -> str:
    """Decode one clip; the reason why it is not usable, or nothing."""
    if not clip.is_file():
        return "the clip is missing"
    done = wav.is_file() and wav.stat().st_mtime >= clip.stat().st_mtime
    if done:
        duration = soundfile.info(wav).duration
    else:
        try:
            wave = read_audio(clip, 16000)
        except MerLabError as error:
            return str(error).replace(str(clip), clip.name)
        duration = len(wave) / 16000
    if abs(duration - expected) > max(1.0, 0.5 * expected):
        wav.unlink(missing_ok=True)
        return f"the clip lasts {duration:.2f} s where its times say {expected:.2f} s"
    if not done:
        write_audio(wav, wave, 16000)
    return ""
