"""Seven ways to say what every word and every frame adds, most of them captum's.

A method gets a question's inputs and the baseline's, and returns numbers of the same shape, which
:mod:`mer_lab.explain.attribution` sums up to one a frame and one a word.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from captum.attr import FeatureAblation, IntegratedGradients, KernelShap, NoiseTunnel, Saliency
from torch import Tensor

from mer_lab.explain.question import CHANNELS, Question

SPAN = 0.1
"""Seconds of a time segment."""


class Inputs:
    """What a method works on: inputs and baselines of some of a question's examples."""

    def __init__(self, question: Question, empty: tuple[Tensor, Tensor], example: Tensor) -> None:
        self.question, self.example = question, example
        self.all_empty = empty
        self.x = tuple(x[example] for x in question.inputs)
        self.empty = tuple(x[example] for x in empty)

    @property
    def arguments(self) -> dict:
        return {"inputs": self.x, "baselines": self.empty, "additional_forward_args": (self.example,)}

    @property
    def at_once(self) -> int:
        """Examples in a forward pass."""
        return self.question.at_once

    def times_difference(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(g * (x - e) for g, x, e in zip(gradients, self.x, self.empty, strict=True))


def integrated_gradients(given: Inputs, steps: int = 32, **_) -> tuple[Tensor, ...]:
    """``(x - x') * mean gradient on the straight line from x' to x``. Sundararajan et al., ICML 2017."""
    size = max(given.at_once, len(given.example))  # captum wants a step of all examples at least
    return IntegratedGradients(given.question).attribute(
        **given.arguments, n_steps=steps, internal_batch_size=size
    )


def gradient_x_input(given: Inputs, **_) -> tuple[Tensor, ...]:
    """``(x - x') * gradient at x``; with x' = 0 the gradient times the input (Shrikumar et al. 2016)."""
    gradients = Saliency(given.question).attribute(
        given.x, abs=False, additional_forward_args=(given.example,)
    )
    return given.times_difference(gradients)


def smoothgrad(given: Inputs, samples: int = 16, noise: float = 0.15, **_) -> tuple[Tensor, ...]:
    """The same with the mean gradient among noisy copies of x (Smilkov et al. 2017).

    The noise has ``noise`` times the deviation of each channel's values. It is drawn for all that are
    explained together, so an utterance's numbers change a little with its company.
    """
    spread = [noise * float(x[x != 0].std(correction=0)) if bool((x != 0).any()) else 0.0 for x in given.x]
    gradients = NoiseTunnel(Saliency(given.question)).attribute(
        given.x, nt_type="smoothgrad", nt_samples=samples, stdevs=tuple(spread), abs=False,
        nt_samples_batch_size=max(1, given.at_once // len(given.example)),
        additional_forward_args=(given.example,),
    )  # fmt: skip
    return given.times_difference(gradients)


def gradient_shap(given: Inputs, samples: int = 32, seed: int = 0, **_) -> tuple[Tensor, ...]:
    """Expected gradients between x and other utterances (Lundberg & Lee 2017; Erion et al. 2021).

    captum's own draws one set of references for all examples; here each has its own: the words and the frames
    of other utterances of the data, begun again where they are shorter.
    """
    count, gradients = len(given.example), Saliency(given.question)
    at_a_time = max(1, given.at_once // count)
    total = [torch.zeros_like(x) for x in given.x]
    for begin in range(0, samples, at_a_time):
        times = min(at_a_time, samples - begin)
        others = references(given, times, seed, begin)  # (times * B, N, T, D) each
        alpha = torch.rand(times * count, 1, 1, 1).to(others[0].device)
        x = tuple(x.repeat(times, 1, 1, 1) for x in given.x)
        between = tuple(o + alpha * (x - o) for x, o in zip(x, others, strict=True))
        example = given.example.repeat(times)
        found = gradients.attribute(between, abs=False, additional_forward_args=(example,))
        for kept, g, own, other in zip(total, found, x, others, strict=True):
            kept += (g * (own - other)).unflatten(0, (times, count)).sum(0) / samples
    return tuple(total)


def occlusion(given: Inputs, **_) -> tuple[Tensor, ...]:
    """What is lost when a word, a span of 100 ms or a turn of the context is at its baseline."""
    masks = segments(given)
    perturbed = max(1, given.at_once // len(given.example))
    with torch.no_grad():
        values = FeatureAblation(given.question).attribute(
            **given.arguments, feature_mask=masks, perturbations_per_eval=perturbed
        )
    return _shared_out(given, values, masks)


def kernel_shap(given: Inputs, samples: int = 0, seed: int = 0, **_) -> tuple[Tensor, ...]:
    """Shapley values of the same words, spans and turns, by weighted regression (Lundberg & Lee 2017).

    They add up by construction, however few the ``samples``: that says nothing of the single ones. By default
    there are 1024 and two a unit.
    """
    masks, rows = segments(given), []
    for b in range(len(given.example)):
        part = Inputs(given.question, given.all_empty, given.example[b : b + 1])
        own, place = [], 0
        for m in masks:  # captum regresses on as many features as the highest number
            numbers, index = m[b : b + 1].unique(return_inverse=True)
            own.append(index + place)
            place += len(numbers)
        draws = samples or 1024 + 2 * place
        torch.manual_seed(seed + int(given.question.rows[int(given.example[b])]))
        with torch.no_grad():
            rows.append(KernelShap(given.question).attribute(
                **part.arguments, feature_mask=tuple(own), n_samples=draws,
                perturbations_per_eval=min(draws, given.at_once),
            ))  # fmt: skip
    return _shared_out(given, tuple(torch.cat(channel) for channel in zip(*rows, strict=True)), masks)


def random(given: Inputs, seed: int = 0, **_) -> tuple[Tensor, ...]:
    """Numbers that know nothing: what every score has to be compared with."""
    masks, values = segments(given), []
    own = given.question.own[given.example]  # (B, N)
    rows = given.question.rows[given.example.cpu().numpy()].tolist()
    for channel, mask in enumerate(masks):  # the utterance's units first, then the turns
        index = mask[..., 0] - mask[own].amin(1)[:, None]
        turn = torch.arange(own.shape[1], device=own.device)[None, :, None]
        top = int(index[own].max()) + 1
        draw = [np.random.default_rng([seed, channel, row]).standard_normal(512 + top) for row in rows]
        drawn = torch.from_numpy(np.stack(draw)).float().to(own.device)
        index = torch.where(own[..., None], 512 + index, turn % 512)
        values.append(drawn.gather(1, index.flatten(1)).view_as(mask))
    return _shared_out(given, tuple(values), masks)


METHODS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "integrated-gradients": integrated_gradients,
    "gradient-x-input": gradient_x_input,
    "smoothgrad": smoothgrad,
    "gradient-shap": gradient_shap,
    "occlusion": occlusion,
    "kernel-shap": kernel_shap,
    "random": random,
}
"""By name; the first is the default. ``"layer-integrated-gradients"`` is the first, behind the encoders."""
LAYER = "layer-integrated-gradients"
GRADIENTS = ("integrated-gradients", "gradient-x-input", "smoothgrad", "gradient-shap")
"""Those that take a gradient at the inputs."""
COMPLETE = ("integrated-gradients", LAYER, "kernel-shap")
"""Those that promise to add up."""


def segments(given: Inputs) -> tuple[Tensor, Tensor]:
    """What occlusion takes away together: numbers ``(B, N, Ta, 1)`` and ``(B, N, Tt, 1)``.

    Each of the utterance's words, each of its spans of 100 ms, and of every other turn of its conversation
    the words together and the voice together. No number is of both channels: captum would take them away
    together.
    """
    question = given.question
    # padding counts to the end of the utterance: a feature of its own would get a share of what is explained
    own = (question.own | ~question.real)[given.example][..., None]  # (B, N, 1)
    turn = torch.arange(own.shape[1], device=own.device)[None, :, None]
    step = max(1, round(SPAN / question.hop)) if question.hop else 1
    numbers, first = [], 0
    for mask, size in zip(reversed(question.masks), (1, step), strict=True):
        asked = mask[question.example, question.place].sum(1)[given.example]  # (B,) real steps
        place = torch.arange(mask.shape[-1], device=own.device)
        place = torch.minimum(place, (asked - 1).clamp(min=0)[:, None])[:, None] // size  # (B, 1, T)
        last = first + mask.shape[-1]
        numbers.append(torch.where(own, first + place, last + turn))
        first = last + own.shape[1]
    text, audio = numbers
    return audio[..., None], text[..., None]


def references(
    given: Inputs, samples: int, seed: int = 0, begin: int = 0, pool: int = 32
) -> tuple[Tensor, Tensor]:
    """Words and frames of other utterances in the shape of the question's ``(samples * B, N, T, D)``.

    Which ones depends on the seed alone, not on what else is asked.
    """
    question, rng = given.question, np.random.default_rng([seed, 77])
    data, drawn = question.data, []
    chosen = rng.choice(len(data), min(pool, len(data)), replace=False)
    batch = data.batch(chosen).to(question.real.device)
    start = rng.integers(0, 1 << 30, (begin + samples, 1, 1))[begin:]
    turns = question.turns[given.example.cpu().numpy()]
    which = torch.from_numpy((start + turns) % len(chosen)).to(question.real.device)  # (samples, B, N)
    with torch.no_grad():
        for channel, name in enumerate(CHANNELS):
            x, mask = batch.channel(name)
            x = question.entrances[name].read(x, mask)
            if question.passed:  # the question is asked behind the encoders
                x, mask = question.entrances[name](x, mask)
            length = mask.sum(1).clamp(min=1)[which][..., None]  # (samples, B, N, 1)
            step = torch.arange(given.x[channel].shape[2], device=x.device) % length
            other = x[which[..., None], step]  # (samples, B, N, T, D)
            real = question.masks[channel][given.example].unsqueeze(-1)
            drawn.append((other * real).flatten(0, 1))
    return tuple(drawn)


def _shared_out(
    given: Inputs, values: tuple[Tensor, ...], masks: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """A segment's value, which captum writes at each of its numbers, in equal shares: they sum to it."""
    out = []
    for value, mask, real in zip(values, masks, given.question.masks, strict=True):
        number, counted = mask.flatten(1), real[given.example].flatten(1).long()  # (B, N * T)
        size = number.new_zeros(len(number), int(number.max()) + 1).scatter_add(1, number, counted)
        share = counted / size.gather(1, number).clamp(min=1)
        out.append(value[..., :1] * share.view_as(mask))
    return tuple(out)
