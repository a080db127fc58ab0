"""Recordings that a table names: find them in a folder, check them, link, convert or cut them."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm.auto import tqdm

from mer_lab.audio import MAX_SECONDS, LongAudio, duration, read_audio, write_audio
from mer_lab.corpora.importing import Report, link, some
from mer_lab.corpora.native import safe_relative
from mer_lab.errors import MerLabError
from mer_lab.files import digest

Tell = Callable[[int, str], None]
"""Notes a problem: line of the table (0: none in particular), what is wrong there."""

_LINKED = {".wav", ".flac", ".ogg", ".mp3"}
_MEDIA = {*_LINKED, *".mp4 .m4a .webm .mkv .mov .avi .aac .opus .wma .aif .aiff .amr .3gp .mpg".split()}
_SLACK = 800  # samples at 16 kHz by which a rounded time may pass a recording's end


def find_recordings(audio: Path, records: list[dict], by_column: bool, report: Report, tell: Tell) -> None:
    """Set ``path`` of each record, from its ``audio`` (``by_column``) or its ``utterance_id``.

    A name is a path in the folder, else a file name at any depth, else either without ending; case and
    Unicode form do not count, nor the slant of the slash. The recordings that no row names are counted.
    """
    names: dict[str, set[Path]] = {}
    stems: dict[str, set[Path]] = {}
    files = set()
    for parent, folders, here in os.walk(audio):
        folders[:] = [f for f in folders if not f.startswith(".")]  # such as what is being written
        for path in (Path(parent, f) for f in here if not f.startswith(".")):
            if path.suffix.lower() in _MEDIA and os.path.isfile(path):  # no pipe, no link into nothing
                files.add(path)
                for part in (path.relative_to(audio), Path(path.name)):
                    names.setdefault(_fold(part.as_posix()), set()).add(path)
                    stems.setdefault(_fold(part.with_suffix("").as_posix()), set()).add(path)
    for r in records:
        value, line = r["audio" if by_column else "utterance_id"], r["line"]
        r["audio"] = ""
        if not value:
            continue
        value = value if os.path.isfile(audio / value) else value.replace("\\", "/")
        try:
            safe_relative(audio, value, "")
        except MerLabError:
            tell(line, f"the recording {value!r} leaves the folder {audio}; give a path inside it")
            continue
        key, ending = _fold(value), PurePosixPath(value).suffix
        bare = key.removesuffix(_fold(ending)) if ending.lower() in _MEDIA else key
        exact = {audio / value} if os.path.isfile(audio / value) else set()
        fits = sorted(exact or names.get(key) or stems.get(key) or stems.get(bare) or ())
        if len(fits) != 1:
            several = f"fits {some([p.relative_to(audio).as_posix() for p in fits])}; write which"
            tell(line, f"the recording {value!r} {several if fits else f'is not in {audio}'}")
        elif not fits[0].resolve().is_relative_to(audio.resolve()):
            tell(line, f"the recording {value!r} is a link out of {audio}; put the file itself there")
        else:
            r["path"] = fits[0]
    unused = len(files - {r["path"] for r in records})
    report.counts |= {"recordings": len(files), "unused_recordings": unused}
    if unused:
        report.notes.append(f"{unused} of {len(files)} recordings in {audio} are named by no row.")


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def take_recordings(
    audio: Path, folder: Path, records: list[dict], timed: bool, report: Report, tell: Tell
) -> None:
    """Check every recording, decoded once, and link, convert or cut it into ``folder/audio``.

    Sets ``audio`` of each record with a ``path``. Where the table has times (``timed``) and any recording has
    several rows, or all times lie within their recordings and not all are its length, rows are cut from
    ``start`` to ``end`` (s); their ``recording`` is the file's name. Of wav and flac files beyond an hour
    only the rows' parts are decoded.
    """
    users: dict[Path, list[dict]] = {}
    for r in (r for r in records if r["path"]):
        users.setdefault(r["path"], []).append(r)
    cutting = timed and (any(len(rows) > 1 for rows in users.values()) or _parts(users, report))
    done = dict.fromkeys(("linked", "converted", "cut"), 0)
    taken: set[str] = set()
    for path, rows in tqdm(users.items(), desc="recordings", unit="file"):
        where = path.relative_to(audio).as_posix()
        known = any(r[t] == r[t] for r in rows for t in ("start", "end"))
        cut = cutting and (len(rows) > 1 or known)
        seekable = path.suffix.lower() in (".wav", ".flac")
        try:
            wave = LongAudio(path) if cut and seekable and duration(path) > MAX_SECONDS else read_audio(path)
        except MerLabError as error:
            more = "; a wav or flac file to be cut may last 10 hours"
            more *= cut and not seekable and "max_seconds" in str(error)
            tell(rows[0]["line"], str(error).replace(str(path), where).rstrip(".") + more)
            continue
        for r in rows:
            stem = f"audio/{_file_name(r['utterance_id'], taken)}"
            if cutting:
                r["recording"] = where
            if cut:
                first, last = (-1 if math.isnan(t) else round(t * 16000) for t in (r["start"], r["end"]))
                if not 0 <= first < min(last, len(wave)) or last > len(wave) + _SLACK:
                    lasts = f"{where!r}, which lasts {len(wave) / 16000:.2f} s"
                    tell(r["line"], f"cannot cut {r['start']:g} to {r['end']:g} s from {lasts}")
                    continue
                try:
                    kind, sound = "cut", wave[first:last]
                except MerLabError as error:
                    tell(r["line"], str(error).replace(str(path), where).rstrip("."))
                    continue
            elif r is not rows[0]:
                mend = "give start and end of each, or one row a recording"
                tell(r["line"], f"{where!r} is the recording of line {rows[0]['line']} already; {mend}")
                continue
            else:
                kind, sound = "linked" if path.suffix.lower() in _LINKED else "converted", wave
            r["audio"] = stem + (path.suffix.lower() if kind == "linked" else ".wav")
            done[kind] += 1
            if kind == "linked":
                link(path, folder / r["audio"])
            else:
                write_audio(folder / r["audio"], sound, 16000)
    report.counts |= done
    report.notes.append(f"Recordings: {', '.join(f'{n} {kind}' for kind, n in done.items())}.")


def _parts(users: dict[Path, list[dict]], report: Report) -> bool:
    """True where times of recordings with one row each are places in them, not in the conversation."""
    differ, within = 0, True
    for path, (r, *_) in users.items():
        if math.isnan(r["end"] - r["start"]):
            continue
        try:
            length = duration(path)
        except MerLabError:  # told when it is read
            continue
        within &= 0 <= r["start"] < r["end"] <= length + _SLACK / 16000
        differ += abs(r["end"] - r["start"] - length) > 0.25
    if differ and not within:
        report.warnings.append(
            f"{differ} of {len(users)} recordings are longer or shorter than their times by over 0.25 s; "
            "some times lie outside, so they were not taken for places in the recordings and nothing was cut."
        )
    return within and differ > 0


def _file_name(uid: str, taken: set[str]) -> str:
    """An utterance's file name without ending, one that every system allows and tells from the others."""
    clean = re.sub(r"[^\w.-]", "_", uid)
    odd = clean != uid or uid[:1] == "." or PureWindowsPath(uid).is_reserved()
    if odd or len(uid.encode()) > 150 or uid.casefold() in taken:
        clean = f"{clean.strip('.')[:30]}-{digest(uid)[:8]}"
    taken.add(clean.casefold())
    return clean
