"""Groups of utterances: made by hand, counted, and scored as scikit-learn scores them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from mer_lab.breakdown import ENOUGH, OTHERS, breakdown, disparity, groups
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError

LABELS = ("angry", "happy", "sad")


def corpus_of(rows, **columns):
    """A corpus from rows (dialogue, speaker, label, text, split)."""
    table = pd.DataFrame(rows, columns=["dialogue_id", "speaker", "label", "text", "split"])
    table.index = pd.Index([f"u{i}" for i in range(len(table))], name="utterance_id")
    turn = table.groupby("dialogue_id").cumcount()
    return Corpus("made", LABELS, table.assign(turn=turn, audio="", start=np.nan, end=np.nan, **columns))


def many(dialogues=30, seed=0, **columns):
    rng = np.random.default_rng(seed)
    rows = [
        (f"d{d}", f"s{(d // 8) * 2 + t % 2}", rng.choice([*LABELS, ""], p=[0.5, 0.2, 0.2, 0.1]),
         " ".join(["word"] * rng.integers(1, 10)), "train" if d < 4 else "test")
        for d in range(dialogues)
        for t in range(rng.integers(3, 12))
    ]  # fmt: skip
    return corpus_of(rows, **columns)


def predictions_for(corpus, seeds=3, seed=1):
    rng = np.random.default_rng(seed)
    target = corpus.select(split="test").targets
    return np.where(rng.random((seeds, len(target))) < 0.6, target.clip(0), rng.integers(0, 3, len(target)))


def test_shifts_by_hand():
    rows = [
        ("d0", "A", "angry", "", "test"), ("d0", "B", "sad", "", "test"),
        ("d0", "A", "angry", "", "test"), ("d0", "B", "happy", "", "test"),  # A as before, B not
        ("d0", "A", "", "", "test"),  # without a label, it is in no group ...
        ("d0", "A", "sad", "", "test"),  # ... and the one after it is compared with what A had before
        ("d1", "A", "sad", "", "test"),  # another dialogue begins anew
        ("d1", "B", "", "", "test"), ("d1", "B", "sad", "", "test"),
    ]  # fmt: skip
    shift = groups(corpus_of(rows))["shift"].tolist()
    first, same, after = "first turn", "same as before", "after a shift"
    assert shift == [first, first, same, after, "", after, first, "", first]


def test_a_shift_sees_the_turn_before_in_another_split():
    rows = [("d0", "A", "angry", "", "train"), ("d0", "A", "sad", "", "test"), ("d1", "A", "sad", "", "test")]
    assert groups(corpus_of(rows))["shift"].tolist() == ["after a shift", "first turn"]


def test_lengths_are_thirds_that_keep_equal_lengths_together():
    counts = [1, 1, 2, 3, 4, 4, 5, 6, 9]
    rows = [("d0", "A", "sad", "w " * n, "test") for n in counts]
    rows += [("d0", "A", "", "w " * 20, "test"), ("d0", "A", "sad", "", "test")]
    length = groups(corpus_of(rows))["length"].tolist()
    short, medium, long = "short (1-2 words)", "medium (3-4 words)", "long (5-20 words)"
    assert length == [short] * 3 + [medium] * 3 + [long] * 3 + [long, ""]
    two = groups(corpus_of([("d0", "A", "sad", "w " * n, "test") for n in [1] * 9 + [7]]))["length"]
    assert set(two) == {"short (1 word)", "long (7 words)"}
    same = corpus_of([("d0", "A", label, "one word", "test") for label in ("sad", "sad", "happy")])
    assert "length" not in groups(same)


def test_speakers_with_few_utterances_stand_together():
    per_speaker = {"Ann": ENOUGH, "Ben": ENOUGH - 1, "Cleo": 2}
    rows = [(f"d{i}", who, "sad", "", "test") for who, n in per_speaker.items() for i in range(n)]
    rows += [("d99", "Ben", "", "", "test")] + [("d98", "Cleo", "sad", "", "train")] * ENOUGH
    speaker = groups(corpus_of(rows))["speaker"]
    assert speaker.value_counts().to_dict() == {"Ann": ENOUGH, OTHERS: ENOUGH + 2}


def test_only_what_the_corpus_knows():
    corpus = many()
    assert list(groups(corpus)) == ["class", "speaker", "length", "shift"]
    n = len(corpus)
    more = many(cue=np.resize(["lexical", "prosodic"], n), scripted=np.resize(["scripted", "improvised"], n))
    frame = groups(more)
    assert list(frame) == ["class", "cue", "speaker", "length", "speech", "shift"]
    assert list(frame.index) == more.select(split="test").ids
    assert list(groups(more, split="train").index) == more.select(split="train").ids
    alone = corpus_of([(f"d{i}", "A", "sad", "", "test") for i in range(5)])
    assert list(groups(alone)) == []
    with pytest.raises(MerLabError, match="can be by nothing"):
        breakdown(np.zeros(5, int), alone, "class")


@pytest.mark.parametrize("by", ["class", "cue", "speaker", "length", "shift"])
def test_every_labelled_utterance_is_in_one_group(by):
    corpus = many()
    corpus = many(cue=np.resize(["lexical", "prosodic"], len(corpus)))
    predictions, test = predictions_for(corpus), corpus.select(split="test")
    table = breakdown(predictions, corpus, by)
    assert table.index[-1] == "all" and table.index.is_unique
    known = test.targets >= 0
    parts = table.drop("all")
    assert parts["utterances"].sum() == table.loc["all", "utterances"] == known.sum()
    hits = (predictions == test.targets)[:, known].mean()
    assert table.loc["all", "estimate"] == pytest.approx(hits)
    assert np.average(parts["estimate"], weights=parts["utterances"]) == pytest.approx(hits)
    assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).all()


def test_by_class_it_is_recall():
    corpus = many()
    predictions, target = predictions_for(corpus), corpus.select(split="test").targets
    table = breakdown(predictions, corpus, "class")
    assert list(table.index) == [*LABELS, "all"]
    known = target >= 0
    expected = np.mean([recall_score(target[known], p[known], average=None) for p in predictions], 0)
    assert table["estimate"].iloc[:3].to_numpy() == pytest.approx(expected)
    one = breakdown(predictions[0], corpus, "class")
    assert one["estimate"].iloc[:3].to_numpy() == pytest.approx(
        recall_score(target[known], predictions[0, known], average=None)
    )


def test_rows_stand_in_the_order_of_their_meaning():
    corpus = many()
    predictions = predictions_for(corpus)
    lengths = [name.split()[0] for name in breakdown(predictions, corpus, "length").index]
    assert lengths == ["short", "medium", "long", "all"]
    shifts = list(breakdown(predictions, corpus, "shift").index)
    assert shifts == ["first turn", "same as before", "after a shift", "all"]
    speakers = list(breakdown(predictions, corpus, "speaker").index)
    assert OTHERS not in speakers[:-2]


def test_disparity():
    table = pd.DataFrame({"estimate": [0.5, 0.9, 0.7, 0.1]}, ["a", "b", "c", "all"])
    assert disparity(table) == ("a", "b", pytest.approx(0.4))
    with pytest.raises(MerLabError, match="no group"):
        disparity(table.loc[["all"]])


def test_mistakes_are_told():
    corpus = many()
    predictions = predictions_for(corpus)
    with pytest.raises(MerLabError, match="'mood'; it can be by class, speaker, length, shift"):
        breakdown(predictions, corpus, "mood")
    with pytest.raises(MerLabError, match="in the corpus's order"):
        breakdown(predictions[:, :-1], corpus, "class")
    with pytest.raises(MerLabError, match="splits are"):
        groups(corpus, split="dev")


def test_the_staged_corpus_divides_by_cue(staged_corpus):
    test = staged_corpus.select(split="test")
    table = breakdown(test.targets, staged_corpus, "cue")
    assert set(table.index) == {*test.table["cue"], "all"}
    assert (table["estimate"] == 1).all() and disparity(table).gap == 0
