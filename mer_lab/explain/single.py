"""One recording as data: what a saved system needs to hear it without the corpus that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from mer_lab.audio import read_audio
from mer_lab.batches import Dataset
from mer_lab.conversation import audio_extractor, conversation
from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution, attribute
from mer_lab.explain.methods import SPAN
from mer_lab.explain.question import Question
from mer_lab.explain.units import frames, of_words, per_span, timed_words, words_of
from mer_lab.features import tokenise
from mer_lab.models import System
from mer_lab.prediction import predict


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


def explain_recording(
    model: System, audio: str | Path, text: str, context: Sequence[tuple] = (), speaker: str = "",
    target: str = "", times: pd.DataFrame | None = None, method: str = "integrated-gradients",
    baseline_audio: str = "", baseline_text: str = "mask", **options,
) -> Explained:  # fmt: skip
    """Why a system decides as it does about one recording: all that a page or a figure shows.

    Args:
        model, audio, text, context, speaker: as of :func:`~mer_lab.conversation.conversation`.
        target: the class to explain; what the system decides on, by default.
        times: ``start`` and ``end`` (s) of each spoken word, where they are known.
        method, baseline_audio, baseline_text, options: as of :func:`~mer_lab.explain.attribute`.

    Raises:
        MerLabError: as of :func:`~mer_lab.conversation.conversation` and
            :func:`~mer_lab.explain.attribute`, or no such class.
    """
    if context and not model.contextual:
        raise MerLabError(f"{type(model).__name__} reads single utterances; leave the context out.")
    data = conversation(model, [*context, (audio, text, speaker)], Path(audio).stem)
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
