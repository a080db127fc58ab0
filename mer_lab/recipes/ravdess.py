"""Recipes on RAVDESS."""

from __future__ import annotations

from dataclasses import replace

from mer_lab.experiments import Recipe
from mer_lab.training import TrainConfig

_LISTENS = {"name": "statistics", "dropout": 0.3}
_TUNED = {"name": "pretrained", "encoder": "moonshine-tiny-en", "train_layers": 2, "rate": 0.2}
_HEARD = TrainConfig(epochs=30, patience=30, lr=1e-2, weight_decay=0.05, label_smoothing=0.1, monitor="ua")

RECIPES = (
    Recipe(
        "ravdess-logmel",
        {"name": "statistics", "dropout": 0.3},
        corpus="ravdess",
        audio={"name": "logmel", "n_mels": 64, "window": 0.04, "hop": 0.02},
        encoder={"name": "conv", "augment": {"stretch": 0.15, "shift": 1.5, "scale": 0.1}},
        train=TrainConfig(epochs=90, patience=90, batch_size=16, lr=3e-3, weight_decay=0.05, monitor="ua"),
    ),
    Recipe(
        "ravdess-moonshine",
        _LISTENS,
        corpus="ravdess",
        audio={"name": "pretrained", "encoder": "moonshine-tiny-en", "layer": 2},
        train=_HEARD,
    ),
    Recipe(
        "ravdess-moonshine-mix",
        _LISTENS,
        corpus="ravdess",
        audio={"name": "pretrained", "encoder": "moonshine-tiny-en", "layer": "all"},
        encoder={"name": "mix", "layers": 7},
        train=replace(_HEARD, lr=4e-3),
    ),
    Recipe(
        "ravdess-moonshine-tuned",
        _LISTENS,
        corpus="ravdess",
        audio={"name": "waveform"},
        encoder=_TUNED,
        train=replace(_HEARD, epochs=8, lr=1e-3, batch_size=16),
    ),
    Recipe(
        "ravdess-moonshine-tuned-low",
        _LISTENS,
        corpus="ravdess",
        audio={"name": "waveform"},
        encoder=_TUNED | {"layer": 2},
        train=replace(_HEARD, epochs=8, lr=1e-3, batch_size=16),
    ),
    Recipe(  # for an accelerator
        "ravdess-wav2vec2-tuned",
        _LISTENS,
        corpus="ravdess",
        audio={"name": "waveform"},
        encoder={"name": "pretrained", "encoder": "facebook/wav2vec2-base", "train_layers": 12, "rate": 0.05},
        train=replace(_HEARD, epochs=15, lr=1e-3, batch_size=16, precision="bf16"),
    ),
)
