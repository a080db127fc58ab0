"""Exercises of lesson 01."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mer_lab.exercises.checking import Check, exercise


def _shape(found: Any) -> tuple[int, ...] | None:
    """The shape of a result of any kind; none where its rows differ in length."""
    try:
        return np.shape(found)
    except ValueError:
        return None


def _is(found: Any, value: Any) -> bool:
    """Whether a result of any kind equals a value that a misconception gives."""
    try:
        found = np.asarray(found, float)
    except (TypeError, ValueError):
        return False
    return found.shape == np.shape(value) and np.allclose(found, value)


@exercise("01.1", "Count the votes", "easy", 10)
def majority(answer, check: Check) -> None:
    """``answer(votes (U, K))`` → the label with the most votes, counted from 0, ``(U,)``; -1 without one."""
    clear = np.array([[0, 3, 0, 0], [1, 0, 2, 0], [0, 0, 1, 2]])
    tied = np.array([[1, 1, 0, 1], [0, 2, 1, 2]])
    found, torn = check.run(answer, clear), check.run(answer, tied)
    check(
        not _is(torn, tied.argmax(1)),
        "where labels share the most votes you return the one that stands first, as argmax does: nobody "
        "decided for it, and the first class of the list grows with every disagreement; return -1 there.",
    )
    check(
        not _is(found, clear.max(1)),
        "you return how many evaluators agreed, and the question is on which label: give its column.",
    )
    check.equal(
        found, [1, 2, 3],
        "where one label has more votes than any other, you return another one: give its column, counted "
        "from 0.",
    )  # fmt: skip
    check.equal(
        check.run(answer, np.array([[1, 1, 0, 2], [2, 1, 1, 1]])), [3, 0],
        "you ask for more than half of the votes, and two of four are enough where no other label has as "
        "many.",
    )  # fmt: skip
    check.equal(
        torn, [-1, -1],
        "you believe that there is always a winner; where several labels share the most votes there is "
        "none, so return -1.",
    )  # fmt: skip
    check.equal(
        check.run(answer, np.array([[0, 0, 0], [0, 1, 0]])), [-1, 1],
        "you give a label to an utterance that nobody labelled: its votes are all 0, and that is a tie as "
        "well.",
    )  # fmt: skip


@exercise("01.2", "Guess after merging", "easy", 10)
def floor(answer, check: Check) -> None:
    """``answer(train labels, test labels, mapping)`` → WA and UA of always guessing, as shares."""
    train = pd.Series(["happy"] * 30 + ["excited"] * 25 + ["neutral"] * 40 + ["sad"] * 5)
    test = pd.Series(["happy"] * 10 + ["excited"] * 10 + ["neutral"] * 30 + ["sad"] * 50)
    merge = {"excited": "happy"}
    found = check.run(answer, train, test, merge)
    check(
        _shape(found) == (2,),
        "return two numbers, WA and UA: alone, each of them hides what the other says.",
    )
    wa, ua = map(float, found)
    check(
        not _is(wa, 0.5),
        "you guess the most frequent label of the test split, and a model that saw those labels would have "
        "seen the answers: the guess comes from training.",
    )
    check(
        not _is(wa, 0.3),
        "you choose the guess before merging: under the new scheme happy and excited are one class, and "
        "together they are the most frequent one.",
    )
    check(not _is(wa, 0.1), "you merge the training labels only: the test is asked under the new scheme too.")
    check.equal(wa, 0.2, "WA is the share of the test utterances whose merged label is the guess.")
    check(
        not _is(ua, 0.25),
        "your UA counts the classes before merging: it is the mean over those that are left.",
    )
    check(
        not _is(ua, 0.2),
        "your UA is the WA once more: it is the mean of the classes' own shares, 1 for the class that you "
        "guess and 0 for every other, however large they are.",
    )
    check.equal(
        ua, 1 / 3,
        "one of three classes is found wholly and two not at all, and UA is the mean of that.",
    )  # fmt: skip
    check.equal(
        check.run(answer, train, test[test != "neutral"], merge), [2 / 7, 1 / 2],
        "you believe that UA is over all classes of training, and a class that the test split lacks has no "
        "share of its own: take the mean over those that occur there.",
    )  # fmt: skip
    check.equal(
        check.run(answer, train, pd.Series(["sad", "neutral"]), merge), [0, 0],
        "you believe that guessing always gets 1/K, and where the test split lacks the guessed class it "
        "gets nothing.",
    )  # fmt: skip


def _scenes() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test utterances with a label, a scene that tells of it, a sentence that does not."""
    train = {"harbour": (6, 2), "bakery": (1, 7), "attic": (4, 1), "library": (0, 6)}  # angry, neutral
    test = {"harbour": (5, 1), "bakery": (1, 4), "attic": (1, 3), "garden": (4, 1)}
    tables = []
    for counts in (train, test):
        labels = [(scene, *zip(("angry", "neutral"), pair, strict=True)) for scene, pair in counts.items()]
        rows = [(scene, label) for scene, *pairs in labels for label, n in pairs for _ in range(n)]
        table = pd.DataFrame(rows, columns=["scene", "label"])
        tables.append(table.assign(sentence=np.resize(["Okay.", "Mm-hm."], len(table))))
    return tables[0], tables[1]


def _points(
    train: pd.DataFrame, test: pd.DataFrame, column: str, memory: pd.DataFrame | None = None
) -> float:
    """What remembering a column is worth, by a loop; ``memory`` is what is remembered, training by right."""
    memory = train if memory is None else memory
    everywhere = train["label"].value_counts().idxmax()
    right = guessed = 0
    for value, label in zip(test[column], test["label"], strict=True):
        seen = memory.loc[memory[column] == value, "label"]
        right += label == (seen.value_counts().idxmax() if len(seen) else everywhere)
        guessed += label == everywhere
    return 100 * (right - guessed) / len(test)


@exercise("01.3", "Find the leak in a split", "medium", 15)
def leak_worth(answer, check: Check) -> None:
    """``answer(train, test, column)``, tables with a ``label`` → points that remembering a column gains."""
    train, test = _scenes()
    expected = _points(train, test, "scene")
    found = check.run(answer, train, test, "scene")
    shared = test["scene"].isin(train["scene"])
    check(
        not _is(found, 100 * shared.mean()),
        "you return how many test utterances share their value of the column with training: what is shared "
        "may tell nothing, and the question is how many points remembering it is worth.",
    )
    check(
        not any(_is(found, _points(train, test, "scene", m)) for m in (test, pd.concat([train, test]))),
        "your memory has read the test labels: a leak is what *training* tells about the test, so remember "
        "the labels of training alone.",
    )
    guess = 100 * (test["label"] == "neutral").mean()
    check(
        not _is(found, expected + guess),
        "you return an accuracy, and most of it is what guessing scores anyway: subtract the floor.",
    )
    own = 100 * test["label"].value_counts(normalize=True).max()
    check(
        not _is(found, expected + guess - own),
        "your floor is the most frequent label of the test split; whoever guesses knows only training's.",
    )
    known = test[shared]
    more = 100 * (known["label"] == "neutral").mean() - guess
    check(
        not any(_is(found, _points(train, known, "scene") + gap) for gap in (0, more)),
        "you score the test utterances whose scene is known and forget the others: a leak counts for as "
        "much as it moves the accuracy of the whole test split.",
    )
    unseen = 100 * ((test["label"] == "neutral") & ~shared).mean()
    check(
        not _is(found, expected - unseen),
        "a scene that training lacks gets no answer from you, and a model would still guess: give it the "
        "most frequent label of all training.",
    )
    check(not _is(found, expected / 100), "your result is a share of 1: points are per cent, so times 100.")
    check.equal(found, expected, "that is not what a memory of scenes gains over always guessing, in points.")
    check.equal(
        check.run(answer, train, test, "sentence"), _points(train, test, "sentence"),
        "another column is asked for, and it tells nothing: everybody says these words in every mood, so "
        "remembering them is worth 0, however often they are shared.",
    )  # fmt: skip
    turned = test.assign(label=test["label"].map({"angry": "neutral", "neutral": "angry"}))
    check.equal(
        check.run(answer, train, turned, "scene"), _points(train, turned, "scene"),
        "you believe that a memory can only help: where the moods have changed it costs accuracy, so let "
        "the result be negative.",
    )  # fmt: skip


def _linked(columns: Sequence[Sequence[str]]) -> np.ndarray:
    """Which pairs of utterances hang together ``(U, U)``: links of links, until nothing changes."""
    size = len(columns[0])
    pairs = np.eye(size, dtype=bool)
    for column in columns:
        for a in range(size):
            for b in range(size):
                pairs[a, b] |= bool(column[a]) and column[a] == column[b]
    while True:
        wider = pairs @ pairs
        if (wider == pairs).all():
            return pairs
        pairs = wider


def _pairs(groups: Any) -> np.ndarray:
    groups = np.asarray(groups)
    return groups[:, None] == groups[None, :]


@exercise("01.4", "Cut between the groups, not through them", "hard", 20)
def groups(answer, check: Check) -> None:
    """``answer(columns)``, lists of U strings → the group of each utterance ``(U,)``, numbered at will."""

    def found(*columns: Sequence[str]) -> np.ndarray:
        given = check.run(answer, list(columns))
        check(_shape(given) == (len(columns[0]),), "return one group number for each utterance, (U,).")
        return _pairs(given)

    speaker = ["Ada", "Ben", "Ada", "Cem", "Dee", "Eve", "Eve"]
    dialogue = ["d1", "d1", "d2", "d3", "d3", "d4", "d4"]
    pairs = found(speaker, dialogue)
    check(
        not any((pairs == _pairs(column)).all() for column in (speaker, dialogue)),
        "you keep one column together and cut through the other: Ada speaks in two dialogues, and each of "
        "them has a second speaker, so a split by either column alone leaks.",
    )
    both = [f"{s} in {d}" for s, d in zip(speaker, dialogue, strict=True)]
    check(
        not (pairs == _pairs(both)).all(),
        "you group what is equal in every column: to share *one* value is enough to leak.",
    )
    check(
        (pairs == _linked([speaker, dialogue])).all(),
        "utterances that share a value, directly or through a third one, have different groups, or "
        "strangers have the same: Ada ties d1 and d2 together, and d3 and d4 stay apart.",
    )
    order = np.random.default_rng(0).permutation(12)
    chain = [[f"s{k // 2}" for k in order], [f"d{(k + 1) // 2}" for k in order]]
    check(
        found(*chain).all(),
        "you go through the columns once, and links come in chains: the first utterance shares with the "
        "second, the second with a third, and so on, so go on until nothing changes.",
    )
    check(
        not found(["Ada", "Ben"], ["Ben", "Cem"])[0, 1],
        "you tie a speaker to a dialogue of the same name: equal strings in different columns are different "
        "things.",
    )
    check(
        not found(["", "", "Ada"], ["d1", "d2", "d3"])[0, 1],
        "you take an empty field for a value: two utterances without a known speaker need not share a "
        "speaker.",
    )
