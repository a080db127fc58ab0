"""Attention on trial: other maps are put in the place of a system's own, and it is asked again.

Where maps moved far and the output did not, the maps explained nothing (Jain & Wallace, "Attention is not
Explanation", NAACL 2019; Wiegreffe & Pinter, "Attention is not not Explanation", EMNLP 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mer_lab.batches import Batch, Dataset
from mer_lab.errors import MerLabError
from mer_lab.explain.attention import ends, real_steps, to_one
from mer_lab.models import System
from mer_lab.models.alignment import AdditiveAlignment
from mer_lab.models.cm_roberta import TurnAttention
from mer_lab.models.dialogue_rnn import DialogueCell
from mer_lab.models.hcam import CoAttention, Context
from mer_lab.models.layers import AttentionPooling, Conversation, MultiHeadAttention
from mer_lab.prediction import at_once

HOWS = ("uniform", "shuffled")
MAPS = ("within", "across", "all")
"""Maps within an utterance, across the turns of a conversation, and both."""
_ATTENTION = (AttentionPooling, MultiHeadAttention, AdditiveAlignment, DialogueCell)  # one softmax each
_ACROSS = (TurnAttention, Context, CoAttention, DialogueCell)


@contextmanager
def replaced(model: nn.Module, how: str = "uniform", maps: str = "all", seed: int = 0) -> Iterator[None]:
    """Within this context a system's attention looks elsewhere; afterwards all is as before.

    Every attention layer has one softmax; while such a layer runs, its softmax gives other weights, so that
    the output changes exactly by what the maps were good for. Attention inside a pretrained encoder stays.

    Args:
        how: "uniform", all real keys alike; "shuffled", every row's own weights in a random order.
        maps: which, of :data:`MAPS`.
        seed: of the shuffling.

    Raises:
        MerLabError: no such replacement or kind of maps, or the system has no such map.

    >>> pool, h, mask = AttentionPooling(4), torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    >>> with replaced(pool):
    ...     pool(h, mask).weights.tolist()
    [[0.5, 0.5, 0.0]]
    """
    for value, known in ((how, HOWS), (maps, MAPS)):
        if value not in known:
            raise MerLabError(f"attention cannot be replaced by {value!r}; choose one of {', '.join(known)}.")
    if not (layers := _layers(model, maps)):
        raise MerLabError(f"{type(model).__name__} has no attention that could be replaced (maps: {maps}).")
    swapped = _Swapped(torch.Generator().manual_seed(seed) if how == "shuffled" else None)
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(patch.object(layer, "forward", swapped.during(layer.forward)))
        yield


def without_attention(model: System, data: Dataset, seeds: int = 3, by: str | None = None) -> pd.DataFrame:
    """How much a system's answers change when its attention maps are replaced, for all utterances of data.

    Where maps moved far and the answers did not, the maps explain nothing; where they hardly moved they were
    uniform to begin with, and nothing can be said. A change is no proof of an explanation, as a system that
    meets maps it never learnt with may fail for that alone.

    Args:
        seeds: of the shuffling, over which is averaged.
        by: a column of the corpus's table, such as ``"cue"``, to tell apart.

    Returns:
        one row for each kind of maps that the system has (``maps``), replacement (``how``) and value of
        ``by``: ``moved``, total variation distance of a row of a map and its replacement, 0 to 1, mean over
        rows with a choice; ``accuracy`` of the system, ``replaced`` of the same with other maps;
        ``unchanged``, share of decisions; ``distance``, mean total variation distance of the probabilities.

    Raises:
        MerLabError: the system gives a score, or has no attention; the table has no such column.
    """
    if by is not None and by not in data.corpus.table:
        raise MerLabError(f"the corpus has no column {by!r}; choose one of {', '.join(data.corpus.table)}.")
    if model.classes < 2:
        raise MerLabError("this system gives a score and no class; only decisions can stay unchanged.")
    kinds = [kind for kind in MAPS[:2] if _layers(model, kind)]
    kinds += ["all"] if len(kinds) != 1 else []  # without any, replaced says so
    ways = [(k, how, s) for k in kinds for how in HOWS for s in range(seeds if how == "shuffled" else 1)]
    device, together = next(model.eval().parameters()).device, "dialogue" if model.contextual else "length"
    apart = {} if by is None else {by: data.corpus.table[by].to_numpy()}
    rows = []
    with torch.inference_mode():
        for n, batch in enumerate(data.batches(at_once(model), together)):
            own, real = model(batch := batch.to(device), need_attention=True), real_steps(model, batch)
            p = own.logits.softmax(-1)
            known = torch.where(batch.label >= 0, 1.0, torch.nan)
            for kind, how, seed in ways:
                with replaced(model, how, kind, seed=1000 * seed + n):
                    other = model(batch, need_attention=True)
                q = other.logits.softmax(-1)
                rows.append(pd.DataFrame({
                    "maps": kind, "how": how, **{name: x[batch.index.cpu()] for name, x in apart.items()},
                    "moved": _moved(own.attention, other.attention, real, batch, kind),
                    "accuracy": ((p.argmax(1) == batch.label) * known).cpu(),
                    "replaced": ((q.argmax(1) == batch.label) * known).cpu(),
                    "unchanged": (p.argmax(1) == q.argmax(1)).float().cpu(),
                    "distance": ((p - q).abs().sum(1) / 2).cpu(),
                }))  # fmt: skip
    if not rows:
        raise MerLabError("there are no utterances to ask about.")
    return pd.concat(rows).groupby(["maps", "how", *apart], sort=False).mean().reset_index()


def _layers(model: nn.Module, maps: str) -> list[nn.Module]:
    across = {id(m) for part in model.modules() if isinstance(part, _ACROSS) for m in part.modules()}
    found = [m for m in model.modules() if isinstance(m, _ATTENTION)]
    return found if maps == "all" else [m for m in found if (id(m) in across) == (maps == "across")]


class _Swapped(TorchFunctionMode):
    """Every softmax over the last dimension gives uniform weights, or its own in an order that is drawn."""

    def __init__(self, generator: torch.Generator | None) -> None:
        super().__init__()
        self.generator = generator

    def during(self, forward: Callable) -> Callable:
        def other(*args, **kwargs):
            with self:
                return forward(*args, **kwargs)

        return other

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "softmax":
            return out
        real = args[0] > torch.finfo(out.dtype).min  # which is what masked_softmax gives padding
        if self.generator is None:
            return to_one(real.to(out))
        noise = torch.rand(out.shape, generator=self.generator).to(out)
        drawn = torch.where(real, noise, 2.0).argsort(-1)  # real keys first, in a random order
        place = real.int().argsort(dim=-1, descending=True, stable=True)  # real keys first, in their own
        return torch.zeros_like(out).scatter(-1, place, out.gather(-1, drawn))


def _moved(own: dict, other: dict, real: dict[str, Tensor], batch: Batch, maps: str) -> np.ndarray:
    """Distance of an utterance's maps to their replacements ``(U,)``, mean over rows with more than a key."""
    found, turn = [], Conversation.of(batch)
    for name, weights in own.items():
        query, key = ends(name)
        if maps != "all" and (key == "turns") != (maps == "across"):
            continue
        far = (weights - other[name]).abs().sum(-1).mean(1) / 2  # (U, queries), or (dialogues, turns)
        rows = ((weights + other[name] > 0).sum(-1) > 1).any(1) & (query is None or real[query])
        far = torch.where(rows, far, torch.nan)
        found.append(turn.utterances(far) if key == "turns" else far.nanmean(1))
    return torch.stack(found).nanmean(0).cpu().numpy()
