"""Curves over degraded test data: the clean end, what is flat, intervals, and the area."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mer_lab.degrade import KINDS, clean_test, degraded
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, prepare
from mer_lab.features import Vocabulary
from mer_lab.models.output import Output
from mer_lab.prediction import evaluate, predict
from mer_lab.robustness import area, areas, robustness
from mer_lab.training import TrainConfig

AUDIO = {"name": "logmel", "n_mels": 8}
BOTH = Recipe("both", {"name": "early"}, audio=AUDIO, text={"name": "words", "width": 4})


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MER_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ACCELERATE_USE_CPU", "1")
        yield


def models(recipe, corpus, seeds=2):
    """The recipe's model, untrained, once a seed."""
    _, build = prepare(recipe, corpus)
    out = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        out.append(build())
    return out


class Reader(nn.Module):
    """Decides by one channel alone: whether the mean over its steps is above a threshold."""

    def __init__(self, channel, threshold):
        super().__init__()
        self.channel, self.threshold = channel, nn.Parameter(torch.tensor(threshold))

    def forward(self, batch, need_attention=False):
        x, mask = batch.channel(self.channel)
        mean = (x.float() * mask[..., None]).sum((1, 2)) / mask.sum(1)
        logit = mean - self.threshold
        return Output(torch.stack([logit, -logit], 1), {}, mean[:, None])


class Knowing(nn.Module):
    """Says the first class where it reads a certain word."""

    def __init__(self, word):
        super().__init__()
        self.word = nn.Parameter(torch.tensor(float(word)))

    def forward(self, batch, need_attention=False):
        there = (batch.text[..., 0] == self.word).any(1).float()
        return Output(torch.stack([there, 1 - there], 1), {}, there[:, None])


def test_the_clean_row_is_what_evaluate_says_and_every_level_has_its_own(sine_corpus):
    recipe = replace(BOTH, train=TrainConfig(monitor="ua"))
    trained, test = models(recipe, sine_corpus), prepare(recipe, sine_corpus)[0]["test"]
    frame = robustness(trained, recipe, sine_corpus, progress=False)
    assert list(frame.columns) == ["kind", "level", "estimate", "low", "high"]
    assert [(k, *frame.loc[frame["kind"] == k, "level"]) for k in frame["kind"].unique()][1:] == [
        (k, *spec.levels) for k, spec in KINDS.items()
    ]
    clean = frame.iloc[0]
    assert clean["kind"] == "clean" and np.isnan(clean["level"])
    scores = [evaluate(test, predict(model, test).argmax(1))["ua"] for model in trained]
    assert clean["estimate"] == pytest.approx(np.mean(scores))
    assert (frame["low"] <= frame["estimate"]).all() and (frame["estimate"] <= frame["high"]).all()
    data = degraded(recipe, sine_corpus, "wrong transcripts", 1.0)
    scores = [evaluate(data, predict(model, data).argmax(1))["ua"] for model in trained]
    row = frame[(frame["kind"] == "wrong transcripts") & (frame["level"] == 1.0)]
    assert row["estimate"].item() == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("channel", ["audio", "text"])
def test_a_model_that_ignores_a_channel_has_flat_curves_there(channel, sine_corpus):
    test = clean_test(BOTH, sine_corpus)
    with torch.inference_mode():
        means = Reader(channel, 0.0)(test.batch(np.arange(len(test)))).embedding[:, 0]
    deaf = [Reader(channel, float(np.quantile(means, q))) for q in (0.4, 0.7)]  # neither always says the same
    kinds = {"white": (10, 0, -10), "clipped": (0.5,), "word errors": (0.5, 1.0), "wrong transcripts": (1.0,)}
    frame = robustness(deaf, BOTH, sine_corpus, kinds, progress=False)
    for kind, rows in frame[1:].groupby("kind"):
        if KINDS[kind].channel != channel:
            assert (rows[["estimate", "low", "high"]].to_numpy() == frame.iloc[0, 2:].to_numpy(float)).all()
            assert area(frame)[kind] == pytest.approx(frame.iloc[0]["estimate"])
    own = frame["kind"].map(lambda kind: kind in KINDS and KINDS[kind].channel == channel)
    assert (frame.loc[own, "estimate"] != frame.iloc[0]["estimate"]).any()


def test_a_channel_that_is_not_read_leaves_the_score(sine_corpus):
    recipe = Recipe("voice", {"name": "pooling"}, audio=AUDIO)
    frame = robustness(models(recipe, sine_corpus, 1), recipe, sine_corpus, "word errors", progress=False)
    assert len(frame) == 1 + len(KINDS["word errors"].levels) and frame["estimate"].nunique() == 1


def test_a_model_that_knows_the_word_falls_as_words_are_misheard(sine_corpus):
    test = prepare(BOTH, sine_corpus)[0]["test"]
    words = Vocabulary.build(sine_corpus.select(split="train").table["text"])
    knowing = Knowing(words.index["up"])
    assert evaluate(test, predict(knowing, test).argmax(1))["wa"] == 1.0
    frames = [
        robustness([knowing], BOTH, sine_corpus, {"word errors": (0.0, 0.5, 1.0)}, seed, progress=False)
        for seed in (0, 0, 1, 2)
    ]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    clean, none, half, all_wrong = np.mean([frame["estimate"] for frame in frames[1:]], axis=0)
    assert clean == none == 1.0 > half >= all_wrong


def test_a_score_is_followed_too(sine_corpus):
    value = {"high": 2.0, "low": -1.0, "": np.nan}
    corpus = replace(sine_corpus, table=sine_corpus.table.assign(score=sine_corpus.table["label"].map(value)))
    train = TrainConfig(target="score", monitor="mae")
    recipe = Recipe("score", {"name": "bilstm", "width": 4}, text={"name": "words", "width": 4}, train=train)
    trained, test = models(recipe, corpus), prepare(recipe, corpus)[0]["test"]
    frame = robustness(trained, recipe, corpus, {"word errors": (0.4,)}, progress=False)
    scores = [evaluate(test, predict(model, test)[:, 0], "score")["mae"] for model in trained]
    assert frame["estimate"].iloc[0] == pytest.approx(np.mean(scores))
    assert (frame["low"] <= frame["estimate"]).all() and (frame["estimate"] <= frame["high"]).all()


def test_the_area_is_the_mean_height_of_the_curve():
    rows = [("clean", np.nan, 0.8), ("a", 1, 0.6), ("a", 2, 0.2), ("b", 1, 0.8), ("c", 7, 0.0), ("b", 9, 0.8)]
    frame = pd.DataFrame(rows, columns=["kind", "level", "estimate"])
    assert area(frame).to_dict() == pytest.approx({"a": (0.7 + 0.4) / 2, "b": 0.8, "c": 0.4})
    assert list(area(frame).index) == ["a", "b", "c"]
    assert area(frame)["a"] == pytest.approx(np.trapezoid([0.8, 0.6, 0.2]) / 2)
    with pytest.raises(MerLabError, match="0 rows of kind 'clean'"):
        area(frame[1:])


def test_mistakes_are_told_before_anything_is_computed(sine_corpus):
    nothing = replace(BOTH, audio={"name": "nothing"})
    with pytest.raises(MerLabError, match="no degradation 'rain'"):
        robustness([nn.Linear(1, 1)], nothing, sine_corpus, ["white", "rain"])
    with pytest.raises(MerLabError, match="from 0 to 0.5"):
        robustness([nn.Linear(1, 1)], nothing, sine_corpus, {"clipped": (0.1, 0.9)})
    with pytest.raises(MerLabError, match="no model to test"):
        robustness([], BOTH, sine_corpus)


def test_a_table_of_areas_holds_scores_where_there_is_no_curve():
    rows = [("clean", np.nan, 0.8), ("a", 1, 0.6), ("a", 2, 0.2), ("off", 1, 0.1)]
    frame = pd.DataFrame([("s", *row) for row in rows], columns=["system", "kind", "level", "estimate"])
    assert areas(frame).loc["s"].to_dict() == pytest.approx({"clean": 0.8, "a": 0.55, "off": 0.1})
