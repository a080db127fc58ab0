"""What attention looks at: maps to draw, and what they give to every word and frame.

Attention shows where a system looked and not what it made of it. So it stands here twice: as maps to draw
(:func:`maps_of`), and as one more method that can be held against the others (:func:`attention_relevance`).
:mod:`mer_lab.explain.replacement` puts it on trial.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from mer_lab.batches import Batch
from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution
from mer_lab.explain.baselines import baseline
from mer_lab.explain.question import CHANNELS, Question
from mer_lab.models import HCAM, AlignmentAttention, CMRoberta, CrossModalAttention, MulT, System
from mer_lab.models.layers import Conversation
from mer_lab.models.unimodal import average_steps
from mer_lab.prediction import at_once

OTHER = {"audio": "text", "text": "audio"}
SKIP = 0.5
"""Share of a step's vector that is taken to come from the residual connection (Abnar & Zuidema)."""


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
        rolled = to_one(mixed) @ rolled
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
            kept[part.cpu().numpy()] = to_one(full.flatten(1)).view_as(full).float().cpu().numpy()
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
        query, key = ends(name)
        at = 0 if key == "turns" else int(asked[0])
        heads = weights[at].mean(0)
        heads = heads if query is None else heads[real[query][at]]
        out[name] = heads[:, real[key][at]].float().cpu().numpy()
    return out


def _look(question: Question, example: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Batch, Tensor]:
    """Maps, real steps (:func:`real_steps`), what was read, and the place in it of what was asked about."""
    with torch.inference_mode():
        batch, asked = question.batch(*(x[example] for x in question.inputs), example)
        maps = question.system(batch, need_attention=True).attention
        return maps, real_steps(question.system, batch), batch, asked


def real_steps(system: System, batch: Batch) -> dict[str, Tensor]:
    """True = real: steps of each channel as attention sees them, and as encoded; turns of each dialogue."""
    real = {"turns": Conversation.of(batch).mask}
    for name in CHANNELS:
        x, mask = system.encode_channel(batch, name)
        stride = getattr(system.config, "stride", 1) if name == "audio" else 1
        real[f"{name} encoded"], real[name] = mask, average_steps(x, mask, stride)[1]
    return real


def ends(name: str) -> tuple[str | None, str]:
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
    at = {c: to_one(real[c].float()) for c in CHANNELS}  # where there is no map, all alike
    for name, weights in maps.items():
        query, key = ends(name)
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
    return {c: to_one(x) for c, x in found.items()}


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
    return {c: to_one(x) for c, x in below.items()}


def _across(system: System, maps: dict, real: Tensor, place: Tensor) -> dict[str, Tensor]:
    """Weights ``(B, N)`` of each turn's voice and words for the turn in ``place (B,)``; real ``(B, N)``."""
    row = one_hot(place, real.shape[1]).float()
    turns = next((m.shape[-1] for name, m in maps.items() if ends(name)[1] == "turns"), None)
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


def to_one(x: Tensor) -> Tensor:
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
