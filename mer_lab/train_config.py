"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mer_lab.errors import MerLabError, check_choices
from mer_lab.metrics import METRICS
from mer_lab.prediction import SCORE_METRICS


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        epochs: at most; training stops after ``patience`` epochs without a better validation score.
        batch_size: utterances in a batch.
        lr, weight_decay: of AdamW. The rate rises over the first 5 % of all steps and falls on a cosine; a
            pretrained encoder that learns along takes a share of it (``SpeechEncoder``, ``TextEncoder``).
        clip: norm that gradients are clipped to.
        class_weights: power of the inverse class frequency that weighs the loss: 0 none, 1 balanced.
        label_smoothing: of the cross-entropy.
        target: "label", classes by cross-entropy, or "score", the corpus's number by absolute error.
        monitor: validation score that chooses the epoch: "wa", "ua", "weighted_f1" or "macro_f1"; with a
            score as target "mae" or "correlation".
        batch_by: "length", or "dialogue" for systems that use context.
        precision: "no", "bf16" or "fp16", as Accelerate names them.
        modality_dropout: of a system that reads two channels: share of the utterances that lose their audio
            in training, and of those that lose their text; at most 0.5, since none loses both.
        contrastive: share of the supervised contrastive loss on the model's embedding; the rest is
            cross-entropy. ``temperature``: its tau. With several processes each contrasts its own share.
    """

    epochs: int = 20
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 5
    class_weights: float = 0.0
    label_smoothing: float = 0.0
    monitor: str = "wa"
    batch_by: str = "length"
    precision: str = "no"
    target: str = "label"
    contrastive: float = 0.0
    temperature: float = 0.1
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choices(
            self,
            target=("label", "score"),
            monitor=METRICS if self.target == "label" else SCORE_METRICS,
            batch_by=("length", "dialogue"),
            precision=("no", "bf16", "fp16"),
        )
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise MerLabError(f"{name} is {value!r}, expected a whole number of at least 1.")
        shares = ("class_weights", "label_smoothing", "contrastive", "temperature", "modality_dropout")
        for name in ("lr", "weight_decay", "clip", *shares):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < np.inf:
                raise MerLabError(f"{name} is {value!r}, expected a number of at least 0.")
        if self.contrastive > 1 or self.temperature == 0:
            raise MerLabError("contrastive is a share of the loss, 0 to 1, and its temperature is above 0.")
        if self.modality_dropout > 0.5:
            raise MerLabError(f"modality_dropout is {self.modality_dropout}, expected 0 to 0.5 a channel.")
