"""Splits: groups stay whole, sizes come near, and overlaps finds what leaks."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab.corpora import Corpus
from mer_lab.corpora.splits import grouped_split, leave_one_group_out, normalise_text, overlaps, random_split
from mer_lab.errors import MerLabError


def make(speakers, dialogues=None, texts=None, labels=None, splits=None, **more):
    n = len(speakers)
    table = pd.DataFrame(
        {
            "dialogue_id": dialogues or [f"d{i}" for i in range(n)], "turn": range(n), "speaker": speakers,
            "split": splits or [""] * n, "label": labels or ["a"] * n,
            "text": texts or [f"t{i}" for i in range(n)], "audio": "", "start": np.nan, "end": np.nan, **more,
        },
        index=pd.Index([f"u{i}" for i in range(n)], name="utterance_id"),
    )  # fmt: skip
    return Corpus("made-up", ("a", "b"), table)


def sizes(corpus):
    return (
        corpus.table["split"].value_counts().reindex(["train", "validation", "test"], fill_value=0).tolist()
    )


def test_random_split():
    corpus = make([f"s{i % 7}" for i in range(100)])
    split = random_split(corpus, (0.7, 0.1, 0.2), seed=3)
    assert sizes(split) == [70, 10, 20] and split.ids == corpus.ids
    assert split.table["split"].equals(random_split(corpus, (0.7, 0.1, 0.2), seed=3).table["split"])
    assert not split.table["split"].equals(random_split(corpus, (0.7, 0.1, 0.2), seed=4).table["split"])
    assert len(overlaps(split, "speaker")) == 7  # this is why it is the wrong way
    assert sizes(random_split(corpus, (0.5, 0.0, 0.5))) == [50, 0, 50]


@settings(max_examples=40, deadline=None)
@given(
    speakers=st.lists(st.integers(0, 8), min_size=3, max_size=60),
    stratify=st.booleans(),
    seed=st.integers(0, 5),
    fractions=st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.25, 0.25), (0.8, 0.0, 0.2)]),
)
def test_groups_stay_whole(speakers, stratify, seed, fractions):
    corpus = make([f"s{s}" for s in speakers], labels=["ab"[s % 2] for s in speakers])
    needed = sum(f > 0 for f in fractions)
    if len(set(speakers)) < needed:
        with pytest.raises(MerLabError, match="group"):
            grouped_split(corpus, "speaker", fractions, seed, stratify)
        return
    split = grouped_split(corpus, "speaker", fractions, seed, stratify)
    assert overlaps(split, "speaker").empty
    assert [n > 0 for n in sizes(split)] == [f > 0 for f in fractions]
    assert split.table["split"].equals(
        grouped_split(corpus, "speaker", fractions, seed, stratify).table["split"]
    )


def test_sizes_and_strata():
    rng = np.random.default_rng(0)
    speakers = [f"s{i}" for i in rng.integers(0, 60, 1200)]
    rate = {s: rng.uniform() for s in set(speakers)}
    labels = ["b" if rng.uniform() < rate[s] else "a" for s in speakers]
    corpus = make(speakers, labels=labels)
    split = grouped_split(corpus, "speaker", (0.6, 0.2, 0.2), stratify=True)
    assert np.allclose(np.array(sizes(split)) / 1200, (0.6, 0.2, 0.2), atol=0.03)
    share = split.table.assign(b=split.table["label"] == "b").groupby("split")["b"].mean()
    assert share.max() - share.min() < 0.05
    assert not split.table["split"].equals(
        grouped_split(corpus, "speaker", (0.6, 0.2, 0.2), 1).table["split"]
    )


def test_a_group_that_is_most_of_the_corpus():
    split = grouped_split(make(["big"] * 90 + ["x"] * 5 + ["y"] * 5), "speaker")
    assert sizes(split)[0] == 90 and sorted(sizes(split)[1:]) == [5, 5]


def test_several_columns_are_joined():
    #             d0: p,q   d1: q,r   d2: s   d3: t   d4: u
    speakers = ["p", "q", "q", "r", "s", "t", "u"]
    dialogues = ["d0", "d0", "d1", "d1", "d2", "d3", "d4"]
    for seed in range(10):
        split = grouped_split(make(speakers, dialogues), ["speaker", "dialogue_id"], seed=seed)
        assert overlaps(split, "speaker").empty and overlaps(split, "dialogue_id").empty
        assert split.table["split"].iloc[:4].nunique() == 1


def test_leave_one_group_out():
    corpus = make(["c", "a", "b", "a", "c"])
    folds = dict(leave_one_group_out(corpus, "speaker"))
    assert list(folds) == ["a", "b", "c"]
    assert folds["a"].table["split"].tolist() == ["train", "test", "validation", "test", "train"]
    assert folds["c"].table["split"].tolist() == ["test", "validation", "train", "validation", "test"]
    tested = sum((fold.table["split"] == "test").to_numpy().astype(int) for fold in folds.values())
    assert (tested == 1).all()
    plain = dict(leave_one_group_out(corpus, "speaker", validation=False))
    assert set(plain["b"].table["split"]) == {"train", "test"}
    with pytest.raises(MerLabError, match="at least 3"):
        list(leave_one_group_out(make(["a", "b"]), "speaker"))


def test_overlaps():
    corpus = make(
        ["a", "a", "a", "b", "", ""],
        texts=["Hello, you!", "hello  YOU", "", "", "one", "two"],
        splits=["train", "test", "test", "train", "train", "test"],
        frame=[1.0, 2.0, 3.0, np.nan, np.nan, 1.0],
    )
    speaker = overlaps(corpus, "speaker")
    assert speaker.to_dict("index") == {"a": {"train": 1, "validation": 0, "test": 2}}
    assert overlaps(corpus, "text").to_dict("index") == {
        "hello you": {"train": 1, "validation": 0, "test": 1}
    }
    assert overlaps(corpus, "frame").index.tolist() == ["1.0"]
    assert overlaps(corpus, "dialogue_id").empty
    assert list(overlaps(corpus, "dialogue_id").columns) == ["train", "validation", "test"]
    with pytest.raises(MerLabError, match="no column 'colour'"):
        overlaps(corpus, "colour")


def test_normalise_text():
    assert normalise_text("  It’s FINE—isn't  it? 2…") == normalise_text("Its fine, isnt_it 2")
    assert normalise_text("Über-uns!") == "über uns"
    assert normalise_text("What?!") == normalise_text("what") == "what"
    assert normalise_text("...") == ""


def test_refused():
    corpus = make(["a", "b", "", "c"])
    with pytest.raises(MerLabError, match="1 utterances have no speaker, first u2"):
        grouped_split(corpus, "speaker")
    for fractions in ((0.5, 0.5), (0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (np.nan, 0.5, 0.5)):
        with pytest.raises(MerLabError, match="three shares"):
            random_split(corpus, fractions)
    with pytest.raises(MerLabError, match="columns to group by"):
        grouped_split(corpus, [])
