"""Exercises of lesson 04."""

from __future__ import annotations

import numpy as np
import torch

from mer_lab.corpora.staged import LABELS
from mer_lab.exercises.checking import Check, exercise


@exercise("04.1", "An emotion that nobody favours", "easy", 10)
def nobodys_favourite(answer, check: Check) -> None:
    """``answer()`` → ``p_t, p_a``, two decisions ``(4,)`` in the order of ``LABELS``."""
    found = check.run(answer)
    check.equal(found, np.full((2, 4), 0.5), "each number must be a probability, between 0 and 1.", atol=0.5)
    p_t, p_a = (np.asarray(p, float) for p in found)
    check.equal(
        [p_t.sum(), p_a.sum()], [1, 1],
        "each expert has one unit of probability to give away: the four numbers of each must sum to 1.",
        atol=1e-4,
    )  # fmt: skip
    check(
        (LABELS[p_t.argmax()], LABELS[p_a.argmax()]) == ("happy", "sad"),
        "the words alone must say happy and the voice alone sad: for the two together to say angry, "
        "neither of them has to favour it.",
    )
    check(
        LABELS[(p_t * p_a).argmax()] == "angry",
        "your product does not say angry: what wins a product is not to be loved but not to be forbidden, "
        "so let the words all but rule out sad, and the voice happy.",
    )
    check(
        LABELS[(p_t + p_a).argmax()] != "angry",
        "your mean says angry too, so here it is no compromise but the winner of the vote: give it less than "
        "half of what each expert gives its favourite.",
    )


@exercise("04.2", "Count the prior once", "easy", 10)
def product_rule(answer, check: Check) -> None:
    """``answer(log_t (U, C), log_a (U, C), prior (C,))`` → log-probabilities ``(U, C)`` of both together."""
    prior = torch.tensor([0.7, 0.1, 0.1, 0.1])
    nothing = prior.log()[None]
    found = check.run(answer, nothing, nothing, prior)
    check.equal(
        found, np.zeros((1, 4)),
        "your result is NaN: the experts speak in logarithms already, and a negative number has none.",
        atol=1e9,
    )  # fmt: skip
    odds = float(found[0][0] - found[0][1])  # log-odds of the frequent emotion against a rare one
    check(
        not np.isclose(odds, 2 * np.log(7), atol=1e-3),
        "two experts who know nothing but the prior make you surer of it: each brings the prior along, so it "
        "is counted twice; divide by it once.",
    )
    check(
        not np.isclose(odds, 0, atol=1e-3),
        "you take the prior out twice, and nobody remembers that some emotions are rare: two experts bring "
        "it twice, and once is right.",
    )
    torch.manual_seed(0)
    log_t, log_a = (torch.randn(5, 4).log_softmax(-1) for _ in range(2))
    found = check.run(answer, log_t, log_a, prior)
    check.equal(
        np.exp(np.asarray(found)).sum(-1), np.ones(5),
        "your probabilities do not sum to 1: a product of probabilities is none, so normalise over the "
        "classes.",
        atol=1e-4,
    )  # fmt: skip
    check.equal(
        found, _bayes(log_t, log_a, prior),
        "these are not the odds that follow from Bayes' rule for channels that are independent given the "
        "emotion: p_t(y) p_a(y) / p(y), a product where you may have a mean.", atol=1e-4,
    )  # fmt: skip
    far = torch.tensor([[-200.0, -201.0, -230.0, -240.0]])
    check.equal(
        check.run(answer, far, far, prior), _bayes(far, far, prior),
        "you left the logarithms on the way, where a very small probability is 0: add and subtract logs, and "
        "normalise by log_softmax.", atol=1e-3,
    )  # fmt: skip


def _bayes(log_t: torch.Tensor, log_a: torch.Tensor, prior: torch.Tensor) -> np.ndarray:
    rows = []
    for t, a in zip(log_t.double().numpy(), log_a.double().numpy(), strict=True):
        row = [t[y] + a[y] - np.log(float(prior[y])) for y in range(len(t))]
        rows.append([x - np.logaddexp.reduce(row) for x in row])
    return np.array(rows)


@exercise("04.3", "What is left when channels cannot meet", "medium", 20)
def additive_part(answer, check: Check) -> None:
    """``answer(ask, texts (N, Dt), voices (N, Da))`` → EMAP ``(N, C)``, where ``ask(t, a)`` gives logits."""
    torch.manual_seed(0)
    texts, voices = torch.randn(5, 2), torch.randn(5, 4)
    F, G, H, last = torch.randn(2, 3), torch.randn(4, 3), torch.randn(6, 8), torch.randn(8, 3)

    def added(t, a):
        return t @ F + a @ G + torch.tensor([2.0, 0.0, -1.0])

    def multiplied(t, a):
        return t[:, :1] * a[:, :1] * torch.ones(3)

    def network(t, a):
        return torch.tanh(torch.cat([t, a], -1) @ H + 1) @ last

    found = check.run(answer, added, texts, voices)
    own = added(texts, voices).numpy()
    check.equal(found, np.zeros((5, 3)), "there must be a number for each utterance and class.", atol=1e9)
    check(
        not np.allclose(found, own + _pairs(added, texts, voices).mean((0, 1)), atol=1e-4),
        "you count the model's mean twice, once with the text and once with the voice: take it away once.",
    )
    check(
        not np.allclose(found.sum(-1), 1, atol=1e-4),
        "you average probabilities: the softmax bends sums, so that not even a sum of two logits stays one; "
        "average the logits as they come.",
    )
    check.equal(
        found, own,
        "a model that only adds must come back as it was: for utterance i, average over all N voices, its "
        "own included, then over all N texts, then take the mean over all pairs away.", atol=1e-4,
    )  # fmt: skip
    centred = [x - x.mean(0) for x in (texts, voices)]
    check.equal(
        check.run(answer, multiplied, *centred), np.zeros((5, 3)),
        "your projection still knows which text met which voice: of a product of two centred numbers nothing "
        "is additive, so ask about all N² pairs and not only about the N that belong together.", atol=1e-4,
    )  # fmt: skip
    check.equal(
        check.run(answer, network, texts, voices), _nearest_sum(_pairs(network, texts, voices)),
        "this is a sum, but not the nearest: a silent or an average voice is no substitute for the average "
        "over answers to real voices.", atol=1e-4,
    )  # fmt: skip


def _pairs(ask, texts: torch.Tensor, voices: torch.Tensor) -> np.ndarray:
    return np.array([[ask(t[None], a[None])[0].numpy() for a in voices] for t in texts], float)


def _nearest_sum(pairs: np.ndarray) -> np.ndarray:
    """Least squares over all pairs, with one column for each text and one for each voice; its diagonal."""
    N = len(pairs)
    text, voice = np.divmod(np.arange(N * N), N)
    columns = np.hstack([np.eye(N)[text], np.eye(N)[voice]])  # (N N, 2 N)
    fitted = columns @ np.linalg.lstsq(columns, pairs.reshape(N * N, -1), rcond=None)[0]
    return fitted.reshape(pairs.shape)[np.arange(N), np.arange(N)]


@exercise("04.4", "Take a low-rank product apart", "hard", 25)
def four_parts(answer, check: Check) -> None:
    """``answer(a (U, Da), t (U, Dt), W_a (R, Da + 1, H), W_t (R, Dt + 1, H))`` → four parts ``(4, U, H)``."""
    torch.manual_seed(0)
    a, t, W_a, W_t = torch.randn(3, 2), torch.randn(3, 4), torch.randn(2, 3, 5), torch.randn(2, 5, 5)
    silent, empty = torch.zeros_like(a), torch.zeros_like(t)
    h = _low_rank(a, t, W_a, W_t)
    constant = _low_rank(silent, empty, W_a, W_t)
    voice, words = _low_rank(a, empty, W_a, W_t) - constant, _low_rank(silent, t, W_a, W_t) - constant
    expected = np.stack([constant, voice, words, h - voice - words - constant])

    found = check.run(answer, a, t, W_a, W_t)
    check.equal(found, np.zeros((4, 3, 5)), "all four parts must be numbers, (4, U, H).", atol=1e9)
    found = np.asarray(found, float)
    early = _low_rank(a, t, W_a.sum(0, keepdim=True), W_t.sum(0, keepdim=True))
    check(
        not np.allclose(found.sum(0), early, atol=1e-4),
        "you sum over the ranks before you multiply: a product of sums mixes each rank of the voice with all "
        "ranks of the words; multiply rank by rank, then sum.",
    )
    check(
        not np.allclose(found, expected[[0, 2, 1, 3]], atol=1e-4),
        "words and voice have changed places: the order is constant, voice, words, both, and a row of W_a "
        "other than its last belongs to the voice.",
    )
    check.equal(
        found[0], expected[0],
        "your constant is not what the layer says to two vectors of zeros: then only the two ones are left, "
        "and they meet the last row of W_a and of W_t.", atol=1e-4,
    )  # fmt: skip
    hushed = np.asarray(check.run(answer, silent, t, W_a, W_t), float)[1]
    muted = np.asarray(check.run(answer, a, empty, W_a, W_t), float)[2]
    check(
        np.allclose(hushed, 0, atol=1e-4) and np.allclose(muted, 0, atol=1e-4),
        "for a vector of zeros the part of that channel must be zero: you have counted the constant in it "
        "once more.",
    )
    voice = np.asarray(check.run(answer, a, t.flip(0), W_a, W_t), float)[1]
    words = np.asarray(check.run(answer, a.flip(0), t, W_a, W_t), float)[2]
    check(
        np.allclose(voice, found[1], atol=1e-4) and np.allclose(words, found[2], atol=1e-4),
        "what the voice says alone changes with the words, or the other way round: alone it meets only the "
        "1 of the other channel, so only the last row of the other factor.",
    )
    check.equal(
        found.sum(0), h,
        "the four parts must add up to h: is what both say together all that is left of the product?",
        atol=1e-4,
    )  # fmt: skip


def _low_rank(a: torch.Tensor, t: torch.Tensor, W_a: torch.Tensor, W_t: torch.Tensor) -> np.ndarray:
    """The layer through the full tensor that it never builds: ``(U, H)``."""
    tensor = torch.einsum("rdk,rek->dek", W_a, W_t)
    a, t = (torch.cat([x, torch.ones(len(x), 1)], -1) for x in (a, t))
    return torch.einsum("ud,ue,dek->uk", a, t, tensor).double().numpy()
