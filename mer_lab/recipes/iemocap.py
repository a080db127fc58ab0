"""Recipes on IEMOCAP, for a machine with an accelerator and the corpus."""

from __future__ import annotations

from mer_lab.records import Recipe
from mer_lab.training import TrainConfig

_TUNED = {"name": "pretrained", "train_layers": 12, "rate": 0.02, "checkpointing": True}

RECIPES = (
    Recipe(
        "iemocap-krishna2021",
        {"name": "krishna2021"},
        corpus="iemocap",
        scheme="four",
        fold="session=5",
        audio={"name": "waveform"},
        text={"name": "tokens", "encoder": "bert-base-uncased"},
        encoder={
            "audio": _TUNED | {"encoder": "facebook/wav2vec2-base"},
            "text": _TUNED | {"encoder": "bert-base-uncased"},
        },
        train=TrainConfig(epochs=10, lr=1e-3, batch_size=16, monitor="ua", precision="bf16"),
    ),
    Recipe(
        "iemocap-xu2019",
        {"name": "xu2019"},
        corpus="iemocap",
        scheme="four",
        fold="session=5",
        audio={"name": "lowlevel34"},
        text={"name": "words", "width": 300, "min_count": 2, "drop": 0.1},
        train=TrainConfig(epochs=30, lr=1e-3, batch_size=32, monitor="ua"),
    ),
)
