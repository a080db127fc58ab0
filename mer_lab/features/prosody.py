"""How it was said: pitch, voicing and energy over time, and their summary for one utterance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mer_lab.audio import resample
from mer_lab.errors import MerLabError
from mer_lab.features.frames import check_wave, frame_count, whole_samples

REFERENCE_HZ = 100.0
"""Pitch 0 of :class:`Prosody`."""

PROSODY_NAMES = ("pitch", "voiced", "voicing", "energy", "delta_pitch", "delta_voicing", "delta_energy")
"""Columns of :class:`Prosody`."""

_SUMMARY = ("mean", "std", "p10", "p90", "range", "slope")
PROSODY_STATISTICS = (
    *(f"pitch_{s}" for s in _SUMMARY),
    "pitch_speed",  # mean of |change|, semitones per second
    *(f"energy_{s}" for s in _SUMMARY),
    *("energy_voiced", "voicing_mean", "voiced_fraction", "syllable_rate", "onset_rate", "duration"),
)
"""Names of what :func:`prosody_statistics` returns, in order."""

_RATE = 8000  # Hz; the pitch is tracked on the wave below 2 kHz, where harmonics are strong, sampled finely
_WINDOW = 240  # samples = 30 ms: two periods of a low voice
_CANDIDATES = 6
_BLOCK = 4096  # frames correlated at a time, to bound the memory

# Weights of the path search, in units of correlation (after Boersma 1993, tuned on synthetic glides).
_VOICED_ABOVE = 0.50  # a frame is voiced when its best candidate correlates more than this
_OCTAVE_COST = 0.04  # per octave of longer period: a periodic wave also repeats after 2, 3 ... periods
_JUMP_COST = 0.35  # per octave between two frames
_SWITCH_COST = 0.14  # between voiced and unvoiced
_SILENCE = 1e-12  # mean power (-120 dB): only rounding errors are left, and those can be periodic
_QUIET = 1e-4  # of the loudest frame's energy (-40 dB): there the correlation counts half


@dataclass(frozen=True)
class Prosody:
    """Pitch, voicing, energy and their changes: float32 ``(T, 7)``, see :data:`PROSODY_NAMES`.

    - ``pitch``: semitones above 100 Hz, 0 in unvoiced frames; with ``interpolate=True`` a straight line
      runs from the last voiced frame to the next, and the first and last values are held;
    - ``voiced``: 1 where the tracker found a pitch, else 0; ``voicing``: strength from 0 to 1;
    - ``energy``: dB relative to full scale, of 25 ms, from -80; not normalised per utterance, because
      loudness is a cue;
    - ``delta_...``: the change since the frame before, in the same units; that of the pitch is 0 unless
      both frames are voiced, so that an onset does not look like a leap.
    """

    hop: float = 0.010
    rate: int = 16000
    fmin: float = 60.0
    fmax: float = 500.0
    interpolate: bool = False

    name: ClassVar[str] = "prosody"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        _check_range(self.fmin, self.fmax)
        whole_samples(self.hop, self.rate)

    @property
    def names(self) -> list[str]:
        """The seven columns."""
        return list(PROSODY_NAMES)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        f0, voicing = track_pitch(wave, self.rate, self.hop, self.fmin, self.fmax)
        voiced = f0 > 0
        pitch = np.where(voiced, 12 * np.log2(np.where(voiced, f0, REFERENCE_HZ) / REFERENCE_HZ), 0.0)
        if self.interpolate and voiced.any():
            time = np.arange(len(pitch))
            pitch = np.interp(time, time[voiced], pitch[voiced])
        energy = energy_db(wave, self.rate, self.hop)
        delta_pitch = _change(pitch)
        if not self.interpolate:
            delta_pitch = np.where(voiced & np.append(False, voiced[:-1]), delta_pitch, 0.0)
        columns = [pitch, voiced, voicing, energy, delta_pitch, _change(voicing), _change(energy)]
        return np.stack(columns, axis=1).astype(np.float32)


def energy_db(wave: np.ndarray, rate: int, hop: float = 0.010) -> np.ndarray:
    """Mean power of 25 ms around each frame's centre in dB relative to full scale: float32 ``(T,)``.

    Digital silence is at -80 dB. At both ends the mean is over the samples that there are.
    """
    wave = check_wave(wave).astype(np.float64)
    step, half = whole_samples(hop, rate), max(1, round(0.0125 * rate))
    total = np.concatenate([[0.0], np.cumsum((wave - wave.mean()) ** 2)])
    centre = np.arange(frame_count(len(wave), step)) * step
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, len(wave))
    power = (total[high] - total[low]) / (high - low)
    return (10 * np.log10(power.clip(0) + 1e-8)).astype(np.float32)


def prosody_statistics(frames: np.ndarray, hop: float = 0.010) -> np.ndarray:
    """An utterance's prosody in numbers, from :class:`Prosody` frames ``(T, 7)``: float32 ``(S,)``.

    The values are named by :data:`PROSODY_STATISTICS`. Pitch is in semitones above 100 Hz over voiced
    frames, ``range`` is from the 10th to the 90th percentile, ``slope`` is per second, of the straight
    line that fits best. ``syllable_rate`` counts voiced peaks of the energy that stand out by 2 dB (after
    de Jong & Wempe 2009), ``onset_rate`` the beginnings of voicing, both per second. Without a voiced
    frame all pitch values are 0 and ``voiced_fraction`` says so.
    """
    columns = dict(zip(PROSODY_NAMES, np.asarray(frames, np.float64).T, strict=True))
    time = np.arange(len(frames)) * hop
    seconds = len(frames) * hop
    voiced = columns["voiced"] > 0.5
    energy = columns["energy"]
    from scipy.ndimage import uniform_filter1d  # slow to import, and the tracker does without
    from scipy.signal import find_peaks

    smooth = uniform_filter1d(energy, max(1, round(0.05 / hop)), mode="nearest")
    peaks, _ = find_peaks(smooth, prominence=2.0, distance=max(1, round(0.08 / hop)))
    onsets = (np.diff(voiced.astype(int), prepend=0) == 1).sum()
    values = [
        *_summary(time[voiced], columns["pitch"][voiced]),
        np.abs(columns["delta_pitch"][voiced]).mean() / hop if voiced.any() else 0.0,
        *_summary(time, energy),
        energy[voiced].mean() if voiced.any() else energy.mean(),
        columns["voicing"].mean(),
        voiced.mean(),
        voiced[peaks].sum() / seconds,
        onsets / seconds,
        seconds,
    ]
    return np.array(values, np.float32)


def _summary(time: np.ndarray, values: np.ndarray) -> list[float]:
    """Mean, standard deviation, 10th and 90th percentile, their distance, slope per second."""
    if not len(values):
        return [0.0] * 6
    low, high = np.percentile(values, [10, 90])
    spread = time - time.mean()
    slope = spread @ values / (spread @ spread) if len(values) > 1 else 0.0
    return [values.mean(), values.std(), low, high, high - low, slope]


def _change(x: np.ndarray) -> np.ndarray:
    return np.diff(x, prepend=x[:1])


def _check_range(fmin: float, fmax: float) -> None:
    if not 50 <= fmin < fmax <= 1000:
        raise MerLabError(f"pitch range {fmin}-{fmax} Hz: expected 50 <= fmin < fmax <= 1000.")


def track_pitch(
    wave: np.ndarray, rate: int, hop: float = 0.010, fmin: float = 60.0, fmax: float = 500.0
) -> tuple[np.ndarray, np.ndarray]:
    """Fundamental frequency and voicing strength of ``wave (N,)``, a frame every ``hop`` seconds.

    Each frame is compared with itself shifted by every lag from 1/fmax to 1/fmin (normalised
    cross-correlation, as in RAPT, Talkin 1995); the peaks, refined by a parabola, are candidate periods;
    the Viterbi path through candidates and "unvoiced" trades correlation against jumps (Boersma 1993).

    Returns:
        f0 in Hz, float32 ``(T,)``, 0 where unvoiced; strength float32 ``(T,)``, the correlation from 0 to 1
        at the chosen period (in unvoiced frames, at the best candidate). Both ignore the loudness of the
        whole, and ``T = 1 + N // hop samples``, frame ``t`` centred at ``t * hop``.

    Raises:
        MerLabError: an unusable wave or hop, or a range outside 50 <= fmin < fmax <= 1000.
    """
    wave = check_wave(wave)
    _check_range(fmin, fmax)
    step = whole_samples(hop, rate)
    count = frame_count(len(wave), step)
    shortest, longest = int(_RATE / fmax), int(np.ceil(_RATE / fmin))
    correlation = _correlation(wave, rate, np.arange(count) * step / rate, longest + 2)
    lag, strength = _candidates(correlation, shortest, longest)
    score = np.where(lag > 0, strength - _octave_cost(lag, shortest), -1.0)
    path = _best_path(score, np.log2(np.maximum(lag, 1)))
    best = score.argmax(1)
    voiced = path < score.shape[1]
    chosen = np.where(voiced, path, best)
    rows = np.arange(count)
    f0 = np.where(voiced, _RATE / np.maximum(lag[rows, chosen], 1), 0.0)
    f0 = np.where(voiced, f0.clip(fmin, fmax), 0.0)
    return f0.astype(np.float32), strength[rows, chosen].clip(0, 1).astype(np.float32)


def _correlation(wave: np.ndarray, rate: int, centres: np.ndarray, lags: int) -> np.ndarray:
    """Normalised cross-correlation ``(T, lags)`` of the frames centred at ``centres`` seconds."""
    low = torch.from_numpy(_below_2khz(wave - np.float32(wave.mean(dtype=np.float64)), rate))
    span = _WINDOW + lags
    # Lag L compares x[0:W] with x[L:L+W], whose common centre is (W + L) / 2: take L of a middling voice.
    start = torch.from_numpy(np.round(centres * _RATE)).long() - (_WINDOW + _RATE // 150) // 2
    low = torch.nn.functional.pad(low, (span, 2 * span))
    index = torch.arange(span)
    size = 1 << (span - 1).bit_length()
    products, energies = [], []
    for block in start.split(_BLOCK):
        x = low[(block[:, None] + span + index).clamp(max=len(low) - 1)]  # (B, span)
        x = x - x.mean(1, keepdim=True)
        spectrum = torch.fft.rfft(x, size)
        spectrum *= torch.fft.rfft(x[:, :_WINDOW], size).conj()
        products.append(torch.fft.irfft(spectrum, size)[:, :lags])  # sum over n of x[n] x[n + L]
        total = torch.nn.functional.pad(x.square().cumsum(1), (1, 0))
        energies.append(total[:, _WINDOW : _WINDOW + lags] - total[:, :lags])  # energy of x[L:L+W]
    product, energy = torch.cat(products), torch.cat(energies).clamp(min=0)
    loudest = float(energy[:, 0].max())
    if loudest < _SILENCE * _WINDOW:
        return np.zeros(product.shape, np.float32)
    return (product / ((energy[:, :1] * energy).sqrt() + _QUIET * loudest)).numpy()


def _below_2khz(wave: np.ndarray, rate: int) -> np.ndarray:
    """``wave`` at 8 kHz, without what lies above half of the band: there is more noise there than voice."""
    return resample(resample(wave, rate, 2 * _RATE), 2 * _RATE, _RATE, rolloff=0.5)


def _candidates(correlation: np.ndarray, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest peaks of each frame: lag in samples ``(T, K)``, 0 for none, and correlation ``(T, K)``."""
    r = torch.from_numpy(correlation)
    left, here, right = (r[:, shortest + k : longest + 1 + k] for k in (-1, 0, 1))
    peak = (here > left) & (here >= right) & (here > 0)
    cost = torch.from_numpy(_octave_cost(np.arange(shortest, longest + 1), shortest)).float()
    found, index = torch.where(peak, here - cost, -1.0).topk(_CANDIDATES, dim=1)
    left, value, right = (x.gather(1, index) for x in (left, here, right))
    slope, bend = (left - right) / 2, (left - 2 * value + right).clamp(max=-1e-9)
    shift = (slope / bend).clamp(-0.5, 0.5)  # the summit of the parabola through three points
    found = found > -1
    lag = torch.where(found, index + shortest + shift, 0.0)
    strength = torch.where(found, value - slope * shift / 2, 0.0)
    return lag.numpy().astype(np.float64), strength.numpy().astype(np.float64)


def _octave_cost(lag: np.ndarray, shortest: int) -> np.ndarray:
    return _OCTAVE_COST * np.log2(np.maximum(lag, shortest) / shortest)


def _best_path(score: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Viterbi path ``(T,)``: which candidate of ``score (T, K)`` each frame takes, K for unvoiced."""
    count, k = score.shape
    local = np.column_stack([score, np.full(count, _VOICED_ABOVE)])
    cost = np.full((count - 1, k + 1, k + 1), _SWITCH_COST)
    cost[:, :k, :k] = _JUMP_COST * np.abs(octave[:-1, :, None] - octave[1:, None, :])
    cost[:, k, k] = 0
    back = np.empty((count - 1, k + 1), np.int64)
    total, columns = local[0], np.arange(k + 1)
    for t in range(count - 1):
        arriving = total[:, None] - cost[t]
        back[t] = arriving.argmax(0)
        total = arriving[back[t], columns] + local[t + 1]
    path = np.empty(count, np.int64)
    path[-1] = total.argmax()
    for t in range(count - 1, 0, -1):
        path[t - 1] = back[t - 1, path[t]]
    return path
