"""Counterfactuals: one channel of one turn changes, and who follows it is told from who does not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.corpora import Corpus
from mer_lab.corpora.staged import LABELS, StagedConfig, staged
from mer_lab.corpora.staged.process import population
from mer_lab.corpora.staged.script import LEXICON
from mer_lab.errors import MerLabError
from mer_lab.explain.counterfactual import (
    FLATTENED,
    _ask,
    emotion_of,
    flatten_pitch,
    flattened,
    followed,
    move_accent,
    swap_transcripts,
)
from mer_lab.features import PROSODY_NAMES, Prosody, Vocabulary
from mer_lab.models import SYSTEMS
from mer_lab.models.layers import FrameEncoder, WordEncoder
from mer_lab.models.output import Output
from mer_lab.ragged import Ragged

MEANING = {word: k for k, label in enumerate(LABELS) for word in LEXICON[label]}
PITCH, VOICED, ENERGY = (PROSODY_NAMES.index(name) for name in ("pitch", "voiced", "energy"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MER_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return staged(StagedConfig(dialogues=(1, 1, 14), seed=5)).select(split="test")


@pytest.fixture(scope="module")
def vocabulary(corpus) -> Vocabulary:
    return Vocabulary.build(corpus.table["text"])


@pytest.fixture(scope="module")
def data(corpus, vocabulary) -> Dataset:
    """Words, and made-up frames whose energy in the first frame is the number of what the voice means."""
    rng, audio = np.random.default_rng(0), []
    for voice in corpus.table["voice_means"]:
        frames = rng.normal(size=(rng.integers(4, 12), len(PROSODY_NAMES))).astype(np.float32)
        frames[:, VOICED] = rng.random(len(frames)) < 0.6
        frames[0, VOICED], frames[1, VOICED] = 1, 0
        frames[:2, ENERGY] = LABELS.index(voice)
        audio.append(frames)
    text = [vocabulary.encode(t) for t in corpus.table["text"]]
    meta = {"name": "prosody", "settings": {"hop": 0.02}}
    return Dataset(
        corpus, Ragged.from_sequences(audio, corpus.ids, meta), Ragged.from_sequences(text, corpus.ids)
    )


class Stub(nn.Module):
    """Decides by a function of one utterance's frames and words, and keeps what it was given."""

    def __init__(self, decide, contextual: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.decide, self.contextual, self.causal, self.seen = decide, contextual, causal, []

    def forward(self, batch) -> Output:
        self.seen.append(batch)
        classes = [
            self.decide(batch.audio[k][batch.audio_mask[k]], batch.text[k, :, 0][batch.text_mask[k]].tolist())
            for k in range(len(batch))
        ]
        return Output(torch.eye(len(LABELS))[classes] * 3, {}, torch.zeros(len(batch), 1))


@pytest.fixture(scope="module")
def words_mean(vocabulary):
    """The class of the one emotional word; of several, of the first; 3 (neutral) of none."""
    number = {vocabulary.index[word]: k for word, k in MEANING.items() if word in vocabulary.index}
    return lambda text: next((number[k] for k in text if k in number), 3)


def voice_means(frames) -> int:
    # the second frame has no voice and is never levelled
    return int(frames[1, ENERGY])


def test_the_process_agrees_with_what_words_and_voice_mean_together():
    plans = population(draws=3000)
    plain = plans[plans["cue"].isin(["lexical", "redundant", "incongruent"])]
    made = [emotion_of(w, v) for w, v in zip(plain["words_mean"], plain["voice_means"], strict=True)]
    assert made == plain["emotion"].tolist()
    met = set(zip(plain["words_mean"], plain["voice_means"], strict=True))
    assert {(w, v) for w in LABELS for v in LABELS if emotion_of(w, v)} == met


def test_the_partner_means_something_else_and_is_as_long_as_there_are(data):
    table = data.corpus.table
    frame = swap_transcripts(Stub(lambda audio, text: 0), data).set_index("utterance")
    assert set(frame["cue"]) == {"lexical", "redundant", "incongruent"}
    assert frame.index.tolist() == [u for u in table.index if table.at[u, "words_mean"] in LABELS]
    length = table["text"].str.split().str.len()
    for u, row in frame.iterrows():
        own, other = table.loc[u], table.loc[row["partner"]]
        assert own["words_mean"] != other["words_mean"]
        assert own["dialogue_id"] != other["dialogue_id"]
        assert row["expected"] == emotion_of(other["words_mean"], own["voice_means"]) != own["emotion"]
        rivals = (table["words_mean"] == other["words_mean"]) & (table["dialogue_id"] != own["dialogue_id"])
        assert abs(length[row["partner"]] - length[u]) == (length[rivals] - length[u]).abs().min()
    assert frame["expected"].nunique() == len(LABELS)


def test_a_system_is_reported_by_the_channel_that_it_follows(data, words_mean):
    rules = {
        "words": lambda audio, text: words_mean(text),
        "voice": lambda audio, text: voice_means(audio),
        "process": lambda audio, text: LABELS.index(
            emotion_of(LABELS[words_mean(text)], LABELS[voice_means(audio)]) or "neutral"
        ),
    }
    share = {}
    for name, rule in rules.items():
        frame = swap_transcripts(Stub(rule), data, seed=1)
        assert (frame["changed"] == (frame["before"] != frame["after"])).all()
        assert (frame["followed"] == (frame["after"] == frame["expected"])).all()
        assert frame["changed"].all() == (name != "voice")
        share[name] = followed(frame, "becomes")["share"].to_dict()
        kinds = frame["becomes"].value_counts()
    assert set(kinds.index) == {"lexical", "redundant", "incongruent"}
    assert share["process"] == dict.fromkeys(share["process"], 1.0)
    assert share["words"]["lexical"] == share["words"]["redundant"] == share["voice"]["redundant"] == 1
    assert share["words"]["incongruent"] == share["voice"]["incongruent"] == 0
    assert share["words"]["all"] == pytest.approx(1 - kinds["incongruent"] / kinds.sum())


@pytest.mark.parametrize("channel", ["text", "audio"])
def test_nothing_but_the_channel_of_one_turn_changes(data, channel):
    model = Stub(lambda audio, text: 0, contextual=True)
    frame = swap_transcripts(model, data) if channel == "text" else flatten_pitch(model, data)
    half = len(model.seen) // 2
    asked, told = [], 0
    for before, after in zip(model.seen[:half], model.seen[half:], strict=True):
        kept = "audio" if channel == "text" else "text"
        assert torch.equal(getattr(before, kept), getattr(after, kept))
        assert torch.equal(getattr(before, f"{kept}_mask"), getattr(after, f"{kept}_mask"))
        assert torch.equal(before.dialogue, after.dialogue) and torch.equal(before.index, after.index)
        for k in range(len(before)):
            (x, m), (y, n) = before.channel(channel), after.channel(channel)
            if not torch.equal(x[k][m[k]], y[k][n[k]]):
                asked.append((int(told + before.dialogue[k]), data.corpus.ids[int(before.index[k])]))
        told += int(before.dialogue.max()) + 1
    assert told == len(frame)
    assert asked == list(enumerate(frame["utterance"]))  # one turn in each copy, the one of its row


@pytest.mark.parametrize("name", ["early", "bc-lstm", "cm-roberta"])
def test_asking_together_is_asking_one_by_one(name, data, vocabulary):
    system, config = SYSTEMS[name]
    fewer = {k: 8 for k in ("width", "hidden") if getattr(config, k, 0)} | {"dropout": 0.0}
    fewer |= {"causal": True} if name == "cm-roberta" else {}
    torch.manual_seed(1)
    encoders = FrameEncoder(len(PROSODY_NAMES)), WordEncoder(len(vocabulary), 6)
    model = system(*encoders, len(LABELS), replace(config, **fewer)).eval()
    rows, partners = [3, 17, 40, 41, 90], [60, 2, 0, 99, 5]
    texts = data.text.take([data.corpus.ids[k] for k in partners])
    together = _ask(model, data, rows, {"text": texts})
    for b, (row, partner) in enumerate(zip(rows, partners, strict=True)):
        order = np.arange(len(data))
        order[row] = partner
        one = Dataset(data.corpus, data.audio, data.text.exchanged(order))
        with torch.no_grad():
            alone = model(one.batch(np.arange(len(data)))).logits[row]
        assert torch.allclose(together[b], alone, atol=1e-5)
    assert not torch.allclose(together, _ask(model, data, rows, {}), atol=1e-4)


@pytest.mark.parametrize("interpolated", [False, True])
@pytest.mark.parametrize("column", ["pitch", "energy"])
def test_flattening_levels_one_column_and_what_follows_from_it(column, interpolated):
    time = np.arange(8000) / 16000
    sweep = np.sin(2 * np.pi * (120 + 80 * time) * time) * (0.2 + time) * (np.abs(time - 0.25) > 0.06)
    frames = Prosody(hop=0.02, interpolate=interpolated)(sweep.astype(np.float32))
    level = flattened(frames, column, interpolated)
    voiced, at = frames[:, VOICED] > 0.5, PROSODY_NAMES.index(column)
    assert voiced.any() and not voiced.all() and np.ptp(frames[voiced, at]) > 1
    assert np.ptp(level[voiced, at]) == 0
    assert level[voiced, at].mean() == pytest.approx(frames[voiced, at].mean(), abs=1e-4)
    assert np.array_equal(level[~voiced, at], frames[~voiced, at]) == (column == "energy" or not interpolated)
    others = [k for k, name in enumerate(PROSODY_NAMES) if name not in (column, f"delta_{column}")]
    assert np.array_equal(level[:, others], frames[:, others])
    change = level[:, PROSODY_NAMES.index(f"delta_{column}")]
    expected = 0 if column == "pitch" else np.diff(level[:, at], prepend=level[:1, at])
    assert np.allclose(change, expected)
    assert np.array_equal(flattened(level, column, interpolated), level)
    silent = np.zeros((5, len(PROSODY_NAMES)), np.float32)
    assert np.array_equal(flattened(silent, column, interpolated), silent)


def test_flattening_takes_from_those_who_need_it(data, words_mean):
    def moves(audio, text):
        return int(audio[audio[:, VOICED] > 0.5, PITCH].std(correction=0) > 1e-3)

    frame = flatten_pitch(Stub(moves), data)
    assert set(frame["cue"]) == set(FLATTENED)
    assert (frame["after"] == LABELS[0]).all()
    assert frame["changed"].mean() > 0.5
    fallen = frame["margin_after"] - frame["margin_before"]
    assert np.allclose(fallen, np.where(frame["changed"], -4.0, 0.0))  # 3 less the mean of 0, 0, 0; then -1
    assert (frame["right_after"] == (frame["emotion"] == frame["after"])).all()
    energy = flatten_pitch(Stub(moves), data, "energy")
    assert not energy["changed"].any()
    deaf = flatten_pitch(Stub(lambda audio, text: words_mean(text)), data)
    assert not deaf["changed"].any() and (deaf["margin_before"] == deaf["margin_after"]).all()


class Numbered:
    """An extractor that gives the number of the call: one frame an utterance."""

    rate = 16000

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.full((1, len(PROSODY_NAMES)), self.calls - 1, np.float32)


def test_the_stress_moves_and_nothing_else_does(data, words_mean):
    model = Stub(lambda audio, text: words_mean(text))
    moved = move_accent(model, data, 6, seed=3, extractor=Numbered())
    frame, table = moved.frame, data.corpus.table
    batch = model.seen[0]
    assert len(frame) == 18 and len(moved.texts) == len(moved.waves) == 6 and moved.rate == 16000
    assert batch.audio[:, 0, 0].tolist() == list(range(18))  # each rendering is heard, in order
    for k, (uid, part) in enumerate(frame.groupby("sentence", sort=False)):
        text = batch.text[3 * k : 3 * k + 3]
        assert (text == text[0]).all()
        assert moved.texts[k] == table.at[uid, "text"] and all(w in moved.texts[k] for w in part["stressed"])
        assert part["expected"].tolist() == table.at[uid, "candidates"].split("+")
        assert part["expected"].nunique() == 3 and part["planted"].sum() == 1
        assert part.loc[part["planted"], "expected"].item() == table.at[uid, "emotion"]
        assert part["predicted"].nunique() == 1 and part["followed"].sum() == 1  # who reads gets one of three
        assert (np.diff(part["start"]) > 0).all() and (part["start"] < part["end"]).all()
        waves = moved.waves[k]
        assert not any(np.array_equal(waves[a], waves[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    summary = followed(frame, "planted")
    assert summary.at["all", "share"] == pytest.approx(summary.at["all", "chance"])

    right = [LABELS.index(e) for e in frame["expected"]]
    oracle = Stub(lambda audio, text: right[int(audio[0, 0])])
    again = move_accent(oracle, data, 6, seed=3, extractor=Numbered())
    told = ["predicted", "followed", "margin"]
    pd.testing.assert_frame_equal(again.frame.drop(columns=told), frame.drop(columns=told))
    for one, other in zip(sum(again.waves, []), sum(moved.waves, []), strict=True):
        assert np.array_equal(one, other)
    assert again.frame["followed"].all() and (again.frame["margin"] == 3).all()
    assert followed(again.frame).at["all", "share"] == 1

    def contradict(audio, text):
        return (right[int(audio[0, 0])] + 1) % 4 if len(audio) == 1 else 0

    contrary = Stub(contradict, contextual=True, causal=True)
    third = move_accent(contrary, data, 6, seed=3, extractor=Numbered()).frame
    assert not third["followed"].any()
    index = torch.cat([batch.index for batch in contrary.seen]).tolist()  # each in its own conversation
    turns = [table.index[table["dialogue_id"] == d].tolist() for d in third["dialogue"]]
    expected = [t[: t.index(u) + 1] for t, u in zip(turns, third["sentence"], strict=True)]
    assert [data.corpus.ids[k] for k in index] == sum(expected, [])

    other = move_accent(model, data, 6, seed=4, extractor=Numbered()).frame
    assert other["sentence"].unique().tolist() != frame["sentence"].unique().tolist()


def test_the_stressed_word_is_the_one_that_sounds_stressed(data):
    """The features are made anew from their own settings, and the stress can be heard in them."""
    meta = {"name": "prosody", "settings": {"hop": 0.01, "interpolate": True}}
    pitched = Ragged(data.audio.frames, data.audio.offsets, data.audio.ids, meta)
    model = Stub(lambda audio, text: 0)
    moved = move_accent(model, Dataset(data.corpus, pitched, data.text), 5).frame
    batch, rises = model.seen[0], []
    for row, frames, mask in zip(moved.itertuples(), batch.audio, batch.audio_mask, strict=True):
        pitch = frames[mask, PITCH].numpy()
        time = 0.01 * np.arange(len(pitch))
        inside = (time > row.start) & (time < row.end)
        rises.append(np.median(pitch[inside]) - np.median(pitch[~inside]))
    assert np.mean(np.array(rises) > 2) > 0.8  # semitones: the synthesiser adds 45 % of pitch


def test_shares_are_counted_and_their_intervals_hold_them():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"dialogue": np.repeat(np.arange(20), 5), "cue": ["a", "b"] * 50})
    frame["followed"] = np.where(frame["cue"] == "a", True, rng.random(100) < 0.5)
    frame["changed"], frame["chance"] = ~frame["followed"], 0.25
    found = followed(frame, "cue")
    assert found.index.tolist() == ["a", "b", "all"] and found["n"].tolist() == [50, 50, 100]
    assert found["share"].tolist() == [1.0, frame["followed"][1::2].mean(), frame["followed"].mean()]
    assert (found["low"] <= found["share"]).all() and (found["share"] <= found["high"] + 1e-9).all()
    assert 0.5 < found.at["a", "low"] < 1  # twenty dialogues are no proof of always
    assert (found["chance"] == 0.25).all()
    opposite = followed(frame, "cue", "changed")
    assert "chance" not in opposite
    assert np.allclose(opposite["share"], 1 - found["share"])
    assert followed(frame, ["cue", "followed"]).index.tolist()[0] == "a, True"


def test_what_cannot_be_asked_is_said(data, sines):
    model = Stub(lambda audio, text: 0)
    for ask in (swap_transcripts, flatten_pitch, move_accent):
        with pytest.raises(MerLabError, match="sines does not say what words and voices mean"):
            ask(model, sines)
    with pytest.raises(MerLabError, match="text is to be changed"):
        swap_transcripts(model, Dataset(data.corpus, data.audio))
    dialogues = data.corpus.table["dialogue_id"]
    one = data.corpus.select(keep=dialogues == dialogues.iloc[0])
    with pytest.raises(MerLabError, match="no utterance has a partner"):
        swap_transcripts(model, Dataset(one, data.audio, data.text))
    with pytest.raises(MerLabError, match="flatten 'voicing'"):
        flatten_pitch(model, data, "voicing")
    mel = Ragged(data.audio.frames, data.audio.offsets, data.audio.ids, {"name": "mel"})
    with pytest.raises(MerLabError, match="these are 'mel'"):
        flatten_pitch(model, Dataset(data.corpus, mel, data.text))
    with pytest.raises(MerLabError, match="'mel' cannot be made anew"):
        move_accent(model, Dataset(data.corpus, mel, data.text))
    many = int((data.corpus.table["cue"] == "accent").sum())
    for n in (0, many + 1):
        with pytest.raises(MerLabError, match=f"expected 1 to {many}"):
            move_accent(model, data, n)
    frame = swap_transcripts(model, data)
    with pytest.raises(MerLabError, match="no column 'mood'"):
        followed(frame, "mood")
