"""Where attention looks in time, held against the true time of each word."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.features.words import tokenise
from mer_lab.models import System
from mer_lab.prediction import at_once

SLACK = 0.05  # seconds: two frames of 25 ms, about as well as people agree on a word's onset


def alignment_error(
    weights: np.ndarray, start: np.ndarray, end: np.ndarray, hop: float, first: float = 0.0,
    slack: float = SLACK,
) -> pd.DataFrame:  # fmt: skip
    """How far from the true word attention looks, and how much of it falls inside.

    Args:
        weights: ``(words, frames)``, rows that sum to 1 over the real frames and are 0 in padding.
        start, end: true span of each word ``(words,)``, in seconds.
        hop: seconds between frames; frame t is centred at ``first + t * hop``.
        slack: seconds by which a span is widened on both sides for ``inside``.

    Returns:
        one row a word: ``centre``, the weights' centre of mass (s); ``error`` (ms), its distance to the span,
        0 within; ``peak_error`` (ms), the same of the frame with the most weight; ``inside``, the share of
        weight in the widened span.
    """
    weights, start, end = (np.asarray(x, float) for x in (weights, start, end))
    time = first + hop * np.arange(weights.shape[1])  # (frames,)
    centre, peak = weights @ time, time[weights.argmax(1)]
    within = (time >= start[:, None] - slack) & (time <= end[:, None] + slack)

    def off(at: np.ndarray) -> np.ndarray:
        return 1000 * np.maximum(np.maximum(start - at, at - end), 0.0)

    inside = (weights * within).sum(1)
    columns = {"centre": centre, "error": off(centre), "peak_error": off(peak), "inside": inside}
    return pd.DataFrame(columns)


def frame_clock(data: Dataset, stride: int = 1) -> tuple[float, float]:
    """Seconds between steps, and the centre of the first, where ``stride`` frames are averaged to a step."""
    hop = data.audio.meta.get("hop") if data.audio is not None else None
    if not hop:
        raise MerLabError("these audio features have no clock (hop), so attention has no place in time.")
    return hop * stride, hop * (stride - 1) / 2


def word_alignment(model: System, data: Dataset, name: str = "alignment") -> pd.DataFrame:
    """:func:`alignment_error` of every word of every utterance whose words have times; heads are averaged.

    Punctuation marks that the text encoder reads as tokens are left out, as nobody speaks them.

    Args:
        model: its ``attention[name]`` is a map ``(U, heads, words, frames)``.

    Returns:
        the corpus's rows of ``words`` with the columns of :func:`alignment_error`, and ``place``, the word's
        position in its sentence.

    Raises:
        MerLabError: the corpus has no word timings, the features no clock, or the model no such map.
    """
    words = data.corpus.words
    if words is None or not len(words):
        raise MerLabError(f"corpus {data.corpus.name} has no word timings to hold attention against.")
    hop, first = frame_clock(data, getattr(model.config, "stride", 1))
    timed = {u: rows for u, rows in words.groupby("utterance_id", sort=False)}
    device, texts, ids = next(model.parameters()).device, data.corpus.table["text"], data.corpus.ids
    model.eval()
    found = []
    with torch.inference_mode():
        for batch in data.batches(at_once(model)):
            maps = model(batch.to(device), need_attention=True).attention
            if name not in maps:
                raise MerLabError(f"the model has no attention {name!r}; it has {', '.join(maps)}.")
            weights = maps[name].float().mean(1).cpu().numpy()  # (U, words, frames)
            for k, row in enumerate(batch.index.tolist()):
                spoken = [j for j, token in enumerate(tokenise(texts.iloc[row])) if token[0].isalnum()]
                rows = timed.get(ids[row])
                if rows is None or len(rows) != len(spoken):
                    continue  # no times, or counted otherwise: no word can be named
                times = rows["start"].to_numpy(float), rows["end"].to_numpy(float)
                error = alignment_error(weights[k, spoken], *times, hop, first).set_index(rows.index)
                found.append(pd.concat([rows, error], axis=1).assign(place=range(len(rows))))
    if not found:
        raise MerLabError(f"no utterance of {data.corpus.name} has a timed word for every word of its text.")
    return pd.concat(found).sort_index().reset_index(drop=True)
