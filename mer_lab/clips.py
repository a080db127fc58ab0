"""A clip that somebody hands in: bytes and a name, neither trusted, both checked before use."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np

from mer_lab.audio import read_audio
from mer_lab.errors import MerLabError
from mer_lab.files import explain_os_errors

MAX_BYTES = 50 * 2**20
MAX_SECONDS = 60.0
MIN_SECONDS = 0.1
"""A slip of the finger; no word is shorter."""

SILENCE = 1e-4
"""A clip whose every sample is below this (-80 dB of full scale) comes from a muted microphone."""

_FULL_SCALE = 10.0  # a little above 1 is a loud mix; far above, integers were stored as floats
_FORMATS = "wav, flac, ogg, mp3, m4a, mp4 or webm"


def check_clip(
    data: bytes, name: str, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS
) -> np.ndarray:
    """The sound of a clip as float32 ``(N,)`` at 16 kHz, the mean of its channels, full scale = 1.

    For recordings and uploads, whose sender is unknown. The name only appears in the sentence, shortened and
    without path, markup or control characters (:func:`shown_name`); the content says what kind of file it is.
    A clip that is too long is refused by what its header states, or as soon as that much is decoded.

    Args:
        data: the whole file, in any format that :func:`mer_lab.audio.read_audio` knows.
        name: what its sender calls it.
        max_bytes: size allowed, before decoding.
        max_seconds: duration allowed.

    Raises:
        MerLabError: too large, empty, not audio, cut off, too long, shorter than :data:`MIN_SECONDS`,
            silent, far above full scale, or NaN; one sentence, with the clip's name and no path.
    """
    shown, size = shown_name(name), memoryview(data).nbytes
    if not size:
        raise MerLabError(f"{shown}: the file is empty (0 bytes); choose another one.")
    if size > max_bytes:
        raise MerLabError(
            f"{shown}: is {size / 2**20:.1f} MB large, more than the {max_bytes / 2**20:.3g} MB allowed; "
            "cut out the part that matters."
        )
    wave = _decode(data, shown, max_seconds)
    peak = np.abs(wave).max(initial=0)
    if not peak <= _FULL_SCALE:  # not ">": NaN must fail too
        raise MerLabError(
            f"{shown}: its samples reach {peak:.3g}, where full scale is 1; export it again as 16-bit PCM."
        )
    if len(wave) < MIN_SECONDS * 16000:
        raise MerLabError(f"{shown}: is only {len(wave) / 16000:.2f} s long; record a sentence.")
    if peak < SILENCE:
        raise MerLabError(
            f"{shown}: holds nothing but silence; the microphone may be muted, or the wrong one."
        )
    return wave


def shown_name(name: str, length: int = 40) -> str:
    """A stranger's file name as it may be shown: the last part of its path, letters, digits and ``-_.+``.

    Anything else, such as markup and line ends, becomes ``_``; a long name keeps its beginning and its end.
    """
    last = re.split(r"[/\\]", str(name)[-10_000:])[-1]
    plain = unicodedata.normalize("NFC", " ".join(last.split()))
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" or c in " -_.+…" else "_" for c in plain)
    kept = re.sub(r"_{2,}", "_", kept).strip(" ._")
    if len(kept) > length:
        kept = f"{kept[: length - 11]}…{kept[-10:]}"
    return kept or "clip"


def _decode(data: bytes, shown: str, max_seconds: float) -> np.ndarray:
    # No suffix: decoders go by the content, so a name cannot choose one of them.
    with explain_os_errors(Path(shown)), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "clip"
        path.write_bytes(data)
        try:
            return read_audio(path, max_seconds=max_seconds)
        except MerLabError as error:
            what = str(error).removeprefix(f"{path}: ").replace(str(path), shown).rstrip(".")
    # What is wrong, without advice about rows and folders: its sender has this one file.
    what = what.split(";")[0]
    if "max_seconds" in what:
        what = f"is longer than the {max_seconds:g} s allowed; cut out the part that matters"
    else:
        what += f"; choose another recording, {_FORMATS}"
    raise MerLabError(f"{shown}: {what}.")
