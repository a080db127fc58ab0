"""Recipes on the Staged corpus, in the order of the lessons."""

from __future__ import annotations

from mer_lab.experiments import Recipe
from mer_lab.training import TrainConfig

_VOICE = {"name": "prosody", "hop": 0.02}
_WORDS = {"name": "words", "width": 32, "drop": 0.1}

RECIPES = (
    # 03 unimodal baselines
    Recipe("majority", {"name": "majority"}, seeds=(0,)),
    Recipe("text-tfidf", {"name": "tfidf-logreg"}, seeds=(0,)),
    Recipe("audio-boosting", {"name": "prosody-boosting"}, audio=_VOICE, seeds=(0,)),
    Recipe(
        "text-bilstm",
        {"name": "bilstm", "width": 32, "dropout": 0.1},
        text=_WORDS,
        train=TrainConfig(epochs=12, lr=4e-3),
    ),
    Recipe(
        "text-transformer",
        {"name": "transformer", "width": 32, "layers": 1, "dropout": 0.3},
        text=_WORDS,
        train=TrainConfig(epochs=12, lr=4e-3),
    ),
    Recipe(
        "audio-bilstm",
        {"name": "bilstm", "width": 48, "dropout": 0.2, "stride": 2},
        audio=_VOICE,
        train=TrainConfig(epochs=14, batch_size=64, lr=4e-3),
    ),
    Recipe(
        "audio-transformer",
        {"name": "transformer", "width": 32, "dropout": 0.1, "stride": 4},
        audio=_VOICE,
        train=TrainConfig(epochs=14, lr=1e-3),
    ),
    # 04 fusion baselines
    # 05 alignment attention
    # 06 cross-modal attention
    # 07 hierarchical co-attention
    # 08 CM-RoBERTa, and rivals that use context
)
