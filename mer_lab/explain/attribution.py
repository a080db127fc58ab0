"""What every word and every frame adds to a decision, and whether the numbers keep their promise.

A method returns numbers for every input value; summed over the numbers of a frame or of a word vector they
are what is read: one number a frame, one a word. Where a method promises that its numbers add up to what it
explains (completeness: ``sum = f(x) - f(baseline)``), the promise is checked on every utterance, and an
explanation that breaks it is refused.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mer_lab.errors import MerLabError
from mer_lab.explain.baselines import baseline, resolved
from mer_lab.explain.methods import COMPLETE, GRADIENTS, LAYER, METHODS, Inputs, integrated_gradients
from mer_lab.explain.question import Question, without_cudnn
from mer_lab.features.store import Extractor

STEPS = (32, 64, 128, 256, 512)
"""Steps of an integral: as few as keep its promise, utterance by utterance."""
TOLERANCE = 0.01
"""Completeness error that is aimed at, as a share of the change of output."""
REFUSED = 0.05
"""Completeness error from which an explanation is refused."""
NEGLIGIBLE = 0.02
"""Logits: below a change of output as small a share says nothing, and is taken of this; and as small a miss
is no reason to refuse an explanation."""


@dataclass(frozen=True)
class Attribution:
    """What the inputs of B utterances, in their conversations of N turns, add to the margin of a class.

    Attributes:
        method: its name in :data:`METHODS`; ``baseline`` what it compares with.
        audio: ``(B, N, Ta)``, one number a frame (or sample); ``text (B, N, Tt)``, one a word.
        output, reference: ``(B,)`` margin of the utterance, and with the baseline in its place.
        question: what was asked.
        complete: whether the method promises that all numbers add up to ``output - reference``.
    """

    method: str
    baseline: tuple[str, str]
    audio: np.ndarray
    text: np.ndarray
    output: np.ndarray
    reference: np.ndarray
    question: Question
    complete: bool = False

    def __len__(self) -> int:
        return len(self.output)

    @property
    def total(self) -> np.ndarray:
        """Sum of all attributions of each utterance ``(B,)``."""
        return self.audio.sum((1, 2)) + self.text.sum((1, 2))

    @property
    def error(self) -> np.ndarray:
        """Completeness error ``(B,)``: how far the sum is from the change of output, as a share of it."""
        change = self.output - self.reference
        return np.abs(self.total - change) / np.maximum(np.abs(change), NEGLIGIBLE)

    @property
    def own_audio(self) -> np.ndarray:
        """Of the frames of the utterance that is asked about ``(B, Ta)``."""
        return self.audio[np.arange(len(self)), self.question.place.cpu().numpy()]

    @property
    def own_text(self) -> np.ndarray:
        """Of its words ``(B, Tt)``."""
        return self.text[np.arange(len(self)), self.question.place.cpu().numpy()]

    @property
    def modalities(self) -> np.ndarray:
        """``(B, 3)``: sum over the utterance's own text, its own audio, and its context."""
        others = np.where(self.question.own.cpu().numpy(), 0.0, self.turns)
        return np.stack([self.own_text.sum(1), self.own_audio.sum(1), others.sum(1)], axis=1)

    @property
    def turns(self) -> np.ndarray:
        """``(B, N)``: sum over each turn of the conversation, both channels."""
        return self.audio.sum(2) + self.text.sum(2)


def attribute(
    question: Question, method: str = "integrated-gradients", audio: str = "", text: str = "mask",
    extractor: Extractor | None = None, others: bool = True, refuse: bool = True, progress: bool = False,
    seed: int = 0, chunk: int = 16, **options,
) -> Attribution:  # fmt: skip
    """Explain the utterances of a question.

    Args:
        method: of :data:`METHODS`, or ``"layer-integrated-gradients"``: at the vectors that the encoders
            give, for pretrained ones whose inputs are far from what they mean.
        audio, text, extractor, others: the baseline, as of :func:`~mer_lab.explain.baselines.baseline`; by
            default the mean frame, or of a wave noise of the same RMS, and the unknown word.
        refuse: whether an explanation that promises to add up and misses by more than :data:`REFUSED` is
            an error. A caller that says False has to look at :attr:`Attribution.error` itself.
        progress: show a bar.
        seed: of what a method draws.
        chunk: utterances explained at a time.
        options: of the method, such as ``samples`` or ``steps``.

    Raises:
        MerLabError: no such method or baseline; a wave through Whisper, whose mel has no gradient; an
            explanation that does not add up.
    """
    if method not in METHODS and method != LAYER:
        raise MerLabError(f"there is no method {method!r}; choose one of {', '.join((*METHODS, LAYER))}.")
    if method in GRADIENTS and not question.differentiable:
        raise MerLabError(
            f"{method} needs a gradient, and Whisper's mel spectrum has none for the wave: choose {LAYER}, "
            "or occlusion."
        )
    audio, text = resolved(question, audio, text)
    empty = baseline(question, audio, text, extractor, others)
    if method == LAYER and not question.passed:
        question, empty = question.behind_encoders(empty)
    run = METHODS["integrated-gradients" if method == LAYER else method]
    known = [name for name in inspect.signature(run).parameters if name not in ("given", "seed", "_")]
    if unknown := [name for name in options if name not in known]:
        raise MerLabError(f"{method} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    if any(value < 1 for value in options.values() if isinstance(value, int)):
        raise MerLabError(f"the options of {method} are {options}; samples and steps are at least 1.")
    output = question.ask(*question.inputs)
    reference = question.ask(*empty)
    change = (output - reference).cpu().numpy()
    numbers = [np.zeros(x.shape[:3], np.float32) for x in question.inputs]
    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    with tqdm(total=len(question), desc=method, unit="utterance", leave=False, **quiet) as bar:
        for part in question.example.split(min(chunk, question.at_once)):
            size = len(part)
            steps = STEPS if run is integrated_gradients and "steps" not in options else (None,)
            for count in steps:
                extra = options if count is None else options | {"steps": count}
                found = _run(run, Inputs(question, empty, part), seed, **extra)
                where = part.cpu().numpy()
                for kept, values, mask in zip(numbers, found, question.masks, strict=True):
                    kept[where] = (values.detach().sum(-1) * mask[part]).float().cpu().numpy()
                if count is None:
                    break
                total = sum(kept[where].sum((1, 2)) for kept in numbers)
                off = np.abs(total - change[where]) / np.maximum(np.abs(change[where]), NEGLIGIBLE)
                part = part[torch.from_numpy(off > TOLERANCE).to(part.device)]
                if not len(part):
                    break
            bar.update(size)
    values = Attribution(
        method, (audio, text), *numbers, output.cpu().numpy(), reference.cpu().numpy(), question,
        method in COMPLETE,
    )  # fmt: skip
    missed = np.abs(values.total - change) > NEGLIGIBLE
    worst = int((values.error * missed).argmax())
    if refuse and values.complete and values.error[worst] > REFUSED and missed[worst]:
        which = question.data.corpus.ids[question.rows[worst]]
        raise MerLabError(
            f"{method} of {which} adds up to {values.total[worst]:.3f} where the output changes by "
            f"{change[worst]:.3f} (error {values.error[worst]:.0%}, at most {REFUSED:.0%} is accepted): the "
            f"path from the baseline '{audio}' and '{text}' cannot be trusted; choose another baseline."
        )
    return values


def _run(run: Callable, given: Inputs, seed: int, **options) -> tuple[Tensor, ...]:
    state = np.random.get_state()  # captum draws from numpy's global generator, and from torch's
    with torch.random.fork_rng(), warnings.catch_warnings(), without_cudnn():
        warnings.filterwarnings("ignore", module="captum")
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            return run(given, seed=seed, **options)
        finally:
            np.random.set_state(state)
