"""Work in several processes that do not outstay it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import joblib

IDLE_SECONDS = 8
"""joblib keeps its processes for more work, by default for five minutes, and as long they hold open the pipe
that this process prints to. A few seconds let one run follow another without starting them anew."""


def in_processes(jobs: Iterable, workers: int, ordered: bool = True) -> Iterator[Any]:
    """Results of ``joblib.delayed`` jobs, as they come; with one worker they run in this very process."""
    kind = "generator" if ordered else "generator_unordered"
    # one job at a time: joblib would bundle short ones, and a kill lose the bundle
    pool = joblib.Parallel(
        workers, backend="loky", return_as=kind, batch_size=1, idle_worker_timeout=IDLE_SECONDS
    )
    yield from pool(jobs)
