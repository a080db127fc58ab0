"""Results compared by cue, and the layers that tell dialogues apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab.batches import Batch
from mer_lab.errors import MerLabError
from mer_lab.inputs import pooled
from mer_lab.models.layers import Conversation
from mer_lab.ragged import Ragged
from mer_lab.records import Recipe, Result, by_cue, cue_difference
from mer_lab.training import TrainConfig

TRUTH = {"label": [0, 1, 0, 1], "dialogue": ["a", "a", "b", "b"], "cue": ["x", "y", "x", "y"]}


def result(predictions, **changes) -> Result:
    spec = dict(recipe=Recipe("r", {"name": "early"}), labels=["p", "q"], utterances=list("1234"))
    spec |= dict(predictions=predictions, validation=[], test=[], provenance={}, truth=TRUTH)
    return Result(**spec | changes)


def test_accuracy_by_cue_is_the_mean_over_seeds_by_hand():
    table = by_cue({"m": result([[0, 1, 0, 0], [0, 0, 1, 0]])})
    assert table.loc["m"].to_dict() == {"x": 0.75, "y": 0.25, "all": 0.5}


def test_a_difference_on_one_cue_looks_at_that_cue_only():
    good, bad = result([[0, 0, 0, 0]]), result([[1, 0, 1, 0]])
    gap = cue_difference(good, bad, "x")
    assert (gap.estimate, gap.low, gap.high) == (1.0, 1.0, 1.0)
    assert cue_difference(good, bad, "y").estimate == 0
    with pytest.raises(MerLabError, match="no planted test set in common"):
        cue_difference(good, result([[0, 0, 0, 0]], utterances=list("4321")))
    with pytest.raises(MerLabError, match="no planted test set in common"):
        cue_difference(result([[0] * 4], truth={}), bad)


def test_settings_that_are_off_leave_the_hash_as_it_was():
    """Results recorded before the contrastive loss keep their hash; turned on, it changes the hash."""
    plain = Recipe("r", {"name": "bilstm"})
    assert replace(plain, train=TrainConfig(temperature=0.5)).hash == plain.hash
    assert replace(plain, train=TrainConfig(contrastive=0.1)).hash != plain.hash


def batch_of(dialogue, turn) -> Batch:
    rows = {k: torch.tensor(v) for k, v in (("dialogue", dialogue), ("turn", turn))}
    none = dict.fromkeys(("audio", "audio_mask", "text", "text_mask", "speaker", "label", "score", "index"))
    return Batch(**none, **rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=20, unique=True))
def test_turns_stand_in_order_and_return_to_their_place(rows):
    dialogue, turn = (list(column) for column in zip(*rows, strict=True))
    conversation = Conversation.of(batch_of(dialogue, turn))
    x = torch.arange(1.0, len(rows) + 1)[:, None]
    turns = conversation.turns(x)
    assert torch.equal(conversation.utterances(turns), x)
    assert turns.shape[0] == len(set(dialogue)) and int(conversation.mask.sum()) == len(rows)
    assert (turns[~conversation.mask] == 0).all()
    for row, mask in zip(turns[..., 0], conversation.mask, strict=True):
        members = [rows[int(k) - 1] for k in row[mask]]
        assert members == sorted(members) and len({d for d, _ in members}) == 1


def test_pooled_frames_are_mean_and_maximum_of_each_utterance_alone():
    frames = [np.array([[1.0, -4.0], [3.0, -2.0]], np.float32), np.array([[5.0, 7.0]], np.float32)]
    out = pooled(Ragged.from_sequences(frames, ["a", "b"], {"name": "x", "hop": None}))
    assert out.ids == ["a", "b"] and out.lengths.tolist() == [1, 1]
    assert out[0].tolist() == [[2.0, -3.0, 3.0, -2.0]] and out[1].tolist() == [[5.0, 7.0, 5.0, 7.0]]
