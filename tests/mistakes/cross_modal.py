"""Wrong answers to the exercises of lesson 06, each with words of the message that it must get."""

import torch

NEGATIVE = float("-inf")


def each_itself(attend_a, attend_t, A, T, frames, words):
    return attend_a(A, A, frames), attend_t(T, T, words)


def changed_places(attend_a, attend_t, A, T, frames, words):
    return attend_t(T, A, frames), attend_a(A, T, words)


def one_for_both(attend_a, attend_t, A, T, frames, words):
    return attend_a(A, T, words), attend_a(T, A, frames)


def asker_masked(attend_a, attend_t, A, T, frames, words):
    return attend_a(A, T, frames), attend_t(T, A, words)


def joined(attend_a, attend_t, A, T, frames, words):
    return torch.cat([attend_a(A, T, words), attend_t(T, A, frames)], -1)


def pooled(
    x, mask, mean_over_all=False, std_over_all=False, less_one=0, multiply=False, squares=False, least=1,
    below=1e-5,
):  # fmt: skip
    """Statistics pooling, right as it stands; each option is one mistake."""
    real = mask[..., None]
    count = real.sum(1).clamp(min=least)
    chosen = x * real if multiply else torch.where(real, x, 0.0)
    mean = chosen.mean(1) if mean_over_all else chosen.sum(1) / count
    if squares:
        variance = (chosen.square().sum(1) / count - mean.square()).clamp(min=0)
    elif std_over_all:
        variance = (chosen - mean[:, None]).square().mean(1)
    else:
        away = (x - mean[:, None]) * real if multiply else torch.where(real, x - mean[:, None], 0.0)
        variance = away.square().sum(1) / (count - less_one)
    return torch.cat([mean, (variance + below).sqrt()], -1)


def of(**mistake):
    return lambda x, mask: pooled(x, mask, **mistake)


def attended(q, k, v, mask, heads, cut="last", scale="head", masked="low", join="back", empty="zeros"):
    """Multi-head attention, right as it stands; each option is one mistake."""
    U, D = len(q), q.shape[-1]
    if cut == "time":
        q, k, v = (x.reshape(U, heads, -1, D // heads) for x in (q, k, v))
    elif cut == "strided":
        q, k, v = (x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2) for x in (q, k, v))
    else:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    score = q @ k.transpose(-2, -1) / (D if scale == "width" else D // heads) ** 0.5
    real = mask[:, None, None]
    if masked == "times":
        alpha = (score * real).softmax(-1)
    else:
        alpha = score.masked_fill(~real, NEGATIVE).softmax(-1)
        alpha = alpha.nan_to_num() if empty == "zeros" else alpha
    answers = alpha @ v
    return (answers.transpose(1, 2) if join == "back" else answers).reshape(U, -1, D), alpha


def broken(q, k, v, mask, heads):
    """As the notebook shows it."""
    return attended(q, k, v, mask, heads, cut="time", scale="width", masked="times", join="plain")


def mended(**mistake):
    return lambda q, k, v, mask, heads: attended(q, k, v, mask, heads, **mistake)


MISTAKES = {
    "cross_modal.both_directions": [
        ("(2, 4, 6), and (2, 2, 4, 3)", joined),
        ("each channel asks itself", each_itself),
        ("changed places", changed_places),
        ("one attention does both", one_for_both),
        ("that of the asker", asker_masked),
    ],
    "cross_modal.statistics": [
        ("(3, 2), and (3, 4)", lambda x, mask: pooled(x, mask)[:, :2]),
        ("mean counts the padding", of(mean_over_all=True)),
        ("N − 1", of(less_one=1)),
        ("deviation counts the padding", of(std_over_all=True)),
        ("NaN in the padding", of(multiply=True)),
        ("drowns in rounding", of(squares=True)),
        ("infinite slope", of(below=0.0)),
        ("0/0, and one broken file", of(least=0)),
    ],
    "cross_modal.twin": [
        ("must stay one", lambda A: A.repeat_interleave(2, 1)),
        ("as many frames as before", lambda A: A.flip(0)),
        ("not padding", lambda A: torch.cat([A, torch.zeros_like(A)])),
        ("changed their shares", lambda A: torch.cat([A, A[-1:]])),
    ],
    "cross_modal.attention": [
        ("two things are expected", lambda *given: attended(*given)[0]),
        ("not a low score", broken),
        ("cuts heads out of time", mended(cut="time", scale="width", join="plain")),
        ("divide by √D", mended(scale="width")),
        ("could not be loaded", mended(cut="strided")),
        ("the answers are not", mended(join="plain")),
        ("0/0", mended(empty="nan")),
    ],
}
