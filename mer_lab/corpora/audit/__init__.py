"""Audit: what makes published numbers wrong, looked for before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from mer_lab.corpora.audit.copies import SHORT, check_copies, check_sessions, near_copies
from mer_lab.corpora.audit.findings import LIMITS, STATUSES, Audit, Findings
from mer_lab.corpora.audit.sound import check_sound, hear
from mer_lab.corpora.corpus import SPLITS, Corpus
from mer_lab.corpora.importing import some
from mer_lab.corpora.splits import normalise_text, overlaps
from mer_lab.errors import MerLabError
from mer_lab.metrics import count_votes, fleiss_kappa, krippendorff_alpha

__all__ = ["LIMITS", "STATUSES", "Audit", "audit", "near_copies"]

RHO = 0.05
"""Correlation of a system's hits within a dialogue or speaker: 0.00 to 0.07 in the recorded runs."""

FEW = 10  # utterances of a class
_MOJIBAKE = "[\ufffd\x80-\x9f]|â€|Ã[\xa0-\xbf]"  # lost; Windows-1252 read as Latin-1; UTF-8 read as either


def audit(
    corpus: Corpus, sound: bool = True, workers: int | None = None, accept: Sequence[str] = ()
) -> Audit:
    """Look for what makes published numbers wrong: leaks, noisy labels, rare classes, broken times and sound.

    Args:
        corpus: any corpus; what it lacks is "not checked".
        sound: also decode every audio file.
        workers: processes that decode; by default one, and one more for every 5000 files, up to the cores.
        accept: checks whose outcome is known and accepted: they say so and do not fail.

    Raises:
        MerLabError: a check to accept does not exist. A broken file is a finding, never an error.
    """
    if unknown := [check for check in accept if check not in LIMITS]:
        raise MerLabError(f"check {unknown[0]!r} does not exist; the checks are {', '.join(LIMITS)}.")
    found = Findings(accept)
    table = corpus.table.assign(text=corpus.table["text"].map(normalise_text))
    table["words"] = table["text"].map(lambda text: len(text.split())).astype(int)
    heard = hear(corpus, sound, workers)
    _groups(corpus, found)
    check_copies(table, found)
    check_sessions(table, found)
    _votes(table, found)
    _classes(corpus, found)
    _times(corpus, table, heard["seconds"].reindex(table.index), found)
    check_sound(table, heard, sound, found)
    _texts(corpus, table, found)
    _size(table, found)
    rows = pd.DataFrame(found.rows, columns=["check", "status", "value", "unit", "detail", "todo"])
    return Audit(corpus.name, rows.set_index("check").loc[list(LIMITS)].reset_index(), found.details)


def _groups(corpus: Corpus, found: Findings) -> None:
    split = corpus.table["split"]
    sizes = split.value_counts().reindex(SPLITS, fill_value=0)
    missing = int((sizes == 0).sum())
    if missing == 3:
        found.skip("splits", "No utterance belongs to a split; mer_lab.corpora.splits makes some.")
    else:
        detail = f"Utterances: {', '.join(f'{s} {n}' for s, n in sizes.items())}."
        todo = "Hold out whole speakers for validation and for test, see mer_lab.corpora.splits."
        found.add("splits", missing, "empty splits", detail, todo)
    said = corpus.info.get("splits")
    said = f" corpus.toml says of the splits: {said}." if isinstance(said, str) else ""
    for what, column in (("speakers", "speaker"), ("dialogues", "dialogue_id")):
        values = corpus.table[column].astype(str)
        if missing > 1 or not (values != "").any():
            found.skip(what, "Needs two splits." if missing > 1 else f"No {what} are known.")
            continue
        shared = overlaps(corpus, column)
        detail = f"{len(shared)} of {values[values != ''].nunique()} {what} stand in more than one split"
        if len(shared):
            seen = values[split == "test"].isin(shared.index[shared["train"] > 0])
            detail += f": {some(shared.index.astype(str).tolist())}"
            detail += f"; {seen.mean():.0%} of the test utterances are theirs" if len(seen) else ""
        todo = f"Hold out whole {what}, or say beside every number that train and test share them."
        found.add(what, len(shared), what, f"{detail}.{said if len(shared) else ''}", todo)


def _votes(table: pd.DataFrame, found: Findings) -> None:
    """Label noise, from the evaluators' single votes.

    The error of the winning labels is what follows if all evaluators err at the same rate, independently and
    towards any other label alike; the rate is the one that explains how many pairs of votes agree.
    """
    given = table["evaluators"].astype(str) if "evaluators" in table else pd.Series(dtype=str)
    names = sorted({vote.strip() for row in given for vote in row.split(";")} - {"", "nan"})
    votes = pd.DataFrame(count_votes(given, names) if names else None, given.index, names, int)
    votes = votes[votes.sum(axis=1) > 1]
    if votes.empty or len(names) < 2:
        why = "The evaluators' single votes are not known (a column evaluators, such as sad;sad;angry)."
        found.skip("agreement split-votes bare-majority label-error", why)
        return
    found.details["votes"] = votes
    counts, m, k = votes.to_numpy(), votes.sum(axis=1).to_numpy(), len(names)
    alike = m.min() == m.max()
    value = fleiss_kappa(counts) if alike else krippendorff_alpha(counts)
    detail = f"{'Fleiss kappa' if alike else 'Krippendorff alpha'} of {len(votes)} utterances with {m.min()}"
    detail += f"{'' if alike else f' to {m.max()}'} votes for {k} labels; 0 is chance, 1 is perfect."
    todo = "Score utterances of full agreement apart, or train on the shares of the votes."
    if np.isnan(value):
        found.skip("agreement", "All votes are for one label: chance alone agrees as well.")
    else:
        found.add("agreement", value, "of 1", detail, todo, 1 - value)
    top = counts.max(1)
    bare = (top < m) & (2 * top > m) & (2 * (top - 1) <= m - 1)
    for check, mask, what in (
        ("split-votes", top < m, "utterances have no full agreement"),
        ("bare-majority", bare, "utterances would have no majority with one vote less"),
    ):
        found.share(check, pd.Series(mask, votes.index), "% of voted", what, todo)
    pairs = (counts * (counts - 1)).sum(1) / (m * (m - 1))
    error = (1 - np.sqrt(max(0.0, 1 - (1 - pairs.mean()) * k / (k - 1)))) * (k - 1) / k
    odds = min(error / (k - 1) / (1 - error), 1.0)  # of a vote for a wrong label to one for the true label
    behind = top[:, None] - counts
    wrong = 1 - 1 / (odds**behind).sum(1)  # an even prior; 0 ** 0 is 1
    won = (behind == 0).sum(1) == 1
    detail = f"If evaluators err in {error:.0%}, independently and towards any label alike, which explains "
    detail += f"that {pairs.mean():.0%} of the pairs of votes agree, so many of {won.sum()} labels are wrong."
    todo = "Expect no accuracy above the remainder; compare systems by paired tests."
    found.add("label-error", 100 * wrong[won].mean() if won.any() else 0.0, "% of labels", detail, todo)


def _classes(corpus: Corpus, found: Findings) -> None:
    table = corpus.table[corpus.table["label"] != ""]
    if table.empty:
        found.skip("missing-classes rare-classes majority-class class-drift", "No utterance has a label.")
        return
    splits = [s for s in SPLITS if (corpus.table["split"] == s).any()]
    where = table["split"] if splits else pd.Series("all", table.index, name="split")
    counts = pd.crosstab(where, table["label"]).reindex(splits or ["all"], fill_value=0)
    counts = counts.reindex(columns=corpus.labels, fill_value=0)
    found.details["classes"] = counts
    cells = counts.stack()
    for check, few, what in (
        ("missing-classes", cells[cells == 0], "classes are missing"),
        ("rare-classes", cells[(cells > 0) & (cells < FEW)].drop("validation", errors="ignore"),
         f"classes have fewer than {FEW} utterances in train or test"),
    ):  # fmt: skip
        listed = some([f"{label} in {split} ({n})" for (split, label), n in few.items()])
        todo = "Choose another split, merge the classes, or leave them out and say so."
        found.add(check, len(few), "classes", f"{len(few)} {what}{': ' * bool(listed)}{listed}.", todo)
    share = counts.div(counts.sum(axis=1), axis=0).dropna()
    if share.empty:
        found.skip("majority-class class-drift", "No utterance of a split has a label.")
        return
    usual, last = share.iloc[0].idxmax(), share.index[-1]
    detail = f"Always guessing {usual} is right for "
    detail += ", ".join(f"{row[usual]:.0%} of {split}" for split, row in share.iterrows())
    detail += f"; by chance {1 / len(corpus.labels):.0%} of {len(corpus.labels)} classes."
    todo = "Report unweighted accuracy or F1 of each class beside accuracy."
    floor = share.loc[last, usual]
    found.add("majority-class", 100 * floor, f"% of {last}", detail, todo, floor * len(corpus.labels))
    pair = counts.reindex(["train", "test"], fill_value=0).loc[:, lambda c: c.sum() > 0]
    if not pair.sum(axis=1).all() or pair.shape[1] < 2:
        found.skip("class-drift", "Needs labels of two classes in train and test.")
        return
    test = stats.chi2_contingency(pair)
    v = np.sqrt(test.statistic / pair.to_numpy().sum())
    detail = f"Class shares in train and test: chi-square {test.statistic:.1f} with {test.dof} degrees of "
    detail += f"freedom, p = {test.pvalue:.2g}."
    todo = "Stratify the splits, or report scores that do not depend on the shares."
    found.add("class-drift", v, "Cramér's V", detail, todo, v if test.pvalue < 0.05 else 0)


def _times(corpus: Corpus, table: pd.DataFrame, seconds: pd.Series, found: Findings) -> None:
    stated = table["end"] - table["start"]
    both = pd.DataFrame({"stated": stated, "audio": seconds, "difference": seconds - stated}).dropna()
    if both.empty:
        found.skip("durations", "Needs audio, and start and end of its utterances.")
    else:
        found.details["lengths"] = both
        wrong = both["difference"].abs() > np.maximum(0.25, 0.1 * both["stated"]) + 1e-6
        todo = "Listen to them (lengths.csv): a clip of another length holds other words; remove those."
        what = "files are longer or shorter than their times by more than 0.25 s and 10 %"
        found.share("durations", wrong, "% of files", what, todo)
    timed = table[stated.notna()]
    if timed.empty:
        found.skip("zero-length turn-order", "No start and end is known.")
    else:
        what = "utterances end where they start"
        todo = "Remove them, or correct start and end."
        found.share("zero-length", stated[timed.index] <= 0, "% of timed", what, todo)
        before = timed.groupby("dialogue_id")[["start", "end"]].shift()
        back = timed["start"] < before["start"] - 1e-3
        overlap = (timed["start"] < before["end"] - 1e-3).sum()
        what = f"utterances start before the turn ahead of them does ({overlap} before it ends)"
        todo = "Correct turn or start: contextual models read the turns in this order."
        found.share("turn-order", back, "% of timed", what, todo)
    length = stated.where(stated.notna(), seconds)
    words = corpus.words
    if words is None or not length.reindex(words["utterance_id"]).notna().any():
        found.skip("word-times", "Needs word timings, and the length of their utterances.")
    else:
        end = words["utterance_id"].map(length)
        out = (words["start"] < -0.05) | (words["end"] > end + 0.05)  # 0.05 s: five frames of an aligner
        out.index = pd.Index(words["utterance_id"])
        found.share("word-times", out[end.notna().to_numpy()], "% of words",
                    "words lie outside their utterance", "Align these utterances again.")  # fmt: skip
    length = seconds.where(seconds.notna(), stated)
    spoken = table[(table["words"] > 0) & length.notna()]
    if spoken.empty:
        found.skip("speaking-rate", "Needs transcripts, and audio or times.")
        return
    length, rate = length[spoken.index], spoken["words"] / length[spoken.index].clip(lower=1e-3)
    odd = ((spoken["words"] > SHORT) & (rate > 8)) | (length < 0.1) | ((length > 10) & (rate < 0.2))
    what = "utterances have more than 8 words a second, fewer than 1 in 5 s over 10 s, or less than 0.1 s"
    todo = "Listen to them: their transcript belongs to another stretch of sound."
    found.share("speaking-rate", odd, "% of timed", what, todo)


def _texts(corpus: Corpus, table: pd.DataFrame, found: Findings) -> None:
    if not table["words"].any():
        found.skip("empty-text mojibake duplicates", "The corpus has no transcripts.")
        return
    todo = "Complete the transcripts, or leave these utterances out of text systems."
    found.share("empty-text", table["words"] == 0, "% of utterances", "utterances have no word", todo)
    broken = corpus.table["text"].str.contains(_MOJIBAKE)
    todo = "Read the source again with its true encoding (Windows-1252 or UTF-8)."
    found.share("mojibake", broken, "% of utterances", "transcripts hold broken characters", todo)
    long = table[(table["words"] > SHORT) & (table["label"] != "")]
    if long.empty:
        found.skip("duplicates", f"No labelled transcript has more than {SHORT} words.")
        return
    again = long.duplicated(["split", "text", "label"])
    what = f"labelled utterances of more than {SHORT} words repeat text and label of another in their split"
    todo = "Count distinct sentences, not utterances, when you say how much text there is."
    found.share("duplicates", again, "% of utterances", what, todo)


def _size(table: pd.DataFrame, found: Findings) -> None:
    test = table[table["split"] == "test"]
    if test.empty:
        found.skip("test-size", "There is no test split.")
        return
    dialogues, speakers = test["dialogue_id"], test["speaker"]
    groups = speakers if dialogues.is_unique and (speakers != "").all() else dialogues
    sizes = groups.value_counts()
    design = 1 + RHO * ((sizes**2).sum() / len(test) - 1)
    half = 100 * 1.96 * np.sqrt(0.25 * design / len(test))
    one = groups.name.partition("_")[0]
    detail = f"{len(test)} test utterances of {len(sizes)} {one}s: a 95 % interval of an accuracy near 50 % "
    detail += f"reaches {half:.1f} points to each side (design effect {design:.2f} = 1 + {RHO:g} (m - 1), "
    detail += f"m = the mean size of the {one} that an utterance comes from)."
    voices = speakers[speakers != ""].nunique()
    if voices and groups is not speakers:
        detail += f" Speakers in test: {voices}"
        fewer = f", fewer than {one}s, so that an interval over speakers is wider"
        detail += f"{fewer if voices < len(sizes) else ''}."
    todo = "Report intervals, several seeds and paired tests, or test on every group in turn."
    found.add("test-size", half, "points", detail, todo)
