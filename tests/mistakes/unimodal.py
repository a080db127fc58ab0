"""Wrong answers to the exercises of lesson 03, each with words of the message that it must get."""

import copy
from collections import Counter

import numpy as np

# 03.1


def three(table, ua="recall", weight="true", order="f1 first", absent="out", never=0.0):
    """The right scores, with one thing done another way."""
    right, true, said = np.diag(table), table.sum(1), table.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / true, right / said
        f1 = 2 * precision * recall / (precision + recall) if never is None else 2 * right / (true + said)
    f1 = f1 if never is None else np.nan_to_num(f1, nan=never)
    by = {"true": true, "said": said, "same": np.ones(len(true))}[weight]
    weighted = f1 @ by / by.sum()
    if order == "means first":
        p, r = (np.nan_to_num(x) @ true / true.sum() for x in (precision, recall))
        weighted = 2 * p * r / (p + r)
    shares = np.nan_to_num(precision if ua == "precision" else recall)
    mean = shares.mean() if absent == "zero" else shares[true > 0].mean()
    return right.sum() / table.sum(), mean, weighted


# 03.2


def weights(labels, classes, order=None, power=-1, scale="utterance", unlabelled=False, absent=0.0):
    """The right weights, with one thing done another way."""
    count = Counter(x for x in labels if x)
    names = order(labels) if order else classes
    with np.errstate(divide="ignore"):
        weight = np.array([float(count[x]) ** power if count[x] else absent for x in names])
    total = len(labels) if unlabelled else sum(count.values())
    if scale == "utterance":
        used = np.array([count[x] for x in names])
        return weight * total / sum(w * c for w, c in zip(weight, used, strict=True) if c)
    return weight / weight.sum() if scale == "sum" else weight


def balanced(labels, classes):
    """scikit-learn's formula with all classes of the model: an absent one makes the others smaller."""
    count = Counter(x for x in labels if x)
    return [sum(count.values()) / (len(classes) * count[x]) if count[x] else 0.0 for x in classes]


# 03.3


def fit(
    model, step, validate, epochs, patience, copied=True, load=True, modes="both", better=None, reset=True,
    first=-np.inf, wait=0, stop=True, against="best", give=None,
):  # fmt: skip
    """The right loop, with one thing done another way."""
    best, at, kept, waited, last = first, 0, None, 0, -np.inf
    for epoch in range(epochs):
        if modes != "stays":
            model.train()
        step(model)
        if modes != "training":
            model.eval()
        score = validate(model)
        above = best if against == "best" else last
        new = better(score, best) if better else above is None or score > above
        last = score
        if new:
            best, at = score, epoch
            kept = copy.deepcopy(model.state_dict()) if copied else model.state_dict()
            waited = 0 if reset else waited
        else:
            waited += 1
            if stop and waited >= patience + wait:
                break
    if load:
        model.load_state_dict(kept)
    return give(at, model) if give else (at, model)


def worst(*a):
    return fit(*a, better=lambda score, best: score < best, first=np.inf)


def fresh(at, model):
    model.epochs.data.zero_()
    return at, model


# 03.4


def boot(
    right, dialogue, draws, seed, draw="dialogues", level=95, inside=False, blocks=False, score="utterances",
    replace=True, count=None, ends=True,
):  # fmt: skip
    """The right interval, with one thing done another way."""
    rng = np.random.default_rng(seed)
    right, dialogue = np.asarray(right, float), np.asarray(dialogue)
    if draw == "utterances":
        rows = [[k] for k in range(len(right))]
    elif blocks:
        rows = np.split(np.arange(len(right)), np.flatnonzero(dialogue[1:] != dialogue[:-1]) + 1)
    else:
        rows = [np.flatnonzero(dialogue == name) for name in np.unique(dialogue)]
    values = []
    for _ in range(draws):
        drawn = [rows[k] for k in rng.choice(len(rows), count or len(rows), replace=replace)]
        if inside:
            drawn = [rng.choice(r, len(r)) for r in drawn]
        if score == "dialogues":
            values.append(np.mean([right[r].mean() for r in drawn]))
        else:
            values.append(right[np.concatenate(drawn)].mean())
    cut = (100 - level) / 2
    return np.percentile(values, [cut, 100 - cut]) if ends else np.mean(values)


def unseeded(right, dialogue, draws, seed, calls=[0]):  # noqa: B006 (it must remember)
    calls[0] += 1
    return boot(right, dialogue, draws, calls[0])


MISTAKES = {
    "unimodal.three_scores": [
        ("three numbers", lambda table: three(table)[0]),
        ("swapped", lambda table: [three(table)[k] for k in (1, 0, 2)]),
        ("which is precision", lambda table: three(table, ua="precision")),
        ("WA is the diagonal", lambda table: (np.diag(table).sum(), *three(table)[1:])),
        ("UA is the mean", lambda table: (three(table)[0], *[three(table)[0]] * 2)),
        ("macro F1", lambda table: three(table, weight="same")),
        ("how often the model says it", lambda table: three(table, weight="said")),
        ("F1 of means", lambda table: three(table, order="means first")),
        ("weighted F1 is the mean", lambda table: (*three(table)[:2], three(table)[0])),
        ("never says", lambda table: three(table, never=None)),
        ("without a true utterance", lambda table: three(table, absent="zero")),
    ],
    "unimodal.weigh": [
        ("no label is not a class", lambda labels, classes: weights(labels, [*classes, ""])),
        ("in another order", lambda *a: weights(*a, order=lambda labels: sorted({x for x in labels if x}))),
        (
            "in another order",
            lambda *a: weights(*a, order=lambda labels: list(dict.fromkeys(filter(None, labels)))),
        ),
        ("the frequent class", lambda *a: weights(*a, power=1)),
        ("without a label", lambda *a: weights(*a, unlabelled=True)),
        ("pull as hard", lambda *a: weights(*a, power=-0.5)),
        ("up to a factor", lambda *a: weights(*a, scale="sum")),
        ("that training lacks", balanced),
        ("that training lacks", lambda *a: weights(*a, absent=np.inf)),
    ],
    "unimodal.train": [
        ("two things", lambda *a: fit(*a)[0]),
        ("live tensors", lambda *a: fit(*a, copied=False)),
        ("another one, counted from 0", worst),
        ("does not have the weights", lambda *a: fit(*a, give=fresh)),
        ("to the end", lambda *a: fit(*a, stop=False)),
        ("is not begun", lambda *a: fit(*a, wait=1)),
        ("a lottery", lambda *a: fit(*a, modes="training")),
        ("in evaluation mode", lambda *a: fit(*a, modes="stays")),
        ("begins anew", lambda *a: fit(*a, reset=False)),
        ("the epoch before", lambda *a: fit(*a, against="before")),
        ("keep the earliest", lambda *a: fit(*a, better=lambda score, best: score >= best)),
        ("stays your best", lambda *a: fit(*a, first=None)),
    ],
    "unimodal.interval": [
        ("two ends", lambda *a: boot(*a, ends=False)),
        ("same test set", lambda *a: boot(*a, replace=False)),
        ("as if they were independent", lambda *a: boot(*a, draw="utterances")),
        ("fewer dialogues", lambda *a: boot(*a, count=1)),
        ("inside the dialogues", lambda *a: boot(*a, inside=True)),
        ("rows that stand together", lambda *a: boot(*a, blocks=True)),
        ("average the dialogues", lambda *a: boot(*a, score="dialogues")),
        ("not one of 95", lambda *a: boot(*a, level=90)),
        ("same seed", unseeded),
    ],
}
