"""What each channel is worth to a trained system: its Shapley value, and what is more than addition.

Two players, text and audio, have four coalitions, and all four are asked, so no order is sampled (Shapley
1953; for multimodal models Hu et al., "SHAPE", 2022, and Parcalabescu & Frank, "MM-SHAP", ACL 2023). What is
not in the coalition is not blanked, which no system was trained on, but taken from other dialogues, of which
some are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.metrics import count_confusion, from_confusion, labelled
from mer_lab.prediction import predict

PARTNERS = 12
"""Foreign dialogues whose channel stands in for one that is taken away."""


class ModalityValue(NamedTuple):
    """Test scores of the four coalitions, and of the system's additive projection.

    Attributes:
        none: neither channel: the class that the system says most likely of anything at all.
        text, audio: that channel alone.
        both: the system as it is.
        additive: ``f(text) + g(audio)`` for the f and g that imitate the system best.
    """

    none: float
    text: float
    audio: float
    both: float
    additive: float

    @property
    def shapley_text(self) -> float:
        """What the text adds on average over the orders in which the channels can come."""
        return ((self.text - self.none) + (self.both - self.audio)) / 2

    @property
    def shapley_audio(self) -> float:
        """The same of the audio; both together are ``both - none``."""
        return ((self.audio - self.none) + (self.both - self.text)) / 2

    @property
    def gap(self) -> float:
        """What is lost when the system is replaced by its additive projection (:mod:`mer_lab.emap`)."""
        return self.both - self.additive


def coalitions(
    model: nn.Module, data: Dataset, partners: int = PARTNERS, seed: int = 0
) -> dict[str, np.ndarray]:
    """What a system decides on with each coalition of channels: class indices ``(U,)`` by name.

    "Text alone" is the mean of the system's probabilities over ``partners`` foreign dialogues whose audio,
    turn by turn, stands in for its own; so a system that reads conversations meets voices that belong
    together. The additive projection is taken in logarithms of probabilities over the same pairs: unlike
    :func:`mer_lab.emap.emap`, which asks about every pair, it serves contextual systems too, and its means
    are over ``partners`` draws, so that the gap errs on the large side.

    Args:
        data: both channels, at least two dialogues.
        seed: of the draw of partners.

    Returns:
        the fields of :class:`ModalityValue`, ``"both"`` being the system's own decisions.

    Raises:
        MerLabError: a single dialogue, or a channel is missing.
    """
    if data.audio is None or data.text is None:
        raise MerLabError("the value of each channel needs data of both channels.")
    orders = foreign(data.dialogue, data.turn, partners, seed)
    own = np.log(predict(model, data).clip(1e-9))  # (U, classes)
    alone = {}
    for kept, swapped in (("text", "audio"), ("audio", "text")):
        alone[kept] = np.stack(
            [np.log(predict(model, _exchanged(data, swapped, order)).clip(1e-9)) for order in orders]
        )  # (partners, U, classes)
    mean = {kept: np.exp(logs).mean(0) for kept, logs in alone.items()}
    anything = (mean["text"].mean(0) + mean["audio"].mean(0)) / 2  # (classes,)
    # grand mean over pairs: both sets draw from it
    grand = (alone["text"].mean((0, 1)) + alone["audio"].mean((0, 1))) / 2
    additive = alone["text"].mean(0) + alone["audio"].mean(0) - grand
    answers = (np.broadcast_to(anything, own.shape), mean["text"], mean["audio"], own, additive)
    return {name: a.argmax(1) for name, a in zip(ModalityValue._fields, answers, strict=True)}


def modality_value(
    target: np.ndarray, decisions: Mapping[str, np.ndarray], metric: str = "wa"
) -> ModalityValue:
    """Scores of what :func:`coalitions` returned.

    Args:
        target: class indices ``(U,)``; utterances with -1 are left out.
        metric: one of :data:`mer_lab.metrics.METRICS`.
    """
    kept, stacked = labelled(target, np.stack([decisions[name] for name in ModalityValue._fields]))
    classes = int(max(kept.max(), stacked.max())) + 1
    tables = np.stack([count_confusion(kept, row, classes) for row in stacked])
    return ModalityValue(*from_confusion(metric, tables.astype(float)).tolist())


def foreign(dialogue: np.ndarray, turn: np.ndarray, partners: int, seed: int) -> list[np.ndarray]:
    """Rows whose channel stands in for each utterance's ``(U,)``, ``partners`` times, never its own dialogue.

    Dialogues stand in a ring, shuffled; turn t of one gets turn t of the k-th after it, begun again where
    that is shorter.
    """
    rows = [np.flatnonzero(dialogue == d) for d in dict.fromkeys(dialogue.tolist())]
    rows = [row[np.argsort(turn[row], kind="stable")] for row in rows]
    if len(rows) < 2:
        raise MerLabError("a channel is taken from another dialogue, and the data hold only one.")
    ring = np.random.default_rng(seed).permutation(len(rows))
    orders = []
    for step in range(1, min(partners, len(rows) - 1) + 1):
        order = np.empty(len(dialogue), np.int64)
        for k, d in enumerate(ring):
            order[rows[d]] = np.resize(rows[ring[(k + step) % len(ring)]], len(rows[d]))
        orders.append(order)
    return orders


def _exchanged(data: Dataset, channel: str, order: np.ndarray) -> Dataset:
    channels = {"audio": data.audio, "text": data.text}
    return Dataset(data.corpus, **channels | {channel: channels[channel].exchanged(order)})
