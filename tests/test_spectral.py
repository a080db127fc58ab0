"""Log mel, MFCC and the 34 descriptors: parity with definitions written out frame by frame."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct
from torchaudio.functional import melscale_fbanks

from mer_lab.errors import MerLabError
from mer_lab.features import MFCC, LogMel, LowLevel34, Prosody

EXTRACTORS = [
    LogMel(),
    LogMel(64, 0.032, 0.016),
    MFCC(),
    MFCC(40),
    LowLevel34(),
    LowLevel34(0.005),
    Prosody(),
]
EPS = 2.220446049250313e-16


def voice(seconds=0.6, rate=16000, seed=0):
    """A buzz with a falling pitch, a pause, and some noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(150 - 40 * t) / rate
    wave = sum(np.sin(k * phase + k) / k for k in range(1, 30))
    wave[len(t) // 3 : len(t) // 2] *= 0.001
    return (0.1 * wave + 0.003 * rng.standard_normal(len(t)) + 0.01).astype(np.float32)


def entropy_of_tenths(values):
    size = len(values) // 10
    total = sum(values)
    shares = [sum(values[k * size : (k + 1) * size]) / (total + EPS) for k in range(10)]
    return -sum(s * math.log2(s + EPS) for s in shares)


def naive_descriptors(x, spectrum, before, rate):
    """The 34 numbers of one frame, spelled out from the definitions."""
    n = len(spectrum)
    signs = [int(v > 0) - int(v < 0) for v in x]
    zcr = sum(abs(a - b) for a, b in zip(signs[1:], signs[:-1], strict=True)) / 2 / (len(x) - 1)
    peak = max(spectrum) or EPS
    hz = [(k + 1) * rate / (2 * n) for k in range(n)]
    mass = sum(spectrum) / peak + EPS
    centroid = sum(f * m / peak for f, m in zip(hz, spectrum, strict=True)) / mass
    spread = math.sqrt(sum((f - centroid) ** 2 * m / peak for f, m in zip(hz, spectrum, strict=True)) / mass)
    now, then = sum(spectrum) + n * EPS, sum(before) + n * EPS
    flux = sum((a / now - b / then) ** 2 for a, b in zip(spectrum, before, strict=True))
    power = [m * m for m in spectrum]
    rolloff, reached = 0, power[0] + EPS
    while reached <= 0.9 * sum(power):
        rolloff += 1
        reached += power[rolloff]

    edges = [133.33 + 200 / 3 * k for k in range(13)]
    for k in range(1, 30):
        edges.append(edges[12] * 1.0711703**k)
    bands = []
    for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
        height, total = 2 / (high - low), 0.0
        for k in range(n):
            f = k * rate / n
            if math.floor(low * n / rate) < k <= math.floor(mid * n / rate):
                total += spectrum[k] * height * (f - low) / (mid - low)
            elif math.floor(mid * n / rate) < k <= math.floor(high * n / rate):
                total += spectrum[k] * height * (high - f) / (high - mid)
        bands.append(math.log10(total + EPS))
    mfcc = dct(np.array(bands), norm="ortho")[:13]

    number = [int(np.round(12 * math.log2(f / 27.5))) for f in hz]
    count = [number.count(v) for v in number]
    line = [0.0] * n
    for k in range(n):
        line[number[k]] = power[k]  # later bins overwrite earlier ones
    line = [v / count[number[k]] for k, v in enumerate(line)]
    chroma = [sum(line[k::12]) / (sum(power) or EPS) for k in range(12)]
    head = [zcr, sum(v * v for v in x) / len(x), entropy_of_tenths([v * v for v in x])]
    head += [centroid / (rate / 2), spread / (rate / 2), entropy_of_tenths(power), flux, rolloff / n]
    return [*head, *mfcc, *chroma, np.std(chroma)]


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_lowlevel34_is_the_definition(rate):
    wave = voice(0.12, rate)
    extractor = LowLevel34(rate=rate)
    got = extractor(wave)
    signal = wave.astype(float) - wave.astype(float).mean()
    signal /= np.abs(signal).max() + 1e-10
    width, hop = round(0.02 * rate), round(0.01 * rate)
    padded = np.concatenate([np.zeros(width // 2), signal, np.zeros(width)])
    half = width // 2
    spectra = []
    for t in range(len(got)):
        x = padded[t * hop : t * hop + width]
        spectra.append(np.abs(np.fft.fft(x))[:half] / half)
        expected = naive_descriptors(x, spectra[-1], spectra[max(t - 1, 0)], rate)
        assert np.allclose(got[t], expected, rtol=2e-5, atol=2e-6), (
            t,
            np.array(extractor.names)[~np.isclose(got[t], expected, rtol=2e-5, atol=2e-6)],
        )


def test_lowlevel34_order():
    names = LowLevel34().names
    assert names[:8] == [
        "zcr", "energy", "energy_entropy", "spectral_centroid", "spectral_spread", "spectral_entropy",
        "spectral_flux", "spectral_rolloff",
    ]  # fmt: skip
    assert names[8:21] == [f"mfcc_{k}" for k in range(1, 14)]
    assert names[21:] == [*(f"chroma_{k}" for k in range(1, 13)), "chroma_std"]


def test_lowlevel34_loudness_is_a_choice():
    wave = voice()
    assert np.allclose(LowLevel34()(wave), LowLevel34()(wave / 8), atol=1e-4)
    keep = LowLevel34(peak_normalise=False)
    assert np.allclose(keep(wave)[:, 1], 64 * keep(wave / 8)[:, 1], rtol=1e-4)


def test_lowlevel34_hears_what_it_should():
    t = np.arange(16000) / 16000
    a440 = LowLevel34()(np.sin(2 * np.pi * 450 * t))[10]  # bin 9 counts as 10, 500 Hz: B
    by_name = dict(zip(LowLevel34().names, a440, strict=True))
    assert by_name["zcr"] == pytest.approx(2 * 450 / 16000, abs=0.005)
    assert by_name["energy"] == pytest.approx(0.5, abs=0.01)
    assert max(range(1, 13), key=lambda k: by_name[f"chroma_{k}"]) == 3
    noise = LowLevel34()(np.random.default_rng(0).standard_normal(16000))[1:-1].mean(0)
    assert noise[3] == pytest.approx(0.5, abs=0.02) and noise[7] == pytest.approx(0.9, abs=0.02)
    assert noise[5] > 3.0  # of at most log2(10) = 3.32 bits


def test_logmel_matches_a_loop_over_frames():
    wave = voice()
    got = LogMel()(wave)
    bands = melscale_fbanks(257, 0.0, 8000.0, 40, 16000, mel_scale="slaney").numpy().astype(float)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.concatenate([np.zeros(200), wave, np.zeros(400)])
    for t in range(len(got)):
        power = np.abs(np.fft.rfft(padded[t * 160 : t * 160 + 400] * window, 512)) ** 2
        assert np.allclose(got[t], np.log(power @ bands + 1e-6), atol=2e-3)


def test_mfcc_is_the_cosine_transform_of_logmel():
    wave = voice()
    assert np.allclose(MFCC(40)(wave), dct(LogMel()(wave), norm="ortho", axis=1), atol=1e-3)
    assert np.allclose(MFCC(13)(wave), MFCC(40)(wave)[:, :13], atol=1e-5)


def test_logmel_band_and_loudness():
    t = np.arange(16000) / 16000
    low, high = (LogMel()(np.sin(2 * np.pi * f * t).astype(np.float32))[50].argmax() for f in (200, 3000))
    assert low < high
    wave = voice()
    louder = LogMel()(2 * wave) - LogMel()(wave)
    assert louder[LogMel()(wave) > 0].mean() == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: f"{e.name}-{len(e.names)}-{e.hop}")
class TestEveryExtractor:
    def test_shape(self, extractor):
        wave = voice()
        out = extractor(wave)
        assert out.dtype == np.float32
        assert out.shape == (1 + len(wave) // round(extractor.hop * 16000), len(extractor.names))
        assert np.isfinite(out).all() and extractor.channel == "audio"
        assert len(set(extractor.names)) == len(extractor.names)

    @pytest.mark.parametrize("length", [1, 2, 79, 160, 161, 399, 401])
    def test_short(self, extractor, length):
        out = extractor(np.full(length, 0.3, np.float32))
        assert len(out) == 1 + length // round(extractor.hop * 16000) and np.isfinite(out).all()

    def test_silence(self, extractor):
        out = extractor(np.zeros(4000, np.float32))
        assert np.isfinite(out).all() and np.ptp(out, axis=0).max() < 1e-4

    def test_input_untouched_and_repeatable(self, extractor):
        wave = voice()
        before = wave.copy()
        first = extractor(wave)
        extractor(voice(seed=1)[:3000])
        assert np.array_equal(extractor(wave), first) and np.array_equal(wave, before)
        assert np.allclose(extractor(wave[::-1].copy()[::-1]), first)

    def test_refuses(self, extractor):
        for bad in (np.zeros(0), np.zeros((2, 100)), np.array([0.1, np.nan]), np.array([np.inf])):
            with pytest.raises(MerLabError):
                extractor(bad)

    def test_click_is_at_its_time(self, extractor):
        wave = np.zeros(16000, np.float32)
        wave[8000] = 1.0  # at 0.5 s
        column = {"prosody": "energy", "logmel": "mel_20", "mfcc": "mfcc_0", "lowlevel34": "energy"}
        values = extractor(wave)[:, extractor.names.index(column[extractor.name])]
        peaks = np.flatnonzero(values > values.min() + 0.9 * np.ptp(values))
        assert peaks.mean() * extractor.hop == pytest.approx(0.5, abs=0.51 * extractor.hop)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.sampled_from([1e-30, 1e-6, 1.0, 1e4]), st.integers(0, 9))
def test_always_finite(length, scale, seed):
    wave = scale * np.random.default_rng(seed).standard_normal(length)
    for extractor in (LogMel(), MFCC(), LowLevel34(), Prosody()):
        assert np.isfinite(extractor(wave)).all()


def test_bad_settings():
    with pytest.raises(MerLabError, match="whole number"):
        LogMel(hop=0.01001)
    with pytest.raises(MerLabError, match="n_mfcc"):
        MFCC(41, 40)
    with pytest.raises(MerLabError, match="rate"):
        LowLevel34(rate=8000)
    with pytest.warns(UserWarning), pytest.raises(MerLabError, match="bands"):
        LogMel(n_mels=300)


def test_threads_change_nothing():
    wave = voice()
    many = LogMel()(wave)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert np.allclose(LogMel()(wave), many, atol=1e-5)
    finally:
        torch.set_num_threads(before)
