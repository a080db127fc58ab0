"""Wrong answers to the exercises of lesson 02, each with words of the message that it must get."""

import numpy as np
import torch

# 02.1


def times(samples, rate, window, hop, padded, first=None, count=0, alone=0, least=0):
    """The right times, with one thing done another way: where frames begin, how many there are."""
    n = 1 + samples // hop + count if padded else max(least, 1 + (samples - window) // hop + alone)
    middle = 0 if padded else window / 2
    if first is not None:
        middle = first
    return (np.arange(max(n, 0)) * hop + middle) / rate


def half_hops(samples, rate, window, hop, padded):
    right = times(samples, rate, window, hop, padded)
    return right * 1.1 if padded else right


def late(samples, rate, window, hop, padded):
    right = times(samples, rate, window, hop, padded)
    return right if padded else right + hop / rate


# 02.2


def pool(frames, start, end, hop, first=np.ceil, last=np.ceil, of=np.mean, short="nearest", more=0):
    """The right pooling, with one thing done another way."""
    rows = []
    for a, b in zip(start, end, strict=True):
        inside = frames[int(first(a / hop)) : int(last(b / hop)) + more]
        if not len(inside) and short == "nearest":
            nearest = min(round((a + b) / 2 / hop), len(frames) - 1)
            inside = frames[nearest : nearest + 1]
        elif not len(inside) and short == "before":
            nearest = min(int(a / hop), len(frames) - 1)
            inside = frames[nearest : nearest + 1]
        elif not len(inside) and short == "unguarded":
            nearest = round((a + b) / 2 / hop)
            inside = frames[nearest : nearest + 1]
        with np.errstate(invalid="ignore"):
            rows.append(of(inside, axis=0) if len(inside) else np.full(frames.shape[1], np.nan))
    return np.stack(rows)


def one_number(frames, start, end, hop):
    return pool(frames, start, end, hop).mean(1)


# 02.3


def scale(train, train_mask, frames, mask, by=None, guard=1e-8, keep=True):
    """The right scaling, with one thing done another way: ``by`` gives the frames that are measured."""
    real = train[train_mask] if by is None else by(train, train_mask, frames, mask)
    result = (frames - real.mean(0)) / (real.std(0) + guard)
    return result * mask[..., None] if keep else result


def each_clip(train, train_mask, frames, mask):
    rows = [scale(clip[None], m[None], clip[None], m[None]) for clip, m in zip(frames, mask, strict=True)]
    return torch.cat(rows)


def one_for_all(train, train_mask, frames, mask):
    real = train[train_mask]
    return (frames - real.mean()) / real.std() * mask[..., None]


def mean_of_means(train, train_mask, frames, mask):
    means = torch.stack([clip[m].mean(0) for clip, m in zip(train, train_mask, strict=True)])
    return (frames - means.mean(0)) / train[train_mask].std(0) * mask[..., None]


# 02.4


def correlations(frame, rate, fmin, fmax, kind="correlation"):
    lags = np.arange(int(rate / fmax), int(rate / fmin) + 1)
    if kind == "products":
        power = (frame**2).mean()
        return lags, np.array([(frame[:-lag] * frame[lag:]).mean() / (power + 1e-12) for lag in lags])
    if kind == "loud":
        frame = frame - frame.mean()
        return lags, np.array([1000 * (frame[:-lag] * frame[lag:]).mean() for lag in lags])
    with np.errstate(invalid="ignore", divide="ignore"):
        return lags, np.array([np.corrcoef(frame[:-lag], frame[lag:])[0, 1] for lag in lags])


def tops(fit):
    """The hills: higher than on the left, not lower than on the right."""
    return np.array([k for k in range(1, len(fit) - 1) if fit[k - 1] < fit[k] >= fit[k + 1]], int)


def track(frame, rate, fmin, fmax, kind="correlation", choose="hill", least=0.5, silence=True):
    """The right pitch, with one thing done another way."""
    if silence and np.ptp(frame) == 0:
        return 0.0
    lags, fit = correlations(frame, rate, fmin, fmax, kind)
    if fit.max() < least:
        return 0.0
    if choose == "best":
        best = fit.argmax()
    elif choose == "slope":
        best = np.flatnonzero(fit >= 0.9 * fit.max())[0]
    elif choose == "first":
        hills = tops(fit)
        best = hills[fit[hills] > 0.2][0] if (fit[hills] > 0.2).any() else fit.argmax()
    else:
        hills = [k for k in tops(fit) if fit[k] >= 0.9 * fit.max()]
        best = hills[0] if hills else fit.argmax()
    return rate / lags[best]


MISTAKES = {
    "features.frame_times": [
        ("one time for each frame", lambda *a: len(times(*a))),
        ("not in seconds", lambda *a: times(*a) * a[1]),
        ("half a window late", lambda *a: times(*a, first=a[2] / 2)),
        ("count the hops", lambda *a: times(*a, count=-1)),
        ("t times the hop", half_hops),
        ("where the frame begins", lambda *a: times(*a, first=0)),
        ("reach beyond the end", lambda *a: times(*a, alone=1)),
        ("t hops and half a window", late),
        ("no whole frame", lambda *a: times(*a, least=1)),
    ],
    "features.pool_words": [
        ("one vector for each word", one_number),
        ("counts for both", lambda *a: pool(*a, more=1)),
        ("round the start down", lambda *a: pool(*a, first=np.floor)),
        ("add the frames up", lambda *a: pool(*a, of=np.sum)),
        ("a word is the mean", lambda *a: pool(*a, of=np.max)),
        ("the mean of nothing is NaN", lambda *a: pool(*a, short="none")),
        ("without a frame of its own", lambda *a: pool(*a, short="before")),
        ("past the last frame", lambda *a: pool(*a, short="unguarded")),
    ],
    "features.standardise": [
        ("in its shape", lambda train, train_mask, frames, mask: scale(train, train_mask, train, train_mask)),
        ("each clip by itself", each_clip),
        ("in other company", lambda *a: scale(*a, by=lambda t, tm, f, m: f[m])),
        ("in other company", lambda *a: scale(*a, by=lambda t, tm, f, m: torch.cat([t[tm], f[m]]))),
        ("padding of training as frames", lambda *a: scale(*a, by=lambda t, tm, f, m: t.flatten(0, 1))),
        ("all columns by one", one_for_all),
        ("padding does not stay 0", lambda *a: scale(*a, keep=False)),
        ("each counting once", mean_of_means),
        ("has no deviation", lambda *a: scale(*a, guard=0)),
    ],
    "features.pitch": [
        ("one number for one frame", lambda *a: (track(*a), 1.0)),
        ("a period in samples", lambda *a: a[1] / track(*a) if track(*a) else 0.0),
        ("two periods fit", lambda *a: track(*a, choose="best")),
        ("strong second harmonic", lambda *a: track(*a, choose="first")),
        ("stop on the slope", lambda *a: track(*a, choose="slope")),
        ("not found to half", lambda frame, rate, fmin, fmax: track(frame, rate, 100, fmax)),
        ("constant offset", lambda *a: track(*a, kind="products")),
        ("depends on loudness", lambda *a: track(*a, kind="loud")),
        ("a pitch in noise", lambda *a: track(*a, least=0)),
        ("silence has no pitch", lambda *a: track(*a, silence=False)),
    ],
}
