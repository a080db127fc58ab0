"""Calibration and declining to answer: brute force, limits, and systems whose truth is planted."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss

from mer_lab.calibration import (
    TEMPERATURES,
    area_under_selective,
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    selective,
    temper,
)
from mer_lab.errors import MerLabError


def softmax(z):
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def honest(n=20000, k=4, seed=0):
    """Logits (n, k) and targets drawn from their softmax: as calibrated as a system can be."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, k))
    target = (softmax(logits).cumsum(-1) < rng.random((n, 1))).sum(-1).clip(0, k - 1)
    return logits, target


def some(seeds=3, n=200, k=4, seed=1):
    rng = np.random.default_rng(seed)
    target = rng.integers(-1, k, n)
    return softmax(2 * rng.normal(size=(seeds, n, k))), target


def test_an_honest_system_has_no_error_and_needs_no_temperature():
    logits, target = honest()
    p = softmax(logits)
    assert expected_calibration_error(p, target) < 0.01
    assert fit_temperature(p, target) == pytest.approx(1, abs=0.03)
    table = reliability(p, target)
    assert (table["accuracy"] - table["confidence"]).abs().max() < 0.04


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_the_temperature_undoes_a_factor(factor):
    logits, target = honest()
    p = softmax(factor * logits)
    t = fit_temperature(p, target)
    assert t == pytest.approx(factor, rel=0.03)
    assert expected_calibration_error(p, target) > 0.1 > expected_calibration_error(temper(p, t), target)
    losses = [negative_log_likelihood(temper(p, t * x), target) for x in (0.97, 1, 1.03)]
    assert losses[1] == min(losses)


def test_the_temperature_stays_in_its_range_where_none_is_best():
    p = softmax(np.array([[2.0, 0.0], [0.0, 1.0]]))
    low, high = fit_temperature(p, np.array([0, 1])), fit_temperature(p, np.array([1, 0]))
    assert (low, high) == pytest.approx(TEMPERATURES, rel=1e-3)


def test_a_certain_system_becomes_as_sure_as_it_is_right():
    certain = np.eye(2)[[0, 0, 1, 1, 0, 1]]  # the logarithm of 0 is infinite
    target = np.array([0, 0, 1, 1, 0, 0])
    assert temper(certain, fit_temperature(certain, target)).max(-1) == pytest.approx(5 / 6, abs=1e-3)


@given(arrays(float, (5, 4), elements=st.floats(-8, 8)), st.floats(0.05, 20))
def test_tempering_never_changes_an_answer(logits, temperature):
    p = softmax(logits)
    tempered = temper(p, temperature)
    assert tempered.sum(-1) == pytest.approx(1)
    leads = np.take_along_axis(p, tempered.argmax(-1)[:, None], -1)[:, 0]
    assert leads == pytest.approx(p.max(-1), rel=1e-9)
    assert ((tempered.max(-1) - p.max(-1)) * (1 - temperature) >= -1e-9).all()  # hotter is less sure


def test_temper_by_seed():
    p, _ = some()
    assert temper(p, 1) == pytest.approx(p)
    apart = temper(p, np.array([0.5, 1, 2]))
    for row, seed, t in zip(apart, p, (0.5, 1, 2), strict=True):
        assert row == pytest.approx(temper(seed, t)) and row == pytest.approx(softmax(np.log(seed) / t))
    for wrong in (0, -1.0, np.nan, np.array([1, 2])):
        with pytest.raises(MerLabError, match="temperature"):
            temper(p, wrong)


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_bins_against_a_loop(bins):
    p, target = some()
    p[0, :40] = np.eye(4)[target[:40]]  # confidence 1
    p[0, 40:80] = [0.6, 0.2, 0.1, 0.1]  # on an edge of five, ten and fifteen bins
    keep = target != -1
    edges, errors, rows = np.linspace(0, 1, bins + 1), [], []
    for seed in p[:, keep]:
        total = 0.0
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            inside = [i for i in range(len(seed)) if low < seed[i].max() <= high]
            if inside:
                right = [float(seed[i].argmax() == target[keep][i]) for i in inside]
                sure = [seed[i].max() for i in inside]
                total += len(inside) / len(seed) * abs(np.mean(right) - np.mean(sure))
                rows += [(low, high, c, r) for c, r in zip(sure, right, strict=True)]
        errors.append(total)
    assert expected_calibration_error(p, target, bins) == pytest.approx(np.mean(errors))
    assert expected_calibration_error(p[1], target, bins) == pytest.approx(errors[1])
    table = reliability(p, target, bins)
    pooled = pd.DataFrame(rows, columns=["low", "high", "confidence", "accuracy"]).groupby(["low", "high"])
    expected = pooled.mean().assign(count=pooled.size()).reset_index()
    assert list(table.columns) == list(expected.columns)
    assert table.to_numpy() == pytest.approx(expected.to_numpy())
    assert table["count"].sum() == p.shape[0] * keep.sum()


def test_likelihood_and_brier():
    p, target = some(seeds=2)
    keep = target != -1
    t = target[keep]
    expected = np.mean([log_loss(t, seed[keep], labels=range(4)) for seed in p])
    assert negative_log_likelihood(p, target) == pytest.approx(expected)
    assert brier(np.array([[0.7, 0.2, 0.1]]), np.array([1])) == pytest.approx(0.49 + 0.64 + 0.01)
    assert brier(np.eye(3), np.array([0, 1, 2])) == 0 and brier(np.eye(3), np.array([1, 2, 0])) == 2


def test_selective_by_hand():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.6, 0.4], [0.99, 0.01]])
    target = np.array([0, 0, 0, 1, -1])  # right; tied, right; wrong; tied, wrong; unlabelled
    curve = selective(p, target)
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1]
    assert curve["accuracy"].tolist() == pytest.approx([1, 1 / 2, 1.5 / 3, 2 / 4])
    assert area_under_selective(p, target) == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)


def test_selective_of_several_seeds():
    p, target = some()
    keep = target != -1
    curve = selective(p, target)
    assert len(curve) == keep.sum() and curve["coverage"].iloc[-1] == 1
    assert curve["accuracy"].iloc[-1] == pytest.approx((p.argmax(-1) == target)[:, keep].mean())
    each = [selective(seed, target)["accuracy"] for seed in p]
    assert curve["accuracy"].to_numpy() == pytest.approx(np.mean(each, 0))
    right = (p.argmax(-1) == target)[0, keep]
    order = np.argsort(-p[0, keep].max(-1))
    assert each[0].iloc[9] == pytest.approx(right[order[:10]].mean())


@given(st.permutations(range(40)))
def test_the_order_of_utterances_changes_nothing(order):
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.5, 0.6, 0.7, 0.9], (2, 40))  # many ties
    p, target = np.stack([confidence, 1 - confidence], -1), rng.integers(0, 2, 40)
    shuffled = p[:, order], target[np.array(order)]
    assert selective(*shuffled).equals(selective(p, target))
    assert expected_calibration_error(*shuffled) == pytest.approx(expected_calibration_error(p, target))
    t = fit_temperature(p[0], target)
    assert fit_temperature(shuffled[0][0], shuffled[1]) == pytest.approx(t, rel=1e-3)


def test_a_ranking_that_knows_its_errors_has_the_larger_area():
    _, target = some(n=100)
    target = target.clip(0)
    right = np.arange(100) < 70
    answer = np.where(right, target, (target + 1) % 4)
    areas = []
    for confidence in (np.where(right, 0.9, 0.5), np.full(100, 0.7), np.where(right, 0.5, 0.9)):
        p = np.full((100, 4), ((1 - confidence) / 3)[:, None])
        p[np.arange(100), answer] = confidence
        areas.append(area_under_selective(p, target))
    knows, flat, misled = areas
    assert knows > flat > misled and flat == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("p", "target", "message"),
    [
        (np.full((3, 2), 0.5), np.zeros(4, int), "do not fit"),
        (np.full((3, 2), 0.5), np.full(3, -1), "no utterance has a label"),
        (np.full((3, 2), 0.5), np.full(3, 2), "the classes are 0..1"),
        (np.full((3, 2), 3.0), np.zeros(3, int), "apply a softmax"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "apply a softmax"),
        (np.zeros(3), np.zeros(3, int), r"expected \(U, K\)"),
    ],
)
def test_mistakes_are_told(p, target, message):
    for function in (negative_log_likelihood, brier, expected_calibration_error, reliability, selective):
        with pytest.raises(MerLabError, match=message):
            function(p, target)


def test_one_seed_at_a_time_and_at_least_one_bin():
    p, target = some()
    with pytest.raises(MerLabError, match="fit each seed on its own"):
        fit_temperature(p, target)
    with pytest.raises(MerLabError, match="at least one"):
        reliability(p, target, bins=0)
