"""What choosing on the test set seems to gain: an amount that other test utterances do not show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.experiments import prepare
from mer_lab.hierarchy import train_model
from mer_lab.records import Recipe

WATCHED = ("validation", "first half", "second half")


def watched_epochs(recipe: Recipe, seed: int, prepared: tuple | None = None) -> pd.DataFrame:
    """The score after every epoch on validation and on each half of the test dialogues: to show the harm.

    :func:`mer_lab.training.fit` does not take test utterances, so the run is trained three times, each time
    watched through other data, which here are renamed to pass for validation. What is watched changes no
    weight: the training losses of the three runs are the same to the last digit.

    Args:
        prepared: what :func:`mer_lab.experiments.prepare` returned, to save doing it again.

    Returns:
        a row an epoch: ``epoch, train_loss, validation, first half, second half``.

    Raises:
        MerLabError: the recipe is trained in stages, predicts a score, or is a baseline without epochs.
    """
    data, build = prepared or prepare(recipe)
    if recipe.train.target != "label":
        raise MerLabError(f"{recipe.name} predicts a score; the choice is shown for classes.")
    if build is None or getattr(getattr(build(), "config", None), "stagewise", False):
        raise MerLabError(f"{recipe.name} has no single row of epochs to watch; choose another recipe.")
    settings = replace(recipe.train, patience=recipe.train.epochs)
    monitor, columns, losses = settings.monitor, {}, []
    for name, watched in zip(WATCHED, (data["validation"], *halves(data["test"])), strict=True):
        history = train_model(build, data["train"], watched, settings, seed, progress=False).history
        columns[name] = [row[monitor] for row in history]
        losses.append([row["train_loss"] for row in history])
    assert losses[0] == losses[1] == losses[2], "watching a run has changed it"
    epochs = range(1, len(losses[0]) + 1)
    return pd.DataFrame({"epoch": epochs, "train_loss": losses[0], **columns})


def halves(test: Dataset) -> list[Dataset]:
    """Every other test dialogue, and the rest, both named validation."""
    return [
        Dataset(renamed, test.audio, test.text)
        for kept in (test.dialogue % 2 == 0, test.dialogue % 2 == 1)
        if (renamed := test.corpus.select(kept).with_splits(["validation"] * int(kept.sum())))
    ]


def chosen_epochs(epochs: pd.DataFrame) -> pd.Series:
    """Scores of a run that was chosen by validation, and by the test set, from :func:`watched_epochs`.

    Returns:
        ``honest``: the epoch that validation chose, on the test dialogues; ``published``: the epoch that a
        half of the test dialogues chose, on that half, as if it were the test set; ``true``: that same epoch
        on the other half. Means over the two halves in both parts, so ``published`` is never below ``true``.
    """
    first, second = (epochs[name].to_numpy(float) for name in WATCHED[1:])
    best = int(epochs["validation"].to_numpy(float).argmax())
    a, b = int(first.argmax()), int(second.argmax())
    return pd.Series(
        {
            "honest": (first[best] + second[best]) / 2,
            "published": (first[a] + second[b]) / 2,
            "true": (second[a] + first[b]) / 2,
        }
    )


def chosen_seeds(
    hits: np.ndarray, dialogue: np.ndarray, count: int = 200, seed: int = 0
) -> pd.Series:
    """Accuracy of the best of several seeds where it was chosen, and on other dialogues.

    Args:
        hits: ``(S, U)``, whether each seed got each test utterance right.
        dialogue: ``(U,)``.
        count: random halves of the dialogues; the best seed is chosen on one and tried on the other, both
            ways round, so that what one half has over the other cancels.
        seed: of the halves.

    Returns:
        ``honest``: mean over seeds; ``published``: of the best seed, on the half that chose it; ``true``: of
        that seed on the other half, never above ``published``.
    """
    names, codes = np.unique(dialogue, return_inverse=True)
    rng, published, true = np.random.default_rng(seed), [], []
    for _ in range(count):
        inside = (rng.permutation(len(names)) < len(names) // 2)[codes]
        parts = hits[:, inside].mean(1), hits[:, ~inside].mean(1)
        for here, there in (parts, parts[::-1]):
            published.append(here.max())
            true.append(there[here.argmax()])
    means = (hits.mean(), np.mean(published), np.mean(true))
    return pd.Series(dict(zip(("honest", "published", "true"), map(float, means), strict=True)))
