"""Choosing on the test set: what it seems to gain, and that watching changes nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mer_lab.errors import MerLabError
from mer_lab.experiments import prepare
from mer_lab.optimism import chosen_epochs, chosen_seeds, halves, watched_epochs
from mer_lab.prediction import evaluate, predict
from mer_lab.records import Recipe
from mer_lab.training import TrainConfig, fit

TEXT = Recipe(
    "text", {"name": "bilstm", "width": 8}, text={"name": "words", "width": 8},
    train=TrainConfig(epochs=4, batch_size=8, patience=1),
)  # fmt: skip


def test_the_halves_are_the_test_dialogues(sine_corpus):
    data, _ = prepare(TEXT, sine_corpus)
    first, second = halves(data["test"])
    assert sorted(first.corpus.ids + second.corpus.ids) == sorted(data["test"].corpus.ids)
    assert not set(first.corpus.table["dialogue_id"]) & set(second.corpus.table["dialogue_id"])


def test_every_epoch_is_seen_and_seeing_changes_nothing(sine_corpus):
    prepared = prepare(TEXT, sine_corpus)
    seen = watched_epochs(TEXT, 3, prepared)
    assert seen["epoch"].tolist() == [1, 2, 3, 4]  # no early stopping
    data, build = prepared
    settings = replace(TEXT.train, patience=4)
    run = fit(build, data["train"], data["validation"], settings, seed=3, progress=False)
    assert [row["wa"] for row in run.history] == seen["validation"].tolist()
    assert [row["train_loss"] for row in run.history] == seen["train_loss"].tolist()
    for name, half in zip(("first half", "second half"), halves(data["test"]), strict=True):
        score = evaluate(half, predict(run.model, half).argmax(1))["wa"]
        assert score == seen[name][run.best_epoch - 1]  # the weights that were kept


def test_choices_by_hand():
    epochs = pd.DataFrame(
        {"validation": [0.1, 0.5, 0.4], "first half": [0.3, 0.6, 0.7], "second half": [0.8, 0.4, 0.2]}
    )
    assert chosen_epochs(epochs).round(6).to_dict() == {"honest": 0.5, "published": 0.75, "true": 0.25}


def test_the_best_of_equal_seeds_is_worth_nothing_elsewhere():
    rng, dialogue = np.random.default_rng(0), np.repeat(np.arange(40), 10)
    tests = [chosen_seeds(rng.random((10, 400)) < 0.6, dialogue, 20) for _ in range(40)]
    found = pd.DataFrame(tests).mean()
    assert found["honest"] == pytest.approx(0.6, abs=0.005) == found["true"]
    assert found["published"] > 0.63
    hits = rng.random((10, 400)) < 0.6
    single = chosen_seeds(hits, dialogue, 5)
    assert single["published"] >= single["true"]  # halves of the same size, both ways round
    better = np.vstack([hits, np.ones((1, 400), bool)])  # one that is truly better stays so
    assert chosen_seeds(better, dialogue)["true"] == 1


def test_it_needs_epochs(sine_corpus):
    with pytest.raises(MerLabError, match="majority has no single row of epochs"):
        watched_epochs(Recipe("majority", {"name": "majority"}), 0, prepare(TEXT, sine_corpus)[:1] + (None,))
