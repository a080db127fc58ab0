"""Recordings as data: what a saved system needs to hear them without the corpus that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from mer_lab.audio import read_audio
from mer_lab.batches import Dataset
from mer_lab.clips import MIN_SECONDS, SILENCE
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.features import Vocabulary
from mer_lab.features.pretrained import PretrainedText
from mer_lab.features.store import Extractor, FeatureStore
from mer_lab.inputs import AUDIO, named, pooled, read_text_features
from mer_lab.models import System
from mer_lab.models.layers import FrameEncoder, TextEncoder, WordEncoder
from mer_lab.ragged import Ragged
from mer_lab.records import Recipe

LONGEST = 120.0
"""Seconds up to which a recording is taken for an utterance."""


class Turn(NamedTuple):
    """One recording of a conversation: its file, what is said in it, and who says it where that is known."""

    audio: str | Path
    text: str
    speaker: str = ""


def read_conversation(path: str | Path) -> list[Turn]:
    """The turns of a CSV file in order: columns audio (relative to its folder), text and, if known, speaker.

    Raises:
        MerLabError: no such file, not CSV, a column that is missing, no row.
    """
    path = Path(path)
    table = read_columns(path, "audio", "text")
    if table.empty:
        raise MerLabError(f"{path}: holds no turn; write a row an utterance below the header.")
    who = table["speaker"] if "speaker" in table else [""] * len(table)
    rows = zip(table["audio"], table["text"], who, strict=True)
    return [Turn(path.parent / audio, text, speaker) for audio, text, speaker in rows]


def read_columns(path: Path, *columns: str) -> pd.DataFrame:
    """A small CSV file as texts.

    Raises:
        MerLabError: no such file, not CSV in UTF-8, or one of the columns is missing.
    """
    if not path.is_file():
        raise MerLabError(f"{path}: there is no such file.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise MerLabError(f"{path}: cannot be read as CSV in UTF-8 ({reason}).") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first of too many fields for a name
        raise MerLabError(f"{path}: a row has more fields than the header; put texts with commas in quotes.")
    if missing := [c for c in columns if c not in table]:
        raise MerLabError(f"{path}: lacks the column {missing[0]}; it needs {' and '.join(columns)}.")
    return table


def conversation(model: System, turns: Sequence[tuple], name: str = "conversation") -> Dataset:
    """A data set of one dialogue: the turns, with features as the system's recipe makes them.

    Args:
        model: a trained system, as :meth:`System.from_pretrained` gives it.
        turns: in order, each ``(audio, text)`` or ``(audio, text, speaker)``, such as a :class:`Turn`.
        name: of the dialogue, and of its last utterance.

    Raises:
        MerLabError: no recipe in the checkpoint; features that cannot be made of a wave, or that the system
            does not read; no turn; a recording that is missing, silent or too short; no text.
    """
    turns = [Turn(*turn) for turn in turns]
    if not turns:
        raise MerLabError("there is no turn to decide on; give at least one recording with its text.")
    recipe_of(model)
    for sound, words, _ in turns:
        if not words.strip():
            raise MerLabError(f"{sound}: its text is empty; give the words that are said in it.")
        _check_sound(sound, read_audio(sound, max_seconds=LONGEST))
    ids = [*(f"{name}/{k}" for k in range(len(turns) - 1)), name]
    table = pd.DataFrame(
        {
            "dialogue_id": name, "turn": np.arange(len(turns)), "speaker": [str(t.speaker) for t in turns],
            "split": "", "label": "", "text": [t.text for t in turns],
            "audio": [str(Path(t.audio).resolve()) for t in turns], "start": np.nan, "end": np.nan,
        },
        index=pd.Index(ids, name="utterance_id"),
    )  # fmt: skip
    labels = model.about.get("labels") or [f"class {k}" for k in range(model.classes)]
    return as_read_by(model, Corpus(name, tuple(labels), table), keep=False)


def as_read_by(model: System, corpus: Corpus, keep: bool = True) -> Dataset:
    """Any corpus with the features that a saved system reads: its extractors, its vocabulary.

    Args:
        keep: leave the features in the store, as for a corpus that is worked with; else nothing is left.

    Raises:
        MerLabError: as of :func:`conversation`.
    """
    audio = _features(corpus, audio_extractor(model), keep)
    data = Dataset(corpus, audio, _text(model, recipe_of(model), corpus, keep))
    for channel in ("audio", "text"):
        wanted = _width(getattr(model, channel))
        if wanted and wanted != (found := getattr(data, channel).width):
            raise MerLabError(
                f"the system reads {channel} frames of {wanted} numbers and its recipe makes {found}; the "
                "checkpoint and its recipe do not belong together."
            )
    return data


def recipe_of(model: System) -> Recipe:
    """The recipe that a system was trained with.

    Raises:
        MerLabError: none was saved with it, or one of another kind than a class from audio and text.
    """
    if not model.about.get("recipe"):
        raise MerLabError(
            "no recipe was saved with this system, so its features are not known; save it as a run of "
            "`mer-lab run` does, with model.about['recipe']."
        )
    recipe = Recipe.from_toml(model.about["recipe"], "the checkpoint's recipe")
    if not recipe.audio or model.classes < 2:
        raise MerLabError(
            f"the system of recipe {recipe.name} does not decide on a class from audio and text; only such "
            "systems can be given recordings."
        )
    return recipe


def audio_extractor(model: System) -> Extractor:
    """What made the system's audio features, which noise and silence as a baseline have to go through.

    Raises:
        MerLabError: they were attached, or are unknown.
    """
    options = dict(recipe_of(model).audio)
    if "attached" in options:
        raise MerLabError(
            f"this system reads the audio features {options['attached']!r}, which were attached to its "
            "corpus and cannot be computed from a recording; choose a system whose features mer_lab extracts."
        )
    name = options.pop("name", None)
    if name not in AUDIO:
        raise MerLabError(f"the checkpoint's recipe asks for unknown audio features {name!r}.")
    try:
        return AUDIO[name](**options)
    except TypeError as error:
        raise MerLabError(f"the checkpoint's recipe: audio features {name}: {error}.") from None


def _check_sound(path: str | Path, wave: np.ndarray) -> None:
    if np.abs(wave).max() < SILENCE:
        raise MerLabError(f"{path}: is silent; there is no voice in it.")
    if len(wave) < MIN_SECONDS * 16000:
        raise MerLabError(f"{path}: is shorter than {MIN_SECONDS} s; give more of it.")


def _features(corpus: Corpus, extractor: Extractor, keep: bool) -> Ragged:
    """As the feature store gives them; without ``keep`` nothing of the recordings is left in it."""
    if keep:
        return FeatureStore().get(corpus, extractor)
    with TemporaryDirectory() as folder:
        found = FeatureStore(folder).get(corpus, extractor, workers=1)
        return Ragged(np.array(found.frames), np.array(found.offsets), list(found.ids), found.meta)


def _text(model: System, recipe: Recipe, corpus: Corpus, keep: bool) -> Ragged:
    options = dict(recipe.text)
    name = options.pop("name", "words")
    kind = {"words": WordEncoder, "tokens": TextEncoder}.get(name)
    if (kind is not None) != isinstance(model.text, (WordEncoder, TextEncoder)) or (
        kind and not isinstance(model.text, kind)
    ):
        raise MerLabError(
            f"the recipe makes text features {name!r}, which the system's {type(model.text).__name__} does "
            "not read; the checkpoint and its recipe do not belong together."
        )
    if name == "words":
        known = model.text.settings.get("vocabulary")
        if not known:
            raise MerLabError("no vocabulary was saved with this system, so its words are not known.")
        vocabulary = Vocabulary(tuple(known))
        sequences = [vocabulary.encode(text) for text in corpus.table["text"]]
        return Ragged.from_sequences(sequences, corpus.ids, {"name": "words"})
    if name == "tokens":  # numbers are not stored
        return read_text_features(recipe.text, corpus, corpus)[0]
    pool = options.pop("pool", False)
    try:
        extractor = PretrainedText(**options)
    except TypeError as error:
        raise MerLabError(f"the checkpoint's recipe: text features {name}: {error}.") from None
    vectors = _features(corpus, extractor, keep)
    return pooled(vectors) if pool else named(vectors, extractor)


def _width(encoder: torch.nn.Module) -> int:
    """Numbers of a frame that an encoder was fitted to, 0 where it has none."""
    frames = next((m for m in encoder.modules() if isinstance(m, FrameEncoder)), None)
    return frames.width if frames is not None else 0
