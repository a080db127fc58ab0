"""Recipes on MELD."""

from __future__ import annotations

from mer_lab.experiments import Recipe
from mer_lab.training import TrainConfig

_WEIGHTED_F1 = TrainConfig(monitor="weighted_f1")

RECIPES = (
    Recipe("meld-majority", {"name": "majority"}, corpus="meld", train=_WEIGHTED_F1, seeds=(0,)),
    Recipe("meld-tfidf", {"name": "tfidf-logreg"}, corpus="meld", train=_WEIGHTED_F1, seeds=(0,)),
    Recipe(
        "meld-prosody",
        {"name": "prosody-boosting"},
        corpus="meld",
        audio={"attached": "prosody"},
        train=_WEIGHTED_F1,
        seeds=(0,),
    ),
    Recipe(
        "meld-minilm",
        {"name": "pooling", "dropout": 0.5},
        corpus="meld",
        text={"name": "pretrained", "encoder": "minilm-l6-v2", "layer": 3},
        train=TrainConfig(epochs=8, lr=2e-3, class_weights=0.5, patience=8, monitor="weighted_f1"),
    ),
)
