"""Exercises of lesson 02."""

from __future__ import annotations

import numpy as np
import torch

from mer_lab.exercises.checking import Check, exercise


@exercise("02.1", "Say when each frame is", "easy", 10)
def frame_times(answer, check: Check) -> None:
    """``answer(samples, rate, window, hop, padded)`` → the centre of each frame ``(T,)`` in seconds."""
    ours = np.asarray(check.run(answer, 1600, 16000, 400, 160, True))
    theirs = np.asarray(check.run(answer, 16000, 16000, 400, 320, False))
    check(
        ours.ndim == theirs.ndim == 1 and ours.size and theirs.size,
        "give one time for each frame, (T,): the number of frames follows from the samples.",
    )
    check(
        ours[-1] < 1,
        "your times are not in seconds: divide by the samples a second, so that every hop fits on one axis.",
    )
    check(
        not np.isclose(ours[0], 0.0125),
        "you centre the padded frames half a window late: silence was put in front of the wave, so that "
        "frame 0 has its centre at its first sample.",
    )
    check(
        len(ours) != 10,
        "you count the hops: ten of them fit, and there is one frame more, as a fence has one post more "
        "than gaps.",
    )
    check.equal(ours, np.arange(11) / 100, "frame t of a padded wave is centred at t times the hop.")
    check(
        not np.isclose(theirs[0], 0),
        "without padding you give where the frame begins: it looks at the whole window, and the middle of "
        "that is 12.5 ms later.",
    )
    check(
        len(theirs) < 50,
        "without padding you count frames that reach beyond the end: the last one must lie in the wave "
        "wholly.",
    )
    check.equal(
        theirs, 0.0125 + 0.02 * np.arange(49),
        "unpadded, frame t is centred at t hops and half a window.",
    )  # fmt: skip
    check.equal(
        np.shape(check.run(answer, 380, 16000, 400, 160, False)), (0,),
        "a wave that is shorter than the window holds no whole frame, and you give it one.",
    )  # fmt: skip


def _words(frames: np.ndarray, start: list[float], end: list[float], hop: float) -> np.ndarray:
    """Mean of the frames centred in each word, by a loop; of the frame nearest its middle, where none is."""
    rows = []
    for a, b in zip(start, end, strict=True):
        inside = [t for t in range(len(frames)) if a <= t * hop < b]
        nearest = min(range(len(frames)), key=lambda t: abs(t * hop - (a + b) / 2))
        rows.append(np.mean([frames[t] for t in inside or [nearest]], axis=0))
    return np.array(rows)


@exercise("02.2", "Pool the frames of each word", "medium", 15)
def pool_words(answer, check: Check) -> None:
    """``answer(frames (T, D), start (W,), end (W,), hop)`` → the mean frame of each word ``(W, D)``."""
    frames = np.random.default_rng(0).normal(size=(12, 3))
    hop, start, end = 0.25, [0.5, 1.25, 2.3], [1.25, 1.9, 2.7]

    def pooled(starts: list[float], ends: list[float]) -> np.ndarray:
        return np.asarray(check.run(answer, frames, np.array(starts), np.array(ends), hop))

    found, right = pooled(start, end), _words(frames, start, end, hop)
    check(
        found.shape == (3, 3),
        "there is one vector for each word, (W, D): take the mean over its frames and over nothing else.",
    )
    check(
        not np.allclose(found[0], frames[2:6].mean(0)),
        "the frame on the border of two words counts for both: it belongs to the word that begins there, so "
        "take start ≤ centre < end.",
    )
    check(
        not np.allclose(found[2], frames[9:11].mean(0)),
        "you round the start down, and so the word gets a frame whose centre lies before it: the first of "
        "its own is the next one.",
    )
    check(
        not np.allclose(found, [np.sum([f for t, f in enumerate(frames) if a <= t * hop < b], axis=0)
                                for a, b in zip(start, end, strict=True)]),
        "you add the frames up, and a long word then looks louder than a short one: take their mean.",
    )  # fmt: skip
    check.equal(
        found, right,
        "a word is the mean of the frames t whose centre t · hop lies in start ≤ centre < end.",
    )  # fmt: skip
    short = pooled([1.9, 1.05], [1.95, 1.1])
    check(
        np.isfinite(short).all(),
        "a word between two centres holds none, and the mean of nothing is NaN, which one batch later is in "
        "every weight: take the frame nearest to the word's middle.",
    )
    check.equal(
        short, frames[[8, 4]],
        "a word without a frame of its own gets another than the one that is nearest to its middle.",
    )  # fmt: skip
    check.equal(
        pooled([2.6, 2.9], [3.5, 3.1]), frames[[11, 11]],
        "a word that runs past the last frame, as aligners and extractors never end at one sample, needs "
        "that last frame.",
    )  # fmt: skip


@exercise("02.3", "Scale by the training split", "medium", 15)
def standardise(answer, check: Check) -> None:
    """``answer(train (U, T, D), its mask (U, T), frames (V, S, D), their mask (V, S))`` → ``(V, S, D)``."""
    torch.manual_seed(0)
    spread, level = torch.tensor([3.0, 0.5]), torch.tensor([20.0, -1.0])
    train = [torch.randn(t, 2) * spread * loud + level for t, loud in ((60, 1), (9, 4), (30, 0.5))]
    clips = [torch.randn(t, 2) * spread + level + 4 for t in (8, 5)]

    def padded(clips: list[torch.Tensor], more: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([len(clip) for clip in clips])
        block = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        block = torch.nn.functional.pad(block, (0, 0, 0, more))
        return block, torch.arange(block.shape[1]) < lengths[:, None]

    def scaled(clips: list[torch.Tensor], train: list[torch.Tensor] = train, more: int = 0) -> torch.Tensor:
        block, mask = padded(clips)
        result = check.run(answer, *padded(train, more), block, mask)
        check(
            tuple(getattr(result, "shape", ())) == tuple(block.shape),
            "return the block of clips, scaled and in its shape (V, S, D): training only lends its mean and "
            "deviation.",
        )
        return torch.as_tensor(result).float()

    found, frames = scaled(clips), torch.cat(train)
    check(
        (found[0].mean(0).abs() > 1e-3).all(),
        "you scale each clip by itself, and who shouts is then as loud as who whispers: take mean and "
        "deviation from the training split.",
    )
    check(
        torch.allclose(found[1, :5], scaled(clips[1:])[0], atol=1e-4),
        "a clip gets other numbers in other company: what you measure on the clips to be scaled leaks from "
        "one to the next, so measure on training alone.",
    )
    check(
        torch.allclose(found[0], scaled(clips, more=50)[0], atol=1e-4),
        "you count the padding of training as frames: the more there is of it, the nearer your mean is to 0.",
    )
    check(
        not torch.allclose(found[0], (clips[0] - frames.mean()) / frames.std(), atol=0.05),
        "you scale all columns by one mean and one deviation, and hertz and decibels have little in common: "
        "each column has its own.",
    )
    check(
        not (found[1, 5:].abs() > 1e-6).any(),
        "padding does not stay 0: behind the shorter clip now stands minus mean over deviation, which looks "
        "like a sound.",
    )
    check.equal(
        found[0], (clips[0] - frames.mean(0)) / frames.std(0),
        "mean and deviation are over all real frames of training, each counting once, whether its clip is "
        "long or short.", atol=0.05,
    )  # fmt: skip
    flat = [torch.cat([clip, torch.full((len(clip), 1), 7.0)], 1) for clip in (*train, *clips)]
    check(
        scaled(flat[3:], flat[:3])[0, :, 2].abs().max() < 1e-3,
        "a column that never changes in training has no deviation, and you divide by it: guard it, so that "
        "such a column becomes 0.",
    )


def _voice(hertz: float, octave: float = 0.0) -> np.ndarray:
    """40 ms of a voice in a little noise, at 16000 Hz; ``octave`` is added to its second harmonic."""
    time = np.arange(640) / 16000
    strength = [1.0, 0.5 + octave, *(1 / k**1.5 for k in range(3, 9))]
    tone = sum(a * np.sin(2 * np.pi * k * hertz * time + k) for k, a in enumerate(strength, 1))
    return 0.1 * tone / tone.std() + 0.002 * np.random.default_rng(0).standard_normal(640)


@exercise("02.4", "Mend the octaves", "hard", 25)
def pitch(answer, check: Check) -> None:
    """``answer(frame (N,), rate, fmin, fmax)`` → its pitch in Hz; 0 where no lag correlates by 0.5."""

    def off(hertz: float, frame: np.ndarray) -> float:
        """Semitones above the planted pitch."""
        found = float(check.run(answer, frame, 16000, 60.0, 500.0))
        return 12 * np.log2(found / hertz) if found > 0 else np.nan

    check(
        np.ndim(check.run(answer, _voice(200), 16000, 60.0, 500.0)) == 0,
        "return one number for one frame, its pitch in Hz.",
    )
    check(
        not abs(off(80, _voice(200))) < 0.5,
        "you return the best lag, which is a period in samples: the pitch is the samples a second divided "
        "by it.",
    )
    high = [220.5, 290.0, 333.0, 450.0]
    errors = np.array([off(hertz, _voice(hertz)) for hertz in high])
    check(
        not (errors < -6).any(),
        "you take the lag that fits best, and two periods fit as well as one: a little noise then decides "
        "for an octave too low; among hills of nearly equal height take the first.",
    )
    low = [70.0, 105.0, 160.0]
    strong = np.array([off(hertz, _voice(hertz, octave=1.0)) for hertz in low])
    check(
        not (strong > 6).any(),
        "you take the first hill, and in a voice with a strong second harmonic half a period makes a hill "
        "as well, only a lower one: ask for nearly the height of the best.",
    )
    plain = np.array([off(hertz, _voice(hertz)) for hertz in low])
    check(
        not (np.abs(np.r_[plain, errors] - 2) < 1.5).any(),
        "you stop on the slope: the first lag that is high enough stands before the top of its hill, so go "
        "on to the top.",
    )
    check.equal(
        np.abs(np.r_[plain, strong, errors]) < 0.5, [True] * 10,
        "within the range of lags from rate / fmax to rate / fmin the pitch of some voice is not found to "
        "half a semitone.",
    )  # fmt: skip
    check(
        abs(off(105, _voice(105) + 1)) < 0.5,
        "a constant offset, which many microphones have, changes your pitch: correlate, which subtracts the "
        "mean, and do not only multiply.",
    )
    check(
        abs(off(105, 1e-3 * _voice(105))) < 0.5,
        "whether there is a pitch depends on loudness in your code: compare a correlation, which has no "
        "unit, with 0.5.",
    )
    noise = np.random.default_rng(1).standard_normal((5, 640))
    check(
        np.isnan([off(100, frame) for frame in noise]).all(),
        "you hear a pitch in noise: some lag is always the best, so ask that its correlation be 0.5 or more.",
    )
    check(
        check.run(answer, np.zeros(640), 16000, 60.0, 500.0) == 0,
        "silence has no pitch, and its correlation is 0/0: NaN is never above or below a threshold, so look "
        "for it first.",
    )
