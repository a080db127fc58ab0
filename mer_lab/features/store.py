"""FeatureStore: extract once, read through a memory map ever after."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import torch
from tqdm.auto import tqdm

from mer_lab.audio import read_audio
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.files import cache_dir, digest, locked
from mer_lab.parallel import in_processes
from mer_lab.ragged import Ragged, open_ragged, write_ragged

PART = 128
"""Utterances in a part: what a killed extraction loses at most, for each process."""


class Extractor(Protocol):
    """What the store asks of an extractor: a frozen dataclass of settings, called with one utterance.

    One of channel ``"audio"`` gets a wave ``(N,)`` at its ``rate``, one of channel ``"text"`` a string. Two
    members are optional: ``extract_many(texts)``, where several texts together are faster and give the same
    numbers, and ``settings``, a dict of what decides the numbers where the fields alone do not (weights).
    """

    name: str
    version: int
    channel: str
    hop: float | None

    @property
    def names(self) -> list[str]: ...

    def __call__(self, utterance: np.ndarray | str) -> np.ndarray: ...


class FeatureStore:
    """A folder of feature files, each keyed by the audio or text, the extractor's settings and its version.

    Args:
        folder: where the files are; the user's cache by default.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else cache_dir() / "features"

    def get(self, corpus: Corpus, extractor: Extractor, workers: int | None = None) -> Ragged:
        """Features of every utterance of a corpus, extracted if they are not there yet.

        A killed extraction goes on where it stopped when it is asked for again, and ends with the same bytes.
        What is extracted beside an utterance never changes its features.

        Raises:
            MerLabError: an utterance has no audio, or audio that cannot be read; no utterance has text; the
                disk is full.
        """
        if extractor.channel == "text":
            utterances = content = _texts(corpus)
        else:
            utterances = [corpus.audio_path(u) for u in corpus.ids]
            few = len(utterances) < 20000
            bar = tqdm(utterances, desc="reading audio", leave=False, disable=few)
            content = [_content(path) for path in bar]
        settings = repr([extractor.name, extractor.version, sorted(_settings(extractor).items())])
        key = digest(settings, *corpus.ids, *content)
        path = self.folder / f"{extractor.name}-{key}.safetensors"
        if not path.exists():
            with locked(path):
                if not path.exists():
                    self._extract(corpus.ids, utterances, extractor, path, workers)
        return open_ragged(path)

    def _extract(
        self, ids: list[str], utterances: list, extractor: Extractor, target: Path, workers: int | None
    ) -> None:
        partial = target.with_suffix(".partial")
        slices = [slice(start, start + PART) for start in range(0, len(ids), PART)]
        parts = [partial / f"{part.start:09d}.safetensors" for part in slices]
        todo = [(s, part) for s, part in zip(slices, parts, strict=True) if not _whole(part, ids[s])]
        workers = min(workers or os.cpu_count() or 1, max(1, len(todo)))
        jobs = (joblib.delayed(_extract_part)(extractor, ids[s], utterances[s], part) for s, part in todo)
        threads = torch.get_num_threads()
        done = len(ids) - sum(len(ids[s]) for s, _ in todo)
        try:
            with tqdm(total=len(ids), initial=done, desc=extractor.name, unit="utt", leave=False) as bar:
                for count in in_processes(jobs, workers, ordered=False):
                    bar.update(count)
        finally:
            torch.set_num_threads(threads)  # a single worker is this very process
        opened = [open_ragged(part) for part in parts]
        lengths = np.concatenate([part.lengths for part in opened])
        meta = {
            "name": extractor.name, "channel": extractor.channel, "columns": extractor.names,
            "utterance_ids": ids, "version": extractor.version, "hop": extractor.hop,
            "settings": _settings(extractor),
        }  # fmt: skip
        write_ragged(target, meta, lengths, len(extractor.names), (part.frames for part in opened))
        shutil.rmtree(partial)


def _extract_part(extractor: Extractor, ids: list[str], utterances: list, target: Path) -> int:
    torch.set_num_threads(1)  # the processes share the cores
    if extractor.channel == "audio":
        sequences = [extractor(read_audio(path, extractor.rate)) for path in utterances]
    elif hasattr(extractor, "extract_many"):
        sequences = extractor.extract_many(utterances)
    else:
        sequences = [extractor(text) for text in utterances]
    for u, frames in zip(ids, sequences, strict=True):
        if not np.isfinite(frames).all():
            raise MerLabError(f"utterance {u}: the feature {extractor.name} is not finite; please report it.")
    lengths = [len(s) for s in sequences]
    write_ragged(target, {"utterance_ids": ids}, lengths, sequences[0].shape[1], sequences)
    return len(ids)


def _settings(extractor: Extractor) -> dict[str, object]:
    return getattr(extractor, "settings", None) or asdict(extractor)


def _texts(corpus: Corpus) -> list[str]:
    texts = corpus.table["text"].tolist()
    if not any(text.strip() for text in texts):
        raise MerLabError(f"corpus {corpus.name} has no text; fill the column text of its utterances.csv.")
    return texts


def _whole(part: Path, ids: list[str]) -> bool:
    try:
        return open_ragged(part).ids == ids
    except MerLabError:
        return False


def _content(path: Path) -> str:
    try:
        with path.open("rb") as f:
            h = sha256()
            for block in _blocks(f.read):
                h.update(block)
    except OSError as error:
        raise MerLabError(f"{path}: the audio file cannot be read ({error.strerror}).") from None
    return h.hexdigest()


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(1 << 20):
        yield block


def attached(corpus: Corpus, name: str) -> Ragged:
    """Pre-extracted features that were attached to a corpus folder (``mer-lab add-features``).

    Raises:
        MerLabError: the corpus has none of that name.
    """
    path = (corpus.root or Path()) / "features" / f"{name}.safetensors"
    if not path.exists():
        there = sorted(p.stem for p in path.parent.glob("*.safetensors")) if path.parent.is_dir() else []
        raise MerLabError(
            f"{path}: corpus {corpus.name} has no attached features {name!r}"
            f" (it has {', '.join(there) or 'none'}); attach them with `mer-lab add-features`."
        )
    return open_ragged(path).take(corpus.ids)
