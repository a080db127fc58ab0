"""Exact Shapley values of an utterance's text, its audio and its context, and of each earlier turn.

Three players have eight coalitions, and all eight are asked, so nothing is sampled (Shapley 1953; for
modalities Parcalabescu & Frank, "MM-SHAP", ACL 2023). :mod:`mer_lab.modality` asks what a channel is worth to
a system on a test set; here it is one decision, and what is absent is at its baseline.
"""

from __future__ import annotations

from itertools import product
from math import factorial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mer_lab.explain.question import Question

PLAYERS = ("text", "audio", "context")


class Coalitions(NamedTuple):
    """What every coalition says, and what each player is worth.

    Attributes:
        margins: ``(2, 2, 2, B)``: without (0) or with (1) text, audio, context.
        shapley: ``(B, 3)``; each row sums to ``margins[1, 1, 1] - margins[0, 0, 0]``.
    """

    margins: np.ndarray
    shapley: np.ndarray


def modality_shapley(question: Question, empty: tuple[Tensor, Tensor]) -> Coalitions:
    """Exact Shapley values of the utterance's own words, its own voice, and the other turns.

    Of a system that reads single utterances the context is worth exactly nothing.

    Args:
        empty: inputs in which nothing is said, as of :func:`~mer_lab.explain.baselines.baseline`.
    """
    margins = np.zeros((2, 2, 2, len(question)))
    own = question.own[..., None, None]
    for text, audio, context in product((0, 1), repeat=3):
        kept = (audio, text)  # in the order of the inputs
        changed = [
            torch.where(own, x if mine else e, x if context else e)
            for x, e, mine in zip(question.inputs, empty, kept, strict=True)
        ]
        margins[text, audio, context] = question.ask(*changed).cpu().numpy()
    return Coalitions(margins, shapley(margins))


def shapley(margins: np.ndarray) -> np.ndarray:
    """Shapley values ``(B, n)`` of a game whose values are given for all coalitions ``(2, ..., 2, B)``.

    >>> shapley(np.array([[0.0, 1.0], [2.0, 3.0]])[..., None]).tolist()  # two players who only add up
    [[2.0, 1.0]]
    """
    n = margins.ndim - 1
    values = np.zeros((margins.shape[-1], n))
    for coalition in product((0, 1), repeat=n):
        for player in range(n):
            if coalition[player]:
                continue
            size = sum(coalition)
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            joined = tuple(1 if k == player else c for k, c in enumerate(coalition))
            values[:, player] += weight * (margins[joined] - margins[coalition])
    return values


def turn_occlusion(question: Question, empty: tuple[Tensor, Tensor]) -> np.ndarray:
    """What the margin loses when one turn of the conversation is at its baseline: ``(B, N)``, 0 in padding.

    In the place of the utterance itself stands what it would lose without its own words and voice.
    """
    out = np.zeros(question.real.shape)
    output = question.ask(*question.inputs).cpu().numpy()
    for n in range(out.shape[1]):
        changed = []
        for x, e in zip(question.inputs, empty, strict=True):
            x = x.clone()
            x[:, n] = e[:, n]
            changed.append(x)
        out[:, n] = output - question.ask(*changed).cpu().numpy()
    return np.where(question.real.cpu().numpy(), out, 0.0)
