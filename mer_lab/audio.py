"""Reading and writing sound: any common file in, one channel of float32 at one rate out."""

from __future__ import annotations

import io
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from torchaudio.functional import resample as _resample

from mer_lab.errors import MerLabError
from mer_lab.files import atomic_path

MAX_SECONDS = 3600.0
"""Longer files are refused before they are decoded: they are recordings of whole events, not utterances."""

LONGEST = 36000.0
"""Seconds of a recording of which only parts are read."""

_CONTAINERS = (  # FFmpeg's names; a playlist, which reads other files or the network, must not pass for sound
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,ac3,amr,wv,ape,mov,mp4,m4a,matroska,webm,avi,mpeg,mpegts,asf,flv"
)
_RATES = (4000, 400_000)  # Hz; below nothing of speech but its melody is left, above is a damaged header


@cache
def _decoders() -> str:
    """FFmpeg's decoders of sound. A picture is not even probed: 1 MB of file may be 400 MB of pixels."""
    names = set()
    for name in av.codecs_available:
        with suppress(ValueError):  # some only encode
            codec = av.Codec(name, "r")
            names |= {codec.name} if codec.type == "audio" else set()
    return ",".join(sorted(names))


def read_audio(path: str | Path, rate: int = 16000, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """The sound of a file as float32 ``(N,)`` at ``rate`` Hz, the mean of its channels, full scale = 1.

    wav, flac, ogg and mp3 are decoded by libsndfile; everything else, such as mp4, by FFmpeg (PyAV).

    Raises:
        MerLabError: the file is missing, empty, truncated, undecodable, without sound, longer than
            ``max_seconds``, or holds NaN or infinite samples.
    """
    path = _existing(path)
    wave, original = _read_soundfile(path, max_seconds) or _read_av(path, max_seconds)
    if not len(wave):
        raise MerLabError(f"{path}: holds no sound (0 samples); remove its row or replace the file.")
    if not np.isfinite(wave).all():
        raise MerLabError(f"{path}: holds NaN or infinite samples; export it again as 16-bit PCM.")
    return resample(wave, original, rate)


def resample(wave: np.ndarray, original: int, rate: int, rolloff: float = 0.99) -> np.ndarray:
    """``wave (N,)`` at ``original`` Hz as float32 at ``rate`` Hz, by windowed sinc interpolation.

    What lies above ``rolloff`` times half of the lower rate is filtered out.
    """
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if original == rate:
        return wave
    # The filter bank grows with the terms of the ratio: 44101 to 16000 Hz would need gigabytes. All usual
    # rates are exact; an odd one is off by at most 0.5 ms a second of sound.
    ratio = Fraction(original, rate).limit_denominator(1000)
    return _resample(torch.from_numpy(wave), ratio.numerator, ratio.denominator, rolloff=rolloff).numpy()


def duration(path: str | Path) -> float:
    """Seconds of sound in a file, from its header where it says so.

    Raises:
        MerLabError: the file is missing, empty or undecodable.
    """
    path = _existing(path)
    try:
        info = soundfile.info(str(path))
        return info.frames / info.samplerate
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a headerless .raw
        pass
    with _open_av(path) as container:
        known = _stated_seconds(container)
    if known is not None:
        return known
    wave, rate = _read_av(path, float("inf"))
    return len(wave) / rate


class LongAudio:
    """A long wav or flac file as if it were a wave ``(N,)`` at 16 kHz: only the slices taken are decoded.

    Raises:
        MerLabError: not such a file, cut off, longer than :data:`LONGEST`, or a slice longer than an hour.
    """

    def __init__(self, path: Path) -> None:
        try:
            info = soundfile.info(str(path))
        except soundfile.LibsndfileError:  # such as an mp4 that was called wav
            raise MerLabError(f"{path}: is no wav or flac file in spite of its name; convert it.") from None
        self.path, self.rate, self.frames = path, info.samplerate, info.frames
        _refuse_large(path, self.rate, self.frames / self.rate, LONGEST)
        _check_riff(path)

    def __len__(self) -> int:
        return self.frames * 16000 // self.rate

    def __getitem__(self, part: slice) -> np.ndarray:
        # Whole seconds, one more on each side, so that resampling meets the same samples as in the whole.
        _refuse_large(self.path, 16000, (part.stop - part.start) / 16000, MAX_SECONDS)
        first, last = max(part.start // 16000 - 1, 0), part.stop // 16000 + 2
        try:
            with soundfile.SoundFile(str(self.path)) as f:
                f.seek(first * self.rate)
                wave = f.read((last - first) * self.rate, dtype="float32", always_2d=True).mean(1)
        except soundfile.LibsndfileError as error:
            raise MerLabError(f"{self.path}: cannot be decoded ({error.error_string.rstrip('.')}).") from None
        wave = resample(wave, self.rate, 16000)[part.start - 16000 * first : part.stop - 16000 * first]
        if not len(wave) or not np.isfinite(wave).all():
            raise MerLabError(f"{self.path}: holds no sound, or NaN or infinite samples, at its times.")
        return wave


def write_audio(path: str | Path, wave: np.ndarray, rate: int) -> None:
    """Write ``wave (N,)`` as 16-bit PCM wav, whole or not at all; what passes full scale (±1) is clipped.

    Raises:
        MerLabError: the wave is not one channel, is empty or not finite; the disk is full.
    """
    array = np.asarray(wave, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise MerLabError(f"{path}: a wave to write has shape (N,) with N > 0, not {array.shape}.")
    if not np.isfinite(array).all():
        raise MerLabError(f"{path}: the wave to write holds NaN or infinite samples.")
    pcm = np.clip(np.round(array * 32768), -32768, 32767).astype(np.int16)  # so that reading back is exact
    whole = io.BytesIO()  # libsndfile itself does not say that a disk is full
    soundfile.write(whole, pcm, rate, format="WAV", subtype="PCM_16")
    with atomic_path(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise MerLabError(f"{path}: there is no such audio file; check the path and its folder.")
    if path.stat().st_size == 0:
        raise MerLabError(f"{path}: the audio file is empty (0 bytes); copy it again from its source.")
    return path


def _truncated(path: Path, found: str) -> MerLabError:
    return MerLabError(f"{path}: the audio file is truncated, {found}; copy it again from its source.")


def _refuse_large(path: Path, rate: int, seconds: float, max_seconds: float) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise MerLabError(f"{path}: is sampled at {rate} Hz, expected {_RATES[0]} to {_RATES[1]} Hz.")
    if seconds > max_seconds:
        raise MerLabError(
            f"{path}: is {seconds:.0f} s long, more than max_seconds = {max_seconds:.0f}; "
            "cut it into utterances or raise max_seconds."
        )


def _read_soundfile(path: Path, max_seconds: float) -> tuple[np.ndarray, int] | None:
    """Mono samples and rate, or None where libsndfile does not know the format."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, TypeError):
        return None
    _refuse_large(path, info.samplerate, info.frames / info.samplerate, max_seconds)
    if info.format in ("WAV", "WAVEX"):
        _check_riff(path)  # libsndfile takes a cut wav file for a shorter one
    try:
        with soundfile.SoundFile(str(path)) as f:  # in blocks: many channels need no more memory than one
            blocks = f.blocks(2**22 // info.channels, dtype="float32", always_2d=True)
            data = np.concatenate([np.zeros(0, np.float32), *(b.mean(1, dtype=np.float32) for b in blocks)])
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise MerLabError(f"{path}: the audio cannot be decoded ({reason}); replace the file.") from error
    if len(data) < info.frames:
        raise _truncated(path, f"{len(data)} of {info.frames} samples are there")
    return data, info.samplerate


def _check_riff(path: Path) -> None:
    with path.open("rb") as f:
        head = f.read(8)
    stated, present = int.from_bytes(head[4:8], "little") + 8, path.stat().st_size
    streamed = stated - 8 in (0, 0xFFFFFFFF, 0x7FFFFFFF)  # written to a pipe: the size was not known
    if head[:4] == b"RIFF" and not streamed and present < stated - 1:  # some writers forget the padding byte
        raise _truncated(path, f"{present} of {stated} bytes are there")


def _open_av(path: Path) -> av.container.InputContainer:
    options = {"format_whitelist": _CONTAINERS, "codec_whitelist": _decoders()}
    try:
        container = av.open(str(path), options=options)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MerLabError(
            f"{path}: the audio cannot be decoded ({reason}); expected wav, flac, ogg, mp3 or mp4, whole."
        ) from error
    streams = container.streams.audio
    if not streams or streams[0].codec_context is None or not streams[0].rate:
        container.close()
        found = "an audio stream that cannot be decoded" if streams else "no audio stream"
        raise MerLabError(f"{path}: has {found}; replace the file.")
    return container


def _stated_seconds(container: av.container.InputContainer) -> float | None:
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _read_av(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    with _open_av(path) as container:
        stated = _stated_seconds(container)
        if stated is not None:
            _refuse_large(path, container.streams.audio[0].rate, stated, max_seconds)
        stream = container.streams.audio[0]
        rate = stream.rate
        to_float = av.AudioResampler(format="fltp", rate=rate)
        blocks, count = [], 0
        try:
            for frame in container.decode(stream):
                for part in to_float.resample(frame):
                    blocks.append(part.to_ndarray().mean(axis=0, dtype=np.float32))
                    count += len(blocks[-1])
                _refuse_large(path, rate, count / rate, max_seconds)
        except (av.FFmpegError, ValueError) as error:  # ValueError: the format changes midway
            reason = getattr(error, "strerror", None) or error
            raise MerLabError(
                f"{path}: the audio cannot be decoded after {count / rate:.2f} s ({reason}); "
                "replace the file or remove its row."
            ) from error
    if stated is not None and count / rate < 0.9 * stated - 0.5:  # headers round, encoders pad: be lenient
        raise _truncated(path, f"{count / rate:.1f} of {stated:.1f} s are there")
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate
