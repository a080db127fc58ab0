"""Wrong answers to the exercises of lesson 05, each with words of the message that it must get."""

import numpy as np
import torch

NEGATIVE = float("-inf")


def renormalised(scores, mask):
    weights = scores.softmax(-1) * mask[:, None]
    return weights / weights.sum(-1, keepdim=True)


def low_instead_of_infinite(scores, mask):
    return scores.masked_fill(~mask[:, None], -1e9).softmax(-1)


def bound(n, N, share):
    return np.log(share * N / ((1 - share) * n)) / 2


def centre(alpha, step, first):
    return alpha @ (first + step * torch.arange(alpha.shape[1]))


def to_span(at, start, end):
    return 1000 * torch.maximum(start - at, at - end).clamp(min=0)


def true_centre(alpha, hop, stride):
    return centre(alpha, hop * stride, hop * (stride - 1) / 2)


def peak(alpha, start, end, hop, stride):
    return to_span(hop * (stride - 1) / 2 + hop * stride * alpha.argmax(1), start, end)


class Cue:
    """Pitch of the words, one number each, the same in all its frames; read by its difference."""

    def make(self, label, rng):
        return np.repeat(self.words(label, rng)[..., None], 4, -1)


class Random(Cue):
    def words(self, label, rng):
        return rng.uniform(-3, 3, (len(label), 3))

    def read(self, pitch):
        return pitch.mean((1, 2)) > 0


class Shouted(Cue):
    def words(self, label, rng):
        return np.outer(2 * label - 1, [12, 12, 12])

    def read(self, pitch):
        return pitch.mean((1, 2)) > 0


class Whispered(Cue):
    def words(self, label, rng):
        return np.outer(2 * label - 1, [0.01, 0.01, 0.01])

    def read(self, pitch):
        return pitch.mean((1, 2)) > 0


class WhichWord(Cue):
    def words(self, label, rng):
        return np.where(label[:, None] == 1, [4, 0, 0], [0, 0, 4])

    def read(self, pitch):
        return pitch[:, 0].mean(1) > pitch[:, 2].mean(1)


class EachWord(WhichWord):
    def read(self, pitch):
        return pitch.mean(-1) > 0


class Wobble:
    """The mean says nothing, but the spread does."""

    def make(self, label, rng):
        return np.where(label[:, None, None] == 1, [3, -3, 3, -3], [0, 0, 0, 0]) * np.ones((1, 3, 1))

    def read(self, pitch):
        return pitch.std(-1).mean(1) > 1.5


MISTAKES = {
    "alignment.masked_softmax": [
        ("(2, 5, 3), and (2, 3, 5)", lambda scores, mask: scores.softmax(-1).transpose(1, 2)),
        ("over words, not frames", lambda scores, mask: scores.softmax(1)),
        ("only padding get weight", lambda scores, mask: scores.softmax(-1)),
        ("do not sum to 1", lambda scores, mask: scores.softmax(-1) * mask[:, None]),
        ("in the padding changes", renormalised),
        ("are NaN", lambda scores, mask: scores.masked_fill(~mask[:, None], NEGATIVE).softmax(-1)),
        ("all frames alike", low_instead_of_infinite),
    ],
    "alignment.needed_bound": [
        ("shape (1,), and ()", lambda n, N, share: [bound(n, N, share)]),
        ("at a score of 0", lambda n, N, share: 2 * bound(n, N, share)),
        ("N for all frames", lambda n, N, share: bound(n, N - n, share)),
        ("natural logarithm", lambda n, N, share: np.log10(share * N / ((1 - share) * n)) / 2),
        ("the least is then 0", bound),
    ],
    "alignment.distance_to_span": [
        ("shape ()", lambda a, s, e, hop, k: to_span(true_centre(a, hop, k), s, e).mean()),
        ("answer in seconds", lambda a, s, e, hop, k: to_span(true_centre(a, hop, k), s, e) / 1000),
        ("measure the peak", peak),
        ("a step as a frame", lambda a, s, e, hop, k: to_span(centre(a, hop, 0.0), s, e)),
        ("early by half a step", lambda a, s, e, hop, k: to_span(centre(a, hop * k, 0.0), s, e)),
        ("not to its middle", lambda a, s, e, hop, k: 1000 * (true_centre(a, hop, k) - (s + e) / 2).abs()),
        ("too early is as wrong", lambda a, s, e, hop, k: 1000 * (true_centre(a, hop, k) - e).clamp(min=0)),
    ],
    "alignment.unheard": [
        ("is no voice", Shouted),
        ("(400, 3), and (400,)", EachWord),
        ("what nobody can read", Random),
        ("below what can be heard", Whispered),
        ("alignment hears it", WhichWord),
        ("alignment hears it, 1", Wobble),
    ],
}
