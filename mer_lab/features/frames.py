"""One time axis for all audio features: frame ``t`` is centred at ``t * hop`` seconds."""

from __future__ import annotations

import numpy as np

from mer_lab.errors import MerLabError


def check_wave(wave: np.ndarray) -> np.ndarray:
    """``wave`` as contiguous float32 ``(N,)``.

    Raises:
        MerLabError: it is not one channel, holds no sample, or holds NaN or infinity.
    """
    array = np.ascontiguousarray(wave, dtype=np.float32)
    if array.ndim != 1:
        raise MerLabError(f"a wave is one channel of shape (N,), not {array.shape}; average its channels.")
    if not len(array):
        raise MerLabError("the wave holds no sample; a feature needs at least one.")
    if not np.isfinite(array).all():
        raise MerLabError("the wave holds NaN or infinite samples; clean it first.")
    return array


def whole_samples(seconds: float, rate: int) -> int:
    """``seconds`` in samples at ``rate``.

    Raises:
        MerLabError: not a positive whole number of samples; frames would drift from ``t * hop``.
    """
    count = round(seconds * rate)
    if count < 1 or abs(count - seconds * rate) > 1e-6 * count:
        raise MerLabError(f"{seconds} s is not a whole number of samples at {rate} Hz; choose one that is.")
    return count


def frame_count(samples: int, hop: int) -> int:
    """Frames of a wave of ``samples`` samples, ``hop`` samples apart: at least one."""
    return 1 + samples // hop


def frames(wave: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Frames ``(T, window)`` of ``wave (N,)``, a view; the wave is continued by zeros on both sides."""
    padded = np.pad(wave, (window // 2, window))
    view = np.lib.stride_tricks.sliding_window_view(padded, window)
    return view[: frame_count(len(wave), hop) * hop : hop]
