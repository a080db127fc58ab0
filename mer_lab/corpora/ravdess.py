"""RAVDESS speech: 24 actors say two sentences in eight emotions (Livingstone & Russo 2018, CC BY-NC-SA 4.0).

RAVDESS has no dialogues: each clip is a dialogue of its own, with one turn, so a contextual model sees no
context and an interval must be clustered by speaker, never by dialogue. The words say nothing about the
emotion, by design: both sentences are spoken in every emotion.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pandas as pd
import soundfile
from tqdm.auto import tqdm

from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.corpora.importing import Report, importing, link, some, write_corpus
from mer_lab.corpora.native import read_folder
from mer_lab.errors import MerLabError

LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
CLIPS, CLIPS_PER_ACTOR = 1440, 60
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
_LIMITS = (3, 2, 8, 2, 2, 2, 24)  # modality, vocal channel, emotion, intensity, statement, repetition, actor
_FIELDS = ("modality", "vocal channel", "emotion", "intensity", "statement", "repetition", "actor")


def split_of(actor: int) -> str:
    """Actors 1-16 train, 17-20 validation, 21-24 test: disjoint, and half of each split is female."""
    return "train" if actor <= 16 else "validation" if actor <= 20 else "test"


def prepare_ravdess(root: str | Path, out: str | Path) -> tuple[Corpus, Report]:
    """Turn a copy of RAVDESS's speech clips into a native corpus folder.

    Args:
        root: holds the wav or flac files under their official names, in ``Actor_XX`` folders or flat.
        out: the new folder; absent or empty. Audio is hard-linked where the disk allows it, else copied, at
            its own sampling rate.

    Returns:
        The corpus (ids are the file names without ending; one clip a dialogue, see the module; metadata
        ``sex``, ``intensity``, ``statement``, ``repetition``) and a report. Songs, video and other files are
        left out and counted; damaged files are listed in ``quarantine.csv``.

    Raises:
        MerLabError: no clips, a number in a name that RAVDESS does not have, two different files
            for one clip.
    """
    root, out = Path(root), Path(out)
    report = Report()
    rows, bad = [], []
    with importing(root, out, "RAVDESS's wav or flac files") as folder:
        clips = _find(root, report)
        for name, path in tqdm(sorted(clips.items()), desc="RAVDESS", unit="clip"):
            try:
                duration = soundfile.info(path).duration
            except (soundfile.SoundFileError, OSError):
                duration = 0.0
            if duration <= 0:
                bad.append((name, path.relative_to(root).as_posix(), "cannot be decoded or is empty"))
                continue
            rows.append(_row(name, f"audio/{name}{path.suffix.lower()}", duration))
            link(path, folder / rows[-1]["audio"])
        if not rows:
            raise MerLabError(
                f"{root}: none of the {len(bad)} RAVDESS files can be decoded; copy them again."
            )
        table = pd.DataFrame(rows).set_index("utterance_id")
        corpus = Corpus(
            name="ravdess",
            labels=LABELS,
            table=table[[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)]],
            root=folder,
            licence="CC BY-NC-SA 4.0",
            source="RAVDESS, Livingstone & Russo 2018, https://doi.org/10.5281/zenodo.1188976",
            info={"dialogues": "none: each clip stands alone, cluster by speaker"},
        )
        write_corpus(corpus, folder, bad)
    _verify(table, bad, report)
    return read_folder(out), report


def _find(root: Path, report: Report) -> dict[str, Path]:
    """Name → file of every speech clip under root; the rest is counted."""
    clips: dict[str, Path] = {}
    other: list[str] = []
    songs = copies = 0
    files = (
        p for p in root.rglob("*") if p.suffix.lower() in (".wav", ".flac") and not p.name.startswith("._")
    )
    for path in sorted(files):
        match = _NAME.fullmatch(path.stem)
        if not match:
            other.append(path.name)
            continue
        numbers = [int(x) for x in match.groups()]
        for field, number, limit in zip(_FIELDS, numbers, _LIMITS, strict=True):
            if not 1 <= number <= limit:
                raise MerLabError(
                    f"{path}: {field} is {number:02d}, RAVDESS has 01 to {limit:02d}; check the name."
                )
        if numbers[1] == 2:
            songs += 1
        elif numbers[0] != 3:
            other.append(path.name)
        elif path.stem not in clips:
            clips[path.stem] = path
        elif _digest(path) == _digest(clips[path.stem]):  # a well-known download holds every file twice
            copies += 1
        else:
            raise MerLabError(
                f"{clips[path.stem]} and {path} are the same clip but differ; keep one of them."
            )
    if not clips:
        raise MerLabError(
            f"{root}: holds no RAVDESS speech clip; names look like Actor_01/03-01-05-01-01-01-01.wav."
        )
    report.counts |= {"songs": songs, "other_files": len(other), "copies": copies}
    if songs:
        report.notes.append(f"{songs} songs left out: the corpus is the speech part.")
    if copies:
        report.notes.append(f"{copies} files stand twice with the same content and are used once.")
    if other:
        report.warnings.append(
            f"{len(other)} audio files are not audio-only RAVDESS speech, left out: {some(other)}."
        )
    return clips


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _row(name: str, audio: str, duration: float) -> dict[str, object]:
    _, _, emotion, intensity, statement, repetition, actor = (int(x) for x in name.split("-"))
    return {
        "utterance_id": name, "dialogue_id": name, "turn": 0, "speaker": f"actor{actor:02d}",
        "split": split_of(actor), "label": LABELS[emotion - 1], "text": STATEMENTS[statement - 1],
        "audio": audio, "start": 0.0, "end": duration, "sex": "male" if actor % 2 else "female",
        "intensity": "normal" if intensity == 1 else "strong",
        "statement": statement, "repetition": repetition,
    }  # fmt: skip


def _verify(table: pd.DataFrame, bad: list[tuple[str, str, str]], report: Report) -> None:
    per_actor = table["speaker"].value_counts()
    report.counts |= {"clips": len(table), "actors": len(per_actor), "quarantined": len(bad)}
    report.notes.insert(0, f"{len(table)} clips of {len(per_actor)} actors.")
    if bad:
        report.warnings.append(
            f"{len(bad)} files cannot be decoded and are left out: {some([name for name, *_ in bad])}; "
            "quarantine.csv has the list."
        )
    if len(table) != CLIPS:
        report.warnings.append(f"{len(table)} clips where the published corpus has {CLIPS}.")
    odd = [f"{s} has {per_actor.get(s, 0)}" for s in (f"actor{a:02d}" for a in range(1, 25))
           if per_actor.get(s, 0) != CLIPS_PER_ACTOR]  # fmt: skip
    if odd:
        report.warnings.append(f"{len(odd)} actors do not have {CLIPS_PER_ACTOR} clips: {some(odd)}.")
