"""Exercises of lesson 06."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.exercises.checking import Check, exercise
from mer_lab.models.layers import MultiHeadAttention, StatisticsPooling


@exercise("06.1", "Who asks, and whose padding?", "easy", 10)
def both_directions(answer, check: Check) -> None:
    """``answer(attend_a, attend_t, A (U, Ta, D), T (U, Tt, D), frames, words)`` → ``CMA_a, CMA_t``."""
    torch.manual_seed(0)
    A, T = torch.randn(2, 4, 3), torch.randn(2, 4, 3)  # as many words as frames: no shape helps
    frames, words = (torch.arange(4) < torch.tensor([[4], [n]]) for n in (3, 2))

    def attend_a(query, key, mask):
        return _attend(query, key, mask, 1.0)

    def attend_t(query, key, mask):
        return _attend(query, key, mask, 3.0)

    found = check.run(answer, attend_a, attend_t, A, T, frames, words)
    check.equal(
        found, np.zeros((2, 2, 4, 3)),
        "two answers are expected, CMA_a and CMA_t, and neither is NaN.", atol=1e9,
    )  # fmt: skip
    found = np.stack([np.asarray(x) for x in found])
    expected = torch.stack([attend_a(A, T, words), attend_t(T, A, frames)]).numpy()
    check(
        not np.allclose(found[0], attend_a(A, A, frames), atol=1e-4),
        "each channel asks itself: that is self-attention, and the voice never meets the words; query and "
        "key must come from different channels.",
    )
    check(
        not np.allclose(found, expected[::-1], atol=1e-4),
        "CMA_a and CMA_t have changed places: they are named after who asks, so CMA_a has one vector a "
        "frame.",
    )
    check(
        not np.allclose(found[0], attend_t(A, T, words), atol=1e-4)
        and not np.allclose(found[1], attend_a(T, A, frames), atol=1e-4),
        "one attention does both: attend_a has learnt what frames ask words and attend_t what words ask "
        "frames, so each takes its own direction.",
    )
    check.equal(
        found, expected,
        "your mask is that of the asker: what must get no weight is padding among the keys, so the mask goes "
        "with them.", atol=1e-4,
    )  # fmt: skip


def _attend(query: Tensor, key: Tensor, mask: Tensor, sharpness: float) -> Tensor:
    score = sharpness * query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    return score.masked_fill(~mask[:, None], float("-inf")).softmax(-1) @ key


@exercise("06.2", "Mean and spread, whatever the padding", "medium", 20)
def statistics(answer, check: Check) -> None:
    """``answer(x (U, T, D), mask (U, T))`` → ``(U, 2 D)``, mean and deviation over the real frames."""
    torch.manual_seed(0)
    x, mask = torch.randn(3, 6, 2), torch.arange(6) < torch.tensor([[6], [4], [2]])
    x = x.masked_fill(~mask[..., None], 0.0)
    real = [frames[m].double() for frames, m in zip(x, mask, strict=True)]
    mean, std = (np.array([f(frames) for frames in real]) for f in (_mean, _deviation))

    found = check.run(answer, x, mask)
    check.equal(
        found, np.zeros((3, 4)),
        "two frames are enough for a mean and a deviation, and yours are NaN.", atol=1e9,
    )  # fmt: skip
    check.equal(
        found[:, :2], mean,
        "your mean counts the padding: zeros in it add nothing to the sum but are counted all the same, so "
        "divide by the number of real frames.", atol=1e-4,
    )  # fmt: skip
    sample = std * np.sqrt([[6 / 5], [4 / 3], [2 / 1]])
    check(
        not np.allclose(found[:, 2:], sample, atol=0.02),
        "you divide the squares by N − 1, which is for guessing the spread of a population from a sample: "
        "here the frames are all there are, and of a single one it would make 0/0.",
    )
    check.equal(
        found[:, 2:], std,
        "your deviation counts the padding: a 0 in it is far from the mean, so the same recording becomes "
        "livelier with every frame of padding; only real frames may add a square.", atol=0.02,
    )  # fmt: skip
    broken = x.masked_fill(~mask[..., None], float("nan"))
    check.equal(
        check.run(answer, broken, mask), found,
        "NaN in the padding gets out: NaN times 0 is NaN, so choose the real frames (torch.where, "
        "masked_fill) instead of multiplying.", atol=1e-4,
    )  # fmt: skip
    check.equal(
        check.run(answer, x + 10_000, mask)[:, 2:], std,
        "far from zero your deviation drowns in rounding: mean(x²) − mean(x)² takes two huge numbers from "
        "each other; take the mean away first, then square.", atol=0.05,
    )  # fmt: skip
    calm = torch.ones(2, 6, 2, requires_grad=True)

    def slope():
        answer(calm * 1.0, torch.ones(2, 6, dtype=torch.bool)).sum().backward()
        return calm.grad

    check(
        bool(check.run(slope).isfinite().all()),
        "where the voice never changes your gradient is NaN, and one step spreads it to every weight: the "
        "square root has an infinite slope at 0, so add a small number under the root, before it is taken.",
    )
    check(
        np.isfinite(np.asarray(check.run(answer, x, torch.zeros_like(mask)))).all(),
        "of an utterance without a real frame you make 0/0, and one broken file spoils the whole batch: "
        "divide by 1 at least.",
    )


def _mean(frames: Tensor) -> list[float]:
    return [sum(column.tolist()) / len(column) for column in frames.T]


def _deviation(frames: Tensor) -> list[float]:
    centre = _mean(frames)
    squares = [[(v - m) ** 2 for v in column.tolist()] for column, m in zip(frames.T, centre, strict=True)]
    return [(sum(s) / len(s)) ** 0.5 for s in squares]


class Blind(nn.Module):
    """Krishna's equations and no more: both directions, statistics, a linear classifier; no places."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.attend_a, self.attend_t = MultiHeadAttention(width, 2), MultiHeadAttention(width, 2)
        self.pool, self.classify = StatisticsPooling(), nn.Linear(4 * width, classes)

    def forward(self, A: Tensor, T: Tensor) -> Tensor:
        """One utterance, frames ``(Ta, D)`` and words ``(Tt, D)``, to logits ``(classes,)``."""
        A, T = A[None], T[None]
        frames, words = (torch.ones(x.shape[:2], dtype=torch.bool) for x in (A, T))
        cma_a, cma_t = self.attend_a(A, T, words).vector, self.attend_t(T, A, frames).vector
        return self.classify(torch.cat([self.pool(cma_a, frames), self.pool(cma_t, words)], -1))[0]


def blind(seed: int = 0) -> Blind:
    """A :class:`Blind` with random weights that leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Blind().eval()


@exercise("06.3", "Another utterance, the same answer", "medium", 12)
def twin(answer, check: Check) -> None:
    """``answer(A (Ta, D))`` → frames ``(Ta', D)``, Ta' other than Ta, the same to a system without places."""
    torch.manual_seed(0)
    A, T = torch.randn(6, 8), torch.randn(4, 8)
    other = check.run(answer, A)
    check(
        np.shape(other)[1:] == (8,),
        "a frame is a row of D numbers and must stay one: change how many frames there are, not what they "
        "hold.",
    )
    check(
        len(other) != len(A),
        "as many frames as before: that a shuffle goes unnoticed the lesson has proved, and a shuffle is not "
        "all; find an utterance of another length.",
    )
    other = torch.as_tensor(other, dtype=torch.float32)
    check(
        not (other == 0).all(-1).any(),
        "frames of zeros are not padding: only the mask makes padding, and to a softmax a zero vector is a "
        "key like any other, with a score of its own.",
    )
    system = blind()
    with torch.no_grad():
        moved = float((system(other, T) - system(A, T)).abs().max())
    check(
        moved < 1e-4,
        f"a logit moves by {moved:.2g}, so the system notices: a softmax and a mean do not see how many "
        "frames there are, but they do see each frame's share of them, and yours have changed their shares.",
    )


@exercise("06.4", "Mend the heads", "hard", 25)
def attention(answer, check: Check) -> None:
    """``answer(q (U, Tq, D), k, v (U, Tk, D), mask (U, Tk), heads)`` → answers ``(U, Tq, D)`` and weights."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 6), torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    mask = torch.arange(5) < torch.tensor([[5], [3]])

    def ask(q, k, v, mask, heads):
        found = check.run(answer, q, k, v, mask, heads)
        shapes = [q.shape, (len(q), heads, q.shape[1], k.shape[1])]
        pair = isinstance(found, tuple | list) and [np.shape(x) for x in found] == shapes
        check(pair, "two things are expected, the answers (U, Tq, D) and the weights (U, heads, Tq, Tk).")
        return found

    _, alpha = ask(q, k, v, mask, 1)
    check.equal(
        alpha[1, :, :, 3:], np.zeros((1, 4, 2)),
        "a score times 0 is 0, and that is not a low score but a middling one: padding still gets its e^0; "
        "its score must be −∞, or very low.",
    )  # fmt: skip
    every = torch.ones_like(mask)
    changed = q.clone()
    changed[:, 1:] += 1.0
    check.equal(
        ask(changed, k, v, every, 2)[1][:, :, 0], ask(q, k, v, every, 2)[1][:, :, 0],
        "the first query's weights change with the other queries: your reshape cuts heads out of time, so a "
        "head holds pieces of several steps; cut the last axis in two, then move the heads forward.",
        atol=1e-4,
    )  # fmt: skip
    answers, alpha = ask(q, k, v, mask, 2)
    expected, weights = _torch_attention(q, k, v, mask, 2)
    flat = _torch_attention(q / 2**0.5, k, v, mask, 2)[1]
    check(
        not np.allclose(alpha, flat, atol=1e-4),
        "you divide by √D, but a head adds up only d = D / heads products: the more heads, the flatter yours "
        "would look; divide by √d.",
    )
    check.equal(
        alpha, weights,
        "your heads share the numbers out otherwise than PyTorch, and its weights could not be loaded: head "
        "h takes d numbers in a row, from h·d on, and divides by √d.", atol=1e-4,
    )  # fmt: skip
    check.equal(
        answers, expected,
        "the weights are right and the answers are not: a plain reshape puts heads together across steps; "
        "move the heads back beside their numbers before you join them.", atol=1e-4,
    )  # fmt: skip
    nothing = ask(q, k, v, torch.zeros_like(mask), 2)
    check(
        all(np.isfinite(np.asarray(x)).all() for x in nothing),
        "an utterance without a real key makes NaN of all that it touches: softmax of nothing but −∞ is 0/0, "
        "so give no weight to anything there.",
    )


def _torch_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> tuple[np.ndarray, ...]:
    """``nn.MultiheadAttention`` whose projections leave everything as it is."""
    D = q.shape[-1]
    theirs = nn.MultiheadAttention(D, heads, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.eye(D).repeat(3, 1))
        theirs.out_proj.weight.copy_(torch.eye(D))
        answers, weights = theirs(q, k, v, key_padding_mask=~mask, average_attn_weights=False)
    return answers.numpy(), weights.numpy()
