"""Wrong answers to the exercises of lesson 10, each with words of the message that it must get."""

import numpy as np
import torch
from captum.attr import FeatureAblation
from scipy.optimize import linprog

# 10.1


def tied(scores, decides, real, shared=True):
    scores = np.where(real, scores, -np.inf)
    largest = scores == scores.max(1, keepdims=True)
    hits = (largest & decides).sum(1)
    return hits / largest.sum(1) if shared else (hits > 0).astype(float)


def first_of_equals(scores, decides, real):
    largest = np.where(real, scores, -np.inf).argmax(1)
    return decides[np.arange(len(decides)), largest].astype(float)


def share_of_all_that_decide(scores, decides, real):
    return tied(scores, decides, real) / decides.sum(1)


# 10.2


def with_captum(apart=True, added=False):
    """Occlusion by captum, with what one can get wrong."""

    def answer(f, audio, text, no_audio, no_text, step):
        spans = torch.arange(len(audio)) // step
        words = torch.arange(len(text)) + (int(spans[-1]) + 1 if apart else 0)
        of_audio, of_text = FeatureAblation(f).attribute(
            (audio[None], text[None]),
            baselines=(no_audio[None], no_text[None]),
            feature_mask=(spans[None, :, None], words[None, :, None]),
        )
        if not added:
            return of_audio[0, ::step, 0], of_text[0, :, 0]
        by_span = torch.zeros(int(spans[-1]) + 1).index_add(0, spans, of_audio[0].sum(1))
        return by_span, of_text[0].sum(1)

    return answer


def by_hand(zeros=False, stays=False, sign=1, alone=False, whole=False, frames=False):
    """Occlusion in a loop, with what one can get wrong."""

    def answer(f, audio, text, no_audio, no_text, step):
        if zeros:
            no_audio, no_text = no_audio * 0, no_text * 0
        step = 1 if frames else step

        def each(x, empty, size, ask):
            lost, changed, before = [], x.clone(), ask(x)
            for k in range(0, len(x) - (len(x) % size if whole else 0), size):
                if not stays:
                    changed = x.clone()
                changed[k : k + size] = empty[k : k + size]
                if alone:
                    changed = empty.clone()
                    changed[k : k + size] = x[k : k + size]
                    lost.append(ask(changed))
                    continue
                lost.append(sign * (before - ask(changed)))
                before = ask(changed) if stays else before
            return torch.stack(lost)

        spans = each(audio, no_audio, step, lambda x: f(x[None], text[None])[0])
        return spans, each(text, no_text, 1, lambda x: f(audio[None], x[None])[0])

    return answer


def without_the_other(f, audio, text, no_audio, no_text, step):
    """Keeps one word and takes all other words and the voice away."""
    spans, _ = by_hand()(f, audio, text, no_audio, no_text, step)
    kept = torch.eye(len(text))[:, :, None]
    return spans, f(no_audio[None].expand(len(text), -1, -1), torch.where(kept > 0, text, no_text))


def scaled(which):
    """A mean over the numbers of each unit, or over its frames."""

    def answer(f, audio, text, no_audio, no_text, step):
        spans, words = by_hand()(f, audio, text, no_audio, no_text, step)
        return (spans / step, words) if which == "spans" else (spans, words / text.shape[1])

    return answer


# 10.3


def loudness(wave, real):
    return ((wave**2 * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)).sqrt()


def noise_like(wave, seed, draw=torch.randn):
    return draw(wave.shape, generator=torch.Generator().manual_seed(seed))


# 10.4


def least(weights, values, real, total=True, padding=False, below=False):
    """Linear programming, with what one can forget."""
    stays = np.vstack([values.T, np.ones(len(weights))])
    stays = stays if total else stays[:-1]
    bounds = [(-1 if below else 0, None if kept or padding else 0) for kept in real]
    return linprog(np.eye(len(weights))[weights.argmax()], A_eq=stays, b_eq=stays @ weights, bounds=bounds).x


def one_direction(weights, values, real, always=True):
    """A step along a direction in which all sums stay, as far as no weight falls below 0."""
    stays = np.vstack([values[real].T, np.ones(real.sum())])
    left, sizes, right = np.linalg.svd(stays)
    direction = right[-1]
    if not always and len(right) <= len(sizes):
        return weights
    own = weights[real]
    direction = direction * -np.sign(direction[own.argmax()])
    falling = direction < 0
    new = weights.copy()
    new[real] = own + direction * (own[falling] / -direction[falling]).min()
    return new


def shuffled(weights, values, real):
    new = weights.copy()
    new[real] = weights[real][::-1]
    return new


MISTAKES = {
    "interpretability.pointing": [
        ("one number an utterance", lambda *given: tied(*given).mean()),
        ("one thing only", share_of_all_that_decide),
        ("one thing only", lambda scores, decides, real: decides.mean(1)),
        ("absolute value", lambda scores, decides, real: tied(np.abs(scores), decides, real)),
        ("padding wins", lambda scores, decides, real: tied(scores, decides, np.ones_like(real))),
        ("padding wins", lambda scores, decides, real: tied(scores * real, decides, np.ones_like(real))),
        ("first of equals", first_of_equals),
        ("at chance", lambda scores, decides, real: tied(scores, decides, real, shared=False)),
    ],
    "interpretability.occlusion": [
        ("give two results", lambda *given: torch.cat(by_hand()(*given))),
        ("one number for each span", by_hand(whole=True)),
        ("one number for each span", by_hand(frames=True)),
        ("taken away together", with_captum(apart=False)),
        ("taken away together", with_captum(apart=False, added=True)),
        ("as often as it has numbers", with_captum(added=True)),
        ("signs are turned round", by_hand(sign=-1)),
        ("keep one unit", without_the_other),
        ("numbers of the words are not", by_hand(alone=True)),
        ("numbers of the words are not", scaled("words")),
        ("numbers of the spans are not", scaled("spans")),
        ("stays away", by_hand(stays=True)),
        ("by writing zeros", by_hand(zeros=True)),
    ],
    "interpretability.voice_baseline": [
        ("the shape of the wave", lambda wave, real, seed: loudness(wave, real)),
        ("still says it", lambda wave, real, seed: wave / 2),
        ("still says it", lambda wave, real, seed: -wave),
        ("still says it", lambda wave, real, seed: wave.flip(1)),
        ("in silence", lambda wave, real, seed: torch.zeros_like(wave)),
        ("in silence", lambda wave, real, seed: 1e-3 * noise_like(wave, seed) * real),
        (
            "in one direction",
            lambda wave, real, seed: noise_like(wave, seed, torch.rand) * loudness(wave, real) * real,
        ),
        ("one loudness for all", lambda wave, real, seed: noise_like(wave, seed) * real),
        (
            "one loudness for all",
            lambda wave, real, seed: noise_like(wave, seed) * wave[real].square().mean().sqrt() * real,
        ),
        (
            "root of the mean square",
            lambda wave, real, seed: noise_like(wave, seed) * wave.abs().amax(1, keepdim=True) * real,
        ),
        (
            "root of the mean square",
            lambda wave, real, seed: noise_like(wave, seed) * loudness(wave, real) ** 2 * real,
        ),
        (
            "counts padding",
            lambda wave, real, seed: (
                noise_like(wave, seed) * wave.square().mean(1, keepdim=True).sqrt() * real
            ),
        ),
        ("noise in the padding", lambda wave, real, seed: noise_like(wave, seed) * loudness(wave, real)),
        (
            "draw from the seed",
            lambda wave, real, seed: torch.randn(wave.shape) * loudness(wave, real) * real,
        ),
    ],
    "interpretability.other_map": [
        ("one weight for each step", lambda weights, values, real: least(weights, values, real)[real]),
        ("do not sum to 1", lambda weights, values, real: least(weights, values, real, total=False)),
        ("negative weights", lambda weights, values, real: least(weights, values, real, below=True)),
        ("padding gets weight", lambda weights, values, real: least(weights, values, real, padding=True)),
        ("has changed", lambda weights, values, real: real / real.sum()),
        ("has changed", shuffled),
        ("the same map", lambda weights, values, real: weights),
        ("one map only", one_direction),
        (
            "could have less",
            lambda weights, values, real: one_direction(weights, values, real, always=False),
        ),
    ],
}
