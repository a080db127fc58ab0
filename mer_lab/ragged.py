"""Sequences of different lengths in one array: the layout of feature files and the source of every batch.

A file is a safetensors file with ``offsets`` int64 ``(U + 1)`` and ``frames`` float32 ``(N, D)``; utterance
``u`` owns ``frames[offsets[u]:offsets[u + 1]]``. The header's metadata holds, under ``mer_lab``, JSON with at
least ``utterance_ids``. It is written front to back and read through a memory map, so that neither needs
memory for the whole of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mer_lab.errors import MerLabError
from mer_lab.files import atomic_path


@dataclass(frozen=True)
class Ragged:
    """Frames of many utterances.

    Attributes:
        frames: ``(N, D)``, all utterances one after the other; a memory map or an array.
        offsets: int64 ``(U + 1)``.
        ids: utterance ids ``(U,)``.
        meta: name, columns, hop (seconds between frames, None where there is no clock), channel.
    """

    frames: np.ndarray
    offsets: np.ndarray
    ids: list[str]
    meta: dict = field(default_factory=dict)

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[np.ndarray], ids: Sequence[str], meta: dict | None = None
    ) -> Ragged:
        """From one ``(T, D)`` array an utterance."""
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
        return cls(np.concatenate(sequences), offsets, list(ids), meta or {})

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, k: int) -> np.ndarray:
        """Frames ``(T, D)`` of the ``k``-th utterance."""
        start = self.starts(k)
        return np.asarray(self.frames[start : start + self.lengths[k]])

    @property
    def width(self) -> int:
        """D, the numbers of a frame."""
        return self.frames.shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance ``(U,)``."""
        return np.diff(self.offsets)

    def take(self, ids: Sequence[str]) -> Ragged:
        """The same frames under another choice or order of utterances, without copying them.

        Raises:
            MerLabError: an id has no features.
        """
        if list(ids) == self.ids:
            return self
        place = {u: k for k, u in enumerate(self.ids)}
        missing = [u for u in ids if u not in place]
        if missing:
            name = self.meta.get("name", "")
            raise MerLabError(
                f"{len(missing)} utterances have no features {name}, first {missing[0]!r}; extract again."
            )
        return _View(self, np.array([place[u] for u in ids], dtype=np.int64))

    def starts(self, k: np.ndarray | int) -> np.ndarray:
        """First frame of each of the utterances ``k``."""
        return self.offsets[:-1][k]

    def padded(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Utterances ``k (B,)`` as ``(B, T, D)``, padded with zeros, and mask ``(B, T)``, True = real."""
        k = np.asarray(k)
        lengths, starts = self.lengths[k], self.starts(k)
        steps = np.arange(lengths.max(initial=1))
        mask = steps < lengths[:, None]
        out = np.zeros((*mask.shape, self.width), self.frames.dtype)
        out[mask] = self.frames[(starts[:, None] + steps)[mask]]
        return out, mask


class _View(Ragged):
    """Some of another Ragged's utterances: lengths and starts are looked up, frames are shared."""

    def __init__(self, base: Ragged, order: np.ndarray) -> None:
        lengths = base.lengths[order]
        object.__setattr__(self, "frames", base.frames)
        object.__setattr__(self, "offsets", np.concatenate([[0], np.cumsum(lengths)]))
        object.__setattr__(self, "ids", [base.ids[k] for k in order])
        object.__setattr__(self, "meta", base.meta)
        object.__setattr__(self, "_starts", base.starts(order))

    def starts(self, k: np.ndarray | int) -> np.ndarray:
        return self._starts[k]


def write_ragged(
    path: str | Path, meta: dict, lengths: Sequence[int], width: int, chunks: Iterable[np.ndarray]
) -> None:
    """Write a ragged file atomically, from chunks ``(n, D)`` that follow each other.

    Args:
        meta: JSON-able; ``utterance_ids`` must be in it.
        lengths: frames of each utterance.

    Raises:
        MerLabError: the disk is full.
        ValueError: the chunks do not add up to the lengths.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
    total = int(offsets[-1])
    ends = [0, offsets.nbytes, offsets.nbytes + 4 * total * width]
    header = {
        "__metadata__": {"mer_lab": json.dumps(meta, ensure_ascii=False, sort_keys=True)},
        "offsets": {"dtype": "I64", "shape": [len(offsets)], "data_offsets": ends[:2]},
        "frames": {"dtype": "F32", "shape": [total, width], "data_offsets": ends[1:]},
    }
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)  # the format wants tensors to start at a multiple of eight
    written = 0
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        f.write(len(head).to_bytes(8, "little") + head + offsets.tobytes())
        for chunk in chunks:
            if chunk.shape[1:] != (width,):
                raise ValueError(f"a chunk of shape {chunk.shape} was given for frames of width {width}")
            f.write(np.ascontiguousarray(chunk, dtype="<f4").tobytes())
            written += len(chunk)
        if written != total:
            raise ValueError(f"{written} frames were given for lengths that add up to {total}")
        f.flush()


def open_ragged(path: str | Path) -> Ragged:
    """Open a ragged file through a memory map.

    Raises:
        MerLabError: missing, cut off, or not such a file.
    """
    path = Path(path)
    wrong = MerLabError(
        f"{path} is not a feature file of mer_lab, or is cut off; delete it and extract again."
    )
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if not 2 <= length <= size - 8:
                raise wrong
            header = json.loads(f.read(length))
        meta = json.loads(header["__metadata__"]["mer_lab"])
        offsets, frames = header["offsets"], header["frames"]
        if (
            offsets["dtype"] != "I64"
            or frames["dtype"] != "F32"
            or size != 8 + length + frames["data_offsets"][1]
        ):
            raise wrong
        start = np.fromfile(path, "<i8", offsets["shape"][0], offset=8 + length + offsets["data_offsets"][0])
        shape = tuple(frames["shape"])
        if (
            start[0]
            or start[-1] != shape[0]
            or (np.diff(start) < 0).any()
            or len(start) != len(meta["utterance_ids"]) + 1
        ):
            raise wrong
        place = 8 + length + frames["data_offsets"][0]
        data = (
            np.memmap(path, "<f4", "r", place, shape) if shape[0] * shape[1] else np.zeros(shape, np.float32)
        )
    except FileNotFoundError:
        raise MerLabError(f"{path}: there is no such feature file.") from None
    except (KeyError, ValueError, TypeError, IndexError):
        raise wrong from None
    return Ragged(data, start, meta.pop("utterance_ids"), meta)
