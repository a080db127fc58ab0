"""Exercises of lesson 09."""

from __future__ import annotations

import numpy as np

from mer_lab.calibration import fit_temperature, temper
from mer_lab.exercises.checking import Check, array, exercise


@exercise("09.1", "Report runs by validation's choice", "easy", 10)
def report(answer, check: Check) -> None:
    """``answer(validation (S, E), test (S, E))`` → mean over seeds, and spread, where validation is best."""
    validation, test = np.random.default_rng(1).random((2, 4, 6))
    chosen = test[np.arange(4), validation.argmax(1)]
    liked = validation.max(1).argmax()
    found = check.run(answer, validation, test)
    check(_holds(found, (2,)), "give two numbers: the mean over seeds, and their standard deviation.")
    mean, spread = array(found)
    check(
        not np.isclose(mean, [test.max(1).mean(), test.max()]).any(),
        "you choose the epoch by the test score, and then it is the score of the luckiest epoch: let "
        "validation choose, and read the test score there.",
    )
    check(
        not np.isclose(mean, [validation.max(1).mean(), validation.max()]).any(),
        "you report validation's own score, which is too high because it was the one to choose: report the "
        "test score of that epoch.",
    )
    check(
        not np.isclose(mean, [chosen.max(), chosen[liked]]).any(),
        "you report one seed, the best: a recipe's score is the mean over all its seeds, lucky or not.",
    )
    check(
        not np.isclose(mean, test[:, -1].mean()),
        "you report the last epoch: training went on after the best one, and what was kept is validation's "
        "choice.",
    )
    check(
        not np.isclose(mean, test[:, validation.mean(0).argmax()].mean()),
        "you choose one epoch for all seeds: each seed is a run of its own, kept where its own validation "
        "score is best.",
    )
    check.equal(
        mean, chosen.mean(), "your first number is not the mean over seeds of the chosen test scores."
    )
    check.equal(
        spread,
        chosen.std(ddof=1),
        "your spread is not the sample standard deviation: these seeds stand for all others, so divide by "
        "S − 1.",
    )
    tied = np.array([[0.5, 0.7, 0.7, 0.6], [0.4, 0.6, 0.5, 0.6]])
    check.equal(
        check.run(answer, tied, test[:2, :4])[0],
        test[:2, 1].mean(),
        "of equally good epochs you do not take the first: a later one is kept only where it is better.",
    )
    check(
        np.isnan(float(check.run(answer, validation[:1], test[:1])[1])),
        "one seed shows no spread, and that is not a spread of 0: give NaN there.",
    )


@exercise("09.2", "Correct for asking often", "medium", 15)
def holm(answer, check: Check) -> None:
    """``answer(p (m,))`` → Holm's adjusted p values ``(m,)``, in the order given."""
    p = np.array([0.04, 0.001, 0.2, 0.012, 0.03])
    found = check.run(answer, p)
    check(_holds(found, p.shape), "give one adjusted p value for each, (m,), and no verdict on all together.")
    found, expected = array(found), _holm(p)
    check(not np.allclose(found, p), "you leave the p values as they are: whoever asks five times must pay.")
    check(
        not np.allclose(found, np.minimum(5 * p, 1)),
        "you multiply every p value by m, which is Bonferroni's method: only the smallest stands against m "
        "hypotheses, the next against m − 1.",
    )
    check(
        not np.allclose(found, _step_up(p)),
        "that is Benjamini and Hochberg's method, which bounds the share of false findings among the "
        "findings; Holm's bounds the chance of a single one.",
    )
    check(
        np.allclose(found, expected) or not np.allclose(np.sort(found), np.sort(expected)),
        "you return the adjusted values in another order: put each back in the place of its own comparison.",
    )
    check(
        (np.diff(found[np.argsort(p)]) >= -1e-12).all(),
        "a larger p value gets a smaller adjusted one: where a comparison fails all after it fail too, so "
        "keep the largest product so far.",
    )
    check.equal(
        found, expected, "your factors are not m, m − 1, ..., 1, with the largest for the smallest p value."
    )
    check.equal(
        check.run(answer, np.array([0.6, 0.7])),
        [1.0, 1.0],
        "your adjusted values pass 1 and are no p values any more: cut them off there.",
    )


@exercise("09.3", "Cool a system that is too sure", "medium", 15)
def cooled(answer, check: Check) -> None:
    """``answer(validation (V, K), target (V,), test (U, K))`` → the test set's probabilities ``(U, K)``.

    Both arrays hold logits; a target of −1 means that there is no label.
    """
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((500, 4)) * 1.2
    target = np.array([rng.choice(4, p=p) for p in _softmax(honest[:400])])
    validation, test = 3 * honest[:400], 3 * honest[400:]  # as if the evidence were three times as strong
    found = check.run(answer, validation, target, test)
    check(_holds(found, test.shape), "give a probability for each test utterance and class, (U, K).")
    found, raw = array(found), _softmax(test)
    check(
        np.allclose(found.sum(1), 1, atol=1e-4),
        "your probabilities do not sum to 1: divide the logits by T before the softmax, not its result after "
        "it.",
    )
    check.equal(
        check.run(answer, validation, target, test[:30]),
        found[:30],
        "an utterance's probabilities change with the company of other test utterances: T comes from "
        "validation alone.",
        atol=1e-3,
    )
    check(
        (found.argmax(1) == raw.argmax(1)).all(),
        "you have changed answers: a temperature is one positive number for all classes, and cannot change "
        "which one leads.",
    )
    check(
        found.max(1).mean() < raw.max(1).mean() - 0.01,
        "a system that is too sure is no less sure after you: divide its logits by T > 1.",
    )
    check.equal(
        found,
        temper(raw, fit_temperature(_softmax(validation), target)),
        "another T makes validation's labels more likely: minimise the mean of −log p(label), and neither "
        "errors, which do not change with T, nor a calibration error in bins.",
        atol=0.01,
    )
    check.equal(
        check.run(answer, honest[:400] / 3, target, test),
        temper(raw, fit_temperature(_softmax(honest[:400] / 3), target)),
        "a system that is too timid stays timid with you: its T lies below 1, so search there too.",
        atol=0.01,
    )
    check.equal(
        check.run(answer, validation, np.where(np.arange(400) % 2, -1, target), test),
        temper(raw, fit_temperature(_softmax(validation[::2]), target[::2])),
        "you use utterances without a label: as an index −1 means the last class, so leave them out.",
        atol=0.01,
    )
    check.equal(
        check.run(answer, validation, target, test + 2000),
        found,
        "a constant added to all logits changes your result, which the softmax would not notice: subtract "
        "each row's maximum before exp.",
        atol=1e-3,
    )


@exercise("09.4", "Draw dialogues and seeds for a difference", "hard", 25)
def paired_interval(answer, check: Check) -> None:
    """``answer(hits_a (Sa, U), hits_b (Sb, U), dialogue (U,), n, seed)`` → low and high end of A − B."""
    rng = np.random.default_rng(0)
    dialogue, a, b = _conversations(rng, np.full(40, 20))
    found = check.run(answer, a, a, dialogue, n=200, seed=0)
    check(_holds(found, (2,)), "give two numbers, the low and the high end of the interval.")
    check(
        np.isfinite(array(found)).all(),
        "with one seed your ends are NaN: S − 1 = 0 seeds have no mean, so take the one that there is.",
    )
    check(
        np.allclose(array(found), 0),
        "a system seems to differ from itself: you draw other dialogues for B than for A. Both must answer "
        "the same ones, so that what is hard for both cancels.",
    )
    low, high = array(check.run(answer, a, b, dialogue, n=2000, seed=1))
    check(low <= high, "your low end lies above the high one: subtract B from A in each resample.")
    check(high - low > 1e-9, "every resample holds every dialogue once: draw with replacement.")
    share = (high - low) / _width(a[0], b[0], dialogue)
    check(
        share > 0.6,
        "your interval is too narrow: you draw utterances, as if they were independent. Those of a dialogue "
        "share speakers and mood, so draw whole dialogues.",
    )
    check(
        0.92 < share < 1.1,
        "your interval has not 95 %: 2.5 % of the resamples lie below its low end and 2.5 % above its high "
        "end, and a dialogue that is drawn twice counts twice.",
    )
    dialogue, a, b = _conversations(rng, np.repeat([40, 4], 12))
    long = np.isin(dialogue, [f"d{k:02d}" for k in range(12)])
    low, high = array(check.run(answer, long[None], 0 * b, dialogue, n=500, seed=2))
    check(
        low <= long.mean() <= high,
        "you average the dialogues' means, so a short one counts as much as a long: add up the hits and the "
        "utterances of all that were drawn, then divide.",
    )
    dialogue, _, b = _conversations(rng, np.full(40, 20))
    moody = np.stack([rng.random(800) < p for p in (0.2, 0.35, 0.5, 0.65, 0.8)])
    low, high = array(check.run(answer, moody, np.repeat(b, 5, axis=0), dialogue, n=500, seed=3))
    check(
        high - low > 0.25,
        "your interval does not know that the seeds of A lie 60 points apart: draw seeds too, in each "
        "resample anew.",
    )
    low, high = array(check.run(answer, moody, moody, dialogue, n=500, seed=4))
    check(
        high - low > 0.25,
        "you draw the same seeds for both: seed 0 of A has nothing to do with seed 0 of B, so draw for each "
        "on its own.",
    )


def _holds(found, shape: tuple[int, ...]) -> bool:
    """Whether it is numbers in that shape."""
    try:
        return array(found).shape == shape
    except (TypeError, ValueError, RuntimeError):
        return False


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _holm(p: np.ndarray) -> np.ndarray:
    """By the definition, from the smallest p value to the largest."""
    adjusted, largest = np.empty(len(p)), 0.0
    for place, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        largest = max(largest, (len(p) - place) * p[k])
        adjusted[k] = min(largest, 1.0)
    return adjusted


def _step_up(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's (1995) adjusted p values."""
    return np.array([min(1.0, *(len(p) * q / (p <= q).sum() for q in p if q >= own)) for own in p])


def _conversations(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of dialogues ``(U,)``, mixed, and hits ``(1, U)`` of two systems that are lucky by dialogue."""
    number = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    a, b = (rng.random((1, len(number))) < rng.random(len(sizes))[number] for _ in "ab")
    return np.array([f"d{k:02d}" for k in number]), a, b


def _width(a: np.ndarray, b: np.ndarray, dialogue: np.ndarray, n: int = 2000) -> float:
    """Width of the percentile interval of one seed each, by a loop over resamples."""
    members = [np.flatnonzero(dialogue == name) for name in sorted(set(dialogue))]
    gaps, sizes = np.array([[a[m].sum() - b[m].sum(), len(m)] for m in members], float).T
    rng, values = np.random.default_rng(5), []
    for _ in range(n):
        drawn = rng.integers(0, len(members), len(members))
        values.append(gaps[drawn].sum() / sizes[drawn].sum())
    return float(np.subtract(*np.quantile(values, [0.975, 0.025])))
