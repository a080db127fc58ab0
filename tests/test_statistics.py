"""Intervals and tests against brute force, scipy and simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from mer_lab.errors import MerLabError
from mer_lab.metrics import METRICS, scores
from mer_lab.statistics import (
    accuracy_by,
    cluster_bootstrap,
    holm,
    mcnemar_exact,
    paired_difference,
    score_interval,
    seed_summary,
    utterances_needed,
)

LABELS = ("angry", "happy", "sad", "neutral")


def example(dialogues=30, seeds=3, accuracy=0.7, seed=0):
    """Targets with gaps, predictions (seeds, U) that are right more often in some dialogues, dialogues."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat([f"d{i}" for i in range(dialogues)], rng.integers(3, 12, dialogues))
    target = rng.choice(4, len(clusters), p=[0.5, 0.3, 0.15, 0.05])
    level = dict(zip(np.unique(clusters), rng.normal(accuracy, 0.15, dialogues), strict=True))
    right = rng.random((seeds, len(clusters))) < np.array([level[c] for c in clusters])
    predictions = np.where(right, target, rng.integers(0, 4, right.shape))
    target[rng.random(len(target)) < 0.1] = -1
    return target, predictions, clusters


@pytest.mark.parametrize("metric", METRICS)
def test_the_vectorised_bootstrap_is_the_plain_one(metric):
    target, predictions, clusters = example(seeds=1)
    keep = target != -1
    t, p = target[keep], predictions[0, keep]
    slow = cluster_bootstrap(lambda i: scores(t[i], p[i], LABELS)[metric], clusters[keep], n=60, seed=5)
    fast = score_interval(metric, target, predictions, clusters, n=60, seed=5)
    assert fast == pytest.approx(slow)
    assert fast.estimate == pytest.approx(scores(target, predictions[0], LABELS)[metric])
    assert fast.low < fast.estimate < fast.high


@pytest.mark.parametrize("metric", METRICS)
def test_dialogues_alone_average_the_seeds_inside(metric):
    target, predictions, clusters = example(seeds=3)
    keep = target != -1
    t, p = target[keep], predictions[:, keep]

    def mean_over_seeds(i):
        return np.mean([scores(t[i], row[i], LABELS)[metric] for row in p])

    slow = cluster_bootstrap(mean_over_seeds, clusters[keep], n=40, seed=2)
    fast = score_interval(metric, target, predictions, clusters, n=40, seed=2, resample_seeds=False)
    assert fast == pytest.approx(slow)


def test_scipy_agrees_on_clusters_of_one():
    rng = np.random.default_rng(1)
    right = rng.random(300) < 0.8
    target, prediction = np.zeros(300, int), np.where(right, 0, 1)
    ours = score_interval("wa", target, prediction, np.arange(300), n=5000)
    theirs = stats.bootstrap(
        (right.astype(float),), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_clustered_data_coverage():
    """Accuracy varies by dialogue: utterances taken as independent promise too much, dialogues do not."""
    rng = np.random.default_rng(0)
    dialogues, turns, sims = 50, 12, 300
    clusters, one_each = np.repeat(np.arange(dialogues), turns), np.arange(dialogues * turns)
    level = rng.beta(3.5, 1.5, (sims, dialogues))  # mean 0.7
    right = rng.random((sims, dialogues, turns)) < level[..., None]
    target = np.zeros(dialogues * turns, int)
    covered = {"dialogues": 0, "utterances": 0}
    for i, wrong in enumerate((~right).reshape(sims, -1).astype(int)):
        for name, groups in (("dialogues", clusters), ("utterances", one_each)):
            interval = score_interval("wa", target, wrong, groups, n=300, seed=i)
            covered[name] += interval.low <= 0.7 <= interval.high
    assert 0.91 <= covered["dialogues"] / sims <= 0.985
    assert covered["utterances"] / sims < 0.80


def test_seed_coverage():
    """Seeds differ: an interval over dialogues alone covers these models, not the recipe."""
    rng = np.random.default_rng(0)
    seeds, dialogues, turns, sims = 8, 40, 10, 200
    clusters, target = np.repeat(np.arange(dialogues), turns), np.zeros(dialogues * turns, int)
    hits = {True: 0, False: 0}
    for i in range(sims):
        level = 0.7 + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.05, (1, dialogues))
        wrong = (rng.random((seeds, dialogues, turns)) >= level[..., None]).reshape(seeds, -1).astype(int)
        for both in hits:
            interval = score_interval("wa", target, wrong, clusters, n=300, seed=i, resample_seeds=both)
            hits[both] += interval.low <= 0.7 <= interval.high
    assert 0.91 <= hits[True] / sims <= 0.99
    assert hits[False] / sims < 0.80


def test_seed_variance_is_unbiased():
    # identical dialogues: only seeds vary, and the spread must be that of the mean of S draws, s / sqrt(S)
    accuracies = np.array([0.6, 0.7, 0.9])
    wrong = (np.arange(10) >= np.round(accuracies * 10)[:, None]).astype(int)
    predictions, clusters = np.tile(wrong, (1, 20)), np.repeat(np.arange(20), 10)
    interval = score_interval("wa", np.zeros(200, int), predictions, clusters, n=20000, level=0.5)
    values = [np.mean(pair) for pair in ((a, b) for a in accuracies for b in accuracies)]  # S - 1 = 2 of 3
    assert np.std(values) == pytest.approx(accuracies.std(ddof=1) / np.sqrt(3))
    assert interval[:2] == pytest.approx(np.quantile(values, [0.25, 0.75]))


def test_accuracy_by_group_is_the_plain_bootstrap_of_its_utterances():
    target, predictions, clusters = example(seeds=2)
    cue = np.array(["lexical", "accent"])[np.arange(len(target)) % 2]
    table = accuracy_by(cue, target, predictions, clusters, n=50, seed=3)
    assert list(table.index) == ["lexical", "accent", "all"]
    hits = (predictions == target).mean(0)
    for name in table.index:
        member = (target != -1) & ((cue == name) | (name == "all"))

        def share(drawn, member=member):
            return hits[drawn][member[drawn]].mean()

        plain = cluster_bootstrap(share, clusters, n=50, seed=3)
        assert table.loc[name, ["low", "high", "estimate"]].tolist() == pytest.approx(list(plain))
        assert table.loc[name, "utterances"] == member.sum()


def test_order_names_and_seed():
    target, predictions, clusters = example()
    base = score_interval("ua", target, predictions, clusters)
    assert base == score_interval("ua", target, predictions, clusters)
    assert base != score_interval("ua", target, predictions, clusters, seed=1)
    order = np.random.default_rng(3).permutation(len(target))
    assert base == score_interval("ua", target[order], predictions[:, order], clusters[order])
    assert base == score_interval("ua", target, predictions, list(clusters))
    a, b = predictions, predictions[:1]
    again = paired_difference("ua", target[order], a[:, order], b[:, order], clusters[order])
    assert again == paired_difference("ua", target, a, b, clusters)


@pytest.mark.parametrize("kind", [int, float, str, object, bool, "datetime64[D]", "category"])
def test_clusters_of_any_type(kind):
    numbers = np.repeat([0, 1], 20)
    clusters = [("dialogue", int(i)) for i in numbers] if kind is object else numbers.astype(int)
    if kind == "category":
        clusters = pd.Categorical(clusters)
    elif kind is not object:
        clusters = clusters.astype(kind)
    target = np.zeros(40, int)
    interval = score_interval("wa", target, numbers, clusters)  # one dialogue all right, one all wrong
    assert interval == (0.0, 1.0, 0.5)


def test_paired_difference_against_brute_force():
    target, a, clusters = example(seeds=1, accuracy=0.75)
    _, b, _ = example(seeds=1, accuracy=0.75)
    b = np.where(np.random.default_rng(1).random(b.shape) < 0.2, (b + 1) % 4, b)
    keep = target != -1
    t, pa, pb = target[keep], a[0, keep], b[0, keep]

    def difference(i):
        return scores(t[i], pa[i], LABELS)["weighted_f1"] - scores(t[i], pb[i], LABELS)["weighted_f1"]

    slow = cluster_bootstrap(difference, clusters[keep], n=80, seed=4)
    fast = paired_difference("weighted_f1", target, a, b, clusters, n=80, seed=4)
    assert fast[:3] == pytest.approx(slow)
    swapped = paired_difference("weighted_f1", target, b, a, clusters, n=80, seed=4)
    assert (swapped.low, swapped.high) == pytest.approx((-fast.high, -fast.low)) and swapped.p == fast.p
    assert fast.p == pytest.approx(2 / 81)  # a clear difference: nothing lies beyond zero


def test_pairing_removes_what_is_hard_for_both():
    target, a, clusters = example(dialogues=60, seeds=1)
    b = a.copy()
    flip = np.random.default_rng(0).random(a.shape[1]) < 0.04
    b[0, flip] = (a[0, flip] + 1) % 4
    paired = paired_difference("wa", target, a, b, clusters)
    alone = score_interval("wa", target, a, clusters)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_no_difference():
    target, a, clusters = example(seeds=1)
    assert paired_difference("macro_f1", target, a, a.copy(), clusters) == (0.0, 0.0, 0.0, 1.0)


def test_p_values_are_uniform_enough_without_a_difference():
    rng = np.random.default_rng(0)
    clusters, target = np.repeat(np.arange(40), 8), np.zeros(320, int)
    p = []
    for i in range(300):
        level = rng.beta(3.5, 1.5, 40).repeat(8)
        a, b = (rng.random((2, 320)) >= level).astype(int)
        p.append(paired_difference("wa", target, a, b, clusters, n=300, seed=i).p)
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert 0.4 <= np.mean(np.array(p) < 0.5) <= 0.6


def test_mcnemar():
    target = np.array([0] * 12 + [-1])
    a = np.array([0] * 10 + [1, 1, 0])
    b = np.array([0, 0] + [1] * 8 + [0, 1, 1])
    only_a, only_b, p = mcnemar_exact(target, a, b)
    assert (only_a, only_b) == (8, 1)
    assert p == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar_exact(target, a, a) == (0, 0, 1.0)
    assert mcnemar_exact(target, b, a).p == p


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, then the running maximum
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0] and holm([0.2]).tolist() == [0.2] and holm([]).size == 0
    for bad in ([0.1, np.nan], [-0.1], [1.2]):
        with pytest.raises(MerLabError, match="0..1"):
            holm(bad)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_properties(p):
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted.min() <= 0.05) == (min(p) * len(p) <= 0.05)  # Holm's first step is Bonferroni's


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_statsmodels_agrees_on_holm(size):
    p = np.random.default_rng(size).random(size).round(1) ** 3  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize("seed", range(5))
def test_statsmodels_agrees_on_mcnemar(seed):
    target, predictions, _ = example(seeds=2, seed=seed)
    known = target >= 0
    a, b = (row[known] == target[known] for row in predictions)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar_exact(target, *predictions)
    assert found.p == pytest.approx(their_mcnemar(table, exact=True).pvalue)
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])


def test_statsmodels_agrees_on_the_utterances_a_gain_needs():
    """Where every utterance is a dialogue of its own, a paired t test needs as many."""
    rng = np.random.default_rng(3)
    target = np.zeros(4000, int)
    a, b = (rng.choice(2, 4000, p=[q, 1 - q]) for q in (0.70, 0.68))
    difference = paired_difference("wa", target, a, b, range(4000))
    each = (a == target).astype(float) - (b == target)
    wanted = TTestPower().solve_power(effect_size=0.01 / each.std(ddof=1), alpha=0.05, power=0.8)
    assert utterances_needed(difference, 4000) == pytest.approx(wanted, rel=0.08)
    assert utterances_needed(difference, 4000, gain=0.02) == pytest.approx(wanted / 4, rel=0.08)
    with pytest.raises(MerLabError, match="power 1.0 must lie between 0 and 1"):
        utterances_needed(difference, 4000, power=1.0)


def test_seed_summary():
    values = [0.70, 0.72, 0.69, 0.75, 0.71]
    summary = seed_summary(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert summary == pytest.approx((np.mean(values), np.std(values, ddof=1), 5, expected.low, expected.high))
    one = seed_summary([0.7])
    assert (one.mean, one.n) == (0.7, 1) and np.isnan([one.std, one.low, one.high]).all()
    with pytest.raises(MerLabError, match="no seeds"):
        seed_summary([])


def test_cluster_bootstrap_of_a_mean_has_the_right_width():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 400)
    clusters = np.repeat(np.arange(100), 4)
    interval = cluster_bootstrap(lambda i: x[i].mean(), clusters, n=2000)
    half = 1.96 * x.reshape(100, 4).mean(1).std() / 10
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)
    assert interval.estimate == pytest.approx(x.mean())
    wide = cluster_bootstrap(lambda i: x[i].mean(), clusters, n=2000, level=0.99)
    assert wide.low < interval.low < interval.high < wide.high


def test_resamples_without_a_value_are_left_out():
    x = np.array([1.0, 2.0, 3.0])
    interval = cluster_bootstrap(lambda i: x[i].mean() if 0 in i else np.nan, [0, 1, 2], n=200)
    assert np.isfinite(interval).all()
    assert np.isnan(cluster_bootstrap(lambda i: np.nan, [0, 1], n=5)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": ["a"] * 4}, "at least two"),
        ({"clusters": ["a", "b", None, "b"]}, "1 utterance.s. have no dialogue"),
        ({"clusters": ["a", "b"]}, "2 clusters for 4"),
        ({"predictions": np.zeros((2, 3), int)}, "do not fit"),
        ({"metric": "accuracy"}, "wa, ua"),
        ({"level": 95}, "between 0 and 1"),
        ({"target": np.full(4, -1)}, "no utterance has a label"),
    ],
)
def test_mistakes_are_told(change, message):
    arguments = {"metric": "wa", "target": np.zeros(4, int), "predictions": np.zeros((2, 4), int)}
    arguments |= {"clusters": ["a", "a", "b", "b"]} | change
    with pytest.raises(MerLabError, match=message):
        score_interval(**arguments)
