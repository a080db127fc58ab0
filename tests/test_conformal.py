"""Prediction sets hold the label as often as they promise, and promise nothing they cannot keep."""

import numpy as np
import pytest

from mer_lab.conformal import coverage_of, fit_threshold, prediction_sets
from mer_lab.errors import MerLabError


def world(n, seed, sharp=1.5):
    """Labels drawn from the probabilities that are shown, of four classes."""
    rng = np.random.default_rng(seed)
    logits = sharp * rng.normal(size=(n, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, (p.cumsum(1) < rng.random((n, 1))).sum(1)


def test_the_threshold_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    target = np.array([0, 0, 0, 0])  # scores 0.1, 0.2, 0.7, 0.4
    assert fit_threshold(p, target, 0.6) == pytest.approx(0.4)  # ceil(5 * 0.6) = 3rd smallest
    assert fit_threshold(p, target, 0.8) == pytest.approx(0.7)
    assert fit_threshold(p, target, 0.81) == 1.0, "four utterances cannot promise more than 4 of 5"
    assert fit_threshold(np.vstack([p, [[0, 1]]]), np.append(target, -1), 0.6) == pytest.approx(0.4)


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.95])
def test_coverage_is_kept_on_average_over_draws(coverage):
    found = []
    for seed in range(200):
        p, target = world(120, seed, sharp=0.5)  # so unsure that the likeliest label alone is too few
        threshold = fit_threshold(p[:60], target[:60], coverage)
        found.append(coverage_of(prediction_sets(p[60:], threshold), target[60:])[0])
    assert coverage - 0.01 <= np.mean(found) <= coverage + 0.03


def test_a_system_that_knows_less_gets_larger_sets():
    sizes = []
    for sharp in (0.3, 1.5, 4.0):
        p, target = world(2000, 1, sharp)
        sizes.append(coverage_of(prediction_sets(p, fit_threshold(p, target)), target)[1])
    assert sizes[0] > sizes[1] > sizes[2] >= 1


def test_several_seeds_keep_what_any_of_them_keeps_and_no_set_is_empty():
    p = np.array([[[0.6, 0.3, 0.1]], [[0.2, 0.1, 0.7]]])
    assert prediction_sets(p, np.array([0.45, 0.35])).tolist() == [[True, False, True]]
    assert prediction_sets(p[0], 0.0).tolist() == [[True, False, False]]
    assert prediction_sets(p[0], 1.0).all()


def test_what_cannot_be_promised_is_told():
    p, target = world(10, 0)
    for given in ((p, target, 1.0), (p, target, 0.0), (np.stack([p, p]), target), (p, np.full(10, -1))):
        with pytest.raises(MerLabError):
            fit_threshold(*given)
    with pytest.raises(MerLabError, match="no utterance has a label"):
        coverage_of(p > 0.5, np.full(10, -1))
