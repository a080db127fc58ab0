"""Scores against scikit-learn, hand computation and the literature."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn import metrics as sk

from mer_lab.errors import MerLabError
from mer_lab.metrics import (
    METRICS,
    SCORE_RULES,
    by_group,
    count_votes,
    fleiss_kappa,
    from_confusion,
    krippendorff_alpha,
    score_metrics,
    scores,
    seven_classes,
    two_classes,
)

LABELS = ("angry", "happy", "sad", "neutral")

FLEISS = (
    "0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/"
    "7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"
)  # 10 subjects, 14 raters, 5 categories
KRIPPENDORFF = (
    "1 2 3 3 2 1 4 1 2 . . ./1 2 3 3 2 2 4 1 2 5 . 3/"
    ". 3 3 3 2 3 4 2 2 5 1 ./1 2 3 3 2 4 4 1 2 5 1 ."
)  # 4 observers, 12 units


def test_hand_computed():
    # class 0: 3 utterances, 2 right; class 1: 1, right; class 2: none, but predicted once
    result = scores(np.array([0, 0, 0, 1, -1]), np.array([0, 0, 2, 1, 3]), LABELS)
    assert result["n"] == 4 and result["wa"] == pytest.approx(3 / 4)
    assert result["ua"] == pytest.approx((2 / 3 + 1) / 2)
    f1 = {0: 2 * 2 / (2 * 2 + 0 + 1), 1: 1.0, 2: 0.0}
    assert result["weighted_f1"] == pytest.approx((3 * f1[0] + 1 * f1[1]) / 4)
    assert result["macro_f1"] == pytest.approx((f1[0] + f1[1] + f1[2]) / 3)
    assert result["confusion"] == [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result["per_class"]["angry"] == pytest.approx(
        {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}
    )
    assert result["per_class"]["sad"]["support"] == 0


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_parity_with_sklearn_whatever_is_absent(pairs):
    target, prediction = np.array(pairs).T
    keep = target >= 0
    if not keep.any():
        with pytest.raises(MerLabError, match="no utterance has a label"):
            scores(target, prediction, LABELS)
        return
    result, t, p = scores(target, prediction, LABELS), target[keep], prediction[keep]
    present = np.unique(t)
    assert result["wa"] == pytest.approx(sk.accuracy_score(t, p))
    recall_of_present = sk.recall_score(t, p, labels=present, average="macro", zero_division=0)
    assert result["ua"] == pytest.approx(recall_of_present)
    assert result["weighted_f1"] == pytest.approx(sk.f1_score(t, p, average="weighted", zero_division=0))
    assert result["macro_f1"] == pytest.approx(sk.f1_score(t, p, average="macro", zero_division=0))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_unlabelled_utterances_change_nothing_even_with_impossible_predictions():
    a = scores(np.array([0, 1, 2]), np.array([0, 1, 1]), LABELS)
    b = scores(np.array([0, -1, 1, 2, -1]), np.array([0, 99, 1, 1, -7]), LABELS)
    assert a == b


def test_zero_division_touches_only_per_class():
    target, prediction = np.array([0, 0]), np.array([0, 0])
    zero, one = (scores(target, prediction, LABELS, zero_division=z) for z in (0.0, 1.0))
    assert zero["per_class"]["sad"]["recall"] == 0 and one["per_class"]["sad"]["recall"] == 1
    assert all(zero[m] == one[m] == 1.0 for m in METRICS)


def test_from_confusion_is_vectorised_and_empty_is_nan():
    rng = np.random.default_rng(0)
    many = rng.integers(0, 5, (3, 4, 6, 6))
    many[0, 0] = 0
    for metric in METRICS:
        values = from_confusion(metric, many)
        assert values.shape == (3, 4) and np.isnan(values[0, 0])
        assert values[2, 3] == pytest.approx(float(from_confusion(metric, many[2, 3])))


def test_majority_predictor_shows_the_two_accuracies_apart():
    target = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    result = scores(target, np.zeros(100, int), LABELS)
    assert (result["wa"], result["ua"]) == (0.7, 0.25)


def test_by_group():
    target, prediction = np.array([0, 1, 0, 1, -1, 2]), np.array([0, 1, 1, 1, 0, 2])
    table = by_group(target, prediction, ["b", "b", "a", "a", "c", None], LABELS)
    assert table.index.tolist() == ["a", "b", "c"] and table.columns.tolist() == ["n", *METRICS]
    assert table.loc["a", "wa"] == 0.5 and table.loc["b", "ua"] == 1.0
    assert table.loc["c", "n"] == 0 and np.isnan(table.loc["c", "wa"])
    assert by_group(target, prediction, [2, 2, 10, 10, 1, 1], LABELS).index.tolist() == [1, 2, 10]


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([0, 1], [0], "do not fit"),
        ([0, 4], [0, 1], "target 4 is no class; the classes are 0..3"),
        ([0, 1], [0, -1], "prediction -1"),
        ([0.0, 1.0], [0, 1], "class index"),
        (["sad", "sad"], [0, 1], "class index"),
        ([-1, -1], [0, 0], "no utterance has a label"),
        ([], [], "no utterance has a label"),
    ],
)
def test_mistakes_are_told(target, prediction, message):
    with pytest.raises(MerLabError, match=message):
        scores(np.array(target), np.array(prediction), LABELS)
    with pytest.raises(MerLabError, match="wa, ua"):
        from_confusion("accuracy", np.eye(2))
    with pytest.raises(MerLabError, match="1 groups for 2"):
        by_group(np.array([0, 1]), np.array([0, 1]), ["x"], LABELS)


def test_fleiss_worked_example():
    votes = np.array([row.split() for row in FLEISS.split("/")], int)
    assert fleiss_kappa(votes) == pytest.approx(0.210, abs=5e-4)  # the example of Wikipedia's "Fleiss' kappa"
    assert fleiss_kappa(votes[::-1, ::-1]) == pytest.approx(fleiss_kappa(votes))


def test_kappa_and_alpha_by_hand():
    # two evaluators, items AA, AB, BB, AB: observed 1/2, expected 1/2, so kappa 0
    votes = np.array([[2, 0], [1, 1], [0, 2], [1, 1]])
    assert fleiss_kappa(votes) == pytest.approx(0.0)
    # alpha: 8 values, 4 of 8 pairable disagree within items; 32 of 8 * 7 = 56 across: 1 - (4/8) / (32/56)
    assert krippendorff_alpha(votes) == pytest.approx(1 - (4 / 8) / (32 / 56))
    assert fleiss_kappa(np.array([[3, 0], [0, 3]])) == krippendorff_alpha(np.array([[3, 0], [0, 3]])) == 1.0
    assert np.isnan(fleiss_kappa(np.array([[3, 0], [3, 0]])))
    assert np.isnan(krippendorff_alpha(np.array([[3, 0], [3, 0]])))


def test_krippendorff_worked_example_with_missing_votes():
    columns = zip(*(row.split() for row in KRIPPENDORFF.split("/")), strict=True)
    votes = count_votes([";".join(unit) for unit in columns], "12345")
    assert votes.sum() == 41
    assert krippendorff_alpha(votes) == pytest.approx(0.743, abs=5e-4)  # Krippendorff 2011, example C


def test_random_votes_agree_by_chance():
    rng = np.random.default_rng(0)
    votes = rng.multinomial(3, [0.4, 0.3, 0.2, 0.1], 20000)
    assert abs(fleiss_kappa(votes)) < 0.01 and abs(krippendorff_alpha(votes)) < 0.01


def test_unequal_votes():
    with pytest.raises(MerLabError, match="krippendorff_alpha"):
        fleiss_kappa(np.array([[2, 0], [2, 1]]))
    with pytest.raises(MerLabError, match="table of counts"):
        krippendorff_alpha(np.array([1, 2, 3]))
    counted = count_votes(["angry; sad;other", "", "sad;sad"], LABELS)
    assert counted.tolist() == [[1, 0, 1, 0], [0] * 4, [0, 0, 2, 0]]


def test_score_metrics_by_hand():
    truth = np.array([-2.0, -0.4, 0.0, 0.5, 3.0, np.nan])
    prediction = np.array([-1.0, 0.2, -0.1, 0.0, 4.0, 9.0])
    result = score_metrics(truth, prediction)
    assert result["n"] == 5 and result["mae"] == pytest.approx((1 + 0.6 + 0.1 + 0.5 + 1) / 5)
    assert result["acc7"] == 4 / 5  # -0.4, 0 and 0.5 round to 0, 4 is cut to 3
    # < 0 | >= 0: truth 0 0 1 1 1, prediction 0 1 0 1 1
    assert result["acc2"]["negative-vs-nonnegative"] == 3 / 5
    f1 = {0: 2 * 1 / (2 * 1 + 1 + 1), 1: 2 * 2 / (2 * 2 + 1 + 1)}
    assert result["weighted_f1"]["negative-vs-nonnegative"] == pytest.approx((2 * f1[0] + 3 * f1[1]) / 5)
    # without the true 0: truth 0 0 1 1, prediction 0 1 0 1, since a predicted 0 is not positive
    assert result["acc2"]["drop-zero"] == 2 / 4
    # <= 0 | > 0: truth 0 0 0 1 1, prediction 0 1 0 0 1
    assert result["acc2"]["nonpositive-vs-positive"] == 3 / 5


@given(st.integers(0, 2**32 - 1))
def test_score_metrics_agree_with_scipy_and_sklearn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(-15, 16, 40) / 5
    prediction = truth + rng.normal(0, 1.5, 40)
    result = score_metrics(truth, prediction)
    assert result["correlation"] == pytest.approx(pearsonr(truth, prediction)[0])
    assert result["mae"] == pytest.approx(sk.mean_absolute_error(truth, prediction))
    clipped = [np.round(np.clip(x, -3, 3)) for x in (truth, prediction)]
    assert result["acc7"] == sk.accuracy_score(*clipped)
    kept = truth != 0
    for rule, t, p in (
        ("negative-vs-nonnegative", truth >= 0, prediction >= 0),
        ("drop-zero", truth[kept] > 0, prediction[kept] > 0),
        ("nonpositive-vs-positive", truth > 0, prediction > 0),
    ):
        assert result["acc2"][rule] == pytest.approx(sk.accuracy_score(t, p))
        assert result["weighted_f1"][rule] == pytest.approx(sk.f1_score(t, p, average="weighted"))


def test_scores_that_say_little():
    same = score_metrics(np.zeros(3), np.array([1.0, -1.0, 0.0]))
    assert np.isnan(same["correlation"]) and np.isnan(same["acc2"]["drop-zero"])
    assert same["acc2"]["negative-vs-nonnegative"] == pytest.approx(2 / 3)
    assert np.isnan(score_metrics(np.array([1.0, 2.0]), np.ones(2))["correlation"])
    for truth, prediction, message in (
        ([1.0], [1.0, 2.0], "do not fit"),
        ([np.nan], [1.0], "no utterance has a score"),
        ([1.0], [np.inf], "NaN or infinite"),
    ):
        with pytest.raises(MerLabError, match=message):
            score_metrics(np.array(truth), np.array(prediction))


def test_classes_of_scores():
    score = np.array([-3.0, -0.5, -0.0, 0.0, 0.2, np.nan])
    assert two_classes(score, "negative-vs-nonnegative").tolist() == [0, 0, 1, 1, 1, -1]
    assert two_classes(score, "drop-zero").tolist() == [0, 0, -1, -1, 1, -1]
    assert two_classes(score, "nonpositive-vs-positive").tolist() == [0, 0, 0, 0, 1, -1]
    assert seven_classes([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.6, 9]).tolist() == [-2, -2, 0, 0, 2, 2, 3, 3]
    with pytest.raises(MerLabError, match="drop-zero"):
        two_classes(score, "positive")
    assert all(len(names) == 2 for names in SCORE_RULES.values())
