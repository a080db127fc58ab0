"""The named recipes: what the lessons run, and what `mer-lab run NAME` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mer_lab.corpora.staged import StagedConfig
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, Result
from mer_lab.files import ROOT
from mer_lab.training import TrainConfig

_VOICE = {"name": "prosody", "hop": 0.02}
_WEIGHTED_F1 = TrainConfig(monitor="weighted_f1")
_WORDS = {"name": "words", "width": 32, "drop": 0.1}

_LISTENS = {"name": "statistics", "dropout": 0.3}
_TUNED = {"name": "pretrained", "encoder": "moonshine-tiny-en", "train_layers": 2, "rate": 0.2}
_HEARD = TrainConfig(epochs=30, patience=30, lr=1e-2, weight_decay=0.05, label_smoothing=0.1, monitor="ua")

_ALL = (
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
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


class Sizes(Protocol):
    """What :func:`at_scale` reads of a lesson's scale."""

    staged: tuple[int, int, int]
    epochs: int
    seeds: int


def at_scale(recipe: Recipe, scale: Sizes) -> Recipe:
    """A recipe with the sizes of a scale: dialogues of the Staged corpus, epochs, seeds."""
    default = tuple(scale.staged) == StagedConfig().dialogues
    return replace(
        recipe,
        staged=recipe.staged if default else {**recipe.staged, "dialogues": list(scale.staged)},
        train=replace(recipe.train, epochs=min(recipe.train.epochs, scale.epochs)),
        seeds=recipe.seeds[:1] if len(recipe.seeds) == 1 else tuple(range(scale.seeds)),
    )


def find_recipe(name: str) -> Recipe:
    """A named recipe, or one from a TOML file.

    Raises:
        MerLabError: neither.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return Recipe.from_toml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError):
            raise MerLabError(f"{path}: there is no readable recipe file of that name.") from None
    raise MerLabError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}, or a .toml file.")


def recorded(name: str, folder: str | Path = ROOT / "results") -> Result | None:
    """The result that the repository records of a named recipe as it stands; None where there is none."""
    recipe = find_recipe(name)
    path = Path(folder) / f"{recipe.name}-{recipe.hash}.json"
    return Result.load(path) if path.exists() else None


def table(results: Sequence[Result]) -> str:
    """A plain table of results: test scores as mean ± standard deviation over seeds, in per cent.

    Of results whose target is a score the mean absolute error, the correlation and Acc-7, as numbers.
    """
    if results and results[0].recipe.train.target == "score":
        rows = [["recipe", "corpus", "seeds", "MAE", "correlation", "Acc-7"]]
        metrics, unit, digits = ("mae", "correlation", "acc7"), 1, 3
    else:
        rows = [["recipe", "corpus", "seeds", "WA", "UA", "weighted F1", "macro F1"]]
        metrics, unit, digits = ("wa", "ua", "weighted_f1", "macro_f1"), 100, 1
    for result in results:
        cells = [result.recipe.name, Path(result.recipe.corpus).name, str(len(result.test))]
        for metric in metrics:
            mean, std = (unit * value for value in result.summary(metric))
            spread = f" ± {std:.{digits}f}" if len(result.test) > 1 else ""
            cells.append(f"{mean:.{digits}f}{spread}")
        rows.append(cells)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
