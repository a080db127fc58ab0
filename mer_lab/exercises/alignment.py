"""Exercises of lesson 05."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mer_lab.exercises.checking import Check, exercise
from mer_lab.models.alignment import AdditiveAlignment
from mer_lab.timing import alignment_error


@exercise("05.1", "Mask a softmax", "easy", 10)
def masked_softmax(answer, check: Check) -> None:
    """``answer(scores (U, Tt, Ta), mask (U, Ta))`` → weights ``(U, Tt, Ta)``, over the frames."""
    torch.manual_seed(0)
    scores, mask = torch.randn(2, 3, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    weights = check.run(answer, scores, mask)
    check.equal(weights, np.zeros((2, 3, 5)), "there must be one weight for each word and frame.", atol=1e9)
    check(
        not np.allclose(weights.sum(1), 1, atol=1e-4),
        "your softmax runs over words, not frames: each word's weights must sum to 1, so softmax over the "
        "last axis.",
    )
    check.equal(
        weights[1, :, 3:], np.zeros((3, 2)),
        "frames that are only padding get weight: their score must be −∞ before the softmax.",
    )  # fmt: skip
    check.equal(
        weights.sum(-1), np.ones((2, 3)),
        "the weights of a word do not sum to 1: mask the scores before the softmax, not the weights after "
        "it.",
        atol=1e-4,
    )  # fmt: skip
    loud = scores.clone()
    loud[1, :, 3:] = 1e4
    check.equal(
        check.run(answer, loud, mask), weights,
        "what stands in the padding changes the weights of real frames; it must count as if it were not "
        "there.",
    )  # fmt: skip
    nothing = check.run(answer, scores, torch.zeros_like(mask))
    check(
        not np.isnan(np.asarray(nothing)).any(),
        "where every frame is padding your weights are NaN: softmax of nothing but −∞ is 0/0, so give zeros "
        "there.",
    )
    check.equal(
        nothing, np.zeros((2, 3, 5)),
        "where every frame is padding your words listen to it, all frames alike: equal scores, however low, "
        "share the weight, so give zeros there.",
    )  # fmt: skip


@exercise("05.2", "How far must a score reach?", "medium", 12)
def needed_bound(answer, check: Check) -> None:
    """``answer(n, N, share)`` → the least c ≥ 0 with which ``c tanh(...)`` can give n frames the share."""
    n, N, share = 5, 95, 0.9
    c = check.run(answer, n, N, share)
    check.equal(c, 0.0, "c must be one number, and the logarithm of a negative one is none.", atol=1e9)
    c, least = float(c), float(np.log(share * N / ((1 - share) * n)) / 2)
    check(
        not np.isclose(c, 2 * least, atol=1e-3),
        "you leave the unwanted frames at a score of 0: the worst that c tanh can say is −c, so wanted and "
        "unwanted lie 2c apart.",
    )
    check(
        not np.isclose(c, np.log(share * (N - n) / ((1 - share) * n)) / 2, atol=1e-3),
        "you take N for all frames: as in the lesson it counts the others only, and there are n + N.",
    )
    check.equal(
        _share(n, N, c), share,
        f"with scores of +c and −c a softmax gives the wanted frames {100 * _share(n, N, c):.1f} % where 90 "
        "% were asked: solve n e^c / (n e^c + N e^−c) = share for c, with the natural logarithm.", atol=1e-3,
    )  # fmt: skip
    check.equal(
        check.run(answer, 50, 50, 0.3), 0.0,
        "where equal weights already give more than the share no reach is needed, and a negative c would "
        "turn away from the word: the least is then 0.",
    )  # fmt: skip


def _share(n: int, N: int, c: float) -> float:
    scores = torch.tensor([c] * n + [-c] * N, dtype=torch.float64)
    return float(scores.softmax(0)[:n].sum())


@exercise("05.3", "How many milliseconds off?", "medium", 15)
def distance_to_span(answer, check: Check) -> None:
    """``answer(alpha (Tt, steps), start (Tt,), end (Tt,), hop, stride)`` → ms ``(Tt,)``, centre to span."""
    hop, stride = 0.02, 4
    alpha = torch.tensor([
        [0.5, 0.3, 0.2, 0.0, 0.0, 0.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.0], [0.1, 0.1, 0.1, 0.1, 0.1, 0.5],
    ])  # fmt: skip
    start, end = torch.tensor([0.05, 0.16, 0.37]), torch.tensor([0.14, 0.22, 0.47])
    first = hop * (stride - 1) / 2
    truth = alignment_error(alpha.numpy(), start.numpy(), end.numpy(), hop * stride, first)
    expected = truth["error"].to_numpy()

    def otherwise(step, first, column="error"):
        return alignment_error(alpha.numpy(), start.numpy(), end.numpy(), step, first)[column].to_numpy()

    found = check.run(answer, alpha, start, end, hop, stride)
    check.equal(found, np.zeros(3), "every word must get one distance, a number.", atol=1e9)
    found = np.asarray(found, float)
    check(
        not np.allclose(1000 * found, expected, atol=0.1),
        "you answer in seconds: times, spans and hop are in seconds, and the distance is asked in "
        "milliseconds.",
    )
    check(
        not np.allclose(found, truth["peak_error"], atol=0.1),
        "you measure the peak, the one frame with the most weight: the centre of mass is the mean of all "
        "times, each with its weight.",
    )
    check(
        not any(np.allclose(found, otherwise(hop, f), atol=0.1) for f in (0.0, first)),
        "you count a step as a frame: a step of the attention is the mean of `stride` frames, so steps are "
        "hop · stride apart.",
    )
    check(
        not np.allclose(found, otherwise(hop * stride, 0.0), atol=0.1),
        "your clock is early by half a step: the first step is the mean of frames 0 to stride − 1, so its "
        "time is the mean of theirs and not 0.",
    )
    check(
        abs(found[0]) < 0.1,
        "a centre within the word is no error at all: the distance is to the nearer end of the span, not to "
        "its middle, and 0 inside.",
    )
    check.equal(
        found, expected,
        "too early is as wrong as too late: a centre before the start counts start − centre, one after the "
        "end centre − end, and neither is negative.", atol=0.1,
    )  # fmt: skip


WORDS, FRAMES, REACH = 3, 4, 6.0  # words an utterance, frames a word, semitones either way


class Listener(nn.Module):
    """Alignment attention with ideal frames, each of which says to which word it belongs, beside its pitch.

    No recurrent network: a word goes on with its own vector and what it heard, ``[s~_j; h_j]``, through a
    hidden layer and the maximum over words. ``recurrent`` puts a BiLSTM over the frames, as in the lesson.
    """

    def __init__(self, recurrent: bool = False) -> None:
        super().__init__()
        width = 16 if recurrent else WORDS + 1
        self.hear = nn.LSTM(WORDS + 1, 8, batch_first=True, bidirectional=True) if recurrent else None
        self.align = AdditiveAlignment(WORDS, width, "interacting", hidden=16)
        self.hidden, self.classify = nn.Linear(width + WORDS, 32), nn.Linear(32, 2)

    def forward(self, pitch: torch.Tensor) -> torch.Tensor:  # (n, words, frames) -> (n, 2)
        words = torch.eye(WORDS).expand(len(pitch), -1, -1)
        s = torch.cat([words.repeat_interleave(FRAMES, 1), pitch.flatten(1)[..., None] / 3], -1)
        s = s if self.hear is None else self.hear(s)[0]
        heard, _ = self.align(words, s, torch.ones(s.shape[:2], dtype=torch.bool))
        return self.classify(self.hidden(torch.cat([heard, words], -1)).relu().amax(1))


def heard_of(cue, recurrent: bool = False, n: int = 384) -> float:
    """Accuracy on n new utterances of a :class:`Listener` trained on n utterances of a cue, noise added."""
    rng = np.random.default_rng(0)
    label = [rng.integers(2, size=n) for _ in range(2)]
    pitch = [torch.as_tensor(_noisy(cue.make(y, rng), rng), dtype=torch.float32) for y in label]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Listener(recurrent)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(pitch[0]), torch.as_tensor(label[0])).backward()
            optimiser.step()
    with torch.no_grad():
        return float((model(pitch[1]).argmax(1).numpy() == label[1]).mean())


def _noisy(pitch, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(pitch, float) + rng.normal(0, 0.5, np.shape(pitch))


@exercise("05.4", "A cue that alignment cannot hear", "hard", 25)
def unheard(answer, check: Check) -> None:
    """A class with ``make(label (n,), rng)`` → pitch ``(n, 3, 4)`` and ``read(pitch)`` → label."""
    rng = np.random.default_rng(1)
    cue, label = check.run(answer), rng.integers(2, size=400)
    pitch = check.run(getattr(cue, "make", None), label, rng)
    check.equal(
        pitch, np.zeros((400, WORDS, FRAMES)),
        "more than six semitones up or down is no voice: it would deafen the system instead of passing by "
        "it.",
        atol=REACH + 1e-6,
    )  # fmt: skip
    read = check.run(getattr(cue, "read", None), np.asarray(pitch, float))
    check.equal(read, np.full(400, 0.5), "your rule must give each utterance one label, 0 or 1.", atol=0.5)
    read = np.asarray(read)
    check.equal(
        (read == label).mean(), 1.0,
        f"your own rule reads only {100 * (read == label).mean():.0f} % of your cue: what nobody can read "
        "defeats nobody.",
        atol=0.05,
    )  # fmt: skip
    read = np.asarray(check.run(cue.read, _noisy(pitch, rng)))
    check(
        (read == label).mean() >= 0.95,
        "with half a semitone of noise, as any pitch tracker makes it, your rule reads "
        f"{100 * (read == label).mean():.0f} %: you have hidden the label below what can be heard.",
    )
    reached = heard_of(cue)
    check(
        reached <= 0.65,
        f"alignment hears it, {100 * reached:.0f} % of new utterances: each word finds its own frames, and "
        "its weights may depend on pitch, so which word is high and how far it moves both show in a "
        "weighted mean. What does any weighted mean forget?",
    )
