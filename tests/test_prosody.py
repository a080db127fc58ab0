"""Pitch against contours that are known, voicing, energy and the summary of an utterance."""

import numpy as np
import pytest

from mer_lab.errors import MerLabError
from mer_lab.features import (
    PROSODY_STATISTICS,
    Prosody,
    energy_db,
    prosody_statistics,
    read_audio,
    track_pitch,
)

VOWELS = [(500, 1500, 2500), (300, 2200, 2900), (750, 1200, 2500), (350, 800, 2500)]
RANGES = {"male": (75, 180), "female": (150, 350), "high": (250, 480)}


def contour(low, high, seconds=2.0, per_second=0.6, phase=0.0, rate=16000):
    """F0 in Hz of each sample: a sine on the semitone scale that fills the range."""
    t = np.arange(round(seconds * rate)) / rate
    swing = np.sin(2 * np.pi * per_second * t + phase) / 2
    return np.sqrt(low * high) * 2 ** (np.log2(high / low) * swing)


def sing(f0, vowel=VOWELS[0], snr=None, rate=16000, seed=0):
    """Harmonics of ``f0 (N,)`` under three formants, plus white noise at ``snr`` dB."""
    phase = 2 * np.pi * np.cumsum(f0) / rate
    wave = np.zeros(len(f0))
    for k in range(1, 50):
        gain = sum(1 / (1 + ((k * f0 - f) / b) ** 2) for f, b in zip(vowel, (80, 120, 160), strict=True))
        wave += np.where(k * f0 < 0.47 * rate, (gain + 0.02) / k * np.sin(k * phase + k), 0)
    wave /= np.sqrt((wave**2).mean())
    if snr is not None:
        wave += 10 ** (-snr / 20) * np.random.default_rng(seed).standard_normal(len(wave))
    return (0.1 * wave).astype(np.float32)


def errors(f0, truth, rate=16000, hop=0.01):
    """Error in cents of the voiced frames, the ends left out, and the voiced share."""
    true = truth[np.minimum(np.round(np.arange(len(f0)) * hop * rate).astype(int), len(truth) - 1)][4:-4]
    found = f0[4:-4]
    return 1200 * np.log2(found[found > 0] / true[found > 0]), (found > 0).mean()


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize(
    ("snr", "median", "p95", "voiced"),
    [(None, 5, 15, 0.99), (20, 5, 15, 0.99), (10, 6, 20, 0.95), (5, 8, 25, 0.90), (0, 12, 40, 0.80)],
)
def test_pitch_of_glides(kind, snr, median, p95, voiced):
    cents, shares = [], []
    for k, vowel in enumerate(VOWELS):
        truth = contour(*RANGES[kind], phase=k)
        found, share = errors(track_pitch(sing(truth, vowel, snr, seed=k), 16000)[0], truth)
        cents.append(found)
        shares.append(share)
    cents = np.concatenate(cents)
    gross = (np.abs(cents) > 300).mean()  # octaves, mostly
    assert gross == 0 if snr is None or snr >= 10 else gross < 0.015
    assert np.median(np.abs(cents)) < median and np.percentile(np.abs(cents), 95) < p95
    assert abs(np.median(cents)) < 3  # no bias
    assert np.mean(shares) > voiced


@pytest.mark.parametrize("hz", [62, 80, 100, 123.4, 200, 333, 450, 495])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_steady_pitch_at_any_rate(hz, rate):
    truth = np.full(rate, float(hz))
    cents, voiced = errors(track_pitch(sing(truth, rate=rate), rate)[0], truth, rate)
    assert voiced == 1 and np.abs(cents).max() < 10


def test_fundamental_that_is_missing():
    t = np.arange(16000) / 16000
    wave = sum(np.sin(2 * np.pi * 120 * k * t) for k in range(4, 12))  # a telephone cuts 120-360 Hz
    f0, _ = track_pitch(wave, 16000)
    assert np.abs(1200 * np.log2(f0[5:-5] / 120)).max() < 10


@pytest.mark.parametrize("gain", [1e-4, 0.03, 7.0, 1000.0])
def test_loudness_does_not_matter(gain):
    wave = sing(contour(100, 250), snr=10)
    f0, strength = track_pitch(wave, 16000)
    other, other_strength = track_pitch(gain * wave, 16000)
    assert np.allclose(f0, other, rtol=1e-4) and np.allclose(strength, other_strength, atol=1e-3)


def test_an_offset_does_not_matter():
    wave = sing(contour(100, 250), snr=20)
    assert np.allclose(track_pitch(wave, 16000)[0], track_pitch(wave + 0.5, 16000)[0], rtol=1e-3)


def test_noise_and_silence_are_unvoiced():
    rng = np.random.default_rng(0)
    for seed in range(5):
        white = np.random.default_rng(seed).standard_normal(32000)
        f0, strength = track_pitch(white, 16000)
        assert (f0 > 0).mean() < 0.01 and strength.mean() < 0.4
    f0, strength = track_pitch(np.zeros(8000), 16000)
    assert not f0.any() and not strength.any()
    dither = np.round(rng.uniform(-1, 1, 16000)) / 32768
    assert (track_pitch(dither, 16000)[0] > 0).mean() < 0.01
    assert not track_pitch(np.full(8000, 0.7), 16000)[0].any()


def test_voicing_follows_the_voice():
    """Voice, pause, voice: the borders are found within 30 ms, and a quiet hiss stays unvoiced."""
    wave = sing(np.full(32000, 140.0))
    wave[12000:20000] = 0.002 * np.random.default_rng(0).standard_normal(8000)
    f0, strength = track_pitch(wave, 16000)
    assert (f0[4:72] > 0).all() and not f0[79:122].any() and (f0[129:196] > 0).all()
    assert strength[10:70].min() > 0.9 and strength[80:120].max() < 0.6


def test_frames_are_in_time():
    """A leap from 120 to 200 Hz in the middle is found there."""
    truth = np.repeat([120.0, 200.0], 16000)
    f0, _ = track_pitch(sing(truth), 16000, hop=0.005)
    leap = np.flatnonzero(np.diff(np.sign(f0 - 155)) > 0)
    assert len(f0) == 1 + 32000 // 80
    assert np.abs(leap * 0.005 - 1.0).min() < 0.02


def test_blocks_change_nothing(monkeypatch):
    wave = sing(contour(90, 200), snr=15)
    whole = track_pitch(wave, 16000)
    monkeypatch.setattr("mer_lab.features.prosody._BLOCK", 37)
    assert all(np.allclose(a, b, rtol=1e-4) for a, b in zip(whole, track_pitch(wave, 16000), strict=True))


def test_bad_range():
    for fmin, fmax in ((40, 500), (500, 60), (60, 2000)):
        with pytest.raises(MerLabError, match="pitch range"):
            track_pitch(np.ones(100), 16000, fmin=fmin, fmax=fmax)
        with pytest.raises(MerLabError, match="pitch range"):
            Prosody(fmin=fmin, fmax=fmax)


def test_energy_is_decibels_of_full_scale():
    sine = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
    assert energy_db(sine, 16000)[5:-5] == pytest.approx(-3.01, abs=0.05)
    wave = sing(contour(100, 200))
    assert energy_db(wave, 16000) - energy_db(wave / 10, 16000) == pytest.approx(20, abs=0.05)
    assert np.allclose(energy_db(np.zeros(1000), 16000), -80)
    assert np.allclose(energy_db(wave + 0.3, 16000), energy_db(wave, 16000), atol=0.01)


def test_prosody_columns():
    wave = sing(contour(100, 200))
    wave[10000:20000] = 0
    frames = Prosody()(wave)
    column = dict(zip(Prosody().names, frames.T, strict=True))
    f0, strength = track_pitch(wave, 16000)
    voiced = f0 > 0
    assert np.array_equal(column["voiced"] == 1, voiced)
    assert np.allclose(column["pitch"][voiced], 12 * np.log2(f0[voiced] / 100), atol=1e-4)
    assert not column["pitch"][~voiced].any() and np.array_equal(column["voicing"], strength)
    both = voiced[1:] & voiced[:-1]
    assert np.allclose(column["delta_pitch"][1:][both], np.diff(column["pitch"])[both], atol=1e-4)
    assert not column["delta_pitch"][1:][~both].any()
    assert np.allclose(column["delta_energy"][1:], np.diff(column["energy"]), atol=1e-4)
    assert np.abs(column["delta_pitch"]).max() < 2  # an onset is no leap


def test_interpolated_pitch():
    wave = sing(contour(100, 200))
    wave[10000:20000] = 0
    plain, filled = (Prosody(interpolate=x)(wave) for x in (False, True))
    voiced = plain[:, 1] == 1
    assert np.array_equal(plain[voiced, 0], filled[voiced, 0]) and np.array_equal(
        plain[:, 1:4], filled[:, 1:4]
    )
    gap = filled[np.flatnonzero(~voiced & (np.arange(len(voiced)) > 30) & (np.arange(len(voiced)) < 150)), 0]
    assert len(gap) > 40 and np.allclose(np.diff(gap, 2), 0, atol=1e-4)
    assert np.isfinite(Prosody(interpolate=True)(np.zeros(4000))).all()


def statistics(wave):
    return dict(zip(PROSODY_STATISTICS, prosody_statistics(Prosody()(wave)), strict=True))


def test_statistics_of_a_known_utterance():
    """Four syllables in two seconds, falling two semitones a second from 200 Hz."""
    t = np.arange(32000) / 16000
    wave = sing(200 * 2 ** (-2 * t / 12)) * (0.05 + np.sin(2 * np.pi * t) ** 2)
    s = statistics(wave)
    assert s["pitch_slope"] == pytest.approx(-2, abs=0.1)
    assert s["pitch_mean"] == pytest.approx(10, abs=0.3)  # 200 Hz is 12 semitones above 100, the middle 10
    assert s["pitch_range"] == pytest.approx(0.8 * 4, abs=0.3)
    assert s["pitch_speed"] == pytest.approx(2, abs=0.5)
    assert s["syllable_rate"] == pytest.approx(2, abs=0.1)
    assert s["duration"] == pytest.approx(2, abs=0.02)
    assert s["voiced_fraction"] > 0.9


def test_statistics_tell_emotions_cues_apart():
    base = statistics(sing(contour(120, 160), snr=30))
    assert statistics(sing(contour(180, 240), snr=30))["pitch_mean"] - base["pitch_mean"] == pytest.approx(
        7.02, abs=0.2
    )
    assert statistics(sing(contour(100, 190), snr=30))["pitch_range"] > 2 * base["pitch_range"]
    louder = statistics(2 * sing(contour(120, 160), snr=30))
    assert louder["energy_mean"] - base["energy_mean"] == pytest.approx(6.02, abs=0.05)
    assert louder["pitch_mean"] == pytest.approx(base["pitch_mean"], abs=0.01)


@pytest.mark.parametrize("length", [1, 100, 16000])
def test_statistics_without_voice(length):
    values = prosody_statistics(Prosody()(np.zeros(length)))
    assert values.shape == (len(PROSODY_STATISTICS),) and values.dtype == np.float32
    assert np.isfinite(values).all()
    named = dict(zip(PROSODY_STATISTICS, values, strict=True))
    assert named["voiced_fraction"] == 0 and named["pitch_mean"] == 0 and named["energy_mean"] == -80


def test_real_voices(shared_data):
    """RAVDESS: women speak higher than men, anger is louder and higher than calm."""

    def mean(actor, emotion):
        waves = [
            read_audio(shared_data / "ravdess" / f"03-01-{emotion}-01-{s}-01-{actor:02d}.flac")
            for s in ("01", "02")
        ]
        rows = np.stack([prosody_statistics(Prosody()(w)) for w in waves]).mean(0)
        return dict(zip(PROSODY_STATISTICS, rows, strict=True))

    calm, angry = ({a: mean(a, e) for a in range(1, 13)} for e in ("02", "05"))
    men, women = (np.mean([calm[a]["pitch_mean"] for a in range(first, 13, 2)]) for first in (1, 2))
    assert 0 < men < 6 and 10 < women < 16  # 100-140 Hz and 180-250 Hz
    higher = [angry[a]["pitch_mean"] > calm[a]["pitch_mean"] for a in calm]
    louder = [angry[a]["energy_voiced"] > calm[a]["energy_voiced"] for a in calm]
    assert np.mean(higher) > 0.8 and np.mean(louder) > 0.8
