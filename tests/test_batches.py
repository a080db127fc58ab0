"""Batches: what a loop over the utterances would make, each utterance once, dialogues whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab.batches import Dataset, length_buckets, whole_dialogues
from mer_lab.errors import MerLabError
from mer_lab.ragged import Ragged

seeds = st.none() | st.integers(0, 99)


def generator(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


@given(st.lists(st.integers(0, 50), max_size=200), st.integers(1, 20), seeds)
@settings(deadline=None)
def test_length_buckets_hold_every_utterance_once(lengths, size, seed):
    batches = length_buckets(np.array(lengths, np.int64), size, generator(seed))
    assert sorted(np.concatenate([np.array([], int), *batches]).tolist()) == list(range(len(lengths)))
    assert all(0 < len(b) <= size for b in batches)
    pools = 1 if seed is None else -(-len(lengths) // (16 * size)) or 1
    assert len(batches) <= -(-len(lengths) // size) + pools - 1  # at most one short batch a pool


@given(st.integers(1, 8), st.integers(0, 99))
@settings(deadline=None)
def test_length_buckets_waste_little(size, seed):
    """Padding beyond that of sorting everything stays below that of not sorting at all."""
    lengths = np.random.default_rng(seed).integers(1, 100, 16 * size * 3)

    def padding(batches):
        return sum(int((lengths[b].max() - lengths[b]).sum()) for b in batches)

    plain = np.array_split(np.arange(len(lengths)), len(lengths) // size)
    best = padding(length_buckets(lengths, size))
    shuffled = padding(length_buckets(lengths, size, np.random.default_rng(seed)))
    assert best <= shuffled and (size < 2 or shuffled < 0.5 * padding(plain))


def test_epochs_differ_and_seeds_repeat():
    lengths = np.arange(100) % 7
    once, again, other = (length_buckets(lengths, 8, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


@st.composite
def conversations(draw) -> tuple[np.ndarray, np.ndarray]:
    """Dialogue and turn of utterances in any order, turns with gaps."""
    sizes = draw(st.lists(st.integers(1, 9), max_size=12))
    dialogue = np.repeat(np.arange(len(sizes)), sizes)
    turn = np.concatenate([np.array([], int), *(np.arange(n) * 2 for n in sizes)])
    order = np.array(draw(st.permutations(range(len(dialogue)))), int)
    return dialogue[order], turn[order]


@given(conversations(), st.integers(1, 15), seeds)
@settings(deadline=None)
def test_dialogues_are_never_cut(conversation, size, seed):
    dialogue, turn = conversation
    batches = whole_dialogues(dialogue, turn, size, generator(seed))
    assert sorted(np.concatenate([np.array([], int), *batches]).tolist()) == list(range(len(dialogue)))
    homes = [set(dialogue[b]) for b in batches]
    assert sum(len(h) for h in homes) == len(set(dialogue))  # each dialogue in one batch
    for b, home in zip(batches, homes, strict=True):
        assert len(b) <= size or len(home) == 1
        for d in home:
            places = np.flatnonzero(dialogue[b] == d)
            assert (np.diff(places) == 1).all() and (np.diff(turn[b][places]) > 0).all()


@pytest.mark.parametrize("by", ["length", "dialogue"])
def test_a_batch_is_what_a_loop_makes(sines, by):
    corpus = sines.corpus
    seen: list[int] = []
    for batch in sines.batches(7, by, np.random.default_rng(0)):
        seen += batch.index.tolist()
        assert len(batch) == len(batch.index)
        for row, k in enumerate(batch.index.tolist()):
            for channel, source in (("audio", sines.audio), ("text", sines.text)):
                x, mask = batch.channel(channel)
                n = len(source[k])
                np.testing.assert_array_equal(x[row, :n].numpy(), source[k])
                assert not x[row, n:].any() and mask[row].sum() == n and mask[row, :n].all()
            utterance = corpus.table.iloc[k]
            label = utterance["label"]
            assert batch.label[row] == (corpus.labels.index(label) if label else -1)
            assert batch.turn[row] == utterance["turn"]
            same = batch.dialogue == batch.dialogue[row]
            ids = corpus.table["dialogue_id"].iloc[batch.index[same].numpy()]
            assert set(ids) == {utterance["dialogue_id"]}
        assert batch.text.dtype == torch.int64 and batch.audio.dtype == torch.float32
    assert sorted(seen) == list(range(len(corpus)))


def test_turns_are_ranks_and_speakers_are_shared(sines):
    corpus = sines.corpus
    gaps = Dataset(
        type(corpus)("gaps", corpus.labels, corpus.table.assign(turn=corpus.table["turn"] * 10 + 3)),
        text=sines.text,
    )
    assert gaps.turn.tolist() == sines.turn.tolist()
    speakers = corpus.table["speaker"].to_numpy()
    for a in range(6):
        for b in range(6):
            assert (sines.speaker[a] == sines.speaker[b]) == (speakers[a] == speakers[b])


def test_select_takes_the_features_along(sines):
    part = sines.select("validation")
    assert len(part) == 6 and part.corpus.ids == sines.corpus.select(split="validation").ids
    for k, u in enumerate(part.corpus.ids):
        np.testing.assert_array_equal(part.audio[k], sines.audio[sines.corpus.ids.index(u)])
    assert part.lengths.tolist() == part.audio.lengths.tolist()
    assert Dataset(part.corpus, text=sines.text).lengths.tolist() == part.text.lengths.tolist()


def test_one_channel_only(sines):
    data = Dataset(sines.corpus, text=sines.text)
    (batch,) = data.batches(100)
    assert batch.audio is None and batch.audio_mask is None and batch.to("cpu").text is not None
    with pytest.raises(MerLabError, match="reads audio, but the data were prepared without audio"):
        batch.channel("audio")


def test_mistakes(sines):
    with pytest.raises(MerLabError, match="audio features, text features or both"):
        Dataset(sines.corpus)
    with pytest.raises(MerLabError, match="36 utterances have no features"):
        Dataset(sines.corpus, Ragged.from_sequences([np.zeros((1, 1))], ["other"]))
    with pytest.raises(MerLabError, match="by 'turn' do not exist; choose 'length' or 'dialogue'"):
        list(sines.batches(3, "turn"))
