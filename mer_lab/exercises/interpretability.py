"""Exercises of lesson 10."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from mer_lab.exercises.checking import Check, array, exercise


@exercise("10.1", "Play the pointing game fairly", "easy", 10)
def pointing(answer, check: Check) -> None:
    """``answer(scores (B, K), decides (B, K), real (B, K))`` → of each explanation 0 to 1, ``(B,)``."""
    real = np.ones((3, 4), bool)
    scores = np.array([[0.1, 0.9, 0.3, 0.2], [0.7, 0.2, 0.4, 0.1], [0.2, 0.3, 0.1, 0.8]])
    decides = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], bool)
    found = check.run(answer, scores, decides, real)
    check(np.shape(found) == (3,), "give one number an utterance, (B,): intervals over dialogues need each.")
    check.equal(
        found,
        [1, 0, 1],
        "the game asks one thing only, whether the unit with the largest attribution is among those that "
        "decide: how many decide, or where the others rank, does not count.",
    )
    check.equal(
        check.run(answer, scores * [1, 1, 1, -2], decides, real),
        [1, 0, 0],
        "you take the largest absolute value: a unit that speaks strongly against the decision does not "
        "carry it.",
    )
    padded = np.array([[-0.5, -0.2, 0.0, 0.0]])
    check.equal(
        check.run(answer, padded, np.array([[0, 1, 0, 0]], bool), padded != 0),
        [1],
        "padding wins where all that is real speaks against the decision, because 0 is more than a negative "
        "number: look among real units only.",
    )
    flat, last = np.full((1, 4), 0.25), np.array([[0, 0, 0, 1]], bool)
    both = [check.run(answer, flat, decides, real[:1])[0] for decides in (last, last[:, ::-1].copy())]
    check(
        np.isclose(*(float(x) for x in both)),
        "a map that is the same everywhere gets another score when the deciding word moves: argmax takes the "
        "first of equals, so a map that knows nothing names the first word.",
    )
    check.equal(
        both[0],
        0.25,
        "of several largest the share that decides is the score: a map that is the same everywhere is at "
        "chance, neither right nor wrong.",
    )


@exercise("10.2", "Mend an occlusion", "medium", 20)
def occlusion(answer, check: Check) -> None:
    """``answer(f, audio (Ta, Da), text (Tt, Dt), no_audio, no_text, step)`` → ``(S,)`` and ``(Tt,)``.

    ``f(audio (B, Ta, Da), text (B, Tt, Dt))`` → margins ``(B,)``.
    """
    torch.manual_seed(0)
    audio, text = torch.randn(7, 2), torch.randn(3, 4)
    nothing = torch.zeros_like(audio), torch.zeros_like(text)
    a, w = torch.randn(7, 2), torch.randn(3, 4)

    def additive(audio: Tensor, text: Tensor) -> Tensor:
        return (audio * a).sum((1, 2)) + (text * w).sum((1, 2)) + 3

    def together(audio: Tensor, text: Tensor) -> Tensor:
        return torch.tanh(additive(audio, text) / 4) + audio[:, :, 0].mean(1) * text[:, :, 0].amax(1)

    found = check.run(answer, additive, audio, text, *nothing, 3)
    check(
        isinstance(found, tuple | list) and len(found) == 2, "give two results: of the spans, of the words."
    )
    spans, words = found
    check(
        np.shape(spans) == (3,) and np.shape(words) == (3,),
        "there must be one number for each span and word: 7 frames in steps of 3 are 3 spans, the last of 1 "
        "frame.",
    )
    by_span = torch.stack([(audio * a)[k : k + 3].sum() for k in (0, 3, 6)])
    by_word = (text * w).sum(1)
    spans, words = (torch.as_tensor(x, dtype=torch.float) for x in (spans, words))
    check(
        not torch.allclose(words, by_span + by_word, atol=1e-4)
        and not torch.allclose(words / 4, by_span + by_word, atol=1e-4),
        "word k and span k are taken away together: captum reads equal numbers in the masks of two inputs as "
        "one unit, so let the words begin where the spans end.",
    )
    check(
        not torch.allclose(words, 4 * by_word, atol=1e-4),
        "each unit counts as often as it has numbers: captum writes a unit's value at every number that "
        "belongs to it, so read it once and do not add.",
    )
    check(
        not torch.allclose(words, -by_word, atol=1e-4),
        "your signs are turned round: what speaks for the decision is lost when it goes, so take f(x) minus "
        "f without it.",
    )
    check(
        not torch.allclose(words, by_word + 3, atol=1e-4),
        "you keep one unit and take all others away: occlusion takes away one and keeps the others.",
    )
    check.equal(words, by_word, "the numbers of the words are not what is lost without each.", atol=1e-4)
    check.equal(spans, by_span, "the numbers of the spans are not what is lost without each.", atol=1e-4)
    expected = _occluded(together, audio, text, *nothing, 3)
    spans, words = check.run(answer, together, audio, text, *nothing, 3)
    check.equal(
        words,
        expected[1],
        "what you took away stays away: put each unit back before the next one goes. Where a system only "
        "adds, both are the same.",
        atol=1e-4,
    )
    start = torch.randn_like(audio), torch.randn_like(text)
    spans, words = check.run(answer, together, audio, text, *start, 3)
    check.equal(
        spans,
        _occluded(together, audio, text, *start, 3)[0],
        "you take away by writing zeros: what is absent is at the baseline, which is seldom zero.",
        atol=1e-4,
    )


@exercise("10.3", "Choose a baseline for a voice", "medium", 15)
def voice_baseline(answer, check: Check) -> None:
    """``answer(wave (B, N), real (B, N), seed)`` → where integrated gradients start, ``(B, N)``."""
    rng = np.random.default_rng(0)
    t = np.arange(4000)
    voice = np.exp(-(t % 115) / 12) * np.sin(0.56 * t) * (t % 2000 < 1300)  # pulses, in two syllables
    voice += 0.01 * rng.standard_normal(4000)
    wave = torch.tensor(np.stack([voice, 0.02 * voice, 0.3 * voice]), dtype=torch.float)
    real = torch.ones(3, 4000, dtype=torch.bool)
    real[2, 1000:] = False
    wave = wave * real
    start = check.run(answer, wave, real, seed=0)
    check(array(start).shape == (3, 4000), "the baseline must have the shape of the wave, (B, N).")
    start = torch.as_tensor(start, dtype=torch.float)
    alike = [abs(np.corrcoef(start[0], w)[0, 1]) for w in (wave[0], wave[0].flip(0)) if start[0].std() > 0]
    check(
        max(alike, default=0) < 0.3,
        "your baseline still says it: it has the course of the voice, and louder, softer, backwards or "
        "upside down it is no absence.",
    )
    error = max(_completeness_error(_normalising, wave[:1], start[:1], steps) for steps in (16, 32))
    check(
        error < 0.1,
        f"from your baseline the attributions miss the change by {error:.0%}: in silence, or nearly, all "
        "of the change is one jump at the start, since this encoder divides by the loudness of what it "
        "hears.",
    )
    check(
        abs(start[0].mean()) < 0.1 * start[0].std(),
        "your noise pushes in one direction: torch.rand draws from 0 to 1, and sound swings about 0.",
    )
    loudness = [float(row[kept].square().mean().sqrt()) for row, kept in zip(start, real, strict=True)]
    wanted = [float(row[kept].square().mean().sqrt()) for row, kept in zip(wave, real, strict=True)]
    check(
        loudness[0] > 10 * loudness[1],
        "one loudness for all utterances: the second voice is 50 times softer than the first, and so must "
        "its noise be.",
    )
    check.equal(
        np.divide(loudness, wanted)[:2],
        [1, 1],
        "your noise is not as loud as the voice: loudness is the root of the mean square.",
        atol=0.06,
    )
    check.equal(
        loudness[2] / wanted[2],
        1,
        "your mean square counts padding, which makes a short voice too soft: take real samples only.",
        atol=0.1,
    )
    check(
        not start[~real].any(),
        "there is noise in the padding: where no voice was none is absent, so leave zeros there.",
    )
    check.equal(
        check.run(answer, wave, real, seed=0),
        start,
        "the same utterance gets another baseline, and another explanation, on each call: draw from the "
        "seed.",
    )


@exercise("10.4", "Find another map with the same answer", "hard", 25)
def other_map(answer, check: Check) -> None:
    """``answer(weights (T,), values (T, D), real (T,))`` → weights ``(T,)`` that pass on the same vector.

    The step that had the largest weight must have as little as possible.
    """
    rng = np.random.default_rng(0)
    real = np.arange(14) < 12
    values = rng.standard_normal((14, 4))
    weights = np.where(real, np.exp(rng.standard_normal(14)), 0)
    weights[3] = weights.max() + 3
    weights /= weights.sum()
    found = check.run(answer, weights, values, real)
    check(array(found).shape == (14,), "give one weight for each step, (T,).")
    found = array(found)
    check(
        np.isclose(found.sum(), 1, atol=1e-4),
        "your weights do not sum to 1: no softmax gives them, so they are no other map.",
    )
    check(
        (found >= -1e-5).all(),
        "you have negative weights, and attention has none: without that limit any map could be replaced.",
    )
    check(
        np.abs(found[~real]).max() < 1e-5,
        "padding gets weight, and no word or frame stands there: keep its weights at 0.",
    )
    check(
        np.allclose(found @ values, weights @ values, atol=1e-4),
        "the vector that is passed on has changed, and so may the decision: of the new weights not only the "
        "sum must stay but the weighted mean of the values.",
    )
    check(
        np.abs(found - weights).max() > 0.01,
        "that is the same map: twelve steps and five sums that must stay leave seven directions to move in.",
    )
    few = np.arange(14) < 4
    first = weights * few / (weights * few).sum()
    check.equal(
        check.run(answer, first, values, few),
        first,
        "four steps of four numbers each allow one map only, and you give another: where nothing can "
        "move, give the weights back.",
        atol=1e-3,
    )
    check(
        found[3] < _least(weights, values, real) + 1e-3,
        "the step of the largest weight could have less: you went as far as one direction leads, and the "
        "limits of all weights together allow more.",
    )


def _occluded(f, audio: Tensor, text: Tensor, no_audio: Tensor, no_text: Tensor, step: int) -> tuple:
    """What is lost without each span and each word, one by one."""

    def lost(x: Tensor, empty: Tensor, first: int, last: int, ask) -> float:
        changed = x.clone()
        changed[first:last] = empty[first:last]
        return float(f(audio[None], text[None]) - ask(changed[None]))

    spans = [
        lost(audio, no_audio, k, k + step, lambda x: f(x, text[None])) for k in range(0, len(audio), step)
    ]
    words = [lost(text, no_text, k, k + 1, lambda x: f(audio[None], x)) for k in range(len(text))]
    return spans, words


def _normalising(x: Tensor) -> Tensor:
    """A made-up encoder that normalises loudness, and a decision on its output, as in the lesson."""
    x = x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-6)
    return x[..., ::2].clamp(min=0).mean(-1)


def _completeness_error(f, x: Tensor, start: Tensor, steps: int) -> float:
    """Share of the change that integrated gradients miss (midpoint rule)."""
    total = torch.zeros_like(x)
    for k in range(steps):
        point = (start + (k + 0.5) / steps * (x - start)).requires_grad_()
        total += torch.autograd.grad(f(point).sum(), point)[0] / steps
    change = float(f(x) - f(start))
    return abs(float(((x - start) * total).sum()) - change) / max(abs(change), 1e-9)


def _least(weights: np.ndarray, values: np.ndarray, real: np.ndarray) -> float:
    """The least weight of the step that has the largest, by linear programming."""
    largest = int(weights.argmax())
    kept = np.vstack([values[real].T, np.ones(real.sum())])
    cost = np.eye(len(weights))[largest][real]
    return float(linprog(cost, A_eq=kept, b_eq=kept @ weights[real], bounds=(0, None)).fun)
