"""Wrong answers to the exercises of lesson 04, each with words of the message that it must get."""

import numpy as np
import torch


def pairs_of(ask, texts, voices):
    N = len(texts)
    f = ask(texts.repeat_interleave(N, 0), voices.repeat(N, 1))
    return f.reshape(N, N, -1)


def without_own(ask, texts, voices):
    f, N = pairs_of(ask, texts, voices), len(texts)
    own = ask(texts, voices)
    return (f.sum(1) - own) / (N - 1) + (f.sum(0) - own) / (N - 1) - f.mean((0, 1))


def of_probabilities(ask, texts, voices):
    f = pairs_of(ask, texts, voices).softmax(-1)
    return f.mean(1) + f.mean(0) - f.mean((0, 1))


def through_probabilities(log_t, log_a, prior):
    product = log_t.exp() * log_a.exp() / prior
    return (product / product.sum(-1, keepdim=True)).log()


def log_of_logs(log_t, log_a, prior):
    return (log_t.log() + log_a.log() - prior.log()).log_softmax(-1)


def beside_silence(ask, texts, voices):
    no_text, no_voice = torch.zeros_like(texts), torch.zeros_like(voices)
    return ask(texts, no_voice) + ask(no_text, voices) - ask(no_text, no_voice)


def low_rank(a, t, W_a, W_t):
    heard, read = torch.einsum("ud,rdh->urh", a, W_a[:, :-1]), torch.einsum("ud,rdh->urh", t, W_t[:, :-1])
    return heard, W_a[None, :, -1].expand_as(heard), read, W_t[None, :, -1].expand_as(read)


def parts(a, t, W_a, W_t, multiply=lambda x, y: (x * y).sum(1)):
    heard, one_a, read, one_t = low_rank(a, t, W_a, W_t)
    return torch.stack([multiply(*p) for p in ((one_a, one_t), (heard, one_t), (one_a, read), (heard, read))])


def channels_with_constant(a, t, W_a, W_t):
    constant, voice, words, both = parts(a, t, W_a, W_t)
    return torch.stack([constant, voice + constant, words + constant, both - constant])


def voice_meets_all_words(a, t, W_a, W_t):
    constant, voice, words, both = parts(a, t, W_a, W_t)
    return torch.stack([constant, voice + both, words, 0 * both])


def nothing_together(a, t, W_a, W_t):
    constant, voice, words, both = parts(a, t, W_a, W_t)
    return torch.stack([constant, voice, words, 0 * both])


MISTAKES = {
    "fusion.nobodys_favourite": [
        ("(2,), and (2, 4)", lambda: ("happy words", "sad voice") and (0.5, 0.5)),
        ("must be a probability", lambda: (np.log([0.3, 0.6, 0.05, 0.05]), np.log([0.3, 0.05, 0.6, 0.05]))),
        ("must sum to 1", lambda: ([0.3, 0.6, 0.0, 0.0], [0.3, 0.0, 0.6, 0.0])),
        ("neither of them has to favour", lambda: ([0.6, 0.3, 0.05, 0.05], [0.6, 0.05, 0.3, 0.05])),
        ("not to be forbidden", lambda: ([0.1, 0.5, 0.3, 0.1], [0.1, 0.3, 0.5, 0.1])),
        ("winner of the vote", lambda: ([0.45, 0.5, 0.0, 0.05], [0.45, 0.0, 0.5, 0.05])),
    ],
    "fusion.product_rule": [
        ("speak in logarithms already", log_of_logs),
        ("counted twice", lambda t, a, prior: (t + a).log_softmax(-1)),
        ("take the prior out twice", lambda t, a, prior: (t + a - 2 * prior.log()).log_softmax(-1)),
        ("do not sum to 1", lambda t, a, prior: t + a - prior.log()),
        ("where you may have a mean", lambda t, a, prior: torch.logaddexp(t, a) - np.log(2)),
        ("left the logarithms", through_probabilities),
    ],
    "fusion.additive_part": [
        ("(5, 5, 3), and (5, 3)", pairs_of),
        ("mean twice", lambda ask, t, a: pairs_of(ask, t, a).mean(0) + pairs_of(ask, t, a).mean(1)),
        ("average probabilities", of_probabilities),
        ("its own included", without_own),
        ("which text met which voice", lambda ask, t, a: ask(t, a)),
        ("not the nearest", beside_silence),
    ],
    "fusion.four_parts": [
        ("(3, 5), and (4, 3, 5)", lambda *given: parts(*given).sum(0)),
        ("before you multiply", lambda *given: parts(*given, multiply=lambda x, y: x.sum(1) * y.sum(1))),
        ("changed places", lambda *given: parts(*given)[[0, 2, 1, 3]]),
        ("two vectors of zeros", lambda *given: parts(*given)[[3, 1, 2, 0]]),
        ("constant in it once", channels_with_constant),
        ("changes with the words", voice_meets_all_words),
        ("must add up to h", nothing_together),
    ],
}
