"""What a trained model answers, and how well."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.metrics import score_metrics, scores

SCORE_METRICS = ("mae", "correlation")


def predict(
    model: nn.Module, data: Dataset, batch_size: int | None = None, batch_by: str | None = None
) -> np.ndarray:
    """Probabilities ``(U, classes)`` of every utterance, in the corpus's order.

    A system that uses context gets whole dialogues, any other utterances of similar length.

    Of a model with one output, trained on a score, its values ``(U, 1)``.
    """
    logits = _of_every_utterance(model, data, "logits", batch_size, batch_by)
    return (logits.softmax(-1) if logits.shape[1] > 1 else logits).numpy()


def embed(model: nn.Module, data: Dataset) -> np.ndarray:
    """What the classifier sees of every utterance, ``(U, D)``, in the corpus's order."""
    return _of_every_utterance(model, data, "embedding").numpy()


def _of_every_utterance(
    model: nn.Module, data: Dataset, part: str, batch_size: int | None = None, batch_by: str | None = None
) -> Tensor:
    """A part of the model's :class:`Output`, float32, row by row as in the corpus."""
    device = next(model.parameters()).device
    batch_by = batch_by or ("dialogue" if getattr(model, "contextual", False) else "length")
    model.eval()
    values, rows = [], []
    with torch.inference_mode():
        for batch in data.batches(batch_size or at_once(model), batch_by):
            values.append(getattr(model(batch.to(device)), part).float().cpu())
            rows.append(batch.index)
    if not rows:
        raise MerLabError("there are no utterances to predict.")
    return torch.cat(values)[torch.cat(rows).argsort()]


def evaluate(data: Dataset, prediction: np.ndarray, target: str = "label") -> dict:
    """Scores of predicted classes, or of predicted numbers ``(U,)`` where a score is the target."""
    if target == "score":
        return score_metrics(data.scores, prediction)
    return scores(data.targets, prediction, data.corpus.labels)


def at_once(model: nn.Module) -> int:
    """Utterances to a batch where nothing is learnt: fewer where a pretrained network reads them."""
    return 8 if any(hasattr(module, "learning_rates") for module in model.modules()) else 128
