"""The wave, and what its spectrum says: log mel bands, cepstra, the 34 descriptors of Xu et al. 2019."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from scipy.fft import dct
from torchaudio.functional import create_dct, melscale_fbanks

from mer_lab.errors import MerLabError
from mer_lab.features.frames import check_wave, frames, whole_samples

_FLOOR = 1e-6  # power of a band in digital silence: some 30 dB below a quiet room, so log never runs away


@dataclass(frozen=True)
class Waveform:
    """The samples themselves ``(N, 1)`` at 16 kHz, for an encoder that learns with the system."""

    name: ClassVar[str] = "waveform"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"
    rate: ClassVar[int] = 16000
    hop: ClassVar[float] = 1 / 16000
    names: ClassVar[list[str]] = ["amplitude"]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return check_wave(wave)[:, None]


@dataclass(frozen=True)
class LogMel:
    """Natural logarithm of the power in ``n_mels`` mel bands: float32 ``(T, n_mels)``.

    Hann window of ``window`` seconds, a frame every ``hop`` seconds, triangular bands equally wide on
    the (Slaney) mel scale from 0 to half of ``rate``. Not normalised per utterance: loudness is a cue.
    """

    n_mels: int = 40
    window: float = 0.025
    hop: float = 0.010
    rate: int = 16000

    name: ClassVar[str] = "logmel"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        whole_samples(self.hop, self.rate)
        window = whole_samples(self.window, self.rate)
        empty = int((_mel_bands(self.n_mels, window, self.rate).sum(0) == 0).sum())
        if empty:
            raise MerLabError(
                f"{empty} of {self.n_mels} mel bands are narrower than one bin of a {self.window} s window; "
                "choose fewer bands or a longer window."
            )

    @property
    def names(self) -> list[str]:
        """``mel_1 ... mel_<n_mels>``, low to high."""
        return [f"mel_{k + 1}" for k in range(self.n_mels)]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        window, hop = whole_samples(self.window, self.rate), whole_samples(self.hop, self.rate)
        spectrum = torch.stft(
            torch.from_numpy(check_wave(wave)),
            n_fft=_fft_size(window),
            hop_length=hop,
            win_length=window,
            window=torch.hann_window(window),
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # (F, T)
        return (power.T @ _mel_bands(self.n_mels, window, self.rate) + _FLOOR).log().numpy()


@dataclass(frozen=True)
class MFCC:
    """Mel-frequency cepstral coefficients: the first ``n_mfcc`` terms of the cosine transform of
    :class:`LogMel`, float32 ``(T, n_mfcc)``; the first one, ``mfcc_0``, is the overall level."""

    n_mfcc: int = 13
    n_mels: int = 40
    window: float = 0.025
    hop: float = 0.010
    rate: int = 16000

    name: ClassVar[str] = "mfcc"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        if not 1 <= self.n_mfcc <= self.n_mels:
            raise MerLabError(f"n_mfcc = {self.n_mfcc} must lie between 1 and n_mels = {self.n_mels}.")
        self._log_mel()

    def _log_mel(self) -> LogMel:
        return LogMel(self.n_mels, self.window, self.hop, self.rate)

    @property
    def names(self) -> list[str]:
        """``mfcc_0 ... mfcc_<n_mfcc - 1>``."""
        return [f"mfcc_{k}" for k in range(self.n_mfcc)]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return self._log_mel()(wave) @ _cosines(self.n_mfcc, self.n_mels)


@dataclass(frozen=True)
class LowLevel34:
    """The 34 short-term descriptors of pyAudioAnalysis, the audio of Xu et al. 2019: float32 ``(T, 34)``.

    20 ms frames without a window function, every ``hop`` seconds (10 ms in the paper). Definitions and
    order are those of pyAudioAnalysis 0.3 ``ShortTermFeatures.py``, its oddities included, because the
    paper's numbers come from it; they are marked in the code. Two differences: frames are centred like
    all others of mer_lab (its frame ``t`` is our frame ``t + 1``), and ``peak_normalise=False`` keeps the
    loudness, which the original takes away by dividing each utterance by its largest sample.
    """

    hop: float = 0.010
    rate: int = 16000
    peak_normalise: bool = True

    name: ClassVar[str] = "lowlevel34"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"
    window: ClassVar[float] = 0.020

    def __post_init__(self) -> None:
        if self.rate < 16000:
            raise MerLabError(
                f"LowLevel34 needs a rate of at least 16000 Hz, not {self.rate}: its filters need "
                "the band up to 8000 Hz; let read_audio resample."
            )
        whole_samples(self.hop, self.rate)

    @property
    def names(self) -> list[str]:
        """The 34 names, in the order of pyAudioAnalysis."""
        spectral = [f"spectral_{s}" for s in ("centroid", "spread", "entropy", "flux", "rolloff")]
        cepstra = [f"mfcc_{k}" for k in range(1, 14)]
        chroma = [f"chroma_{k}" for k in range(1, 13)]
        return ["zcr", "energy", "energy_entropy", *spectral, *cepstra, *chroma, "chroma_std"]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        signal = check_wave(wave).astype(np.float64)
        signal -= signal.mean()
        if self.peak_normalise:
            signal /= np.abs(signal).max() + 1e-10
        x = frames(signal, round(self.window * self.rate), whole_samples(self.hop, self.rate))  # (T, W)
        bins = x.shape[1] // 2
        magnitude = np.abs(np.fft.rfft(x)[:, :bins]) / bins  # (T, bins), the bin at rate / 2 left out
        power = magnitude**2
        chroma = power @ _chroma_map(bins, self.rate) / _not_zero(power.sum(1, keepdims=True))
        columns = [
            np.abs(np.diff(np.sign(x))).sum(1) / 2 / (x.shape[1] - 1),
            (x**2).mean(1),
            _block_entropy(x**2),
            *_centroid_and_spread(magnitude),
            _block_entropy(power),
            _flux(magnitude),
            # share of the bins below 90 % of the energy; argmax finds the first bin above
            (power.cumsum(1) + _EPS > 0.9 * power.sum(1, keepdims=True)).argmax(1) / bins,
            *dct(np.log10(magnitude @ _talkbox_bands(bins, self.rate) + _EPS), norm="ortho")[:, :13].T,
            *chroma.T,
            chroma.std(1),
        ]
        return np.stack(columns, axis=1).astype(np.float32)


_EPS = np.finfo(np.float64).eps


def _not_zero(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, _EPS, x)


def _block_entropy(energy: np.ndarray, blocks: int = 10) -> np.ndarray:
    """Entropy in bits ``(T,)`` of how ``energy (T, W)`` spreads over ten blocks of a frame.

    The remainder that fills no block counts in the total but in no block, as in the original.
    """
    size = energy.shape[1] // blocks
    total = energy.sum(1, keepdims=True) + _EPS
    share = energy[:, : size * blocks].reshape(-1, blocks, size).sum(2) / total
    return -(share * np.log2(share + _EPS)).sum(1)


def _centroid_and_spread(magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of frequency under the magnitude spectrum, in units of half the rate."""
    bins = magnitude.shape[1]
    frequency = np.arange(1, bins + 1) / bins  # oddity: bin k counts as k + 1
    weight = magnitude / _not_zero(magnitude.max(1, keepdims=True))
    total = weight.sum(1) + _EPS
    centroid = weight @ frequency / total
    return centroid, np.sqrt(((frequency - centroid[:, None]) ** 2 * weight).sum(1) / total)


def _flux(magnitude: np.ndarray) -> np.ndarray:
    """Squared distance between the spectra, each summing to 1, of a frame and the one before; 0 at first."""
    share = magnitude / (magnitude + _EPS).sum(1, keepdims=True)
    return (np.diff(share, axis=0, prepend=share[:1]) ** 2).sum(1)


@lru_cache(maxsize=8)
def _talkbox_bands(bins: int, rate: int) -> np.ndarray:
    """Weights ``(bins, 40)`` of the triangular filters: 13 equally spaced, then 27 by a constant ratio.

    Oddity: the ``bins`` bins span half the rate, but their frequencies are computed as if they spanned
    all of it, so the filters named 133-6854 Hz listen to 67-3427 Hz.
    """
    edges = 133.33 + np.arange(13) * 200 / 3
    edges = np.concatenate([edges, edges[-1] * 1.0711703 ** np.arange(1, 30)])
    frequency = np.arange(bins) / bins * rate
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    # The original chooses bins by their rounded index: strictly above an edge and up to the next one.
    index, floor = np.arange(bins), np.floor(edges * bins / rate)
    rising = (index > floor[:-2, None]) & (index <= floor[1:-1, None])
    falling = (index > floor[1:-1, None]) & (index <= floor[2:, None])
    bands = rising * (frequency - low) / (centre - low) + falling * (high - frequency) / (high - centre)
    return (bands * 2 / (high - low)).T


@lru_cache(maxsize=8)
def _chroma_map(bins: int, rate: int) -> np.ndarray:
    """Map ``(bins, 12)`` from the power spectrum to the pitch classes A, A#, ... G#.

    Oddities: bin k counts as k + 1; of the bins that share a semitone only the last is kept; and the
    sum is divided by the number of bins of another semitone (an index applied twice).
    """
    semitone = np.round(12 * np.log2(np.arange(1, bins + 1) * rate / (2 * bins) / 27.5)).astype(int)
    shared = np.array([(semitone == s).sum() for s in semitone])
    last = {int(s): k for k, s in enumerate(semitone)}
    weights = np.zeros((bins, 12))
    for s, k in last.items():
        weights[k, s % 12] = 1 / shared[semitone[s]]
    return weights


def _fft_size(window: int) -> int:
    return 1 << (window - 1).bit_length()


@lru_cache(maxsize=16)
def _mel_bands(n_mels: int, window: int, rate: int) -> torch.Tensor:
    """Triangular weights ``(F, n_mels)``."""
    return melscale_fbanks(_fft_size(window) // 2 + 1, 0.0, rate / 2, n_mels, rate, mel_scale="slaney")


@lru_cache(maxsize=16)
def _cosines(n_mfcc: int, n_mels: int) -> np.ndarray:
    """Orthonormal cosine transform ``(n_mels, n_mfcc)``."""
    return create_dct(n_mfcc, n_mels, norm="ortho").numpy()
