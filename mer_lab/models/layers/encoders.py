"""What stands before a system: ``encoder(x, mask) -> (vectors (U, T', width), mask (U, T'))``.

Encoders are interchangeable. One returns a mask because it may shorten the sequence; the vectors are zero
where the mask is False. Its ``settings`` are what its class needs to make it anew, before its weights are put
back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.ragged import Ragged


class FrameEncoder(nn.Module):
    """Standardise frames by the mean and deviation of the training frames.

    A missing value (NaN) becomes the training mean. Padding stays zero.

    >>> encoder = FrameEncoder(2).fit(Ragged.from_sequences([np.array([[1.0, 4.0], [3.0, 4.0]])], ["a"]))
    >>> encoder(torch.tensor([[[3.0, np.nan]]]), torch.tensor([[True]]))
    (tensor([[[1., 0.]]]), tensor([[True]]))
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.settings = width, {"width": width}
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, train: Ragged) -> FrameEncoder:
        """Take mean and deviation of every column from the training utterances' frames."""
        count = total = squares = np.zeros(self.width)
        for frames in _parts(train):
            known = np.isfinite(frames)
            count, total = count + known.sum(0), total + np.where(known, frames, 0).sum(0, dtype=np.float64)
        mean = total / np.maximum(count, 1)
        for frames in _parts(train):  # a second pass: a sum of squares less a square loses digits
            away = np.where(np.isfinite(frames), frames - mean, 0)
            squares = squares + np.square(away).sum(0)
        std = np.sqrt(squares / np.maximum(count, 1))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(np.where(std < 1e-6, 1.0, std)))  # a constant column stays constant
        return self

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, D)`` to ``(U, T, D)``; the mask stays as it is."""
        x = (x.to(self.mean.dtype) - self.mean) / self.std
        x = torch.where(torch.isfinite(x), x, 0.0)
        return x * mask.unsqueeze(-1), mask


class Projection(nn.Module):
    """Standardised frames through dropout, a linear layer and a ReLU: fewer numbers, chosen for the task.

    For wide frozen vectors before a small system, which would else learn the training set by heart.

    >>> Projection(6, 2)(torch.ones(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))[0].shape
    torch.Size([2, 5, 2])
    """

    def __init__(self, frames: int, width: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        self.width, self.settings = width, {"frames": frames, "width": width, "dropout": dropout}
        self.standardise = FrameEncoder(frames)
        self.project, self.dropout = nn.Linear(frames, width), nn.Dropout(dropout)

    def fit(self, train: Ragged) -> Projection:
        """Take the columns' means and deviations from the training utterances' frames."""
        self.standardise.fit(train)
        return self

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, frames)`` to ``(U, T, width)``, zeros in padding; the mask stays as it is."""
        x, mask = self.standardise(x, mask)
        return self.project(self.dropout(x)).relu() * mask.unsqueeze(-1), mask


def _parts(train: Ragged) -> Iterator[np.ndarray]:
    """All frames in pieces, so that a wide encoder's need not stand in memory at once."""
    for start in range(0, len(train), 256):
        yield np.concatenate([train[k] for k in range(start, min(start + 256, len(train)))])


class WordEncoder(nn.Module):
    """Embed word indices ``(U, T, 1)``; index 0 is padding, 1 an unknown word.

    Args:
        words: size of the vocabulary.
        width: size of an embedding.
        vectors: ``(words, width)`` to start from, such as GloVe's; learned from nothing by default.
        drop: probability that, in training, a word is replaced by the unknown one: rare words of the
            training set are no help on new text, and the unknown word needs a meaning of its own.
        vocabulary: the words themselves, kept for whoever loads the encoder later.
    """

    def __init__(
        self, words: int, width: int, vectors: np.ndarray | None = None, drop: float = 0.0,
        vocabulary: list[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.drop = width, drop
        self.settings = {"words": words, "width": width, "drop": drop, "vocabulary": vocabulary}
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        if vectors is not None:
            self.embedding.weight.data.copy_(torch.from_numpy(np.asarray(vectors)))
            self.embedding.weight.data[0] = 0

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, 1)`` int64 to ``(U, T, width)``; the mask stays as it is."""
        index = x[..., 0]
        if self.training and self.drop:
            dropped = (torch.rand(index.shape, device=index.device) < self.drop) & mask
            index = torch.where(dropped, 1, index)
        return self.embedding(index), mask
