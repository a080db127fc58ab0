"""Recipes on MELD."""

from __future__ import annotations

from dataclasses import replace

from mer_lab.experiments import Recipe
from mer_lab.training import TrainConfig

_WEIGHTED_F1 = TrainConfig(monitor="weighted_f1")

_MINILM = {"name": "pretrained", "encoder": "minilm-l6-v2"}
_POOLED = _MINILM | {"layer": [2, 4, 6], "pool": True}  # one vector an utterance
_NARROW = {"text": {"name": "project", "width": 256, "dropout": 0.5}}
_SPEECH = {"attached": "prosody"}  # eight numbers an utterance: one frame
_TRAIN = TrainConfig(epochs=6, patience=6, batch_size=128, lr=2e-3, class_weights=0.4, monitor="weighted_f1")
_DIALOGUES = replace(_TRAIN, batch_by="dialogue")

_FIVE = (0, 1, 2, 3, 4)
_STAGES = {"layers": 1, "inner": 96, "hidden": 128, "ensemble": 3, "context_rate": 0.5, "fusion_rate": 0.2}

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
        text=_MINILM | {"layer": 3},
        train=TrainConfig(epochs=8, lr=2e-3, class_weights=0.5, patience=8, monitor="weighted_f1"),
    ),
    Recipe(  # what fusion and context are held against: the same vectors, text alone
        "meld-minilm-pooled", {"name": "pooling"}, corpus="meld", text=_POOLED, train=_TRAIN, seeds=_FIVE
    ),
    *(  # one vector an utterance and channel
        Recipe(
            f"meld-{name}", {"name": name, "width": 128, "dropout": 0.3} | more, corpus="meld", audio=_SPEECH,
            text=_POOLED, encoder=_NARROW, train=train, seeds=_FIVE,
        )
        for name, more, train in (
            ("early", {}, _TRAIN),
            ("krishna2021", {}, _TRAIN),
            ("bc-lstm", {"hidden": 128}, _DIALOGUES),
            ("dialogue-rnn", {"hidden": 128}, _DIALOGUES),
            ("cm-roberta", {"layers": 1}, _DIALOGUES),
            ("hcam", _STAGES, _DIALOGUES),
        )
    ),  # fmt: skip
    *(  # word by word; the voice is one frame, so that there is nothing to align it with
        Recipe(
            f"meld-{name}", {"name": name, "dropout": 0.3} | more, corpus="meld", audio=_SPEECH,
            text=_MINILM | {"layer": 3}, encoder=_NARROW, train=_TRAIN, seeds=_FIVE,
        )
        for name, more in (("xu2019", {}), ("mult", {"layers": 1, "self_layers": 1, "kernel": 1}))
    ),  # fmt: skip
)
