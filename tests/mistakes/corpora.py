"""Wrong answers to the exercises of lesson 01, each with words of the message that it must get."""

import numpy as np
import pandas as pd

# 01.1


def tie_first(votes):
    """Returns -1 for ties only where each evaluator says something else."""
    return np.where(votes.max(1) == 1, -1, votes.argmax(1))


def last_of_the_top(votes):
    return votes.shape[1] - 1 - votes[:, ::-1].argmax(1)


def from_one(votes):
    winner = tied_is_none(votes)
    return np.where(winner < 0, -1, winner + 1)


def tied_is_none(votes):
    top = votes == votes.max(1, keepdims=True)
    return np.where(top.sum(1) > 1, -1, votes.argmax(1))


def more_than_half(votes):
    return np.where(2 * votes.max(1) > votes.sum(1), votes.argmax(1), -1)


def by_shares(votes):
    """Nobody voted: 0/0 is no number, equals nothing, and so there is no tie."""
    with np.errstate(invalid="ignore"):
        shares = votes / votes.sum(1, keepdims=True)
    top = shares == shares.max(1, keepdims=True)
    return np.where(top.sum(1) > 1, -1, votes.argmax(1))


# 01.2


def guess(train, test, mapping, of=None, before=False, merge_test=True, ua=None, classes=None):
    """The right floor, with one thing done another way."""
    new = train if before else train.replace(mapping)
    source = new if of is None else of(test.replace(mapping))
    chosen = source.value_counts().idxmax()
    chosen = mapping.get(chosen, chosen) if merge_test else chosen
    asked = test.replace(mapping) if merge_test else test
    wa = (asked == chosen).mean()
    present = classes(train, test, mapping) if classes else set(asked)
    return wa, (wa if ua == "wa" else (chosen in set(asked)) / len(present))


def merged_guess_unmerged_choice(train, test, mapping):
    chosen = train.value_counts().idxmax()
    wa = (test.replace(mapping) == chosen).mean()
    return wa, 1 / test.replace(mapping).nunique()


def one_over_k(train, test, mapping):
    return guess(train, test, mapping)[0], 1 / test.replace(mapping).nunique()


def from_training(train, test, mapping):
    return set(train.replace(mapping))


# 01.3


def worth(
    train, test, column, memory=None, unseen="guess", floor=True, scale=100, score="all", column_is=None
):
    """The right worth, with one thing done another way."""
    column = column_is or column
    memory = train if memory is None else memory(train, test)
    most = memory.groupby(column)["label"].agg(lambda x: x.value_counts().idxmax())
    everywhere = train["label"].value_counts().idxmax()
    answers = test[column].map(most)
    if score == "known":
        test, answers = test[answers.notna()], answers[answers.notna()]
    if unseen == "guess":
        answers = answers.fillna(everywhere)
    right = (answers == test["label"]).mean()
    return scale * (right - floor * (test["label"] == everywhere).mean())


def share_seen(train, test, column):
    return 100 * test[column].isin(train[column]).mean()


def floor_of_the_test_split(train, test, column):
    return worth(train, test, column, floor=False) - 100 * test["label"].value_counts(normalize=True).max()


def remembers_the_first(train, test, column):
    answers = test[column].map(train.groupby(column)["label"].first()).fillna("neutral")
    return 100 * ((answers == test["label"]).mean() - (test["label"] == "neutral").mean())


# 01.4


def numbered(keys):
    return pd.factorize(pd.Series(keys))[0]


def grow(columns, passes=1000, tell_apart=True, empty=False):
    """Union of what shares a value, in a number of passes; each in the order of the rows."""
    group = list(range(len(columns[0])))
    for _ in range(passes):
        before = list(group)
        for k, column in enumerate(columns):
            first = {}
            for row, value in enumerate(column):
                if value or empty:
                    key = (k, value) if tell_apart else value
                    first[key] = min(first.get(key, group[row]), group[row])
            for row, value in enumerate(column):
                if value or empty:
                    group[row] = min(group[row], first[(k, value) if tell_apart else value])
        if group == before:
            break
    return group


def strings_are_things(columns):
    """Union over the values themselves, whatever column they stand in."""
    parent = {}

    def root(x):
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    for row in zip(*columns, strict=True):
        for value in row[1:]:
            if row[0] and value:
                parent[root(row[0])] = root(value)
    return numbered([root(row[0]) for row in zip(*columns, strict=True)])


MISTAKES = {
    "corpora.majority": [
        ("the one that stands first", lambda votes: votes.argmax(1)),
        ("how many evaluators agreed", lambda votes: votes.max(1)),
        ("counted from 0", from_one),
        ("more than half", more_than_half),
        ("always a winner", last_of_the_top),
        ("always a winner", tie_first),
        ("nobody labelled", by_shares),
    ],
    "corpora.floor": [
        ("two numbers", lambda *a: guess(*a)[0]),
        ("the test split", lambda *a: guess(*a, of=lambda test: test)),
        ("before merging: under", merged_guess_unmerged_choice),
        ("training labels only", lambda *a: guess(*a, merge_test=False)),
        ("the share of the test", lambda *a: (100 * guess(*a)[0], guess(*a)[1])),
        ("counts the classes before", lambda *a: guess(*a, classes=lambda train, test, mapping: set(test))),
        ("the WA once more", lambda *a: guess(*a, ua="wa")),
        ("two not at all", lambda *a: (guess(*a)[0], 1.0)),
        ("all classes of training", lambda *a: guess(*a, classes=from_training)),
        ("always gets 1/K", one_over_k),
    ],
    "corpora.leak_worth": [
        ("may tell nothing", share_seen),
        ("read the test labels", lambda *a: worth(*a, memory=lambda train, test: test)),
        ("read the test labels", lambda *a: worth(*a, memory=lambda train, test: pd.concat([train, test]))),
        ("subtract the floor", lambda *a: worth(*a, floor=False)),
        ("forget the others", lambda *a: worth(*a, score="known")),
        ("gets no answer from you", lambda *a: worth(*a, unseen="nothing")),
        ("times 100", lambda *a: worth(*a, scale=1)),
        ("label of the test split", floor_of_the_test_split),
        ("not what a memory", remembers_the_first),
        ("another column", lambda *a: worth(*a, column_is="scene")),
        ("only help", lambda *a: max(0, worth(*a))),
    ],
    "corpora.groups": [
        ("one group number", lambda columns: [[0, 1, 2], [3, 4], [5, 6]]),
        ("cut through the other", lambda columns: numbered(columns[0])),
        ("cut through the other", lambda columns: numbered(columns[1])),
        ("equal in every column", lambda columns: numbered(list(zip(*columns, strict=True)))),
        ("strangers", lambda columns: [0] * len(columns[0])),
        ("until nothing changes", lambda columns: grow(columns, passes=2)),
        ("of the same name", strings_are_things),
        ("empty field", lambda columns: grow(columns, empty=True)),
    ],
}
