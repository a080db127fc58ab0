"""Sentences that stand in more than one split, or in more than one recording session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from mer_lab.corpora.audit.findings import LIMITS, Findings
from mer_lab.corpora.corpus import SPLITS
from mer_lab.corpora.importing import some

SHORT = 3
"""Words: back-channels. Longer sentences seldom recur by chance."""

NEAR = 0.8
"""Jaccard similarity of trigrams: in a sentence of eight words, one short word, a plural, a typing error."""

_KINDS = {
    "copied-text": ("exact", f"of more than {SHORT} words stand in train word for word"),
    "near-copies": ("near", f"of more than {SHORT} words stand in train but for a few letters"),
    "short-copies": ("short", f"of at most {SHORT} words stand in train too"),
}


def near_copies(queries: Sequence[str], texts: Sequence[str], least: float = NEAR) -> pd.DataFrame:
    """The most similar text of each query that has one, by the Jaccard similarity of their sets of trigrams.

    Exact, though few pairs are compared: sets that are similar enough share one of their rarest trigrams
    (prefix filtering, Bayardo, Ma & Srikant 2007).

    Args:
        queries, texts: normalised sentences; a space is put at both ends.
        least: similarity from which two sentences are near copies, above 0.

    Returns:
        Columns ``query``, ``text`` (positions; the first of equals) and ``similarity``, sorted by query.
    """
    sets = [{f" {t} "[i : i + 3] for i in range(len(t))} for t in (*queries, *texts)]
    sizes, n = np.array([len(s) for s in sets], int), len(queries)
    codes, grams = pd.factorize(np.array([g for s in sets for g in sorted(s)], object))
    rank = np.argsort(np.argsort(np.bincount(codes, minlength=len(grams)), kind="stable"))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    shape = (len(sets), max(1, len(grams)))
    whole = sparse.csr_array((np.ones(len(codes), np.float32), rank[codes], ends), shape)
    whole.sort_indices()  # within a row, the rarest first
    place = np.arange(len(codes)) - np.repeat(ends[:-1], sizes)
    rare = place <= np.repeat(sizes - np.ceil(least * sizes - 1e-9), sizes)
    rows = np.repeat(np.arange(len(sets)), sizes)[rare]
    prefix = sparse.csr_array((whole.data[rare], (rows, whole.indices[rare])), shape)
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    step = max(1, 1_000_000 // max(1, len(texts)))  # queries at a time, which bounds the memory
    for start in range(0, n, step):
        pairs = sparse.coo_array(prefix[start : min(start + step, n)] @ prefix[n:].T)
        q, t = pairs.row + start, pairs.col + n
        low, high = np.sort([sizes[q], sizes[t]], axis=0)
        q, t = q[low >= least * high - 1e-9], t[low >= least * high - 1e-9]
        for part in range(0, len(q), 50_000):
            a, b = q[part : part + 50_000], t[part : part + 50_000]
            common = whole[a].multiply(whole[b]).sum(axis=1)
            similarity = common / (sizes[a] + sizes[b] - common)
            near = similarity >= least - 1e-6  # float32
            found.append(_best(a[near], b[near] - n, similarity[near]))
    best = _best(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return pd.DataFrame(dict(zip(("query", "text", "similarity"), best, strict=True)))


def _best(query: np.ndarray, text: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.lexsort((text, -similarity, query))
    keep = order[np.unique(query[order], return_index=True)[1]]
    return query[keep], text[keep], similarity[keep]


def check_copies(table: pd.DataFrame, found: Findings) -> None:
    """Sentences of validation and test that stand in train; ``details["copies"]`` names each with its source.

    What a copy gives away is measured: how often the usual label of its sentence in train is right. Where
    that is no better than guessing (sentences read in every emotion), copies are a warning at most.
    """
    told = table[table["words"] > 0]
    train, held = told[told["split"] == "train"], told[told["split"].isin(SPLITS[1:])]
    if train.empty or held.empty:
        found.skip(" ".join(_KINDS), "Needs transcripts in train and in another split.")
        return
    first = train.reset_index(names="id").drop_duplicates("text").set_index("text")
    labelled = train[train["label"] != ""]
    usual = labelled.groupby(["text", "label"]).size().sort_values(ascending=False, kind="stable")
    usual = usual.reset_index().drop_duplicates("text").set_index("text")["label"]
    seen, long = held["text"].isin(first.index), held["words"] > SHORT
    queries = pd.Index(held.loc[long & ~seen, "text"].unique())
    pool = first.index[first["words"] > SHORT]
    near = near_copies(queries, pool)
    near = near.assign(source=pool[near["text"]]).set_index(queries[near["query"]])
    source = held["text"].where(seen, held["text"].map(near["source"]))
    guess, label = source.map(usual), held["label"]
    copies = pd.DataFrame({
        "split": held["split"], "label": label, "words": held["words"],
        "kind": np.where(~long, "short", np.where(seen, "exact", "near")),
        "similarity": held["text"].map(near["similarity"]).where(~seen, 1.0), "copy": source.map(first["id"]),
        "same_label": (guess == label).where(guess.notna() & (label != "")),
    })[source.notna()]  # fmt: skip
    found.details["copies"] = copies
    last = "test" if (held["split"] == "test").any() else "validation"
    copies, held = copies[copies["split"] == last], held[held["split"] == last]
    floor = (held["label"] == labelled["label"].mode().get(0)).mean()
    for check, (kind, what) in _KINDS.items():
        mine = copies[copies["kind"] == kind]
        of = ((held["words"] <= SHORT) == (kind == "short")).sum()
        share = bad = 100 * len(mine) / max(1, of)
        detail = f"{len(mine)} of {of} {last} utterances {what}"
        if len(mine):
            detail += f": {some(mine.index.astype(str).tolist())}"
        if mine["same_label"].notna().any():
            right = mine["same_label"].astype(float).mean()
            detail += f"; their usual label in train is right for {right:.0%}, the most frequent label "
            detail += f"for {floor:.0%} of {last}"
            if right <= floor + 0.05 and kind != "short":
                detail += ", so that copies give no label away"
                bad = min(bad, LIMITS[check][1])
        todo = "Score these utterances apart (copies.csv), or split by text: grouped_split(corpus, 'text')."
        found.add(check, share, f"% of {last}", detail + ".", todo, bad)


def check_sessions(table: pd.DataFrame, found: Findings) -> None:
    """Transcripts that occur word for word in another session, scripted and improvised apart."""
    told = table[table["words"] > 0]
    if "session" not in told or told["session"].nunique() < 2:
        found.skip("other-sessions", "No recording sessions are known (a column session).")
        return
    again = told.groupby("text")["session"].transform("nunique") > 1
    part = pd.Series("all", told.index)
    if "scripted" in told:
        scripted = told["scripted"].astype(str).str.lower().isin(["1", "true", "yes", "scripted"])
        part = scripted.map({True: "scripted", False: "improvised"})
    shares = []
    for name in sorted(part.unique(), reverse=True):
        whole, long = again[part == name], again[(part == name) & (told["words"] > SHORT)]
        share = f"{whole.mean():.0%} of {len(whole)} {name} utterances"
        shares.append(f"{share} ({long.mean():.0%} of those with more than {SHORT} words)")
    detail = f"Transcripts that occur word for word in another session: {'; '.join(shares)}."
    todo = "Report scripted and improvised dialogues apart."
    found.add("other-sessions", 100 * again.mean(), "% of utterances", detail, todo)
