"""What attention looks at, and whether that explains anything.

Attention shows where a system looked and not what it made of it. So it stands here three times: as maps to
draw (:func:`maps_of`), as one more method that can be held against the others
(:func:`attention_relevance`), and on trial: if other maps leave the output as it was, the maps explained
nothing (:func:`without_attention`; Jain & Wallace, NAACL 2019; Wiegreffe & Pinter, EMNLP 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad
from torch.overrides import TorchFunctionMode

from mer_lab.batches import Batch, Dataset
from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution
from mer_lab.explain.baselines import baseline
from mer_lab.explain.question import CHANNELS, Question
from mer_lab.models import HCAM, AlignmentAttention, CMRoberta, CrossModalAttention, MulT, System
from mer_lab.models.alignment import AdditiveAlignment
from mer_lab.models.cm_roberta import TurnAttention
from mer_lab.models.dialogue_rnn import DialogueCell
from mer_lab.models.hcam import CoAttention, Context
from mer_lab.models.layers import AttentionPooling, Conversation, MultiHeadAttention
from mer_lab.models.unimodal import average_steps
from mer_lab.prediction import at_once

OTHER = {"audio": "text", "text": "audio"}
SKIP = 0.5
"""Share of a step's vector that is taken to come from the residual connection (Abnar & Zuidema)."""
HOWS = ("uniform", "shuffled")
MAPS = ("within", "across", "all")
"""Maps within an utterance, across the turns of a conversation, and both."""
_ATTENTION = (AttentionPooling, MultiHeadAttention, AdditiveAlignment, DialogueCell)  # one softmax each
_ACROSS = (TurnAttention, Context, CoAttention, DialogueCell)


def rollout(maps: Sequence[Tensor], skip: float = SKIP, mask: Tensor | None = None) -> Tensor:
    """How much of each input step is in each step on top of stacked self-attention.

    Attention rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv
    2005.00928): ``R_l = A_l R_(l-1)`` with ``A_l = skip I + (1 - skip) mean over heads``, rows made to sum to
    1. It knows neither values nor feed-forward networks.

    Args:
        maps: of each layer, the lowest first, ``(U, heads, T, T)``.
        skip: share that the residual connection carries past a layer.
        mask: ``(U, T)``, True = real; by default a step is padding that no step of the lowest map looks at.

    Returns:
        ``(U, T, T)``; rows sum to 1 over real steps, rows of padding are zero.

    Raises:
        MerLabError: no map, maps that are not square or not of one length, or a share outside 0 to 1.

    >>> rollout([torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])] * 2).tolist()
    [[[0.5625, 0.4375], [0.0, 1.0]]]
    """
    if not 0 <= skip <= 1:
        raise MerLabError(f"skip is {skip}, expected a share from 0 to 1.")
    if any(m.dim() != 4 for m in maps) or len({length for m in maps for length in m.shape[2:]}) != 1:
        raise MerLabError("rollout needs one or more self-attention maps (U, heads, T, T) of the same T.")
    real = (maps[0] > 0).any(1).any(1) if mask is None else mask  # (U, T)
    rolled = torch.diag_embed(real.to(maps[0].dtype))
    own = rolled
    for weights in maps:
        mixed = skip * own + (1 - skip) * weights.mean(1) * real[:, None] * real[:, :, None]
        rolled = _to_one(mixed) @ rolled
    return rolled


def attention_relevance(question: Question) -> Attribution:
    """What attention gives to every frame and every word, as a method to be held against the others.

    Only rollout within a stack of self-attention has a paper. The rest is a **heuristic**: start from the
    weights by which the utterance's vector was pooled, go down, multiply by the maps on the way (heads
    averaged), and let half of a step come through each residual connection. It looks past recurrent layers,
    values and everything after the pooling, so it knows no class and no sign. By system:

    - pooled fusion, bc-LSTM, DialogueRNN, HCAM: the pooling weights of each channel.
    - xu2019: words by their pooling weights, frames by pooling times alignment. With max pooling there is no
      map over words, so all words weigh the same.
    - krishna2021: each channel by the mean over the other's queries, as pooling by statistics weighs them all
      the same; a channel that is not asked weighs uniformly.
    - MulT: the last step ("last") or all of them ("mean"), times the rollout of self-attention, down through
      the cross-modal layers: a layer's map leads to the other channel, its residual connection stays.
    - CM-RoBERTa: pooling weights, down through the units; in parallel units self- and cross-attention share
      equally what the residual connection leaves.

    Other turns get the weight of the asked turn's row in the map of turns (with the residual connection, for
    HCAM down through stages III and II), times their own distribution within. A system without a map of turns
    (bc-LSTM, or a GRU as context) gives all of it to the asked turn, though others matter to it.

    Frames that were averaged to one step share its weight equally.

    Returns:
        numbers from 0 up; each channel of each utterance sums to 1. Nothing adds up to the output
        (``complete=False``); ``reference`` is that of the default baseline.
    """
    system, N = question.system, question.real.shape[1]
    numbers = [np.zeros(x.shape[:3], np.float32) for x in question.inputs]
    for part in question.example.split(max(1, at_once(system) // N)):
        maps, real, batch, asked = _look(question, part)
        within = _within(system, maps, real)
        share = _across(system, maps, question.real[part], question.place[part])
        for kept, name in zip(numbers, CHANNELS, strict=True):
            mask = batch.channel(name)[1]
            stride = getattr(system.config, "stride", 1) if name == "audio" else 1
            steps = _spread(within[name], real[f"{name} encoded"].sum(1), mask, stride)
            full = steps.new_zeros(*question.real[part].shape, mask.shape[1])
            full[question.real[part]] = steps
            full = full * share[name].unsqueeze(-1)
            kept[part.cpu().numpy()] = _to_one(full.flatten(1)).view_as(full).float().cpu().numpy()
    empty = baseline(question)
    output, reference = (question.ask(*x).cpu().numpy() for x in (question.inputs, empty))
    return Attribution("attention", ("mean", "mask"), *numbers, output, reference, question, False)


def maps_of(question: Question, b: int = 0) -> dict[str, np.ndarray]:
    """The ``b``-th utterance's maps to draw, under the system's own names, heads averaged.

    Returns:
        ``(queries, keys)`` each, real steps only (of averaged frames, where a system averages them): within
        the asked utterance, a pooling's map having one query; across turns, ``(turns, turns)``.

    Raises:
        MerLabError: there is no such utterance in the question.
    """
    if not 0 <= b < len(question):
        raise MerLabError(f"there is no utterance {b}; the question has {len(question)}, counted from 0.")
    maps, real, _, asked = _look(question, question.example[b : b + 1])
    out = {}
    for name, weights in maps.items():
        query, key = _ends(name)
        at = 0 if key == "turns" else int(asked[0])
        heads = weights[at].mean(0)
        heads = heads if query is None else heads[real[query][at]]
        out[name] = heads[:, real[key][at]].float().cpu().numpy()
    return out


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
            own, real = model(batch := batch.to(device), need_attention=True), _real(model, batch)
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


def _look(question: Question, example: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Batch, Tensor]:
    """Maps, real steps (:func:`_real`), what was read, and the place in it of what was asked about."""
    with torch.inference_mode():
        batch, asked = question.batch(*(x[example] for x in question.inputs), example)
        maps = question.system(batch, need_attention=True).attention
        return maps, _real(question.system, batch), batch, asked


def _real(system: System, batch: Batch) -> dict[str, Tensor]:
    """True = real: steps of each channel as attention sees them, and as encoded; turns of each dialogue."""
    real = {"turns": Conversation.of(batch).mask}
    for name in CHANNELS:
        x, mask = system.encode_channel(batch, name)
        stride = getattr(system.config, "stride", 1) if name == "audio" else 1
        real[f"{name} encoded"], real[name] = mask, average_steps(x, mask, stride)[1]
    return real


def _ends(name: str) -> tuple[str | None, str]:
    """Who asks, and who is asked, by the name of a map: a channel, "turns", or None for a pooling's query."""
    if "turns" in name or name.startswith("III "):
        return "turns", "turns"
    if name == "alignment":
        return "text", "audio"
    if "pooling" in name:
        return None, "audio" if "audio" in name else "text"
    query, verb, *rest = name.split()  # "text to audio 1", "text to itself 1", "text self 1", "text cross 1"
    return query, OTHER[query] if verb == "cross" or OTHER[query] in rest else query


def _within(system: System, maps: dict[str, Tensor], real: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights ``(U, T)`` of each channel's steps in their utterance, as attention sees them."""
    at = {c: _to_one(real[c].float()) for c in CHANNELS}  # where there is no map, all alike
    for name, weights in maps.items():
        query, key = _ends(name)
        if query is None:
            at[key] = weights[:, 0, 0]
    if isinstance(system, AlignmentAttention):
        return at | {"audio": _down(at["text"], maps["alignment"])}
    if isinstance(system, CrossModalAttention):  # a query decides where to look and is not itself passed on
        asks = {c: maps.get(f"{other} to {c}") for c, other in OTHER.items()}
        return {c: at[c] if asks[c] is None else _down(at[OTHER[c]], asks[c]) for c in CHANNELS}
    if isinstance(system, MulT):
        return _mult(system, maps, real, at)
    if isinstance(system, CMRoberta):
        for n in range(system.config.layers, 0, -1):
            at = _unit(system, maps, at, n)
    return at


def _mult(system: MulT, maps: dict, real: dict, at: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {c: torch.zeros_like(at[c]) for c in CHANNELS}
    for c, other in OTHER.items():
        row = at[c]
        if system.config.pool == "last":
            row = one_hot((real[c].sum(1) - 1).clamp(min=0), real[c].shape[1]).to(row)
        own = [maps[f"{c} to itself {k + 1}"] for k in range(system.config.self_layers)]
        row = _down(row, rollout(own, mask=real[c])[:, None]) if own else row
        for k in range(system.config.layers, 0, -1):
            found[other] = found[other] + (1 - SKIP) * _down(row, maps[f"{c} to {other} {k}"])
            row = SKIP * row
        found[c] = found[c] + row
    return {c: _to_one(x) for c, x in found.items()}


def _unit(system: CMRoberta, maps: dict, at: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """From above the n-th core unit to below it."""
    below = {c: torch.zeros_like(at[c]) for c in CHANNELS}
    skip, core = SKIP * system.config.residual, system.config.core
    share = (1 - skip) / (2 if core == "parallel" else 1)
    for c, other in OTHER.items():
        row = at[c]
        if core != "self":
            below[other] = below[other] + share * _down(row, maps[f"{c} cross {n}"])
        if core == "serial":  # self-attention stands below cross-attention
            row = skip * row
        if core != "cross":
            below[c] = below[c] + share * _down(row, maps[f"{c} self {n}"])
        below[c] = below[c] + skip * row
    return {c: _to_one(x) for c, x in below.items()}


def _across(system: System, maps: dict, real: Tensor, place: Tensor) -> dict[str, Tensor]:
    """Weights ``(B, N)`` of each turn's voice and words for the turn in ``place (B,)``; real ``(B, N)``."""
    row = one_hot(place, real.shape[1]).float()
    turns = next((m.shape[-1] for name, m in maps.items() if _ends(name)[1] == "turns"), None)
    if turns is None:
        return dict.fromkeys(CHANNELS, row)
    rows, missing = dict.fromkeys(CHANNELS, row[:, :turns]), real.shape[1] - turns

    def looked(name: str, skip: float = SKIP) -> Tensor:
        return rollout([maps[name]], skip, real[:, :turns])[:, None]

    if isinstance(system, HCAM):
        for k in range(system.config.blocks, 0, -1):  # a block looks at the other channel, then at itself
            rows = {c: _down(rows[c], looked(f"III {c} to {c} {k}")) for c in CHANNELS}
            crossed = {c: _down(rows[c], maps[f"III {c} to {other} {k}"]) for c, other in OTHER.items()}
            rows = {c: SKIP * rows[c] + (1 - SKIP) * crossed[other] for c, other in OTHER.items()}
        rows = {c: _down(rows[c], looked(f"II turns, {c}")) for c in CHANNELS}
    else:
        skip = SKIP * getattr(system.config, "residual", True)
        rows = {c: _down(rows[c], looked("turns", skip)) for c in CHANNELS}
    return {c: pad(x, (0, missing)) for c, x in rows.items()}


def _down(row: Tensor, weights: Tensor) -> Tensor:
    """From weights of queries ``(U, Tq)`` to weights of keys ``(U, Tk)``; heads are averaged."""
    return torch.einsum("uq,uqk->uk", row.to(weights), weights.mean(1))


def _to_one(x: Tensor) -> Tensor:
    """The last dimension sums to 1; zeros stay zeros."""
    total = x.sum(-1, keepdim=True)
    return x / torch.where(total > 0, total, 1.0)


def _spread(weights: Tensor, encoded: Tensor, mask: Tensor, stride: int) -> Tensor:
    """Weights of steps ``(U, T')`` to what was averaged to them ``(U, T)``, in equal shares.

    ``encoded (U,)``: length behind the encoder; where that is shorter, the inputs are dealt out evenly.
    """
    length, t = mask.sum(1, keepdim=True).clamp(min=1), torch.arange(mask.shape[1], device=mask.device)
    last = (encoded[:, None] - 1).clamp(min=0)
    step = torch.minimum(t * encoded[:, None] // length, last) // stride  # (U, T)
    count = torch.zeros_like(weights).scatter_add(1, step, mask.to(weights))
    return (weights / count.clamp(min=1)).gather(1, step) * mask


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
            return _to_one(real.to(out))
        noise = torch.rand(out.shape, generator=self.generator).to(out)
        drawn = torch.where(real, noise, 2.0).argsort(-1)  # real keys first, in a random order
        place = real.int().argsort(dim=-1, descending=True, stable=True)  # real keys first, in their own
        return torch.zeros_like(out).scatter(-1, place, out.gather(-1, drawn))


def _moved(own: dict, other: dict, real: dict[str, Tensor], batch: Batch, maps: str) -> np.ndarray:
    """Distance of an utterance's maps to their replacements ``(U,)``, mean over rows with more than a key."""
    found, turn = [], Conversation.of(batch)
    for name, weights in own.items():
        query, key = _ends(name)
        if maps != "all" and (key == "turns") != (maps == "across"):
            continue
        far = (weights - other[name]).abs().sum(-1).mean(1) / 2  # (U, queries), or (dialogues, turns)
        rows = ((weights + other[name] > 0).sum(-1) > 1).any(1) & (query is None or real[query])
        far = torch.where(rows, far, torch.nan)
        found.append(turn.utterances(far) if key == "turns" else far.nanmean(1))
    return torch.stack(found).nanmean(0).cpu().numpy()
