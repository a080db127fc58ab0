"""FeatureStore: extract once, read through a memory map ever after."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from mer_lab.audio import read_audio
from mer_lab.corpora import Corpus
from mer_lab.errors import BudgetError, MerLabError
from mer_lab.features.encoders import this_process
from mer_lab.files import cache_dir, digest, locked, write_text
from mer_lab.parallel import in_processes
from mer_lab.ragged import Ragged, open_ragged, write_ragged

PART = 128
"""Utterances in a batch, for an extractor that has no plan of its own."""
WORTH = 8
"""Batches for which it pays to start another process, which takes seconds."""
BUDGET = 4 * 2**30
"""Bytes that all processes of an extraction may take together for weights and batches, on a CPU."""


class Extractor(Protocol):
    """What the store asks of an extractor: a frozen dataclass of settings, called with one utterance.

    One of channel ``"audio"`` gets a wave ``(N,)`` at its ``rate``, one of channel ``"text"`` a string.

    Optional members: ``settings``, a dict of what decides the numbers where the fields alone do not
    (weights); ``first``, seconds to the centre of the first frame, where that is not 0;
    ``extract_many(list)``, where several together are faster and give the same numbers; and
    ``plan(utterances, budget)``, the batches in which to ask for them, given the texts or the paths of the
    audio files, and bytes of memory for its ``weights`` (bytes, 0 where it has none) and a batch.
    """

    name: str
    version: int
    channel: str
    hop: float | None

    @property
    def names(self) -> list[str]: ...

    def __call__(self, utterance: np.ndarray | str) -> np.ndarray: ...


@dataclass
class Speed:
    """How fast an extraction went: seconds of audio, and seconds that it took."""

    audio: float = 0.0
    took: float = 0.0

    def __str__(self) -> str:
        rate = self.audio / max(self.took, 1e-9)
        return (
            f"{self.audio / 3600:.2f} hours of audio in {self.took:.0f} s: {rate / 3600:.3f} hours a second, "
            f"{rate:.0f} times real time"
        )


class FeatureStore:
    """A folder of feature files, each keyed by the audio or text, the extractor's settings and its version.

    Args:
        folder: where the files are; the user's cache by default.

    Attributes:
        speed: of the last extraction from audio, None where everything was there already.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else cache_dir() / "features"
        self.speed: Speed | None = None

    def get(
        self, corpus: Corpus, extractor: Extractor, workers: int | None = None, budget: float | None = None
    ) -> Ragged:
        """Features of every utterance of a corpus, as of :meth:`get_all`."""
        return self.get_all(corpus, [extractor], workers, budget)[0]

    def get_all(
        self, corpus: Corpus, extractors: Sequence[Extractor], workers: int | None = None,
        budget: float | None = None,
    ) -> list[Ragged]:  # fmt: skip
        """Features of every utterance by each extractor, extracted if they are not there yet.

        A file is decoded once for all extractors that lack it. A killed extraction goes on where it stopped
        when it is asked for again, having lost a batch a process at most, and ends with the same bytes. What
        is extracted beside an utterance never changes its features. Started by ``accelerate launch``, the
        processes share the batches, each on its own device.

        Args:
            workers: processes; by default one a core, for networks one for two cores, fewer for a few
                batches, and one where there is an accelerator. Processes launched together start no others.
            budget: bytes for weights and batches of all processes: :data:`BUDGET`, or most of what is free on
                an accelerator. What was begun keeps its batches; delete its ``.partial`` folder for others.

        Raises:
            MerLabError: an utterance has no audio, or audio that cannot be read; no utterance has text; the
                disk is full; the budget is too small for one utterance.
        """
        self.speed = None
        content: dict[str, list[str]] = {}
        asked: list[Path] = []
        keyed: dict[Path, Extractor] = {}
        for extractor in extractors:
            channel = extractor.channel
            content[channel] = content.get(channel) or _contents(corpus, channel)
            settings = repr([extractor.name, extractor.version, sorted(_settings(extractor).items())])
            key = digest(settings, *corpus.ids, *content[channel])
            asked.append(self.folder / f"{extractor.name}-{key}.safetensors")
            keyed[asked[-1]] = extractor
        together: dict[tuple, list[Path]] = {}  # what reads the same utterances in the same form
        for path, extractor in keyed.items():
            together.setdefault((extractor.channel, getattr(extractor, "rate", 0)), []).append(path)
        state = this_process()
        for paths in together.values():
            with ExitStack() as locks:
                if state.is_main_process and not all(path.exists() for path in paths):
                    for path in sorted(paths):
                        locks.enter_context(locked(path))
                missing = [path for path in paths if not path.exists()]
                if state.num_processes > 1:  # all must be of one mind
                    missing = broadcast_object_list([missing])[0]
                if missing:
                    self._extract(corpus, {path: keyed[path] for path in missing}, workers, budget, state)
        return [open_ragged(path) for path in asked]

    def _extract(self, corpus: Corpus, wanted: dict[Path, Extractor], workers, budget, state) -> None:
        channel = next(iter(wanted.values())).channel
        utterances = _utterances(corpus, channel)
        worth = 1 if workers else WORTH
        cores, heavy = os.cpu_count() or 1, any(hasattr(e, "weights") for e in wanted.values())
        alone = state.device.type != "cpu"
        workers = workers or (1 if alone else max(1, cores // 2) if heavy else cores)  # a network uses two
        workers = 1 if state.num_processes > 1 else workers  # they would take themselves for this very one
        if budget is None:
            budget = BUDGET if state.device.type != "cuda" else 0.7 * torch.cuda.mem_get_info(state.device)[0]
        shared = state.num_processes if state.device.type == "cpu" else 1  # one memory for all
        if workers < 1:
            raise MerLabError(f"workers is {workers}, expected at least 1.")
        if state.is_main_process:
            workers = _write_plans(wanted, utterances, workers, budget / shared)
        state.wait_for_everyone()
        plans: dict[str, list[Path]] = {}
        for path in wanted:
            plans.setdefault((_partial(path) / "plan.json").read_text(encoding="utf-8"), []).append(path)
        jobs = []
        for plan, paths in plans.items():
            for k, rows in enumerate(json.loads(plan)):
                ids = [corpus.ids[row] for row in rows]
                parts = [(wanted[path], _partial(path) / f"{k:06d}.safetensors") for path in paths]
                parts = [(extractor, part) for extractor, part in parts if not _whole(part, ids)]
                if parts and k % state.num_processes == state.process_index:
                    jobs.append((channel, ids, [utterances[row] for row in rows], parts))
        workers = min(workers, max(1, len(jobs) // worth))
        threads = max(1, (os.cpu_count() or 1) // (workers * state.num_processes))
        self._run(jobs, workers, threads, channel, state.is_main_process)
        state.wait_for_everyone()
        if state.is_main_process:
            for path, extractor in wanted.items():
                _join(path, extractor, corpus.ids)
        state.wait_for_everyone()

    def _run(self, jobs: list[tuple], workers: int, threads: int, channel: str, shown: bool) -> None:
        kept, start, speed = torch.get_num_threads(), time.perf_counter(), Speed()
        if channel == "audio":
            self.speed = speed
        if workers == 1:
            done = (_compute(*job, threads) for job in _ahead(_load, jobs))
        else:
            work = (joblib.delayed(_load_and_compute)(job, threads) for job in jobs)
            done = in_processes(work, workers, ordered=False)
        quiet = {} if shown else {"disable": True}  # given, it would overrule TQDM_DISABLE
        total = sum(len(ids) for _, ids, *_ in jobs)
        try:
            with tqdm(total=total, desc="extracting", unit="utt", leave=False, **quiet) as bar:
                for count, seconds in done:
                    speed.audio, speed.took = speed.audio + seconds, time.perf_counter() - start
                    bar.update(count)
                    if channel == "audio":
                        bar.set_postfix_str(f"{speed.audio / speed.took:.0f} times real time", refresh=False)
        finally:
            torch.set_num_threads(kept)  # a single worker is this very process


def _write_plans(wanted: dict[Path, Extractor], utterances: list, workers: int, budget: float) -> int:
    """Write the batches of each file that is made; what was begun keeps its own. Returns the workers."""
    planners = [extractor for extractor in wanted.values() if hasattr(extractor, "plan")]
    weights = [getattr(extractor, "weights", 0) for extractor in planners]
    plans = [[range(k, min(k + PART, len(utterances))) for k in range(0, len(utterances), PART)]]
    while planners:
        rooms = [budget / workers - sum(weights) + own for own in weights]  # all stand in memory together
        try:
            plans = [e.plan(utterances, room) for e, room in zip(planners, rooms, strict=True)]
            break
        except BudgetError:  # fewer processes have more each
            if workers <= 1:
                raise
            workers //= 2
    order = [int(row) for rows in plans[0] for row in rows]  # the same in all: only the cuts differ
    ends = sorted({0}.union(*(accumulate(map(len, plan)) for plan in plans)))
    batches = [order[a:b] for a, b in pairwise(ends)]
    for path in wanted:
        if not (_partial(path) / "plan.json").is_file():
            write_text(_partial(path) / "plan.json", json.dumps(batches))
    return workers


def _ahead(function: Callable, items: Sequence) -> Iterator:
    """``map``, two items ahead in threads of their own: files are decoded while the network computes."""
    with ThreadPoolExecutor(2) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load(job: tuple) -> tuple:
    """The job with its audio decoded, once for all of its extractors."""
    channel, ids, utterances, parts = job
    if channel == "audio":
        utterances = [read_audio(path, parts[0][0].rate) for path in utterances]
    return channel, ids, utterances, parts


def _compute(channel: str, ids: list[str], utterances: list, parts: list, threads: int) -> tuple[int, float]:
    """Write each extractor's part; returns utterances, and seconds of audio."""
    torch.set_num_threads(threads)
    for extractor, part in parts:
        many = getattr(extractor, "extract_many", None)
        sequences = many(utterances) if many else [extractor(u) for u in utterances]
        for u, frames in zip(ids, sequences, strict=True):
            if not np.isfinite(frames).all():
                raise MerLabError(
                    f"utterance {u}: the feature {extractor.name} is not finite; please report it."
                )
        lengths = [len(s) for s in sequences]
        write_ragged(part, {"utterance_ids": ids}, lengths, sequences[0].shape[1], sequences)
    samples = sum(map(len, utterances)) if channel == "audio" else 0
    return len(ids), samples / getattr(parts[0][0], "rate", 1)


def _load_and_compute(job: tuple, threads: int) -> tuple[int, float]:
    return _compute(*_load(job), threads)


def _join(target: Path, extractor: Extractor, ids: list[str]) -> None:
    """All parts in the corpus's order."""
    parts = sorted(_partial(target).glob("*.safetensors"))
    place = {u: (part, k) for part in parts for k, u in enumerate(open_ragged(part).ids)}
    opened = lru_cache(maxsize=64)(open_ragged)  # a map holds its file open, and few may be
    lengths = [int(opened(part).lengths[k]) for part, k in (place[u] for u in ids)]
    frames = (opened(part)[k] for part, k in (place[u] for u in ids))
    meta = {
        "name": extractor.name, "channel": extractor.channel, "columns": extractor.names,
        "utterance_ids": ids, "version": extractor.version, "hop": extractor.hop,
        "first": getattr(extractor, "first", 0.0), "settings": _settings(extractor),
    }  # fmt: skip
    write_ragged(target, meta, lengths, len(extractor.names), frames)
    opened.cache_clear()
    shutil.rmtree(_partial(target))


def _partial(target: Path) -> Path:
    return target.with_suffix(".partial")


def _settings(extractor: Extractor) -> dict[str, object]:
    return getattr(extractor, "settings", None) or asdict(extractor)


def _utterances(corpus: Corpus, channel: str) -> list:
    if channel == "audio":
        return [corpus.audio_path(u) for u in corpus.ids]
    texts = corpus.table["text"].tolist()
    if not any(text.strip() for text in texts):
        raise MerLabError(f"corpus {corpus.name} has no text; fill the column text of its utterances.csv.")
    return texts


def _contents(corpus: Corpus, channel: str) -> list[str]:
    utterances = _utterances(corpus, channel)
    if channel == "text":
        return utterances
    bar = tqdm(utterances, desc="reading audio", leave=False, disable=len(utterances) < 20000)
    return [_content(path) for path in bar]


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
