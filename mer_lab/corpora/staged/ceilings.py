"""Known ceilings: the best accuracy that each information set allows on the Staged corpus."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from mer_lab.corpora.corpus import Corpus
from mer_lab.corpora.staged.process import CUES, label_noise, population, states
from mer_lab.corpora.staged.script import LABELS
from mer_lab.errors import MerLabError

INFORMATION = ("majority", "audio", "text", "decision fusion", "utterance", "conversation")


def ceilings(corpus: Corpus, split: str | None = "test") -> pd.DataFrame:
    """Accuracy of the Bayes rule for each information set, on these utterances.

    The rule knows the planted process and sees, of each utterance: nothing (``majority``), what its voice
    means (``audio``), what its words mean (``text``), both by adding up one score an emotion from each
    channel (``decision fusion``: the best of *all* additive rules, found exactly), both together with the
    stressed word (``utterance``), or the whole dialogue (``conversation``). Ties count by their expected
    share, and the label noise by its expectation.

    Args:
        split: the split to average over, None for all utterances.

    Returns:
        accuracy, rows :data:`INFORMATION`, columns ``all`` and one a cue. ``all`` is the ceiling; a
        cue's column is what the rule that reaches it gets there; on clashing cues a worse rule may get more.

    Raises:
        MerLabError: the corpus is not Staged.
    """
    if "words_mean" not in corpus.table:
        raise MerLabError(
            f"corpus {corpus.name} has no planted process, so its ceilings are unknown; use 'staged'."
        )
    table = corpus.table if split is None else corpus.select(split=split).table
    seen = states(table)
    rules = _rules(int(corpus.info.get("staged", {}).get("candidates", 3)))
    truth = pd.get_dummies(table["emotion"]).reindex(columns=list(LABELS), fill_value=False).astype(float)
    decisions = {name: rules[name].loc[seen[column]] for name, column in _SEES.items()}
    pairs = list(zip(seen["text"], seen["audio"], strict=True))
    decisions["decision fusion"] = rules["decision fusion"].loc[pairs]
    decisions["conversation"] = truth  # every cue is decided once the whole dialogue is known
    noise = label_noise()
    rows = {}
    for name in INFORMATION:
        right = (decisions[name].to_numpy() * truth.to_numpy()).sum(axis=1)
        expected = pd.Series(right * (1 - noise) + (1 - right) * noise / (len(LABELS) - 1), index=table.index)
        rows[name] = {"all": expected.mean()} | expected.groupby(table["cue"]).mean().reindex(CUES).to_dict()
    return pd.DataFrame(rows).T


_SEES = {"majority": "nothing", "audio": "audio", "text": "text", "utterance": "both"}


@lru_cache
def _rules(candidates: int) -> dict[str, pd.DataFrame]:
    """P(each label is the decision | state) for each information set within an utterance; ties are shared."""
    process = population(candidates)
    known = states(process)
    onehot = pd.get_dummies(process["emotion"])[list(LABELS)].astype(float)
    rules = {"decision fusion": additive_rule(known, onehot)}
    for name, column in _SEES.items():
        posterior = onehot.groupby(known[column]).mean()
        # the candidates of an accent tie by construction, but for the population's sampling error
        tied = 0.1 * posterior.index.str.contains("+", regex=False)
        best = posterior.ge(posterior.max(axis=1) - tied, axis=0)
        rules[name] = best.div(best.sum(axis=1), axis=0)
    return rules


def additive_rule(known: pd.DataFrame, onehot: pd.DataFrame) -> pd.DataFrame:
    """The best rule of the form ``argmax_y f_y(text state) + g_y(audio state)``, with f and g free.

    Every decision-level fusion of two unimodal classifiers (mean, product, any weights, any calibration) has
    this form. Finding the best f and g is a small mixed-integer program: maximise the probability mass of
    cells decided rightly, where cell (t, a) may be given emotion y only if its summed score leads by a
    margin.

    Returns:
        decision as one-hot rows, indexed by (text state, audio state).
    """
    mass = onehot.groupby([known["text"], known["audio"]]).sum() / len(onehot)
    cells, K = mass.index.tolist(), len(LABELS)
    texts, audios = (sorted({cell[k] for cell in cells}) for k in (0, 1))
    f, g = len(texts) * K, len(audios) * K
    size = f + g + len(cells) * K
    rows, low = [], []
    big, margin = 4.0, 0.02  # scores lie in [-1, 1], so no two sums differ by more than 4
    for i, (t, a) in enumerate(cells):
        chosen = f + g + i * K
        one = np.zeros(size)
        one[chosen : chosen + K] = 1
        rows += [one, -one]  # exactly one emotion a cell
        low += [1.0, -1.0]
        for y in range(K):
            for other in set(range(K)) - {y}:
                row = np.zeros(size)
                row[[texts.index(t) * K + y, f + audios.index(a) * K + y]] = 1
                row[[texts.index(t) * K + other, f + audios.index(a) * K + other]] = -1
                row[chosen + y] = -big - margin
                rows.append(row)
                low.append(-big)
    cost = np.concatenate([np.zeros(f + g), -mass.to_numpy().ravel()])
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, needed here only

    solution = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.inf),
        integrality=np.concatenate([np.zeros(f + g), np.ones(len(cells) * K)]),
        bounds=Bounds(np.concatenate([-np.ones(f + g), np.zeros(len(cells) * K)]), 1.0),
    )
    if solution.x is None:
        raise RuntimeError(f"the additive rule was not found: {solution.message}")
    chosen = solution.x[f + g :].reshape(-1, K).round()
    return pd.DataFrame(chosen, index=pd.MultiIndex.from_tuples(cells), columns=list(LABELS))
