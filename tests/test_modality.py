"""Exact modality Shapley and the additive projection, against closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mer_lab.batches import Batch, Dataset
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.modality import coalitions, foreign, modality_value
from mer_lab.models.output import Output
from mer_lab.ragged import Ragged


def data(a: np.ndarray, t: np.ndarray, label: np.ndarray, turns: int = 4) -> Dataset:
    """One frame an utterance: a bit of the voice, a bit of the words."""
    n = len(a)
    table = pd.DataFrame(
        {
            "dialogue_id": [f"d{k // turns}" for k in range(n)], "turn": [k % turns for k in range(n)],
            "speaker": "s", "split": "test", "label": np.array(["no", "yes"], object)[label], "text": "",
            "audio": "", "start": np.nan, "end": np.nan,
        },
        index=[f"u{k}" for k in range(n)],
    )  # fmt: skip
    corpus = Corpus("bits", ("no", "yes"), table)
    audio, text = (Ragged.from_sequences(list(x.astype("f4")[:, None, None]), corpus.ids) for x in (a, t))
    return Dataset(corpus, audio, text)


def value_of(model, data, metric="wa", partners=12):
    return modality_value(data.targets, coalitions(model, data, partners), metric)


class Rule(nn.Module):
    """Log-odds of "yes" as a function of the two bits."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.weight = rule, nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Output:
        z = self.rule(batch.audio[:, 0, 0], batch.text[:, 0, 0])
        return Output(torch.stack([-z, z], dim=-1) / 2, {}, z[:, None])


@pytest.fixture(scope="module")
def bits():
    """All pairs of bits equally often, in an order that mixes every dialogue."""
    rng = np.random.default_rng(0)
    pairs = np.array([(a, t) for a in (0, 1) for t in (0, 1)] * 60)[rng.permutation(240)]
    return pairs[:, 0], pairs[:, 1]


def test_a_system_that_reads_one_channel_gives_the_other_nothing(bits):
    a, t = bits
    value = value_of(Rule(lambda a, t: 4 * t - 2), data(a, t, t))
    assert value.both == value.text == 1
    assert value.shapley_audio == pytest.approx(0, abs=0.02) and value.gap == 0
    assert value.shapley_text == pytest.approx(1 - value.none, abs=0.02)


def test_exclusive_or_is_all_interaction(bits):
    """Neither channel alone is worth anything, both share the worth, no addition can imitate it."""
    a, t = bits
    value = value_of(Rule(lambda a, t: 8 * (a - 0.5) * (0.5 - t)), data(a, t, a ^ t), partners=40)
    assert value.both == 1
    assert value.text < 0.75 and value.audio < 0.75
    assert value.shapley_text == pytest.approx(value.shapley_audio, abs=0.12)
    assert value.gap > 0.25


def test_an_additive_system_is_its_own_projection(bits):
    """Log-odds of two classes that add up stay as they are, up to what both channels cost on average."""
    a, t = bits
    value = value_of(Rule(lambda a, t: 3 * a + 4 * t - 1.5), data(a, t, a | t), partners=40)
    assert value.both == value.additive == 1


def test_worth_adds_up(bits):
    a, t = bits
    value = value_of(Rule(lambda a, t: 3 * a + t - 1.2), data(a, t, a | t), metric="ua")
    assert value.shapley_text + value.shapley_audio == pytest.approx(value.both - value.none)
    assert value.shapley_audio > value.shapley_text


def test_channels_come_from_other_dialogues_turn_by_turn():
    dialogue = np.array([0, 1, 0, 2, 2, 0, 3, 3, 3, 3])
    turn = np.array([1, 0, 0, 0, 1, 2, 3, 2, 1, 0])
    orders = foreign(dialogue, turn, partners=12, seed=1)
    assert len(orders) == 3  # no more than there are others
    for order in orders:
        assert (dialogue[order] != dialogue).all()
        for d in range(4):
            assert len(set(dialogue[order][dialogue == d])) == 1  # voices that belong together
        source = {d: (dialogue == d).sum() for d in range(4)}
        assert (turn[order] == turn % np.array([source[d] for d in dialogue[order]])).all()
    assert {tuple(o) for o in orders} == {tuple(o) for o in foreign(dialogue, turn, 12, 1)}
    assert len({tuple(o) for o in orders}) == 3


def test_it_says_what_is_missing(bits):
    a, t = bits
    both = data(a, t, t)
    with pytest.raises(MerLabError, match="both channels"):
        coalitions(Rule(lambda a, t: t), Dataset(both.corpus, text=both.text))
    with pytest.raises(MerLabError, match="only one"):
        coalitions(Rule(lambda a, t: t), data(a[:4], t[:4], t[:4]))
