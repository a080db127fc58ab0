"""How much of a fusion is only addition: the empirical multimodally-additive projection.

Hessel & Lee, "Does my multimodal model learn cross-modal interactions? It's harder to tell than you might
think!", EMNLP 2020, arXiv 2010.06572.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mer_lab.batches import Batch, Dataset
from mer_lab.errors import MerLabError
from mer_lab.prediction import at_once


class Emap(NamedTuple):
    """A model's answers and those of its additive projection, on N utterances.

    Attributes:
        index: ``(N,)`` their rows in the data.
        pairs: ``(N, N, classes)``, what the model says to text i with audio j.
        own: ``(N,)`` classes the model decides on; its diagonal.
        projected: ``(N,)`` classes that its best additive imitation decides on.
        accuracy, projected_accuracy: of the two, on the labelled ones among these utterances.
    """

    index: np.ndarray
    pairs: np.ndarray
    own: np.ndarray
    projected: np.ndarray
    accuracy: float
    projected_accuracy: float

    @property
    def gap(self) -> float:
        """Accuracy that is lost when nothing but ``f(text) + g(audio)`` is left of the model."""
        return self.accuracy - self.projected_accuracy


def emap(
    model: nn.Module, data: Dataset, n: int | None = None, seed: int = 0, of: str = "logits",
    progress: bool = True,
) -> Emap:  # fmt: skip
    """Ask a model about every text with every audio, and keep of its answers what is additive.

    ``f^(t_i, a_i) = mean_j f(t_i, a_j) + mean_j f(t_j, a_i) - mean_jk f(t_j, a_k)``: of all that is additive
    the nearest to f, in squared distance over all pairs.

    Args:
        model: a system that answers utterances one by one. Its ``pairs(batch)`` is asked where it has one,
            which reads each channel only once; any other reads N * N utterances.
        data: both channels.
        n: as many utterances, drawn at random; all by default.
        seed: of the draw.
        of: "logits", or "probabilities", in which a mean of two classifiers is additive.

    Raises:
        MerLabError: the model reads whole dialogues, so its channels cannot be paired anew; data of one
            channel; n below 1.
    """
    if getattr(model, "contextual", False):
        name = type(model).__name__
        raise MerLabError(f"EMAP pairs single utterances anew, but {name} reads whole dialogues.")
    if of not in ("logits", "probabilities"):
        raise MerLabError(f"of is {of!r}, expected 'logits' or 'probabilities'.")
    if n is not None and n < 1:
        raise MerLabError(f"n is {n}, expected at least one utterance.")
    index = np.arange(len(data))
    if n is not None and n < len(data):
        index = np.sort(np.random.default_rng(seed).choice(index, n, replace=False))
    batch = data.batch(index).to(next(model.parameters()).device)
    batch.channel("audio"), batch.channel("text")  # complains where one is missing
    model.eval()
    with torch.inference_mode():
        f = model.pairs(batch) if hasattr(model, "pairs") else _all_pairs(model, batch, progress)
        f = (f.double().softmax(-1) if of == "probabilities" else f.double()).cpu().numpy()
    own, projected = np.einsum("iic->ic", f).argmax(-1), project(f).argmax(-1)
    target = data.targets[index]
    known = target >= 0
    hits = [float(np.mean((x == target)[known])) for x in (own, projected)]
    return Emap(index, f, own, projected, *hits)


def project(f: np.ndarray) -> np.ndarray:
    """The additive projection ``(N, classes)`` of what was said to all pairs ``(N, N, classes)``.

    >>> project(np.array([[[1.0], [0.0]], [[0.0], [1.0]]])).ravel().tolist()  # XOR: nothing is additive
    [0.5, 0.5]
    """
    return f.mean(1) + f.mean(0) - f.mean((0, 1))


def _all_pairs(model: nn.Module, batch: Batch, progress: bool) -> Tensor:
    size, rows = at_once(model), []
    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    with tqdm(total=len(batch) ** 2, desc="pairs", leave=False, **quiet) as bar:
        for text, mask in zip(batch.text, batch.text_mask, strict=True):  # one text with every audio
            row = []
            for part in torch.arange(len(batch)).split(size):
                words = {"text": text.expand(len(part), *text.shape), "text_mask": mask.expand(len(part), -1)}
                row.append(model(replace(_take(batch, part), **words)).logits.float())
                bar.update(len(part))
            rows.append(torch.cat(row))
    return torch.stack(rows)


def _take(batch: Batch, rows: Tensor) -> Batch:
    return Batch(**{k: v if v is None else v[rows.to(v.device)] for k, v in vars(batch).items()})
