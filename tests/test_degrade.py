"""Degradations: as strong as asked, drawn from the utterance alone, and of one channel only."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from mer_lab.degrade import (
    KINDS,
    POOL,
    TALKERS,
    WAVES,
    Degraded,
    _song,
    _talkers,
    babble,
    check_kind,
    clean_test,
    clipped,
    degraded,
    mix,
    possible,
    telephone,
    word_errors,
    wrong_transcripts,
)
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, prepare
from mer_lab.features import LogMel, Prosody, read_audio
from mer_lab.features.store import FeatureStore
from mer_lab.inputs import read_audio_features

RATE = 16000
BOTH = Recipe(
    "both", {"name": "early"}, audio={"name": "logmel", "n_mels": 8}, text={"name": "words", "width": 4}
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MER_LAB_CACHE", str(place))
        patch.setenv("ACCELERATE_USE_CPU", "1")
        yield place


@pytest.fixture(scope="module")
def clean(cache, sine_corpus):
    return clean_test(BOTH, sine_corpus)


def sound(seed, seconds=0.7):
    """A tone that swells, with a little noise and a pause of exact zeros."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = time * np.sin(2 * np.pi * (150 + 50 * seed) * time) + 0.01 * rng.normal(size=len(time))
    wave[: len(wave) // 3] = 0
    return wave.astype(np.float32)


VOICES = tuple(sound(k, 0.2 + 0.1 * k) for k in range(1, 9))


def degrade(kind, wave, level, seed=0):
    more = (VOICES,) if kind == "babble" else ()
    return WAVES[kind](wave, RATE, level, np.random.default_rng(seed), *more)


def decibels(wave, noisy):
    noise = noisy.astype(float) - wave
    return 10 * np.log10((wave.astype(float) ** 2).mean() / (noise**2).mean())


@pytest.mark.parametrize("kind", ["white", "babble", "music"])
@pytest.mark.parametrize("level", [30, 10, 0, -5])
def test_the_ratio_of_speech_to_noise_is_the_one_asked_for(kind, level):
    wave = sound(0)
    assert decibels(wave, degrade(kind, wave, level)) == pytest.approx(level, abs=0.01)
    harsher = degrade(kind, wave, level - 20).astype(float) - wave
    np.testing.assert_allclose(harsher, 10 * (degrade(kind, wave, level).astype(float) - wave), atol=1e-4)


@pytest.mark.parametrize("kind", WAVES)
def test_a_wave_keeps_its_length_and_type_and_an_unharmed_one_its_samples(kind):
    harsh, none = KINDS[kind].levels[-1], np.inf if KINDS[kind].unit == "dB" else 0.0
    for wave in (sound(0), sound(3, 0.03), np.float32([0.25]), np.zeros(500, np.float32)):
        kept = wave.copy()
        worse = degrade(kind, wave, harsh)
        assert worse.shape == wave.shape and worse.dtype == np.float32 and np.isfinite(worse).all()
        np.testing.assert_array_equal(wave, kept)
        np.testing.assert_array_equal(degrade(kind, wave, none), wave)
        if not wave.any():
            assert not worse.any()


def test_only_clipping_clips():
    loud = (3 * sound(0)).clip(-1, 1)
    for kind in ("white", "babble", "music"):
        assert np.abs(degrade(kind, loud, 0)).max() > 1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_clipped_share_lies_at_the_limit_and_the_rest_keeps_its_shape(share):
    wave = sound(0)
    flat = clipped(wave, RATE, share, np.random.default_rng(0))
    heard = wave != 0
    at_limit = np.isclose(np.abs(flat), np.abs(flat).max(), rtol=1e-6)
    assert at_limit[heard].mean() == pytest.approx(share, abs=2 / heard.sum())
    assert np.abs(wave)[at_limit].min() >= np.abs(wave)[~at_limit].max()
    ratio = flat[heard & ~at_limit] / wave[heard & ~at_limit]
    assert ratio.std() < 1e-5 * ratio.mean()
    assert (flat**2).mean() == pytest.approx((wave**2).mean(), rel=1e-4)
    assert np.abs(flat).max() <= np.abs(wave).max()


def test_a_telephone_hands_on_the_middle_of_the_band():
    time = np.arange(RATE) / RATE
    for pitch, low, high in ((100, -np.inf, -40), (1000, -1, 1), (6000, -np.inf, -40), (2500, -1, 1)):
        tone = np.sin(2 * np.pi * pitch * time).astype(np.float32)
        left = telephone(tone, RATE, 1.0, np.random.default_rng(0))[2000:-2000]  # away from both ends
        assert low <= 20 * np.log10(left.std() / tone.std()) <= high
    assert np.isfinite(telephone(tone, 4000, 1.0, np.random.default_rng(0))).all()  # 3400 Hz is no frequency


def test_babble_is_six_other_voices_equally_loud():
    wave, rng = VOICES[2], np.random.default_rng(0)
    noise = babble(wave, RATE, -60, rng, [wave, VOICES[0]]).astype(float) - wave
    looped = np.concatenate([VOICES[0]] * 4)
    best = max(np.corrcoef(noise, looped[k : k + len(wave)])[0, 1] for k in range(len(VOICES[0])))
    assert best > 0.999  # the one voice that is not the wave itself, from a random place on
    with pytest.raises(MerLabError, match="none has sound"):
        babble(wave, RATE, 0, rng, [wave])
    shares = []
    for k in range(TALKERS):  # one of them a hundred times louder than the rest, and yet heard no more
        loud = [100 * v if k == j else v for j, v in enumerate(VOICES[:TALKERS])]
        shares.append(babble(sound(0), RATE, 0, np.random.default_rng(1), loud))
    np.testing.assert_allclose(shares, [shares[0]] * TALKERS, atol=1e-4)


def test_babble_comes_from_the_training_split_alone(sine_corpus):
    train = sine_corpus.select(split="train")
    own = {train.audio_path(u) for u in train.ids}
    for seed in range(3):
        talkers = _talkers(train, seed)
        assert len(set(talkers)) == len(talkers) == min(POOL, len(train)) and set(talkers) <= own
    heard = []

    @dataclass(frozen=True)
    class Listening(LogMel):
        def __call__(self, wave):
            heard.append(wave)
            return super().__call__(wave)

    extractor = Degraded(Listening(), "babble", -40, 0, talkers)
    waves = [read_audio(sine_corpus.audio_path(u)) for u in sine_corpus.select(split="test").ids]
    for wave in waves:
        extractor(wave)
        assert decibels(wave, heard[-1]) == pytest.approx(-40, abs=0.01)


def test_music_has_a_key_and_a_beat():
    song = _song(3, RATE)
    spectrum = np.abs(np.fft.rfft(song)) ** 2
    strongest = np.sort(spectrum)[::-1]
    assert strongest[: len(spectrum) // 50].sum() > 0.9 * spectrum.sum()  # tones: white noise would have 0.1
    beat = len(song) // 8
    power = (song[: 8 * beat].reshape(8, beat) ** 2).mean(0)
    assert power[: beat // 4].mean() > 2 * power[-beat // 4 :].mean()  # struck on the beat, then dying away
    assert len({_song(k, RATE).tobytes() for k in range(8)}) == 8


def test_the_noise_of_an_utterance_follows_from_its_wave_and_the_seed():
    waves = [sound(k) for k in range(4)]
    for kind in ("white", "music"):
        first, again = (Degraded(LogMel(), kind, 5, 0) for _ in range(2))
        forwards = [first.degrade(w) for w in waves]
        backwards = [again.degrade(w) for w in waves[::-1]][::-1]
        np.testing.assert_array_equal(forwards, backwards)
        assert not np.array_equal(forwards[0], Degraded(LogMel(), kind, 5, 1).degrade(waves[0]))
    noise = [Degraded(LogMel(), "white", 5).degrade(w) - w for w in waves]
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.1


@dataclass(frozen=True)
class Network:
    """An extractor with everything that the store asks for only where it is there."""

    name: ClassVar[str] = "network"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"
    rate: ClassVar[int] = RATE
    hop: ClassVar[None] = None
    first: ClassVar[float] = 0.0125
    weights: ClassVar[int] = 1000
    names: ClassVar[list[str]] = ["power"]
    settings: ClassVar[dict] = {"weights": "abc"}

    def plan(self, paths, budget):
        return [np.arange(len(paths))[::-1]]

    def __call__(self, wave):
        return np.array([[(wave**2).mean()]], np.float32)

    def extract_many(self, waves):
        return [self(wave) for wave in waves]


def test_the_wrapped_extractor_keeps_its_optional_members_and_gains_none(sine_corpus, tmp_path):
    plain, network = Degraded(LogMel(), "white", 0), Degraded(Network(), "white", 0)
    for member in ("plan", "weights", "extract_many", "first"):
        assert hasattr(network, member) and not hasattr(plain, member)
    assert (plain.name, plain.hop, plain.rate) == ("logmel", 0.01, RATE) and network.weights == 1000
    assert not hasattr(plain, "nothing_of_the_kind")
    assert network.settings["weights"] == "abc" and plain.settings["n_mels"] == 40
    noisy = FeatureStore(tmp_path).get(sine_corpus, network, workers=2)  # travels to other processes
    clean = FeatureStore(tmp_path).get(sine_corpus, Network())
    np.testing.assert_allclose(noisy.frames, 2 * clean.frames, rtol=0.2)  # as much noise as speech
    assert noisy.meta["first"] == 0.0125
    wave = read_audio(sine_corpus.audio_path("u7"))
    np.testing.assert_array_equal(network.extract_many([wave])[0], network(wave))


def test_whatever_decides_the_noise_decides_the_key(sine_corpus):
    talkers = _talkers(sine_corpus.select(split="train"), 0)
    base = Degraded(LogMel(), "babble", 10, 0, talkers)
    assert base.settings == Degraded(LogMel(), "babble", 10.0, 0, talkers).settings
    others = (
        replace(base, extractor=LogMel(n_mels=20)), replace(base, kind="white"), replace(base, level=5),
        replace(base, seed=1), replace(base, talkers=talkers[1:]),
    )  # fmt: skip
    assert all(str(other.settings) != str(base.settings) for other in others)
    assert len(repr(base)) < 200 and len(str(base.settings)) < 300


def distance(a, b):
    """Least substitutions, deletions and insertions between two lists of words."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.fixture(scope="module")
def texts():
    """500 texts of 1 to 15 words, the k-th of 400 words 1 / k as frequent as the first, and their counts."""
    rng = np.random.default_rng(0)
    names, share = [f"w{k}" for k in range(400)], 1 / np.arange(1, 401)
    many = [rng.choice(names, rng.integers(1, 16), p=share / share.sum()) for _ in range(500)]
    counts = {name: int(1e5 * x) for name, x in zip(names, share, strict=True)}
    return [" ".join(words) for words in many], counts


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_the_word_error_rate_is_the_one_asked_for(rate, texts):
    original, vocabulary = texts
    heard = word_errors(original, rate, np.random.default_rng(1), vocabulary)
    wrong = sum(distance(a.split(), b.split()) for a, b in zip(original, heard, strict=True))
    count = sum(len(text.split()) for text in original)
    assert wrong / count == pytest.approx(rate, rel=0.1)
    grown = sum(len(text.split()) for text in heard) - count
    assert grown / count == pytest.approx(-0.1 * rate, abs=0.02)  # 15 % put in, 25 % lost
    again = word_errors(original, rate, np.random.default_rng(1), vocabulary)
    assert heard == again != word_errors(original, rate, np.random.default_rng(2), vocabulary)


def test_misheard_words_are_as_frequent_as_in_training_and_grow_with_the_rate(texts):
    original, _ = texts
    count = sum(len(text.split()) for text in original)
    heard = word_errors(original, 1.0, np.random.default_rng(0), {"often": 3, "seldom": 1})
    new = Counter(word for text in heard for word in text.split() if not word.startswith("w"))
    assert new["often"] / new.total() == pytest.approx(0.75, abs=0.03)
    assert new.total() / count == pytest.approx(0.75, abs=0.03)  # replaced or put in
    assert "" in word_errors(["yes"] * 40, 1.0, np.random.default_rng(0), {"no": 1})
    assert "yes" not in word_errors(["yes"] * 40, 1.0, np.random.default_rng(0), {"no": 1, "yes": 99})
    mild, harsh = (word_errors(original, x, np.random.default_rng(0), {"x": 1}) for x in (0.1, 0.3))
    assert all(a == b for a, b, c in zip(original, mild, harsh, strict=True) if a == c)
    with pytest.raises(MerLabError, match="no text"):
        word_errors(["yes"], 0.5, np.random.default_rng(0), {})


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_wrong_transcripts_are_a_derangement_of_those_chosen(share):
    original = [f"text {k}" for k in range(40)]
    wrong = wrong_transcripts(original, share, np.random.default_rng(0))
    assert sorted(wrong) == sorted(original)
    assert sum(a != b for a, b in zip(original, wrong, strict=True)) == round(40 * share)


def test_one_wrong_transcript_needs_another():
    wrong = wrong_transcripts(list("abcd"), 0.25, np.random.default_rng(0))
    assert sorted(wrong) == list("abcd") and sum(a != b for a, b in zip("abcd", wrong, strict=True)) == 2
    assert wrong_transcripts(["a"], 1.0, np.random.default_rng(0)) == ["a"]


def test_no_errors_leave_the_text_as_it_is():
    original = ["  two   spaces ", "", "Oh,  no!"]
    assert word_errors(original, 0.0, np.random.default_rng(0), {"x": 1}) == original
    assert wrong_transcripts(original, 0.0, np.random.default_rng(0)) == original


def same(a, b):
    assert a.ids == b.ids and a.meta["name"] == b.meta["name"]
    for k in range(len(a)):
        np.testing.assert_array_equal(a[k], b[k])


def test_clean_is_what_prepare_reads(clean, sine_corpus):
    ours, theirs = clean, prepare(BOTH, sine_corpus)[0]["test"]
    same(ours.audio, theirs.audio)
    same(ours.text, theirs.text)


@pytest.mark.parametrize("kind", KINDS)
def test_one_channel_is_harmed_and_at_no_level_none(kind, clean, sine_corpus):
    channel, levels, unit = KINDS[kind]
    none = np.inf if unit == "dB" else 0.0
    unharmed = degraded(BOTH, sine_corpus, kind, none)
    same(unharmed.audio, clean.audio)
    same(unharmed.text, clean.text)
    assert unharmed.absent is None
    worse = degraded(BOTH, sine_corpus, kind, levels[-1], clean=clean)
    same(*(getattr(x, "text" if channel == "audio" else "audio") for x in (worse, clean)))
    assert worse.corpus.ids == clean.corpus.ids
    np.testing.assert_array_equal(worse.targets, clean.targets)
    a, b = getattr(worse, channel), getattr(clean, channel)
    assert a.meta.get("columns") == b.meta.get("columns") and a.width == b.width
    if kind.startswith("missing"):
        np.testing.assert_array_equal(worse.absent, [[channel == "audio", channel == "text"]] * len(clean))
    else:
        assert any(a[k].shape != b[k].shape or (a[k] != b[k]).any() for k in range(len(a)))


def test_the_vocabulary_stays_that_of_training(sine_corpus):
    words = [degraded(BOTH, sine_corpus, "word errors", 1.0, seed).text for seed in range(5)]
    assert {int(x) for ragged in words for x in ragged.frames.ravel()} <= {1, 2, 3, 4, 5, 6}
    empty = replace(sine_corpus, table=sine_corpus.table.assign(text="up"))
    assert (degraded(BOTH, empty, "word errors", 1.0).text.frames.ravel() == 1).any()  # nothing was heard


def test_features_in_noise_are_extracted_once_and_of_the_test_split_alone(clean, sine_corpus, cache):
    before = set((cache / "features").glob("*.safetensors"))
    first = degraded(BOTH, sine_corpus, "white", 10, clean=clean)
    (new,) = set((cache / "features").glob("*.safetensors")) - before
    assert first.audio.ids == clean.corpus.ids and len(clean) == 6
    stamp = new.stat().st_mtime_ns
    same(degraded(BOTH, sine_corpus, "white", 10.0, clean=clean).audio, first.audio)
    assert new.stat().st_mtime_ns == stamp
    other = degraded(BOTH, sine_corpus, "white", 10, seed=1, clean=clean)
    assert not np.array_equal(other.audio.frames, first.audio.frames)


def test_a_channel_that_is_not_read_cannot_be_harmed(sine_corpus):
    voice, words = replace(BOTH, text={}), replace(BOTH, audio={})
    heard, read = clean_test(voice, sine_corpus), clean_test(words, sine_corpus)
    assert degraded(voice, sine_corpus, "word errors", 0.4, clean=heard) is heard
    assert degraded(words, sine_corpus, "babble", 0, clean=read) is read
    assert degraded(words, sine_corpus, "missing audio", 1, clean=read) is read
    with pytest.raises(MerLabError, match="reads audio alone: without it nothing is left"):
        degraded(voice, sine_corpus, "missing audio", 1)
    assert set(KINDS) - set(possible(voice)) == {"missing audio"}
    assert set(KINDS) - set(possible(words)) == {"missing text"}
    assert possible(BOTH) == list(KINDS)


def test_mistakes_are_told_in_a_sentence(sine_corpus):
    for kind, level, message in (
        ("rain", 0, "there is no degradation 'rain'; choose one of white, babble"),
        ("white", float("nan"), "'white' is nan, expected a ratio in dB"),
        ("clipped", 0.6, "a share of samples from 0 to 0.5"),
        ("word errors", 20, "a word error rate from 0 to 1"),
        ("telephone", 0.5, "expected 0 or 1"),
    ):
        with pytest.raises(MerLabError, match=message):
            degraded(BOTH, sine_corpus, kind, level)
        with pytest.raises(MerLabError):
            check_kind(kind, level)
    with pytest.raises(MerLabError, match="does not change a wave"):
        Degraded(Prosody(), "word errors", 0.1)
    attached = replace(BOTH, audio={"attached": "vectors"})
    with pytest.raises(MerLabError, match="'vectors' are attached, without the sound"):
        read_audio_features(attached.audio, sine_corpus, lambda e: e)
    assert not set(WAVES) & set(possible(attached)) and "missing audio" in possible(attached)
    assert mix(np.ones(3, np.float32), np.zeros(3), 0).tolist() == [1, 1, 1]
