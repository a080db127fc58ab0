"""From a corpus and its features to padded batches with masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.ragged import Ragged

CHANNELS = ("audio", "text")
"""In the order of the columns of ``absent``."""


@dataclass
class Batch:
    """Utterances side by side; a channel that the data lack is None.

    Attributes:
        audio: ``(U, Ta, Da)``, zeros after the end; ``audio_mask (U, Ta)``, True = real.
        text: ``(U, Tt, Dt)``, or word indices ``(U, Tt, 1)`` int64; ``text_mask (U, Tt)``, True = real.
        dialogue: ``(U,)`` which dialogue of the corpus; ``turn (U,)`` its place there, from 0;
            ``speaker (U,)``.
        label: ``(U,)`` class index, -1 where there is none.
        score: ``(U,)`` the corpus's number for the utterance, NaN where there is none.
        index: ``(U,)`` row of the corpus.
        absent: ``(U, 2)`` bool, True where the audio (column 0) or the text (column 1) is to be taken away;
            None where nothing is. :meth:`mer_lab.models.System.encode` takes it away.
    """

    audio: Tensor | None
    audio_mask: Tensor | None
    text: Tensor | None
    text_mask: Tensor | None
    dialogue: Tensor
    turn: Tensor
    speaker: Tensor
    label: Tensor
    score: Tensor
    index: Tensor
    absent: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) if v is not None else None for k, v in moved.items()})

    def channel(self, name: str) -> tuple[Tensor, Tensor]:
        """Frames and mask of ``"audio"`` or ``"text"``.

        Raises:
            MerLabError: the data have no such channel.
        """
        x, mask = (self.audio, self.audio_mask) if name == "audio" else (self.text, self.text_mask)
        if x is None or mask is None:
            raise MerLabError(f"the model reads {name}, but the data were prepared without {name} features.")
        return x, mask


class Dataset:
    """A corpus with the features of one or both channels, ready to be batched.

    Args:
        corpus: the utterances.
        audio, text: their features; at least one of the two.
        absent: ``(U, 2)`` bool, as of :class:`Batch`.

    Raises:
        MerLabError: no features, or features that lack an utterance of the corpus.
    """

    def __init__(
        self, corpus: Corpus, audio: Ragged | None = None, text: Ragged | None = None,
        absent: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        if audio is None and text is None:
            raise MerLabError("a data set needs audio features, text features or both.")
        self.corpus = corpus
        self.audio = audio.take(corpus.ids) if audio is not None else None
        self.text = text.take(corpus.ids) if text is not None else None
        table = corpus.table
        self.absent = absent
        self.targets = corpus.targets
        given = table["score"].to_numpy(np.float32) if "score" in table else np.nan
        self.scores = np.full(len(table), given, np.float32)
        self.dialogue = table["dialogue_id"].factorize()[0]
        self.speaker = table["speaker"].factorize()[0]
        # a turn is its rank in the dialogue: corpora number their turns with gaps
        self.turn = table.groupby("dialogue_id", sort=False)["turn"].rank().to_numpy(np.int64) - 1

    def __len__(self) -> int:
        return len(self.corpus)

    def select(self, split: str) -> Dataset:
        """The utterances of one split."""
        rows = (self.corpus.table["split"] == split).to_numpy()
        absent = None if self.absent is None else self.absent[rows]
        return Dataset(self.corpus.select(split=split), self.audio, self.text, absent)

    def without(self, channel: str) -> Dataset:
        """The same utterances with ``"audio"`` or ``"text"`` taken away from a system that reads both.

        Raises:
            MerLabError: there is no such channel.
        """
        if channel not in CHANNELS:
            raise MerLabError(f"there is no channel {channel!r}; choose audio or text.")
        absent = np.zeros((len(self), 2), bool) if self.absent is None else self.absent.copy()
        absent[:, CHANNELS.index(channel)] = True
        return Dataset(self.corpus, self.audio, self.text, absent)

    @property
    def lengths(self) -> np.ndarray:
        """Length of each utterance in frames of the longer channel's clock (audio where there is audio)."""
        return (self.audio if self.audio is not None else self.text).lengths

    def batch(self, index: np.ndarray) -> Batch:
        """The utterances in the rows ``index (U,)``, padded."""
        index = np.asarray(index, dtype=np.int64)
        channels: dict[str, Tensor | None] = {}
        for name, ragged in (("audio", self.audio), ("text", self.text)):
            x, mask = ragged.padded(index) if ragged is not None else (None, None)
            channels[name] = torch.from_numpy(x) if x is not None else None
            channels[f"{name}_mask"] = torch.from_numpy(mask) if mask is not None else None
        columns = dict(dialogue=self.dialogue, turn=self.turn, speaker=self.speaker, label=self.targets)
        columns["score"] = self.scores
        rows = {k: torch.from_numpy(v[index]) for k, v in columns.items()}
        absent = None if self.absent is None else torch.from_numpy(self.absent[index])
        return Batch(**channels, **rows, index=torch.from_numpy(index), absent=absent)

    def batches(
        self, size: int, by: str = "length", rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """All utterances in batches; shuffled if ``rng`` is given.

        Args:
            size: utterances in a batch; with ``by="dialogue"`` a batch takes dialogues until it has so many.
            by: ``"length"``, utterances of similar length together, or ``"dialogue"``, whole dialogues in
                order.
        """
        for index in self.plan(size, by, rng):
            yield self.batch(index)

    def plan(self, size: int, by: str = "length", rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Rows of each batch that :meth:`batches` yields."""
        if by == "length":
            return length_buckets(self.lengths, size, rng)
        if by == "dialogue":
            return whole_dialogues(self.dialogue, self.turn, size, rng)
        raise MerLabError(f"batches by {by!r} do not exist; choose 'length' or 'dialogue'.")


def length_buckets(
    lengths: np.ndarray, size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Batches of utterances of similar length, so that little is padding.

    With ``rng``, utterances are shuffled, sorted by length within pools of 16 batches, cut, and the batches
    shuffled: every epoch mixes anew, yet neighbours in a batch stay close in length.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    pool = len(order) if rng is None else size * 16
    batches: list[np.ndarray] = []
    for start in range(0, len(order), max(pool, 1)):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[k : k + size] for k in range(0, len(part), size)]
    return batches if rng is None else [batches[k] for k in rng.permutation(len(batches))]


def whole_dialogues(
    dialogue: np.ndarray, turn: np.ndarray, size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Batches of whole dialogues, turns in order, of at most ``size`` utterances, or of one long dialogue."""
    rows = np.lexsort((turn, dialogue))
    groups = np.split(rows, np.flatnonzero(np.diff(dialogue[rows])) + 1) if len(rows) else []
    if rng is not None:
        groups = [groups[k] for k in rng.permutation(len(groups))]
    batches: list[list[np.ndarray]] = []
    filled = size
    for group in groups:
        if filled + len(group) > size:
            batches.append([])
            filled = 0
        batches[-1].append(group)
        filled += len(group)
    return [np.concatenate(batch) for batch in batches]
