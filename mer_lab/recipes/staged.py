"""Recipes on the Staged corpus, in the order of the lessons."""

from __future__ import annotations

from dataclasses import replace

from mer_lab.experiments import Recipe
from mer_lab.training import TrainConfig

_VOICE = {"name": "prosody", "hop": 0.02}
_WORDS = {"name": "words", "width": 32, "drop": 0.1}
_PITCH = _VOICE | {"interpolate": True}
_KRISHNA = {"name": "krishna2021", "width": 64, "recurrent": 1, "positions": "nearness", "relative": True}
_MULT = {"name": "mult", "width": 32, "heads": 4, "layers": 2, "self_layers": 1, "kernel": 1, "pool": "mean"}
_CM_ROBERTA = {"name": "cm-roberta", "layers": 1, "width": 32, "causal": True, "clock": 40.0, "stride": 4}
_XU = {"width": 32, "stride": 4, "nearness": 10.0, "relative": True, "raw": True, "dropout": 0.1}
_FREQUENT = _WORDS | {"min_count": 35}  # rare words, mostly a scene's nouns, are learnt by heart in stage I
_HCAM = {"name": "hcam", "width": 32, "layers": 1, "heads": 2, "inner": 64, "hidden": 64, "stride": 4}
_HCAM |= {"dropout": 0.1, "block_dropout": 0.2, "context_rate": 0.4, "fusion_rate": 0.4}
_IN_STAGES = TrainConfig(
    epochs=16, patience=6, lr=1e-2, weight_decay=0.2, batch_by="dialogue", contrastive=0.03, temperature=0.5
)

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
    *(
        Recipe(name, {"name": name}, audio=_VOICE, text=_WORDS, train=TrainConfig(epochs=16, lr=6e-3))
        for name in ("decision-mean", "decision-product", "decision-learned", "early", "gated", "low-rank")
    ),
    # 05 alignment attention
    *(
        Recipe(
            name, {"name": name.removesuffix("-plain")} | _XU | change, audio=_PITCH,
            text=_WORDS | {"drop": 0.3},
            train=TrainConfig(epochs=16, patience=16, batch_size=size, lr=2.5e-4 * size),
        )
        for name, change, size in (
            ("xu2019", {}, 16), ("xu2019-interacting", {}, 16),
            ("xu2019-delta", {"project": 32, "heads": 4}, 32),
            ("xu2019-plain", {"nearness": 0.0}, 16), ("xu2019-interacting-plain", {"nearness": 0.0}, 16),
        )
    ),  # fmt: skip
    *(  # the equations alone: none of what is ours
        Recipe(
            f"{name}-bare", {"name": name, "width": 32, "stride": 4, "dropout": 0.1},
            audio=_VOICE, text=_WORDS,
            train=TrainConfig(epochs=16, patience=16, batch_size=16, lr=4e-3),
        )
        for name in ("xu2019", "xu2019-interacting")
    ),  # fmt: skip
    # 06 cross-modal attention
    *(
        Recipe(
            f"krishna2021{name}", _KRISHNA | {"stride": 4} | change, audio=_PITCH, text=_WORDS,
            train=TrainConfig(epochs=16, patience=16, lr=4e-3),
        )
        for name, change in (
            ("", {}), ("-text-queries", {"directions": "text"}), ("-audio-queries", {"directions": "audio"}),
            ("-no-attention", {"attention": False}), ("-mean", {"statistics": "mean"}),
            ("-no-nearness", {"positions": "none"}),
        )
    ),  # fmt: skip
    Recipe(
        "mult", _MULT | {"nearness": True, "relative": True, "stride": 6}, audio=_PITCH, text=_WORDS,
        train=TrainConfig(epochs=16, patience=16, lr=5e-3),
    ),  # fmt: skip
    # 07 hierarchical co-attention
    *(
        Recipe(
            f"hcam{name}", _HCAM | change, audio=_VOICE, text=_FREQUENT, train=replace(_IN_STAGES, **train)
        )
        for name, change, train in (
            ("", {}, {}),
            ("-no-contrast", {}, {"contrastive": 0.0}),
            ("-ensemble", {"ensemble": 3}, {}),
            ("-end-to-end", {"stagewise": False}, {"epochs": 20, "patience": 20, "lr": 1e-3}),
        )
    ),
    # 08 CM-RoBERTa, and rivals that use context
    *(
        Recipe(
            f"cm-roberta{name}", _CM_ROBERTA | change, audio=_PITCH, text=_WORDS,
            train=TrainConfig(epochs=20, patience=20, batch_size=48, lr=4e-3, batch_by="dialogue"),
        )
        for name, change in (
            ("", {}), ("-self", {"core": "self"}), ("-cross", {"core": "cross"}),
            ("-serial", {"core": "serial"}), ("-no-residual", {"residual": False}),
            ("-gru", {"context": "gru"}),
        )
    ),  # fmt: skip
    *(
        Recipe(
            name, {"name": name, "hidden": hidden, "stride": 4, "dropout": 0.2}, audio=_PITCH, text=_WORDS,
            train=TrainConfig(epochs=16, patience=16, lr=6e-3, batch_by="dialogue"),
        )
        for name, hidden in (("bc-lstm", 32), ("dialogue-rnn", 64))
    ),  # fmt: skip
)

RECIPES += tuple(  # lesson 09: what learns to do without a channel
    replace(recipe, name=f"{name}-modality-dropout", train=replace(recipe.train, modality_dropout=0.2))
    for name, recipe in ((r.name, r) for r in RECIPES)
    if name in ("early", "cm-roberta")
)
RECIPES += tuple(  # lesson 05: an accent among more or fewer emotional words
    replace(recipe, name=f"{recipe.name}-of-{n}", staged={"candidates": n})
    for n in (2, 4, 6)
    for recipe in RECIPES
    if recipe.name in ("early", "xu2019", "xu2019-interacting")
)
