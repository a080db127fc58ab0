"""From utterances of a batch to the turns of its dialogues, and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mer_lab.batches import Batch


class Conversation(NamedTuple):
    """Where the utterances of a batch stand in their dialogues, whatever their order in the batch.

    Attributes:
        index: ``(dialogues, turns)`` utterance in the batch; 0 where the mask is False.
        mask: ``(dialogues, turns)``, True = a turn.
        row, column: ``(U,)`` dialogue and place in it of each utterance of the batch.
    """

    index: Tensor
    mask: Tensor
    row: Tensor
    column: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Conversation:
        """The dialogues of a batch, their turns in order; turns that the batch lacks leave no gap."""
        # stable sorts, the second key first: order by dialogue, then by turn
        order = batch.turn.argsort(stable=True)
        order = order[batch.dialogue[order].argsort(stable=True)]  # (U,)
        _, row, count = batch.dialogue[order].unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(order), device=order.device)
        column = place - (count.cumsum(0) - count)[row]
        shape = (len(count), int(count.max()))
        index = order.new_zeros(shape).index_put((row, column), order)
        mask = torch.arange(shape[1], device=order.device) < count[:, None]
        back = order.argsort()
        return cls(index, mask, row[back], column[back])

    def turns(self, x: Tensor) -> Tensor:
        """``(U, D)`` to ``(dialogues, turns, D)``, zeros after the end."""
        return x[self.index] * self.mask.unsqueeze(-1)

    def utterances(self, h: Tensor) -> Tensor:
        """``(dialogues, turns, D)`` back to ``(U, D)``, in the batch's order."""
        return h[self.row, self.column]
