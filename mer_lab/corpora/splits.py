"""Ways to split a corpus, good and bad, and what stands on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mer_lab.corpora.corpus import SPLITS, Corpus
from mer_lab.errors import MerLabError

_TRIES = 20


def normalise_text(text: str) -> str:
    """Lower case, letters and digits only, single spaces: what makes two sentences the same sentence."""
    return re.sub(r"[\W_]+", " ", re.sub(r"['’‘`]", "", text.lower())).strip()


def random_split(corpus: Corpus, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> Corpus:
    """Utterances dealt out at random: the wrong way, kept to measure how wrong it is.

    The same speaker, dialogue and sentence land in training and test, so a model scores for recognising them.

    Args:
        corpus: any corpus; its own splits are ignored.
        fractions: shares of train, validation and test, summing to 1.
        seed: decides the deal.

    Raises:
        MerLabError: the fractions are not three shares of 1.
    """
    shares = _shares(fractions)
    order = np.random.default_rng(seed).permutation(len(corpus))
    cuts = np.rint(np.cumsum(shares) * len(corpus)).astype(int)
    split = np.empty(len(corpus), object)
    for name, part in zip(SPLITS, np.split(order, cuts[:-1]), strict=True):
        split[part] = name
    return corpus.with_splits(split)


def grouped_split(
    corpus: Corpus,
    by: str | Sequence[str] = "speaker",
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    stratify: bool = False,
) -> Corpus:
    """A split in which no group stands on two sides.

    Sizes come as near to ``fractions`` as whole groups allow, the best of 20 random deals: a group that
    holds half of the corpus keeps them far away, see the counts of the result.

    Args:
        corpus: any corpus; its own splits are ignored.
        by: a column of the table (``speaker``, ``dialogue_id``, ``text`` (normalised), metadata), or several:
            utterances that share a value in any of them stay together, directly or through others.
        fractions: shares of train, validation and test, summing to 1.
        seed: decides the deal.
        stratify: also keep each label's share alike in the splits.

    Raises:
        MerLabError: no such column, an utterance without a value in it, or fewer groups than splits.
    """
    shares = _shares(fractions)
    group = _groups(corpus, [by] if isinstance(by, str) else list(by))
    n_groups = int(group.max()) + 1
    wanted = np.flatnonzero(shares)
    if n_groups < len(wanted):
        raise MerLabError(
            f"corpus {corpus.name} has {n_groups} group(s) by {by} for {len(wanted)} splits; use another."
        )
    classes = corpus.targets + 1 if stratify else np.zeros(len(corpus), int)
    counts = np.zeros((n_groups, int(classes.max()) + 1))  # (groups, classes); class 0 holds the unlabelled
    np.add.at(counts, (group, classes), 1)
    target = shares[:, None] * counts.sum(0)
    scale = np.maximum(counts.sum(0), 1)  # a rare class weighs as much as a frequent one
    rng = np.random.default_rng(seed)
    best, best_error = None, np.inf
    for _ in range(_TRIES):
        choice, error = _deal(counts, target, scale, wanted, rng.permutation(n_groups))
        if error < best_error:
            best, best_error = choice, error
    return corpus.with_splits(np.array(SPLITS, object)[best[group]])


def _deal(
    counts: np.ndarray, target: np.ndarray, scale: np.ndarray, wanted: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, float]:
    """Deal the groups in the given order, each to where it brings the counts nearest to the target."""
    current = np.zeros_like(target)
    choice = np.zeros(len(counts), int)
    filled: set[int] = set()
    for k, g in enumerate(order):
        empty = [s for s in wanted if s not in filled]
        options = empty if len(empty) >= len(order) - k else wanted
        gap = (target[options] - current[options]) / scale
        step = counts[g] / scale
        best = options[int(np.argmin(((gap - step) ** 2 - gap**2).sum(1)))]
        current[best] += counts[g]
        choice[g] = best
        filled.add(int(best))
    return choice, float((((target - current) / scale) ** 2).sum())


def leave_one_group_out(
    corpus: Corpus, by: str = "speaker", validation: bool = True
) -> Iterator[tuple[str, Corpus]]:
    """Every group as the test set once, the rest for training, the group after it for validation.

    Args:
        corpus: any corpus; its own splits are ignored.
        by: a column of the table, for IEMOCAP ``session``.
        validation: hold out the next group (the last one's next is the first) for model selection; without
            it nothing may be selected.

    Yields:
        ``(value, corpus)`` in sorted order of the column's values.

    Raises:
        MerLabError: no such column, an utterance without a value in it, or too few groups.
    """
    column = _column(corpus, by)
    values = sorted(column.unique())
    if len(values) < 2 + validation:
        raise MerLabError(
            f"corpus {corpus.name} has {len(values)} group(s) by {by}, needs at least {2 + validation}."
        )
    for k, value in enumerate(values):
        split = np.full(len(corpus), "train", object)
        if validation:
            split[(column == values[(k + 1) % len(values)]).to_numpy()] = "validation"
        split[(column == value).to_numpy()] = "test"
        yield str(value), corpus.with_splits(split)


def overlaps(corpus: Corpus, column: str) -> pd.DataFrame:
    """The values of a column that stand in more than one split.

    Args:
        corpus: a corpus with splits.
        column: ``speaker``, ``dialogue_id``, ``text`` (compared by :func:`normalise_text`) or metadata. Empty
            values are no values.

    Returns:
        One row a shared value, the most frequent first: utterances in ``train``, ``validation``, ``test``.
        Empty where the splits are disjoint.

    Raises:
        MerLabError: no such column.
    """
    values = _column(corpus, column, complete=False)
    split = corpus.table["split"]
    known = (values != "") & split.isin(SPLITS)
    counts = pd.crosstab(values[known], split[known]).reindex(columns=SPLITS, fill_value=0).astype(int)
    counts.columns.name, counts.index.name = None, column
    shared = counts[(counts > 0).sum(axis=1) > 1]
    order = np.lexsort((shared.index.astype(str), -shared.sum(axis=1).to_numpy()))
    return shared.iloc[order]


def _shares(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, float)
    if shares.shape != (3,) or not (shares >= 0).all() or not np.isclose(shares.sum(), 1):
        raise MerLabError(
            f"fractions are {tuple(fractions)}, expected three shares of train, validation, test: 1 in all."
        )
    return shares


def _column(corpus: Corpus, name: str, complete: bool = True) -> pd.Series:
    """A column as strings, text normalised, missing values empty."""
    if name not in corpus.table.columns:
        known = ", ".join(corpus.table.columns)
        raise MerLabError(f"corpus {corpus.name} has no column {name!r}; it has {known}.")
    values = corpus.table[name]
    values = values.astype(object).where(values.notna(), "").map(str)
    if name == "text":
        values = values.map(normalise_text)
    if complete and (values == "").any():
        raise MerLabError(
            f"corpus {corpus.name}: {int((values == '').sum())} utterances have no {name}, first "
            f"{values.index[values == ''][0]}; fill it in or group by another column."
        )
    return values


def _groups(corpus: Corpus, columns: list[str]) -> np.ndarray:
    """Number of each utterance's group ``(U,)``: the components of sharing a value in any column."""
    n = len(corpus)
    if not n or not columns:
        raise MerLabError(f"corpus {corpus.name} has {n} utterances, {len(columns)} columns to group by.")
    edges, nodes = [], n
    for name in columns:
        codes, values = pd.factorize(_column(corpus, name))
        edges.append(codes + nodes)
        nodes += len(values)
    rows = np.tile(np.arange(n), len(columns))
    from scipy.sparse import coo_array  # slow to import, and most corpora come with their splits
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(rows)), (rows, np.concatenate(edges))), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:n]
