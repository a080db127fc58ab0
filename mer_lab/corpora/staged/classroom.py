"""A folder of recordings as a class might hand it in: other people, another room, another way to be angry.

The stand-in for one's own data in lesson 11. The students speak the invented language of the Staged corpus,
and differ from its actors in three known ways: they talk faster and higher, a laptop in a room records them,
and they grow quiet, slow and flat when they are angry. Hot and cold anger are told apart in research (Banse &
Scherer 1996), and what one shows depends on where and with whom (display rules: Matsumoto 1990); that ours is
quieter than neutral is our choice. Their things and half of their emotional words are new, too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mer_lab.audio import read_audio, write_audio
from mer_lab.corpora.corpus import SPLITS
from mer_lab.corpora.staged import make_line, make_voice
from mer_lab.corpora.staged.script import LABELS, LEXICON, OPEN, sentence
from mer_lab.corpora.staged.speech import MANNERS, RATE, Line, Manner, speak
from mer_lab.errors import MerLabError
from mer_lab.files import atomic_folder, write_text

MANNERS_HERE = MANNERS | {
    "angry": replace(MANNERS["angry"], tempo=0.86, pitch=-6, range=-34, gain=-3.0, tilt=0.5)
}
NEW_WORDS = {
    "angry": ("livid", "infuriating", "outraged"), "happy": ("delicious", "fantastic", "hilarious"),
    "sad": ("sorrowful", "depressing", "forlorn"), "neutral": ("everyday", "conventional", "customary"),
}  # fmt: skip
"""Words of the same four kinds that the Staged corpus lacks."""
_SCENES = (
    ("blackboard", "sponge", "timetable"), ("notebook", "charger", "headset"), ("canteen", "tray", "noodle"),
    ("corridor", "locker", "backpack"), ("seminar", "slide", "microphone"), ("exam", "pencil", "grade"),
)  # fmt: skip
_FRAMES = (
    ("we had", "in class"), ("they showed", "yesterday"), ("i got", "at school"), ("you took", "after noon"),
)  # fmt: skip
_VOICES = ("f1", "f4", "m1", "m3", "m5", "m7", "anika", "robert")
_NOISE = 22.0  # dB below the speech: a room with a fan
_ECHOES = ((0.021, 0.35), (0.043, 0.22), (0.071, 0.14))  # seconds and gain of the first walls


def classroom(
    folder: str | Path, students: tuple[int, int, int] = (8, 4, 8), clips: int = 24, seed: int = 0,
    room: bool = True, manners: Mapping[str, Manner] = MANNERS_HERE, splits: Sequence[str] = SPLITS,
) -> Path:  # fmt: skip
    """Write ``clips.csv`` and ``recordings/`` of a class; gives the path of the CSV file.

    Columns: file, transcript, emotion, student, split. A clip carries its emotion in the voice alone (one in
    two), in a word alone or in both (one in four each); every second emotional word is new to Staged.

    Args:
        folder: absent, empty, or a class made earlier, which is replaced.
        students: for training, validation and test.
        clips: of each student, a multiple of 4, as many of each emotion.
        seed: of everything random; the same gives the same samples.
        room, manners: whether the room is heard, and how feelings are shown. The same class without a
            difference shows what that difference costs.
        splits: those to record; the clips of one do not depend on whether others are recorded.

    Raises:
        MerLabError: espeak-ng fails; the number of clips; a folder of something else, or not to be written.
    """
    if clips < 4 or clips % 4:
        raise MerLabError(f"clips is {clips}, expected a multiple of 4: as many of each emotion.")
    if (there := Path(folder)).exists() and not (there / "clips.csv").is_file() and any(there.iterdir()):
        raise MerLabError(f"{folder}: holds something else, which would be replaced; choose a new folder.")
    dealt = [s for s, n in zip(SPLITS, students, strict=True) for _ in range(n)]
    rows, lines, noise = [], [], []
    with atomic_folder(folder) as made:
        for k, split in enumerate(dealt):
            if split not in splits:
                continue
            rng = np.random.default_rng([seed, 11, k])
            noise += np.random.default_rng([seed, 12, k]).spawn(clips)
            voice = make_voice(rng, _VOICES[k % len(_VOICES)])
            voice |= {"wpm": int(rng.integers(205, 232)), "pitch": min(voice["pitch"] + 9, 80)}
            for n in range(clips):
                name = f"student{k + 1:02d}_{n + 1:02d}"
                row, line = _clip(rng, made, name, voice, LABELS[n % 4], manners)
                rows.append(row | {"student": f"student{k + 1:02d}", "split": split})
                lines.append(line)
        for split in splits:  # apart, since the synthesiser keeps traces of what it said before
            speak([line for row, line in zip(rows, lines, strict=True) if row["split"] == split])
        for line, own in zip(lines, noise, strict=True):
            if room:
                write_audio(line.path, _in_a_room(read_audio(line.path), own), RATE)
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(made / "clips.csv", table.getvalue())
    return Path(folder) / "clips.csv"


def _clip(
    rng: np.random.Generator, made: Path, name: str, voice: dict, emotion: str, manners: Mapping[str, Manner]
) -> tuple[dict, Line]:
    by = rng.choice(["voice", "voice", "word", "both"])
    nouns = _SCENES[rng.integers(len(_SCENES))]
    nouns = [nouns[k] for k in rng.permutation(len(nouns))[: rng.integers(1, 4)]]
    adjectives = [OPEN[k] for k in rng.choice(len(OPEN), len(nouns), replace=False)]
    if by != "voice":
        pool = (LEXICON if rng.random() < 0.5 else NEW_WORDS)[emotion]
        adjectives[rng.integers(len(adjectives))] = pool[rng.integers(len(pool))]
    words, _, text = sentence(_FRAMES[rng.integers(len(_FRAMES))], adjectives, nouns)
    path = made / "recordings" / f"{name}.wav"
    means = emotion if by != "word" else "neutral"
    line = make_line(rng, path, voice, means, len(words), None, manners)
    return {"file": path.name, "transcript": text, "emotion": emotion}, line


def _in_a_room(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first echoes, then noise."""
    heard = wave.copy()
    for delay, gain in _ECHOES:
        shift = int(delay * RATE)
        heard[shift:] += gain * wave[: len(wave) - shift]
    power = float(np.mean(heard**2)) * 10 ** (-_NOISE / 10)
    heard += np.sqrt(power) * rng.standard_normal(len(heard))
    return (heard / max(1.0, np.abs(heard).max() / 0.99)).astype(np.float32)
