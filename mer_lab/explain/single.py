"""One recording as data: what a saved system needs to hear it without the corpus that it was trained on."""

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
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution, attribute
from mer_lab.explain.methods import SPAN
from mer_lab.explain.question import Question
from mer_lab.explain.units import frames, of_words, per_span, timed_words, words_of
from mer_lab.features import Vocabulary, tokenise
from mer_lab.features.pretrained import PretrainedText
from mer_lab.features.store import Extractor, FeatureStore
from mer_lab.inputs import AUDIO, named, pooled, read_text_features
from mer_lab.models import System
from mer_lab.models.layers import FrameEncoder, TextEncoder, WordEncoder
from mer_lab.prediction import predict
from mer_lab.ragged import Ragged
from mer_lab.records import Recipe

SILENT = 1e-4
"""Largest sample of a recording that is called silent: 80 dB below full scale."""


class Explained(NamedTuple):
    """An explanation with all that is shown beside it, in the order that pages and figures take it.

    Attributes:
        values: attributions, of which the ``b``-th is shown.
        labels: names of the classes; ``probabilities (classes,)`` of the utterance.
        wave: ``(N,)`` at ``rate`` Hz.
        times: ``start`` and ``end`` (s) of each spoken word, or None where they are not known.
        gold: the label that the corpus gives, ``""`` for none.
        name: what to call the recording.
    """

    values: Attribution
    b: int
    labels: Sequence[str]
    probabilities: np.ndarray
    wave: np.ndarray
    rate: int
    times: pd.DataFrame | None = None
    gold: str = ""
    name: str = ""


def one_utterance(
    model: System, audio: str | Path, text: str, context: Sequence[tuple] = (), speaker: str = ""
) -> Dataset:
    """A data set of one dialogue whose last utterance is a recording with its transcript.

    Features are made as the recipe says that the system was trained with; no corpus is needed.

    Args:
        model: a trained system, as :meth:`System.from_pretrained` gives it.
        audio: file of the recording; ``text``, what is said in it.
        context: earlier turns in order, each ``(audio, text)`` or ``(audio, text, speaker)``.
        speaker: who speaks, for a system that keeps speakers apart.

    Raises:
        MerLabError: no recipe in the checkpoint; features that cannot be made of a wave, or that the system
            does not read; a recording that is missing, silent or too short; no text.
    """
    recipe = recipe_of(model)
    turns = [(*turn, "")[:3] for turn in context] + [(audio, text, speaker)]
    extractor = audio_extractor(model)
    for sound, words, _ in turns:
        if not words.strip():
            raise MerLabError(f"{sound}: its text is empty; give the words that are said in it.")
        _check_sound(sound, read_audio(sound))
    name = Path(audio).stem
    ids = [*(f"{name}/{k}" for k in range(len(turns) - 1)), name]
    table = pd.DataFrame(
        {
            "dialogue_id": name, "turn": np.arange(len(turns)), "speaker": [str(who) for *_, who in turns],
            "split": "", "label": "", "text": [words for _, words, _ in turns],
            "audio": [str(Path(sound).resolve()) for sound, *_ in turns], "start": np.nan, "end": np.nan,
        },
        index=pd.Index(ids, name="utterance_id"),
    )  # fmt: skip
    labels = model.about.get("labels") or [f"class {k}" for k in range(model.classes)]
    corpus = Corpus(name, tuple(labels), table)
    data = Dataset(corpus, _extracted(corpus, extractor), _text(model, recipe, corpus))
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
            "systems can be explained from a recording."
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


def explain_recording(
    model: System, audio: str | Path, text: str, context: Sequence[tuple] = (), speaker: str = "",
    target: str = "", times: pd.DataFrame | None = None, method: str = "integrated-gradients",
    baseline_audio: str = "", baseline_text: str = "mask", **options,
) -> Explained:  # fmt: skip
    """Why a system decides as it does about one recording: all that a page or a figure shows.

    Args:
        model, audio, text, context, speaker: as of :func:`one_utterance`.
        target: the class to explain; what the system decides on, by default.
        times: ``start`` and ``end`` (s) of each spoken word, where they are known.
        method, baseline_audio, baseline_text, options: as of :func:`~mer_lab.explain.attribute`.

    Raises:
        MerLabError: as of :func:`one_utterance` and :func:`~mer_lab.explain.attribute`, or no such class.
    """
    if context and not model.contextual:
        raise MerLabError(f"{type(model).__name__} reads single utterances; leave the context out.")
    data = one_utterance(model, audio, text, context, speaker)
    labels = list(data.corpus.labels)
    if target and target not in labels:
        raise MerLabError(f"the system knows no class {target!r}; it tells apart {', '.join(labels)}.")
    row = len(data) - 1
    found = words_of(text, data).words
    if times is not None and len(times) != len(found):
        raise MerLabError(
            f"there are times of {len(times)} words, but the text has {len(found)}: {' '.join(found)}."
        )
    question = Question(model, data, [row], [labels.index(target)] if target else None)
    with torch.no_grad():
        logits = question.logits(*question.inputs, question.example)
    values = attribute(
        question, method, baseline_audio, baseline_text, extractor=audio_extractor(model), **options
    )
    wave = read_audio(audio)
    return Explained(
        values, 0, labels, logits.softmax(-1)[0].cpu().numpy(), wave, 16000, times, name=data.corpus.ids[row]
    )


def explained(model: System, values: Attribution) -> list[Explained]:
    """Each utterance of an attribution with its sound, word times and label from its corpus."""
    question = values.question
    corpus, rows = question.data.corpus, question.rows
    with torch.no_grad():
        logits = torch.cat([question.logits(*(x[k] for x in question.inputs), k)
                            for k in question.example.split(64)])  # fmt: skip
    probabilities = logits.softmax(-1).cpu().numpy()
    ids = [corpus.ids[row] for row in rows]
    return [
        Explained(
            values, b, corpus.labels, probabilities[b], read_audio(corpus.audio_path(ids[b])), 16000,
            timed_words(question.data, int(row)), corpus.table["label"].iloc[int(row)], ids[b],
        )
        for b, row in enumerate(rows)
    ]  # fmt: skip


def confident_mistakes(model: System, data: Dataset, n: int = 6) -> np.ndarray:
    """Rows of at most ``n`` utterances that the system gets wrong, the surest first; ties by row."""
    probabilities, targets = predict(model, data), data.targets
    decided = probabilities.argmax(1)
    wrong = np.flatnonzero((decided != targets) & (targets >= 0))
    sure = probabilities[wrong, decided[wrong]]
    return wrong[np.argsort(-sure, kind="stable")][:n]


def word_table(values: Attribution, b: int, times: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row for each word: ``word, value, start, end`` (s, NaN where not known) and ``unknown``.

    Args:
        times: as of :class:`Explained`; not used where its words are others than the system's.
    """
    question = values.question
    text = question.data.corpus.table["text"].iloc[int(question.rows[b])]
    words, sums = of_words(values, b)
    table = pd.DataFrame({"word": words, "value": sums, "start": np.nan, "end": np.nan})
    if times is not None and len(times) == len(words_of(text, question.data).words) >= len(words) > 0:
        known = times[["start", "end"]].to_numpy(float)
        table[["start", "end"]] = known[: len(words)]  # those cut off are the last
    unknown = set(unknown_words(question.entrances["text"].encoder, text))
    return table.assign(unknown=[word in unknown for word in words])


def span_table(values: Attribution, b: int, span: float = SPAN) -> pd.DataFrame:
    """A row for each span of the voice: ``start, end`` (s) and ``value``; none where frames have no clock."""
    question, real = values.question, frames(values.question, b)
    if not question.hop or real < 2:  # an utterance as one vector has no clock either
        return pd.DataFrame({"start": [], "end": [], "value": []}, dtype=float)
    starts = np.arange(0, real, per_span(question, span))
    ends = np.append(starts[1:], real)
    first = question.first - question.hop / 2  # a frame reaches half a step to each side of its centre
    return pd.DataFrame({
        "start": np.maximum(first + question.hop * starts, 0), "end": first + question.hop * ends,
        "value": np.add.reduceat(values.own_audio[b][:real], starts),
    })  # fmt: skip


def unknown_words(encoder: torch.nn.Module, text: str) -> list[str]:
    """Words of a text that are not in a word encoder's vocabulary, each once; it reads them all as one."""
    known = set(getattr(encoder, "settings", {}).get("vocabulary") or ())
    if not known:
        return []
    return list(dict.fromkeys(w for w in tokenise(text) if w[0].isalnum() and w not in known))


def _check_sound(path: str | Path, wave: np.ndarray) -> None:
    if np.abs(wave).max() < SILENT:
        raise MerLabError(f"{path}: is silent; there is no voice to be explained.")
    if len(wave) < SPAN * 16000:
        raise MerLabError(f"{path}: is shorter than {SPAN} s, the span of an explanation; give more of it.")


def _extracted(corpus: Corpus, extractor: Extractor) -> Ragged:
    """As the feature store gives them, without leaving anything of the recording in it."""
    with TemporaryDirectory() as folder:
        found = FeatureStore(folder).get(corpus, extractor, workers=1)
        return Ragged(np.array(found.frames), np.array(found.offsets), list(found.ids), found.meta)


def _text(model: System, recipe: Recipe, corpus: Corpus) -> Ragged:
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
    vectors = _extracted(corpus, extractor)
    return pooled(vectors) if pool else named(vectors, extractor)


def _width(encoder: torch.nn.Module) -> int:
    """Numbers of a frame that an encoder was fitted to, 0 where it has none."""
    frames = next((m for m in encoder.modules() if isinstance(m, FrameEncoder)), None)
    return frames.width if frames is not None else 0
