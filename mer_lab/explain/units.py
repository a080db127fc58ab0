"""From numbers a frame and a token to what people talk about: words, spans of time, modalities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from mer_lab.batches import Dataset
from mer_lab.explain.attribution import Attribution
from mer_lab.explain.methods import SPAN
from mer_lab.explain.question import Question
from mer_lab.features import tokenise
from mer_lab.features.encoders import find_encoder, load_tokenizer
from mer_lab.features.pretrained import split_words


class Words(NamedTuple):
    """The words of an utterance as its transcript writes them, and the tokens of each.

    Attributes:
        words: as they stand in the text.
        tokens: of each word, its places among the text encoder's tokens.
    """

    words: list[str]
    tokens: list[list[int]]


def words_of(text: str, data: Dataset, length: int | None = None) -> Words:
    """What the system's text channel makes of a transcript, word by word; marks nobody speaks are left out.

    Subword tokens belong to the word that they are cut from; special tokens to none. A text of which only one
    vector is left is one word.

    Args:
        length: real tokens that the system read of it: of a text that was cut to fewer than it has, the words
            that lost a token are left out.
    """
    meta = data.text.meta
    encoder = meta.get("encoder")
    if meta.get("name") == "pooled":
        return Words([text], [[0]])
    if encoder is None and (meta.get("settings") or {}).get("words"):
        whole = [text[start:end] for start, end in split_words(text)]
        return Words(whole, [[k] for k in range(len(whole))])
    if encoder is None:
        tokens = tokenise(text)
        spoken = [k for k, token in enumerate(tokens) if token[0].isalnum()]
        return Words([tokens[k] for k in spoken], [[k] for k in spoken])
    cut = load_tokenizer(find_encoder(encoder))(text, return_offsets_mapping=True)
    pieces: dict[int, list[int]] = {}
    for place, word in enumerate(cut.word_ids()):
        if word is not None:
            pieces.setdefault(word, []).append(place)
    words, places_of = [], []
    # a text that is cut still ends in its special token, which stands at the place of another
    read = length - 1 if length is not None and length < len(cut["input_ids"]) else len(cut["input_ids"])
    for places in pieces.values():
        if places[-1] >= read:
            continue
        start, end = cut["offset_mapping"][places[0]][0], cut["offset_mapping"][places[-1]][1]
        if any(c.isalnum() for c in text[start:end]):
            words.append(text[start:end])
            places_of.append(places)
    return Words(words, places_of)


class Units(NamedTuple):
    """What is taken away and ranked: words and spans of the utterances that are asked about.

    Attributes:
        word: ``(B, Tt)`` which word each token belongs to, -1 for none.
        span: ``(B, Ta)`` which span each audio step belongs to, -1 in padding.
        words, spans: ``(B,)`` how many each utterance has.
    """

    word: np.ndarray
    span: np.ndarray
    words: np.ndarray
    spans: np.ndarray

    def sums(self, values: Attribution) -> tuple[np.ndarray, np.ndarray]:
        """What each word adds ``(B, W)`` and each span ``(B, S)``, NaN where there is none."""
        found = ((self.word, self.words, values.own_text), (self.span, self.spans, values.own_audio))
        return tuple(_sums(*one) for one in found)


def _sums(unit: np.ndarray, count: np.ndarray, own: np.ndarray) -> np.ndarray:
    wide = int(count.max(initial=0)) + 1
    rows = np.arange(len(unit))[:, None] * wide + np.where(unit < 0, wide - 1, unit)
    sums = np.bincount(rows.ravel(), own.ravel(), len(unit) * wide).reshape(len(unit), wide)[:, :-1]
    return np.where(np.arange(wide - 1) < count[:, None], sums, np.nan)


def units_of(question: Question, span: float = SPAN) -> Units:
    """Words and spans of every utterance of a question."""
    text, step = question.data.corpus.table["text"], per_span(question, span)
    width = [m.shape[-1] for m in question.masks]
    word = np.full((len(question), width[1]), -1)
    real = np.array([frames(question, b) for b in range(len(question))])
    for b, row in enumerate(question.rows):
        for k, places in enumerate(words_of(text.iloc[int(row)], question.data, tokens(question, b)).tokens):
            word[b, places] = k
    place = np.arange(width[0])
    spans = np.where(place < real[:, None], place // step, -1)
    return Units(word, spans, word.max(1, initial=-1) + 1, -(-real // step))


def of_words(values: Attribution, b: int) -> tuple[list[str], np.ndarray]:
    """Words of the ``b``-th utterance and what each adds ``(W,)``."""
    question = values.question
    text = question.data.corpus.table["text"].iloc[int(question.rows[b])]
    found = words_of(text, question.data, tokens(question, b))
    return found.words, np.array([values.own_text[b][places].sum() for places in found.tokens])


def of_spans(values: Attribution, b: int, span: float = SPAN) -> tuple[np.ndarray, np.ndarray]:
    """Centres (s) of the spans of the ``b``-th utterance ``(S,)`` and what each adds ``(S,)``.

    Features without a clock give one span a frame, its centre the frame's number.
    """
    real = frames(values.question, b)
    own = values.own_audio[b][:real]
    step = per_span(values.question, span)
    starts = np.arange(0, real, step)
    hop = values.question.hop or 1.0
    ends = np.minimum(starts + step, real)
    centres = values.question.first + hop * (starts + ends - 1) / 2
    return centres, np.add.reduceat(own, starts)


def per_span(question: Question, span: float = SPAN) -> int:
    """Audio steps in a span."""
    return max(1, round(span / question.hop)) if question.hop else 1


def frames(question: Question, b: int) -> int:
    """Real audio steps of the ``b``-th utterance."""
    return int(question.masks[0][b, int(question.place[b])].sum())


def tokens(question: Question, b: int) -> int:
    """Its real words or tokens."""
    return int(question.masks[1][b, int(question.place[b])].sum())


def timed_words(data: Dataset, row: int) -> pd.DataFrame | None:
    """The rows of ``corpus.words`` of an utterance, where each of its words has a time; else None."""
    words, corpus = data.corpus.words, data.corpus
    if words is None:
        return None
    found = words[words["utterance_id"] == corpus.ids[row]]
    text = corpus.table["text"].iloc[row]
    spoken = [token for token in tokenise(text) if token[0].isalnum()]
    return found.reset_index(drop=True) if len(found) == len(spoken) else None
