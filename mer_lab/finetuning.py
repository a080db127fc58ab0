"""Going on with a saved system on another corpus: its features, its vocabulary, its weights to begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path

from torch import nn

from mer_lab.batches import Dataset
from mer_lab.conversation import as_read_by, recipe_of
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.models import System
from mer_lab.records import Recipe


def finetuning(checkpoint: str | Path, corpus: str | Path, name: str = "", **train) -> Recipe:
    """The recipe that goes on with a saved system on a corpus folder.

    Args:
        name: of the recipe; ``NAME-tuned`` by default.
        train: settings of the training that differ from those the system was trained with. Unless said
            otherwise the rate is a third of what it was and epochs are at most 10, to keep what it knows.

    Raises:
        MerLabError: no such system, or one that was saved without its recipe; no such setting.
    """
    known = recipe_of(System.from_pretrained(checkpoint))
    settings = {"lr": known.train.lr / 3, "epochs": min(10, known.train.epochs)} | train
    try:
        config = replace(known.train, **settings)
    except TypeError as error:
        raise MerLabError(f"a setting of the training does not exist: {error}.") from None
    start = str(Path(checkpoint).resolve()) if Path(checkpoint).is_dir() else str(checkpoint)
    return replace(
        known, name=name or f"{known.name}-tuned", corpus=str(corpus), staged={}, scheme="", fold="",
        start=start, start_weights=weights_digest(start), train=config, seeds=(0, 1, 2),
    )  # fmt: skip


def weights_digest(start: str) -> str:
    """What tells the weights of a saved system's folder from others; ``""`` for a name on the hub."""
    path = Path(start) / "model.safetensors"
    if not path.is_file():
        return ""
    with path.open("rb") as f:
        return file_digest(f, "sha256").hexdigest()[:16]


def going_on(recipe: Recipe, corpus: Corpus) -> tuple[dict[str, Dataset], Callable[[], System]]:
    """Data sets by split as the saved system reads them, and what gives it: :func:`prepare` of such a recipe.

    A corpus whose labels the system knows is put into the system's order, and nothing of it is new. Of others
    the last layer begins anew, since its rows stand for labels.

    Raises:
        MerLabError: as of :func:`~mer_lab.conversation.as_read_by`.
    """
    model = System.from_pretrained(recipe.start)
    known = recipe_of(model)
    changed = [k for k in ("model", "audio", "text", "encoder") if getattr(recipe, k) != getattr(known, k)]
    if changed or recipe.start_weights != weights_digest(recipe.start):
        what = f"has another {changed[0]} than" if changed else "was made before a change of"
        raise MerLabError(
            f"recipe {recipe.name} {what} {recipe.start}, which it goes on with; make it anew with "
            "`mer-lab finetune` or mer_lab.finetuning.finetuning."
        )
    labels = tuple(model.about.get("labels", ()))
    same = set(corpus.labels) <= set(labels)
    corpus = replace(corpus, labels=labels) if same else corpus
    whole = as_read_by(model, corpus)

    def build() -> System:
        first = System.from_pretrained(recipe.start)
        first = first if same else with_new_labels(first, len(corpus.labels))
        first.about = {"recipe": recipe.to_toml(), "labels": list(corpus.labels)}
        return first

    return {split: whole.select(split) for split in ("train", "validation", "test")}, build


def with_new_labels(model: System, classes: int) -> System:
    """A system with other classes: every weight kept but those whose shape follows the number of classes."""

    def make(number: int) -> nn.Module:
        return type(model)(model.audio, model.text, number, model.config)

    new, other = make(classes), make(classes + 1).state_dict()
    fresh = new.state_dict()
    keep = {k: v for k, v in model.state_dict().items() if fresh[k].shape == other[k].shape}
    new.load_state_dict(fresh | keep)
    return new
