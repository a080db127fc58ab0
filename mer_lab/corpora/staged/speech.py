"""How it is said: espeak-ng speaks a list of lines, with true word onsets and rule-made prosody.

espeak-ng (GPL-3) is a separate program library, reached at run time through ``espeakng-loader`` and
replaceable. It keeps hidden state from one utterance to the next, so lines are spoken in fixed chunks, each
in a fresh process: the same lines give the same samples, whatever was spoken before, on any number of cores.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mer_lab.errors import MerLabError

RATE = 16000
CHUNK = 320
"""Lines a process speaks; part of the corpus's definition, since the synthesiser's state lasts that long."""
_ESPEAK_RATE = 22050
_UNWRITTEN = 3  # exit status of a process whose file could not be written
LONGEST_PATH = 159
"""Bytes of the folder of espeak-ng's voices beyond which the library stops the whole process."""
_TRIES = 5
"""The synthesiser drops the end of a few lines (below 1 in 2500): they are spoken again, words shifted."""


@dataclass(frozen=True)
class Manner:
    """A way of speaking, relative to the speaker's own voice.

    Attributes:
        tempo: factor on words per minute.
        pitch: espeak pitch units (0 to 100, the default voice at 50; 10 units are about 2.4 semitones).
        range: espeak pitch-range units (0 monotone, 50 the default, 100 twice as lively).
        melody: how far the words leap up and down in pitch, in per cent.
        gain: loudness in dB.
        tilt: spectral tilt, -1 dull to 1 bright.
    """

    tempo: float
    pitch: float
    range: float
    melody: float
    gain: float
    tilt: float


MANNERS: dict[str, Manner] = {
    "angry": Manner(tempo=1.18, pitch=2, range=30, melody=0, gain=8.0, tilt=0.6),
    "happy": Manner(tempo=1.12, pitch=26, range=45, melody=22, gain=3.5, tilt=0.2),
    "sad": Manner(tempo=0.74, pitch=-14, range=-42, melody=0, gain=-7.5, tilt=-0.6),
    "neutral": Manner(tempo=1.0, pitch=0, range=-10, melody=0, gain=0.0, tilt=0.0),
}
"""The planted voice cues; directions after Juslin & Laukka (2003), table 7."""


@dataclass(frozen=True)
class Line:
    """One utterance to be spoken.

    Attributes:
        path: wav file to write, 16 kHz int16.
        words: pseudo-words.
        accent: index of the stressed word, or None.
        melody: change of pitch of each word in per cent.
        variant: espeak voice variant. ``wpm``, ``pitch``, ``range``, ``gain``, ``tilt``: absolute settings.
    """

    path: str
    words: list[str] = field(default_factory=list)
    accent: int | None = None
    melody: list[int] = field(default_factory=list)
    variant: str = "m3"
    wpm: int = 180
    pitch: int = 50
    range: int = 50
    gain: float = 0.0
    tilt: float = 0.0


def speak(lines: Sequence[Line], workers: int | None = None) -> list[dict]:
    """Speak lines to wav files.

    Returns:
        for each line ``{"words": [...], "onsets": [s, ...], "end": s}``: the pseudo-words as spoken, their
        onsets and the end of the last one, in seconds.

    Raises:
        MerLabError: espeak-ng cannot be loaded or fails.
        OSError: a file cannot be written.
    """
    chunks = [list(lines[k : k + CHUNK]) for k in range(0, len(lines), CHUNK)]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        done = tqdm(
            pool.map(_speak_chunk, chunks), total=len(chunks), desc="speaking", unit="chunk", leave=False
        )
        return [timing for chunk in done for timing in chunk]


def _speak_chunk(lines: list[Line]) -> list[dict]:
    job = json.dumps([asdict(line) for line in lines])
    process = subprocess.run(
        [sys.executable, __file__],  # not -m: the package would load pandas and more in every process
        input=job, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if process.returncode == _UNWRITTEN:
        number = int(process.stderr.split()[-1])
        raise OSError(number, os.strerror(number), lines[0].path)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise MerLabError(
            f"espeak-ng could not speak the Staged corpus ({reason}); reinstall it with "
            "`pip install --force-reinstall espeakng-loader` and run `mer-lab doctor`."
        )
    return json.loads(process.stdout)


class Synthesiser:
    """espeak-ng through ctypes; one in a process, since the library's state is global."""

    def __init__(self) -> None:
        import ctypes as c

        import espeakng_loader

        class Event(c.Structure):
            _fields_ = [
                ("type", c.c_int), ("uid", c.c_uint), ("text_position", c.c_int), ("length", c.c_int),
                ("audio_position", c.c_int), ("sample", c.c_int), ("user", c.c_void_p), ("id", c.c_char_p),
            ]  # fmt: skip

        voices = os.fsencode(espeakng_loader.get_data_path())
        if len(voices) > LONGEST_PATH:
            raise RuntimeError(
                f"its path has {len(voices)} bytes and may have {LONGEST_PATH}: make the environment in "
                "a folder with a shorter name"
            )
        self._c, self._lib = c, c.CDLL(str(espeakng_loader.get_library_path()))
        rate = self._lib.espeak_Initialize(2, 0, voices, 0)  # synchronous
        if rate != _ESPEAK_RATE:
            raise RuntimeError(f"espeak_Initialize returned {rate}, expected {_ESPEAK_RATE}")
        self._sound: list[np.ndarray] = []
        self._marks: list[int] = []
        self._end = 0

        def receive(wave, count: int, events) -> int:
            if count > 0:
                self._sound.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
            k, fresh = 0, False
            while events[k].type != 0:
                if events[k].type == 3:  # a <mark/>
                    self._marks.append(events[k].sample)
                    fresh = True
                elif (
                    events[k].type == 1 and fresh
                ):  # a word: exact where prosody starts, some 20 ms after the mark
                    self._marks[-1] = events[k].sample
                    fresh = False
                elif events[k].type == 5:  # the end of the sentence
                    self._end = events[k].sample
                k += 1
            return 0

        # kept as an attribute: ctypes does not hold on to a callback
        self._callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(Event))(receive)
        self._lib.espeak_SetSynthCallback(self._callback)

    def say(self, line: Line) -> tuple[np.ndarray, dict]:
        """Samples at 22.05 kHz, and the timing that :func:`speak` returns."""
        if self._lib.espeak_SetVoiceByName(f"eo+{line.variant}".encode()):  # Esperanto spells as it sounds
            raise RuntimeError(f"espeak-ng has no voice variant {line.variant}")
        for parameter, value in ((1, line.wpm), (2, 100), (3, line.pitch), (4, line.range)):
            self._lib.espeak_SetParameter(parameter, int(value), 0)
        words = list(line.words)
        for _ in range(_TRIES):
            self._sound.clear()
            self._marks.clear()
            ssml = _ssml(words, line.accent, line.melody)
            self._lib.espeak_Synth(ssml, self._c.c_size_t(len(ssml) + 1), 0, 1, 0, 1 | 0x10, None, None)
            self._lib.espeak_Synchronize()
            if len(self._marks) == len(words):
                break
            words = words[1:] + words[:1]
        else:
            raise RuntimeError(f"espeak-ng marked {len(self._marks)} of {len(words)} words in {line.path}")
        wave = np.concatenate(self._sound).astype(np.float32) / 32768
        end = min(self._end, len(wave)) / _ESPEAK_RATE
        return wave, {"words": words, "onsets": [m / _ESPEAK_RATE for m in self._marks], "end": end}


def _ssml(words: list[str], accent: int | None, melody: list[int]) -> bytes:
    parts = []
    for k, word in enumerate(words):
        # word events come out wrong in 3 % of utterances (16 % with emphasis); marks never did
        token = f'<mark name="{k}"/>{word}'
        pitch = (melody[k] if melody else 0) + (45 if k == accent else 0)
        louder = ' volume="+8dB" rate="75%"' if k == accent else ""
        parts.append(f'<prosody pitch="{pitch:+d}%"{louder}>{token}</prosody>' if pitch else token)
    return f"<speak>{' '.join(parts)}.</speak>".encode()


def colour(wave: np.ndarray, gain: float, tilt: float) -> np.ndarray:
    """Resample to 16 kHz, tilt the spectrum, set the level to -26 dBFS + ``gain`` (RMS)."""
    from scipy.signal import lfilter, resample_poly

    wave = resample_poly(wave, 320, 441).astype(np.float32)
    wave = lfilter([1.0, -tilt], [1.0], wave) if tilt >= 0 else lfilter([1.0 + tilt], [1.0, tilt], wave)
    rms = float(np.sqrt(np.mean(wave**2))) or 1.0
    wave = wave * (10 ** ((gain - 26) / 20) / rms)
    peak = float(np.abs(wave).max())
    return (wave / peak * 0.99 if peak > 0.99 else wave).astype(np.float32)


def _main() -> None:
    import soundfile

    synthesiser = Synthesiser()
    timings = []
    for spec in json.load(sys.stdin):
        line = Line(**spec)
        wave, timing = synthesiser.say(line)
        wave = colour(wave[: int(timing["end"] * _ESPEAK_RATE) + 1], line.gain, line.tilt)
        Path(line.path).parent.mkdir(parents=True, exist_ok=True)
        pcm = io.BytesIO()
        soundfile.write(pcm, wave, RATE, subtype="PCM_16", format="WAV")
        try:
            Path(line.path).write_bytes(
                pcm.getbuffer()
            )  # soundfile itself would not say that the disk is full
        except OSError as error:
            print(error.errno, file=sys.stderr)
            sys.exit(_UNWRITTEN)
        timings.append(timing)
    json.dump(timings, sys.stdout)


if __name__ == "__main__":
    _main()
