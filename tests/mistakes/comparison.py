"""Wrong answers to the exercises of lesson 09, each with words of the message that it must get."""

import numpy as np
from scipy.optimize import minimize_scalar

# 09.1


def picked(validation, test, best=None):
    """Test scores at the epochs that validation chose, or at others."""
    best = validation.argmax(1) if best is None else best
    return test[np.arange(len(test)), best]


def spread_of(scores):
    return scores.std(ddof=1) if len(scores) > 1 else np.nan


def told(choose):
    """An answer that reports the mean of other scores."""
    return lambda validation, test: (np.mean(choose(validation, test)), 0.0)


def last_of_the_best(validation, test):
    scores = picked(validation, test, validation.shape[1] - 1 - validation[:, ::-1].argmax(1))
    return scores.mean(), spread_of(scores)


def never_nan(validation, test):
    scores = picked(validation, test)
    return scores.mean(), scores.std(ddof=1) if len(scores) > 1 else 0.0


# 09.2


def products(p, factors, largest=True, cut=True):
    """p values times factors, from the smallest to the largest p, in the order given."""
    order = np.argsort(p)
    steps = p[order] * factors
    steps = np.maximum.accumulate(steps) if largest else steps
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1) if cut else steps
    return adjusted


def step_up(p):
    m = len(p)
    order = np.argsort(p)[::-1]
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(p[order] * m / np.arange(m, 0, -1))
    return np.minimum(adjusted, 1)


# 09.3


def softmax(logits, safe=True):
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(logits - logits.max(1, keepdims=True) * safe)
        return powers / powers.sum(1, keepdims=True)


def fit(validation, target, low=0.05, high=20.0, known=True):
    kept = target >= 0 if known else np.full(len(target), True)
    validation, target = validation[kept], target[kept]

    def loss(t):
        return -np.log(softmax(validation / t)[np.arange(len(target)), target]).mean()

    return minimize_scalar(loss, bounds=(low, high), method="bounded").x


def by_bins(validation, target, bins=5):
    """The temperature with the least calibration error."""

    def error(t):
        p = softmax(validation / t)
        sure, right = p.max(1), p.argmax(1) == target
        place = np.minimum((sure * bins).astype(int), bins - 1)
        return np.abs(np.bincount(place, right - sure)).sum()

    grid = np.arange(0.1, 10, 0.05)
    return grid[np.argmin([error(t) for t in grid])]


def company(validation, target, test):
    """Both sets made alike first, with the test set's own deviation."""
    scaled = test * (validation.std() / test.std())
    return softmax(scaled / fit(validation, target))


def by_class(validation, target, test):
    """A temperature a class."""
    t = np.array([fit(validation, target) * (1 + k) for k in range(validation.shape[1])])
    return softmax(test / t)


# 09.4


def resampled(
    paired=True, seeds=True, apart=True, whole=True, level=0.95, replace=True, means=False, minus=0, swap=1
):
    """An answer with the choices that one can get wrong."""

    def answer(hits_a, hits_b, dialogue, n, seed):
        rng = np.random.default_rng(seed)
        number = np.unique(dialogue, return_inverse=True)[1] if whole else np.arange(len(dialogue))
        size = np.bincount(number)
        sums_a, sums_b = (np.stack([np.bincount(number, row) for row in hits]) for hits in (hits_a, hits_b))
        values = []

        def score(sums, drawn, chosen):
            if means:
                return (sums / size)[:, drawn].mean()
            with np.errstate(invalid="ignore"):
                return sums[chosen][:, drawn].sum() / (len(chosen) * size[drawn].sum())

        def draw_seeds(count):
            return rng.integers(0, count, count - minus) if seeds else np.arange(count)

        for _ in range(n):
            drawn = rng.choice(len(size), len(size), replace=replace)
            other = drawn if paired else rng.choice(len(size), len(size), replace=replace)
            chosen = draw_seeds(len(hits_a))
            a = score(sums_a, drawn, chosen)
            values.append(a - score(sums_b, other, draw_seeds(len(hits_b)) if apart else chosen))
        return np.quantile(values, [(1 - level) / 2, (1 + level) / 2])[::swap]

    return answer


def ends_apart(hits_a, hits_b, dialogue, n, seed):
    """Two intervals, and the difference of their ends."""
    nothing = np.zeros_like(hits_a)
    one, other = (resampled()(h, nothing, dialogue, n, seed + k) for k, h in enumerate((hits_a, hits_b)))
    return one - other


def each_once(hits_a, hits_b, dialogue, n, seed):
    """A dialogue that is drawn twice counts once."""
    rng, values, names = np.random.default_rng(seed), [], np.unique(dialogue)
    for _ in range(n):
        kept = np.isin(dialogue, rng.choice(names, len(names)))
        values.append(hits_a[:, kept].mean() - hits_b[:, kept].mean())
    return np.quantile(values, [0.025, 0.975])


MISTAKES = {
    "comparison.report": [
        ("give two numbers", lambda validation, test: picked(validation, test).mean()),
        ("by the test score", told(lambda validation, test: test.max(1))),
        ("by the test score", told(lambda validation, test: test.max())),
        ("validation's own score", told(lambda validation, test: validation.max(1))),
        ("one seed, the best", told(lambda validation, test: picked(validation, test).max())),
        (
            "one seed, the best",
            told(lambda validation, test: picked(validation, test)[validation.max(1).argmax()]),
        ),
        ("the last epoch", told(lambda validation, test: test[:, -1])),
        (
            "one epoch for all seeds",
            told(lambda validation, test: test[:, validation.mean(0).argmax()]),
        ),
        ("not the mean over seeds", told(lambda validation, test: np.median(picked(validation, test)))),
        (
            "sample standard deviation",
            lambda validation, test: (picked(validation, test).mean(), picked(validation, test).std()),
        ),
        (
            "sample standard deviation",
            lambda validation, test: (
                picked(validation, test).mean(),
                picked(validation, test).std(ddof=1) / len(test) ** 0.5,
            ),
        ),
        ("do not take the first", last_of_the_best),
        ("give NaN there", never_nan),
    ],
    "comparison.holm": [
        ("no verdict on all", lambda p: (p * len(p)).min()),
        ("leave the p values", lambda p: p),
        ("Bonferroni's method", lambda p: np.minimum(p * len(p), 1)),
        ("Benjamini and Hochberg's", step_up),
        ("in another order", lambda p: np.sort(products(p, np.arange(len(p), 0, -1)))),
        ("the largest product so far", lambda p: products(p, np.arange(len(p), 0, -1), largest=False)),
        ("your factors are not", lambda p: products(p, np.arange(1, len(p) + 1))),
        ("your factors are not", lambda p: products(p, np.arange(len(p) - 1, -1, -1))),
        ("pass 1", lambda p: products(p, np.arange(len(p), 0, -1), cut=False)),
    ],
    "comparison.cooled": [
        ("for each test utterance and class", lambda v, target, test: fit(v, target)),
        ("for each test utterance and class", lambda v, target, test: softmax(v / fit(v, target))),
        ("do not sum to 1", lambda v, target, test: softmax(test) / fit(v, target)),
        ("change with the company", company),
        ("no less sure", lambda v, target, test: softmax(test / fit(test, test.argmax(1)))),
        ("changed answers", by_class),
        ("no less sure", lambda v, target, test: softmax(test * fit(v, target))),
        ("no less sure", lambda v, target, test: softmax(test)),
        ("another T", lambda v, target, test: softmax(test / by_bins(v, target))),
        ("another T", lambda v, target, test: softmax(test / 1.5)),
        ("stays timid", lambda v, target, test: softmax(test / fit(v, target, low=1.0))),
        ("without a label", lambda v, target, test: softmax(test / fit(v, target, known=False))),
        ("a constant added", lambda v, target, test: softmax(test / fit(v, target), safe=False)),
    ],
    "comparison.paired_interval": [
        ("give two numbers", lambda hits_a, hits_b, dialogue, n, seed: hits_a.mean() - hits_b.mean()),
        ("your ends are NaN", resampled(minus=1)),
        ("differ from itself", resampled(paired=False)),
        ("differ from itself", ends_apart),
        ("above the high one", resampled(swap=-1)),
        ("draw with replacement", resampled(replace=False)),
        ("you draw utterances", resampled(whole=False)),
        ("has not 95 %", resampled(level=0.9)),
        ("has not 95 %", resampled(level=0.99)),
        ("has not 95 %", each_once),
        ("dialogues' means", resampled(means=True)),
        ("draw seeds too", resampled(seeds=False)),
        ("the same seeds for both", resampled(apart=False)),
    ],
}
