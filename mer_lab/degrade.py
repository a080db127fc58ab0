"""The test split made worse on purpose: noise, a bad line, misheard words, a channel that is not there.

What is drawn, a noise or the words that are misheard, is the same at every level: a curve over levels shows
the level and not another draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mer_lab.audio import read_audio
from mer_lab.batches import Dataset
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.features.store import Extractor
from mer_lab.files import digest
from mer_lab.inputs import read_audio_features, read_text_features
from mer_lab.records import Recipe

VERSION = 1
"""Of the numbers below; raise it with any change to them, for features in noise are cached."""


class Kind(NamedTuple):
    """A degradation: the channel that it harms, its levels from mild to harsh, and their unit."""

    channel: str
    levels: tuple[float, ...]
    unit: str


_DECIBELS, _SWITCH = (20.0, 10.0, 5.0, 0.0), (1.0,)
KINDS = {
    "white": Kind("audio", _DECIBELS, "dB"),
    "babble": Kind("audio", _DECIBELS, "dB"),
    "music": Kind("audio", _DECIBELS, "dB"),
    "clipped": Kind("audio", (0.05, 0.2, 0.5), "share of samples"),
    "telephone": Kind("audio", _SWITCH, ""),
    "missing audio": Kind("audio", _SWITCH, ""),
    "word errors": Kind("text", (0.1, 0.2, 0.4), "word error rate"),
    "wrong transcripts": Kind("text", (0.25, 0.5, 1.0), "share of utterances"),
    "missing text": Kind("text", _SWITCH, ""),
}
"""Every degradation. Nothing is lost at an infinite ratio in dB, and at level 0 of all others."""

TALKERS = 6
"""Voices that speak at once in babble."""
POOL = 60
"""Training utterances that the talkers of a babble are drawn from."""
SONGS = 16


def white(wave: np.ndarray, rate: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """``wave (N,)`` in white noise, ``level`` dB below the speech."""
    return mix(wave, rng.standard_normal(len(wave)), level)


def babble(
    wave: np.ndarray, rate: int, level: float, rng: np.random.Generator, voices: Sequence[np.ndarray]
) -> np.ndarray:
    """``wave (N,)`` among :data:`TALKERS` of the ``voices``, equally loud, ``level`` dB below the speech.

    Each starts at a random place and begins anew where it ends. A voice that is the wave itself stays silent.

    Raises:
        MerLabError: there is no other voice.
    """
    others = [voice for voice in voices if not np.array_equal(voice, wave)]
    if not others:
        raise MerLabError("babble is made of other utterances of the training split, and none has sound.")
    chosen = rng.choice(len(others), min(TALKERS, len(others)), replace=False)
    talking = [others[k] / np.sqrt(_power(others[k])) for k in chosen]
    return mix(wave, sum(_looped(voice, len(wave), rng) for voice in talking), level)


def music(wave: np.ndarray, rate: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """``wave (N,)`` over one of :data:`SONGS` made-up pieces of music, ``level`` dB below the speech."""
    return mix(wave, _looped(_song(int(rng.integers(SONGS)), rate), len(wave), rng), level)


def clipped(wave: np.ndarray, rate: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """``wave (N,)`` with the ``level`` share of its samples, the largest, cut off; then as loud as before.

    Digital silence is not counted: where pauses are exact zeros, nothing would be left of a short word.
    """
    size = np.sort(np.abs(wave[wave != 0]))
    cut = round(level * len(size))
    if not 0 < cut < len(size):
        return wave
    flat = np.clip(wave, -size[-cut - 1], size[-cut - 1])
    return (flat * np.sqrt(_power(wave) / _power(flat))).astype(np.float32)


def telephone(wave: np.ndarray, rate: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """``wave (N,)`` as an old telephone line hands it on, 300 to 3400 Hz; untouched at level 0."""
    if not level:
        return wave
    from scipy.signal import butter, sosfiltfilt  # slow to import
    band = butter(4, (300, min(3400, 0.45 * rate)), "bandpass", fs=rate, output="sos")
    return sosfiltfilt(band, wave, padlen=min(rate // 100, len(wave) - 1)).astype(np.float32)


WAVES = {function.__name__: function for function in (white, babble, music, clipped, telephone)}


def mix(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """``wave + gain * noise`` with ``snr`` dB between their powers over the whole utterance, pauses included.

    A silent wave stays silent. What passes full scale (±1) is left so: no extractor minds, and clipping is
    a degradation of its own.
    """
    speech, other = _power(wave), _power(noise)
    if not speech or not other:
        return wave
    return (wave + np.sqrt(speech / other) * 10 ** (-snr / 20) * noise).astype(np.float32)


def _rng(content: bytes, kind: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(int(digest(content, kind, str(seed)), 16))


def _power(wave: np.ndarray) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64)))


def _looped(wave: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` samples of an endless repetition, from a random one on."""
    return np.take(wave, np.arange(count) + rng.integers(len(wave)), mode="wrap")


_SCALES = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)  # major, minor
_PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (5, 3, 0, 4))


@lru_cache(maxsize=SONGS)
def _song(number: int, rate: int) -> np.ndarray:
    """A loop of four chords of two beats: bass and triad, a tune in half beats, drum and cymbal."""
    rng = np.random.default_rng(number)
    beat = round(rate * 60 / rng.uniform(90, 140))
    song, time = np.zeros(8 * beat), np.arange(2 * beat) / rate
    scale, key = _SCALES[number % 2], rng.integers(45, 57)  # MIDI numbers: A2 to G#3
    drum = 2 * np.sin(2 * np.pi * (45 * time + 3 * (1 - np.exp(-30 * time)))) * np.exp(-12 * time)

    def play(at: float, sound: np.ndarray) -> None:
        song[(round(at * beat) + np.arange(len(sound))) % len(song)] += sound  # the end rings into the start

    for k, degree in enumerate(_PROGRESSIONS[rng.integers(len(_PROGRESSIONS))]):
        triad = [key + scale[d % 7] + 12 * (d // 7) for d in (degree, degree + 2, degree + 4)]
        for at in (2 * k, 2 * k + 1):
            for tone in (triad[0] - 12, *triad):
                play(at, _tone(tone, time, rate))
            play(at, drum)
        for half in range(4):
            play(2 * k + half / 2, 1.5 * _tone(rng.choice(triad) + 12, time, rate))
            play(2 * k + half / 2, 0.3 * rng.standard_normal(len(time)) * np.exp(-60 * time))
    return song


def _tone(midi: int, time: np.ndarray, rate: int) -> np.ndarray:
    """A struck string: harmonics that die the sooner the higher they are."""
    pitch = 440 * 2 ** ((midi - 69) / 12)
    heard = [h for h in range(1, 7) if h * pitch < rate / 2]
    sound = sum(np.sin(2 * np.pi * h * pitch * time) * np.exp(-(2 + h) * time) / h for h in heard)
    return sound * np.minimum(1, time / 0.005)


@dataclass(frozen=True)
class Degraded:
    """An extractor that hears every utterance degraded; for the rest the one that it wraps.

    The noise of an utterance follows from its own samples and the seed: batches and order change nothing.

    Attributes:
        extractor: of channel ``"audio"``.
        kind, level: see :data:`KINDS`.
        seed: of the noise.
        talkers: audio files of the voices in babble.
    """

    extractor: Extractor
    kind: str
    level: float
    seed: int = 0
    talkers: tuple[Path, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_kind(self.kind, self.level)
        if self.kind not in WAVES:
            raise MerLabError(f"{self.kind!r} does not change a wave; choose one of {', '.join(WAVES)}.")
        object.__setattr__(self, "level", float(self.level))  # 10 and 10.0 are one key

    @property
    def settings(self) -> dict[str, object]:
        """Those of the extractor, and what decides the noise: the talkers by their sound."""
        inner = getattr(self.extractor, "settings", None) or asdict(self.extractor)
        talking = digest(*(voice.tobytes() for voice in self._voices())) if self.kind == "babble" else ""
        return inner | {"degraded": [self.kind, self.level, self.seed, talking, VERSION]}

    def degrade(self, wave: np.ndarray) -> np.ndarray:
        """``wave (N,)`` as the extractor hears it."""
        wave = np.asarray(wave, np.float32)
        rng = _rng(wave.tobytes(), self.kind, self.seed)
        more = (self._voices(),) if self.kind == "babble" else ()
        return WAVES[self.kind](wave, self.extractor.rate, self.level, rng, *more)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return self.extractor(self.degrade(wave))

    def __getattr__(self, name: str):
        """``name``, ``hop``, ``rate``, ... of the extractor, and its optional members where it has them."""
        if name == "extract_many":
            many = self.extractor.extract_many  # AttributeError where it has none
            return lambda waves: many([self.degrade(wave) for wave in waves])
        if name in ("name", "version", "channel", "rate", "hop", "first", "names", "plan", "weights"):
            return getattr(self.extractor, name)
        raise AttributeError(name)

    def _voices(self) -> list[np.ndarray]:
        return _read_voices(self.talkers, self.extractor.rate)


@lru_cache(maxsize=2)
def _read_voices(paths: tuple[Path, ...], rate: int) -> list[np.ndarray]:
    return [wave for wave in (read_audio(path, rate) for path in paths) if wave.any()]


def word_errors(
    texts: Sequence[str], level: float, rng: np.random.Generator, vocabulary: Mapping[str, int]
) -> list[str]:
    """``texts`` as a speech recogniser of word error rate ``level`` (0 to 1) might have written them.

    Every word is wrong with that probability: 60 % are replaced, 25 % lost, and after 15 % another is put,
    about the shares of real recognisers. The new words are drawn as often as ``vocabulary``, word to count,
    has them. A text may lose all of its words.
    """
    names = sorted(vocabulary)
    if not names:
        raise MerLabError("word errors draw words of the training split, which has no text.")
    share = np.array([vocabulary[name] for name in names], float)
    count = sum(len(text.split()) for text in texts)
    wrong, act = rng.random(count) < level, rng.random(count)
    drawn = iter(zip(wrong, act, rng.choice(len(names), count, p=share / share.sum()), strict=True))
    out = []
    for text in texts:
        heard: list[str] = []
        for word in text.split():
            err, how, k = next(drawn)
            other = names[k] if names[k] != word else names[(k + 1) % len(names)]
            heard += [word] if not err else [other] if how < 0.6 else [] if how < 0.85 else [word, other]
        out.append(text if heard == text.split() else " ".join(heard))
    return out


def wrong_transcripts(
    texts: Sequence[str], level: float, rng: np.random.Generator, vocabulary: Mapping[str, int] | None = None
) -> list[str]:
    """``texts`` of which the ``level`` share, at least two, stands at another utterance, none at its own."""
    count = round(level * len(texts))
    chosen = rng.permutation(len(texts))[: count + (count == 1)]
    out = list(texts)
    for k, other in zip(chosen, np.roll(chosen, 1), strict=True):
        out[k] = texts[other]
    return out


def check_kind(kind: str, level: float) -> None:
    """Raises a :class:`MerLabError` where there is no such degradation, or not at this level."""
    if kind not in KINDS:
        raise MerLabError(f"there is no degradation {kind!r}; choose one of {', '.join(KINDS)}.")
    _, levels, unit = KINDS[kind]
    if unit == "dB":
        fits, expected = level >= -60, "a ratio in dB of at least -60"
    elif levels == _SWITCH:
        fits, expected = level in (0, 1), "0 or 1"
    else:
        top = 0.5 if kind == "clipped" else 1.0
        fits, expected = 0 <= level <= top, f"a {unit} from 0 to {top:g}"
    if not fits:
        raise MerLabError(f"the level of {kind!r} is {level}, expected {expected}.")


def clean_test(recipe: Recipe, corpus: Corpus) -> Dataset:
    """The test split as :func:`mer_lab.experiments.prepare` reads it."""
    audio = read_audio_features(recipe.audio, corpus) if recipe.audio else None
    text = _read_text(recipe, corpus, corpus) if recipe.text or audio is None else None
    return Dataset(corpus, audio, text).select("test")


def possible(recipe: Recipe) -> list[str]:
    """The degradations that a recipe's test data can be put under: see :func:`degraded` for the others."""
    both = recipe.audio and recipe.text
    lost = "" if both else "missing audio" if recipe.audio else "missing text"
    return [kind for kind in KINDS if kind != lost and not (kind in WAVES and "attached" in recipe.audio)]


def degraded(
    recipe: Recipe, corpus: Corpus, kind: str, level: float, seed: int = 0, clean: Dataset | None = None
) -> Dataset:
    """The test split with one channel degraded; the other is what the model was trained for.

    Features in noise are extracted for the test split alone and kept in the
    :class:`~mer_lab.features.store.FeatureStore`. A recipe that does not read the channel gets clean data.

    Args:
        corpus: of the recipe, all splits: the vocabulary and the voices of babble are those of training.
        kind, level: see :data:`KINDS`.
        seed: of everything drawn.
        clean: what :func:`clean_test` gives, where it was read before.

    Raises:
        MerLabError: no such degradation or level; the audio features are attached, and so without a wave;
            the only channel of the recipe would be missing.
    """
    check_kind(kind, level)
    channel = KINDS[kind].channel
    clean = clean if clean is not None else clean_test(recipe, corpus)
    test, train = clean.corpus, corpus.select(split="train")
    if getattr(clean, channel) is None:
        return clean
    if kind.startswith("missing"):
        if clean.audio is None or clean.text is None:
            raise MerLabError(f"recipe {recipe.name} reads {channel} alone: without it nothing is left.")
        return clean.without(channel) if level else clean
    if channel == "audio":
        talkers = _talkers(train, seed) if kind == "babble" else ()
        audio = read_audio_features(recipe.audio, test, lambda e: Degraded(e, kind, level, seed, talkers))
        return Dataset(test, audio, clean.text)
    words = Counter(word for text in train.table["text"] for word in text.split())
    change = word_errors if kind == "word errors" else wrong_transcripts
    texts = change(test.table["text"].tolist(), level, _rng(b"", kind, seed), words)
    changed = replace(test, table=test.table.assign(text=texts))
    return Dataset(test, clean.audio, _read_text(recipe, changed, corpus))


def _read_text(recipe: Recipe, corpus: Corpus, whole: Corpus):
    """Text features of ``corpus``, its words numbered by the training split; the vectors are the model's."""
    spec = {k: v for k, v in recipe.text.items() if k != "glove"}
    return read_text_features(spec, corpus, whole.select(split="train"))[0]


def _talkers(train: Corpus, seed: int) -> tuple[Path, ...]:
    ids = train.table.index[train.table["audio"] != ""]
    return tuple(train.audio_path(u) for u in np.random.default_rng(seed).permutation(ids)[:POOL])
