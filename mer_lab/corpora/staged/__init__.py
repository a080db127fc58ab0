"""The Staged corpus: dyadic conversations whose right answers are known.

It is a teaching instrument with rule-made prosody, not evidence about human emotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mer_lab.corpora.corpus import SPLITS, Corpus
from mer_lab.corpora.native import read_folder, write_tables
from mer_lab.corpora.staged.ceilings import INFORMATION, ceilings
from mer_lab.corpora.staged.process import CUES, TURNS, Plan, evaluate, plan_dialogue, plans_table
from mer_lab.corpora.staged.script import FRAMES, LABELS, LEXICON, SCENES, pseudo_word, sentence
from mer_lab.corpora.staged.speech import MANNERS, Line, Manner, speak
from mer_lab.errors import MerLabError
from mer_lab.files import atomic_folder, cache_dir, digest, locked

__all__ = ["CUES", "INFORMATION", "LABELS", "StagedConfig", "ceilings", "staged"]

VERSION = 2
"""Raise it with any change that alters the corpus: cached copies of the old one are then left alone."""

# Voices whose variant has "breath" (Alicia, f2, f3, f5) differ from process to process, so none is here.
_LIGHT = ("benjamin Andrea Annie Nguyen anika aunty belinda f1 robert quincy f4 paul grandma linda shelby "
          "steph steph2 steph3 zac").split()  # fmt: skip
_DEEP = ("Alex Andy Gene Gene2 Jacky Lee Marco Mario Michael Reed adam antonio boris ed edward gustave john "
         "m1 m2 m3 m4 m5 m6 m7 max miguel norbert pablo travis").split()  # fmt: skip
_RAISED = {"benjamin": 20, "robert": 20, "quincy": 20, "paul": 20}
"""Espeak pitch units by which these speak above their variant's own pitch, to be light."""


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and value >= least


@dataclass(frozen=True)
class StagedConfig:
    """Size and seed of a Staged corpus.

    Attributes:
        dialogues: number of dialogues in train, validation and test.
        candidates: emotional words of an utterance with the accent cue.
        seed: of everything random.
    """

    dialogues: tuple[int, int, int] = (160, 32, 64)
    candidates: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = self.dialogues
        if not isinstance(sizes, tuple) or len(sizes) != 3 or not all(_whole(n, 1) for n in sizes):
            raise MerLabError(f"dialogues is {sizes!r}, expected three whole numbers of at least 1.")
        if sum(-(-n // 4) for n in self.dialogues) > len(SCENES):
            raise MerLabError(
                f"dialogues is {self.dialogues}: there are scenes for {4 * len(SCENES)} dialogues in all."
            )
        if not _whole(self.candidates, 2) or self.candidates > 6:
            raise MerLabError(f"candidates is {self.candidates!r}, expected 2 to 6.")
        if not _whole(self.seed, 0):
            raise MerLabError(f"seed is {self.seed!r}, expected a whole number of at least 0.")


def staged(config: StagedConfig | None = None, workers: int | None = None) -> Corpus:
    """The Staged corpus, generated on first use (about 20 s at the default size) and cached.

    Raises:
        MerLabError: espeak-ng cannot be loaded, or the disk is full.
    """
    config = config or StagedConfig()
    key = digest(str(VERSION), repr(sorted(asdict(config).items())), length=10)
    folder = cache_dir() / "corpora" / f"staged-{key}"
    if not (folder / "corpus.toml").exists():
        with locked(folder):
            if not (folder / "corpus.toml").exists():
                with atomic_folder(folder) as temporary:
                    _generate(config, temporary, workers)
    return read_folder(folder)


def _generate(config: StagedConfig, folder: Path, workers: int | None) -> None:
    rng = np.random.default_rng([config.seed, 1])
    scenes = _deal(rng, range(len(SCENES)), [-(-n // 4) for n in config.dialogues])
    frames = _deal(rng, range(len(FRAMES)), [100, 20, 40])
    light = _deal(rng, _LIGHT, [12, 3, 4])
    deep = _deal(rng, _DEEP, [17, 5, 7])
    plans: list[Plan] = []
    lines: list[Line] = []
    rows: list[dict] = []
    words: list[dict] = []
    for k, split in enumerate(SPLITS):
        speakers = [(v, make_voice(rng, v)) for v in [*light[k], *deep[k]]]
        for d in range(config.dialogues[k]):
            scene = scenes[k][d // 4]
            mood = LABELS[(d // 4) % 4]
            dialogue = f"{split}{d:03d}"
            couple = [speakers[i] for i in rng.choice(len(speakers), 2, replace=False)]
            planned = plan_dialogue(rng, mood, int(rng.integers(*TURNS)), config.candidates)
            for turn, plan in enumerate(planned):
                name, voice = couple[turn % 2]
                uid = f"{dialogue}_{turn:02d}"
                frame = frames[k][rng.integers(len(frames[k]))]
                nouns = [SCENES[scene][i % 3] for i in rng.permutation(3).tolist() * 2][
                    : len(plan.adjectives)
                ]
                spoken, slots, text = (
                    ([*plan.words_mean.split()], [], plan.text)
                    if plan.cue == "contextual"
                    else sentence(FRAMES[frame], plan.adjectives, nouns)
                )
                votes, label = evaluate(rng, plan.emotion)
                accent = None if plan.accent is None else slots[plan.accent]
                line = make_line(
                    rng, folder / "audio" / f"{uid}.wav", voice, plan.voice_means, len(spoken), accent
                )
                lines.append(line)
                rows.append(
                    {
                        "utterance_id": uid, "dialogue_id": dialogue, "turn": turn, "speaker": name,
                        "split": split, "label": label, "text": text,
                        "audio": f"audio/{uid}.wav", "start": 0.0, "end": 0.0,
                        "evaluators": ";".join(votes), "scene": scene, "mood": mood,
                        "frame": "" if plan.cue == "contextual" else " ... ".join(FRAMES[frame]),
                        "accent": "" if accent is None else accent,
                        "decided_by": "" if plan.decided_by is None else f"{dialogue}_{plan.decided_by:02d}",
                    }
                )  # fmt: skip
                words += _words(uid, spoken, slots, line, plan)
            plans += planned
    timings = speak(lines, workers)
    _time(rng, rows, words, timings)
    table = pd.DataFrame(rows).set_index("utterance_id")
    corpus = Corpus(
        name="staged",
        labels=LABELS,
        table=pd.concat([table, plans_table(plans).set_index(table.index)], axis=1),
        words=pd.DataFrame(words),
        licence="generated by mer_lab; free to use",
        source="rule-made speech of an invented language, espeak-ng voices; not evidence about human emotion",
        info={"staged": {**asdict(config), "version": VERSION}},
    )
    write_tables(corpus, folder)


def _deal(rng: np.random.Generator, items, sizes: list[int]) -> list[list]:
    """Shuffle the items and deal them out to the splits, so that no two splits share one."""
    items = list(items)
    order = [items[i] for i in rng.permutation(len(items))]
    ends = np.cumsum(sizes)
    return [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def make_voice(rng: np.random.Generator, variant: str) -> dict:
    """A speaker: the synthesiser's voice with habits of tempo, pitch and loudness."""
    return {
        "variant": variant,
        "wpm": int(rng.integers(178, 203)),
        "pitch": int(rng.integers(45, 56)) + _RAISED.get(variant, 0),
        "gain": float(rng.uniform(-1, 1)),
    }


def make_line(
    rng: np.random.Generator, path: Path, voice: dict, means: str, count: int, accent: int | None,
    manners: Mapping[str, Manner] = MANNERS,
) -> Line:  # fmt: skip
    """How a voice says ``count`` pseudo-words when it means an emotion."""
    manner = manners[means]
    return Line(
        path=str(path),
        words=[pseudo_word(rng) for _ in range(count)],
        accent=accent,
        melody=[int(manner.melody * leap) for leap in rng.choice([-0.7, 1.0], count)]
        if manner.melody
        else [],
        variant=voice["variant"],
        wpm=int(np.clip(voice["wpm"] * manner.tempo * rng.normal(1, 0.04), 90, 400)),
        pitch=int(np.clip(voice["pitch"] + manner.pitch + rng.normal(0, 2), 0, 99)),
        range=int(np.clip(50 + manner.range + rng.normal(0, 4), 0, 99)),
        gain=voice["gain"] + manner.gain + float(rng.normal(0, 0.8)),
        tilt=float(np.clip(manner.tilt + rng.normal(0, 0.05), -0.8, 0.9)),
    )


def _words(uid: str, spoken: list[str], slots: list[int], line: Line, plan: Plan) -> list[dict]:
    """Word rows with the planted truth: which words decide by their meaning, which by their sound."""
    voice_decides = plan.cue in ("prosodic", "redundant", "incongruent")
    rows = []
    for k, word in enumerate(spoken):
        slot = slots.index(k) if k in slots else None
        meant = slot is not None and plan.cue not in ("prosodic", "accent") and word in _EMOTIONAL
        stressed = plan.cue == "accent" and k == line.accent
        rows.append(
            {
                "utterance_id": uid, "word": word, "start": 0.0, "end": 0.0, "spoken": "",
                "decides_text": int(meant or stressed), "decides_audio": int(voice_decides or stressed),
            }
        )  # fmt: skip
    return rows


_EMOTIONAL = {adjective for adjectives in LEXICON.values() for adjective in adjectives}


def _time(rng: np.random.Generator, rows: list[dict], words: list[dict], timings: list[dict]) -> None:
    """Put word timings and the dialogue's clock into the rows."""
    position, clock, dialogue = 0, 0.0, None
    for row, timing in zip(rows, timings, strict=True):
        onsets = timing["onsets"]
        for k, onset in enumerate(onsets):
            words[position + k]["spoken"] = timing["words"][k]
            words[position + k]["start"] = round(onset, 4)
            words[position + k]["end"] = round(onsets[k + 1] if k + 1 < len(onsets) else timing["end"], 4)
        position += len(onsets)
        clock = 0.0 if row["dialogue_id"] != dialogue else clock + float(rng.uniform(0.15, 0.6))
        dialogue = row["dialogue_id"]
        row["start"], row["end"] = round(clock, 4), round(clock + timing["end"], 4)
        clock += timing["end"]
