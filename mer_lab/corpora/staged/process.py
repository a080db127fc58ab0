"""What is meant: the planted process that gives every utterance its emotion, and its ceilings.

A dialogue plays in a scene that has a mood; two speakers take turns. Each utterance carries its emotion by
one cue, drawn first; words and voice follow from cue and emotion:

============  ===========================  =======================  ==============================
cue           words mean                   voice means              the emotion is
============  ===========================  =======================  ==============================
lexical       the emotion                  neutral                  what the words mean
prosodic      nothing (open)               the emotion              what the voice means
redundant     the emotion                  the emotion              what both mean
incongruent   something else               something else again     what :data:`CLASH` says
accent        several emotions             neutral, one word        what the stressed word means
                                           stressed
contextual    nothing ("okay")             neutral                  what an earlier turn felt
============  ===========================  =======================  ==============================

Three evaluators then listen; each errs with probability :data:`EVALUATOR_ERROR`, and the majority is the
label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from mer_lab.corpora.staged.script import BACKCHANNELS, LABELS, LEXICON, OPEN

CUES = ("lexical", "prosodic", "redundant", "incongruent", "accent", "contextual")
SHARES = {
    "lexical": 0.18, "prosodic": 0.19, "redundant": 0.10, "incongruent": 0.14,
    "accent": 0.20, "contextual": 0.19,
}  # fmt: skip
PRIOR = {"angry": 0.27, "happy": 0.26, "sad": 0.17, "neutral": 0.30}
MOOD_WEIGHT = 0.35
"""How far a scene's mood pulls the prior: what a split that cuts through scenes lets a model exploit."""
EVALUATOR_ERROR = 0.2
TURNS = (10, 15)
"""Turns of a dialogue, from the first number up to below the second."""

CLASH: dict[frozenset[str], str] = {
    frozenset({"happy", "sad"}): "angry",  # sarcasm: "wonderful", said flat; or a cheerful tale of disaster
    frozenset({"happy", "angry"}): "sad",  # teasing that hurts: "how rude!", laughing; or praise, shouted
}
"""What clashing words and voice mean together: neither of the two. Happiness is the mask in both."""


@dataclass
class Plan:
    """One planned utterance: evidence and truth, before any sound is made."""

    cue: str
    emotion: str
    words_mean: str  # a label, "open", "mixed" (accent) or a backchannel
    voice_means: str
    adjectives: list[str]
    accent: int | None  # which adjective is stressed
    decided_by: int | None = None  # turn of the dialogue that decides, for the contextual cue
    text: str = ""  # backchannels only


def mood_prior(mood: str) -> np.ndarray:
    """Prior over :data:`LABELS` in a scene of that mood; moods are dealt out evenly."""
    flat = np.array([PRIOR[k] for k in LABELS])
    return (1 - MOOD_WEIGHT) * flat + MOOD_WEIGHT * np.array([float(k == mood) for k in LABELS])


def plan_dialogue(rng: np.random.Generator, mood: str, turns: int, candidates: int) -> list[Plan]:
    """Plan the turns of one dialogue (speakers alternate)."""
    plans: list[Plan] = []
    for turn in range(turns):
        # an echo needs a turn with a feeling of its own to come from
        echoes = {
            w: lag for w, lag in BACKCHANNELS.items() if turn >= lag and plans[turn - lag].cue != "contextual"
        }
        shares = np.array([SHARES[c] if c != "contextual" or echoes else 0.0 for c in CUES])
        cue = str(rng.choice(CUES, p=shares / shares.sum()))
        if cue == "contextual":
            word = str(rng.choice(list(echoes)))
            source = turn - echoes[word]
            text = word.capitalize() + "."
            plans.append(Plan(cue, plans[source].emotion, word, "neutral", [], None, source, text))
        else:
            plans.append(_plan_utterance(rng, cue, mood_prior(mood), candidates))
    return plans


def _plan_utterance(rng: np.random.Generator, cue: str, prior: np.ndarray, candidates: int) -> Plan:
    # every sentence stresses one of its adjectives, so that stress itself tells nothing of the cue's kind
    slots = candidates if cue == "accent" else int(rng.integers(1, 4))
    accent = int(rng.integers(slots))
    if cue == "accent":
        # each candidate is as likely to be stressed as any other: words alone are at chance by construction
        extra = rng.choice(LABELS, size=max(0, slots - len(LABELS))).tolist()
        meanings = rng.permutation([*rng.permutation(LABELS)[:slots], *extra]).tolist()
        adjectives = [str(rng.choice(LEXICON[k])) for k in meanings]
        return Plan(cue, meanings[accent], "mixed", "neutral", adjectives, accent)
    if cue == "incongruent":
        weights = np.array([prior[LABELS.index(k)] for k in CLASH.values()])
        pair, emotion = list(CLASH.items())[rng.choice(len(CLASH), p=weights / weights.sum())]
        words_mean, voice_means = rng.permutation(sorted(pair)).tolist()
    else:
        emotion = str(rng.choice(LABELS, p=prior / prior.sum()))
        words_mean = "open" if cue == "prosodic" else emotion
        voice_means = "neutral" if cue == "lexical" else emotion
    adjectives = rng.choice(OPEN, size=slots, replace=False).tolist()
    if words_mean != "open":
        adjectives[rng.integers(slots)] = str(rng.choice(LEXICON[words_mean]))
    return Plan(cue, emotion, words_mean, voice_means, adjectives, accent)


def evaluate(rng: np.random.Generator, emotion: str) -> tuple[list[str], str]:
    """Three evaluators' labels and their majority; a three-way tie is listened to again."""
    while True:
        votes = [
            str(rng.choice([k for k in LABELS if k != emotion]))
            if rng.random() < EVALUATOR_ERROR
            else emotion
            for _ in range(3)
        ]
        majority = max(votes, key=votes.count)
        if votes.count(majority) > 1:
            return votes, majority


def label_noise(error: float = EVALUATOR_ERROR) -> float:
    """Probability that the majority label of :func:`evaluate` is not the emotion, in closed form."""
    wrong = len(LABELS) - 1
    right = (1 - error) ** 3 + 3 * (1 - error) ** 2 * error
    two_agree_wrong = 3 * (1 - error) * error**2 / wrong
    three_wrong = error**3 * (1 - (wrong - 1) * (wrong - 2) / wrong**2)
    return (two_agree_wrong + three_wrong) / (right + two_agree_wrong + three_wrong)


def states(table: pd.DataFrame) -> pd.DataFrame:
    """What each channel shows of each utterance, as discrete states.

    Returns:
        columns ``nothing``, ``text`` (what the words mean; for the accent cue the set of candidates;
        ``backchannel``), ``audio`` (what the voice means; ``short`` for a backchannel) and ``both`` (with the
        stressed word).
    """
    mixed, short = table["words_mean"] == "mixed", table["cue"] == "contextual"
    text = table["words_mean"].mask(mixed, table["candidates"].map(lambda s: "+".join(sorted(s.split("+")))))
    text = text.mask(short, "backchannel")
    audio = table["voice_means"].mask(short, "short")
    both = text + "|" + audio + "|" + table["emotion"].where(mixed, "")
    return pd.DataFrame({"nothing": "", "text": text, "audio": audio, "both": both})


@lru_cache
def population(candidates: int = 3, draws: int = 60_000, seed: int = 12345) -> pd.DataFrame:
    """A large sample of plans from the process itself: cue, states and emotion, no sound.

    The process is a handful of discrete choices; sampling them (standard error below 0.2 points) spares a
    second, hand-written copy of the process that could disagree with the first.
    """
    rng = np.random.default_rng(seed)
    rows: list[Plan] = []
    while len(rows) < draws:
        rows += plan_dialogue(rng, LABELS[len(rows) % 4], int(rng.integers(*TURNS)), candidates)
    return plans_table(rows)


def plans_table(plans: list[Plan]) -> pd.DataFrame:
    """The columns of the planted truth, one row a plan."""
    meaning = {adjective: label for label, adjectives in LEXICON.items() for adjective in adjectives}
    return pd.DataFrame(
        {
            "cue": [p.cue for p in plans],
            "emotion": [p.emotion for p in plans],
            "words_mean": [p.words_mean for p in plans],
            "voice_means": [p.voice_means for p in plans],
            "candidates": ["+".join(meaning[a] for a in p.adjectives if a in meaning) for p in plans],
        }
    )
