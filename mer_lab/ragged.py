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

    def exchanged(self, order: np.ndarray) -> Ragged:
        """Frames of the ``order[k]``-th utterance under the name of the ``k``-th, without copying them."""
        view = _View(self, np.asarray(order, np.int64))
        object.__setattr__(view, "ids", list(self.ids))
        return view

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
    metadata = {"mer_lab": json.dumps(meta, ensure_ascii=False, sort_keys=True)}
    header = {"__metadata__": metadata} | _layout(len(lengths), total, width)
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
            meta = dict(json.loads(header["__metadata__"]["mer_lab"]))
            ids = list(meta.pop("utterance_ids"))
            total, width = header["frames"]["shape"]
            layout = _layout(len(ids), total, width)
            place, end = (8 + length + x for x in layout["frames"]["data_offsets"])
            if min(total, width) < 0 or size != end or any(header[k] != v for k, v in layout.items()):
                raise wrong
            offsets = np.frombuffer(f.read(place - 8 - length), "<i8")
        if offsets[0] or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise wrong
        mapped = total * width > 0  # nothing cannot be mapped
        shape = (total, width)
        frames = np.memmap(path, "<f4", "r", place, shape) if mapped else np.zeros(shape, np.float32)
    except FileNotFoundError:
        raise MerLabError(f"{path}: there is no such feature file.") from None
    except (KeyError, ValueError, TypeError, IndexError, RecursionError, OSError):
        raise wrong from None
    return Ragged(frames, offsets, ids, meta)


def _layout(utterances: int, total: int, width: int) -> dict[str, dict]:
    """What the header says of the two tensors."""
    ends = [0, 8 * (utterances + 1), 8 * (utterances + 1) + 4 * total * width]
    return {
        "offsets": {"dtype": "I64", "shape": [utterances + 1], "data_offsets": ends[:2]},
        "frames": {"dtype": "F32", "shape": [total, width], "data_offsets": ends[1:]},
    }
