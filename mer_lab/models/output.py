"""What every system returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Result of ``model(batch, need_attention=False)``.

    Attributes:
        logits: ``(U, classes)``.
        attention: named maps, empty unless asked for: ``(U, heads, queries, keys)`` within an utterance,
            ``(dialogues, heads, turns, turns)`` across one; rows sum to 1 over real keys.
        embedding: ``(U, D)``, what the classifier saw.
    """

    logits: Tensor
    attention: dict[str, Tensor]
    embedding: Tensor
