"""Does the system use what an explanation names? Words and spans are taken away, and it is asked again.

Deletion takes the units that an explanation ranks first and puts the baseline in their place; insertion
starts from the baseline and brings them back (Petsiuk et al., BMVC 2018). Comprehensiveness and sufficiency
are their means over shares (DeYoung et al., ERASER, ACL 2020). Infidelity asks for more than an order: do the
numbers of what was taken away add up to the change (Yeh et al., NeurIPS 2019)?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution, attribute
from mer_lab.explain.baselines import baseline
from mer_lab.explain.question import Question
from mer_lab.explain.units import Units, units_of

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
AVERAGED = (0.1, 0.2, 0.3, 0.5)
"""Shares that comprehensiveness and sufficiency are means over."""
ORDERS = ("most", "random", "least")
FROM = ("both", "words", "spans")


class Faithfulness(NamedTuple):
    """Of each utterance ``(B,)``; all but the last in probability of the class that is explained.

    Attributes:
        comprehensiveness: lost without the most important units, more is better.
        sufficiency: lost with nothing but the most important units, less is better.
        deletion: lost without the first fifth of the units.
        infidelity: share of the changes of the margin under random deletions that the attributions do not
            predict, after the best common factor that is not negative: 0 is perfect, 1 is what an explanation
            gets whose numbers have the wrong sign. Random numbers get about 0.8, as even they grow with how
            much is taken away: hold a method against ``"random"``. NaN where no deletion changes anything.
    """

    comprehensiveness: np.ndarray
    sufficiency: np.ndarray
    deletion: np.ndarray
    infidelity: np.ndarray


class Deleter:
    """Takes words and spans of the asked utterance away; the rest of the conversation stays as it is.

    Args:
        empty: inputs that take their place, as of :func:`~mer_lab.explain.baselines.baseline`.
    """

    def __init__(self, question: Question, empty: tuple[Tensor, Tensor], units: Units | None = None) -> None:
        self.question, self.empty, self.units = question, empty, units or units_of(question)
        self._index = torch.arange(len(question), device=question.place.device)

    def ask(self, words: np.ndarray, spans: np.ndarray, probability: bool = True) -> np.ndarray:
        """``(B,)`` without the words ``(B, W)`` and the spans ``(B, S)`` that are True."""
        question, changed = self.question, []
        sides = zip(
            question.inputs, self.empty, (self.units.span, self.units.word), (spans, words), strict=True
        )
        for x, empty, unit, gone in sides:
            padded = np.concatenate([gone, np.zeros((len(gone), 1), bool)], axis=1)  # -1 is never taken away
            taken = np.take_along_axis(padded, np.where(unit < 0, gone.shape[1], unit), axis=1)
            x = x.clone()
            own = x[self._index, question.place]  # (B, T, D)
            taken = torch.from_numpy(taken).to(x.device)[..., None]
            x[self._index, question.place] = torch.where(taken, empty[self._index, question.place], own)
            changed.append(x)
        ask = question.ask_probability if probability else question.ask
        return ask(*changed).cpu().numpy()


def ranks(scores: np.ndarray, order: str = "most", seed: int = 0) -> np.ndarray:
    """Place of each unit in the order of deletion ``(B, K)``, 0 the first; NaN (no unit) comes last.

    Units that are equally important come in an order that is drawn.

    Raises:
        MerLabError: there is no such order.
    """
    if order not in ORDERS:
        raise MerLabError(f"there is no order {order!r}; choose {', '.join(ORDERS)}.")
    known = np.isfinite(scores)
    drawn = np.random.default_rng(seed).random(scores.shape)
    wanted = {"most": -scores, "least": scores, "random": drawn}[order]
    return np.lexsort((drawn, np.where(known, wanted, np.inf)), axis=1).argsort(1, kind="stable")


def first(rank: np.ndarray, count: np.ndarray, share: float) -> np.ndarray:
    """``(B, K)``: the first share of each utterance's units, rounded up."""
    most = np.ceil(share * count - 1e-9).astype(int)
    return rank < most[:, None]


def curve(
    sums: Sequence[np.ndarray], deleter: Deleter, order: str = "most", of: str = "both",
    shares: Sequence[float] = SHARES, insertion: bool = False, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Probability of the explained class ``(B, shares)`` as more and more units are deleted, or inserted.

    Args:
        sums: what every word ``(B, W)`` and every span ``(B, S)`` adds, as of
            :meth:`~mer_lab.explain.units.Units.sums`.
        of: "both" takes the same share of words and of spans; "words" or "spans" leaves the other channel.
        insertion: start from the baseline (of the channels that are meant) and bring the units back; what
            belongs to no unit, such as a full stop, is there all the time.

    Raises:
        MerLabError: there is no such order or kind of unit.
    """
    if of not in FROM:
        raise MerLabError(f"there is no kind of unit {of!r}; choose {', '.join(FROM)}.")
    units, answers = deleter.units, []
    rank = [ranks(s, order, seed + k) for k, s in enumerate(sums)]
    for share in shares:
        gone = []
        for kind, place, count in zip(("words", "spans"), rank, (units.words, units.spans), strict=True):
            taken = first(place, count, share)
            real = np.arange(place.shape[1]) < count[:, None]
            taken = real & (~taken if insertion else taken)
            gone.append(taken if of in ("both", kind) else np.zeros_like(taken))
        answers.append(deleter.ask(*gone))
    return np.stack(answers, axis=1)


def faithfulness(
    sums: Sequence[np.ndarray], deleter: Deleter, perturbations: int = 24, seed: int = 0
) -> Faithfulness:
    """How faithful an explanation is to its system, utterance by utterance; of words and spans together.

    Args:
        sums: as of :func:`curve`.
    """
    lost = curve(sums, deleter, shares=(0.0, *AVERAGED))
    kept = curve(sums, deleter, shares=AVERAGED, insertion=True)
    drop = lost[:, :1] - lost[:, 1:]
    return Faithfulness(
        drop.mean(1), (lost[:, :1] - kept).mean(1), drop[:, AVERAGED.index(0.2)],
        infidelity(sums, deleter, perturbations, seed),
    )  # fmt: skip


def infidelity(
    sums: Sequence[np.ndarray], deleter: Deleter, perturbations: int = 24, seed: int = 0
) -> np.ndarray:
    """``min_c E[(c * sum of phi over what is gone - (f(x) - f(x without)))^2] / E[(f(x) - f(x without))^2]``.

    Yeh et al. 2019, definition 2.1, with their optimal factor c, here at least 0, so that methods of
    different scale can be compared; what is gone is a random share of the units, from a tenth to a half.
    ``(B,)``; ``sums`` as of :func:`curve`.
    """
    units, rng = deleter.units, np.random.default_rng(seed)
    sums = [np.nan_to_num(s) for s in sums]
    output = deleter.ask(*(np.zeros(s.shape, bool) for s in sums), probability=False)
    predicted, changed = [], []
    for _ in range(perturbations):
        share, gone = rng.uniform(0.1, 0.5), []
        for s, count in zip(sums, (units.words, units.spans), strict=True):
            gone.append((rng.random(s.shape) < share) & (np.arange(s.shape[1]) < count[:, None]))
        predicted.append(sum((s * g).sum(1) for s, g in zip(sums, gone, strict=True)))
        changed.append(output - deleter.ask(*gone, probability=False))
    phi, delta = np.stack(predicted), np.stack(changed)  # (perturbations, B)
    total = (delta**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        c = np.nan_to_num((phi * delta).sum(0) / (phi**2).sum(0)).clip(min=0)
        return np.where(total > 1e-12, ((c * phi - delta) ** 2).sum(0) / total, np.nan)


def max_sensitivity(
    values: Attribution, radius: float = 0.02, draws: int = 3, noise_seed: int = 0, **options
) -> np.ndarray:
    """How far an explanation moves when the inputs move a little: ``max |phi(x + e) - phi(x)| / |phi(x)|``.

    Yeh et al. 2019, definition 2.2; e is uniform in ``radius`` deviations of the channel, ``(B,)``. The class
    that is explained stays.

    Args:
        noise_seed: of the noise.
        options: of :func:`~mer_lab.explain.attribution.attribute`, as the explanation was made: its ``seed``
            above all, or what changes is the draw.
    """
    question, worst = values.question, np.zeros(len(values))
    generator = torch.Generator().manual_seed(noise_seed)
    own = np.concatenate([values.own_audio, values.own_text], axis=1)
    size = np.linalg.norm(own, axis=1).clip(1e-12)
    for _ in range(draws):
        moved = []
        for x, mask in zip(question.inputs, question.masks, strict=True):
            noise = (2 * torch.rand(x.shape, generator=generator) - 1).to(x)
            moved.append(x + radius * x[mask].std(correction=0) * noise * mask.unsqueeze(-1))
        again = attribute(
            question.with_inputs(tuple(moved)), values.method, *values.baseline, refuse=False, **options
        )
        other = np.concatenate([again.own_audio, again.own_text], axis=1)
        worst = np.maximum(worst, np.linalg.norm(other - own, axis=1) / size)
    return worst


def deleter_of(question: Question, audio: str = "", text: str = "mask", **options) -> Deleter:
    """A :class:`Deleter` that puts a baseline of :func:`~mer_lab.explain.baselines.baseline` in place."""
    return Deleter(question, baseline(question, audio, text, **options))
