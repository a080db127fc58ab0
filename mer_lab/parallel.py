"""Work in several processes that end with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor


def in_processes(jobs: Iterable, workers: int, ordered: bool = True) -> Iterator[Any]:
    """Results of ``joblib.delayed`` jobs, as they come; with one worker they run in this very process.

    joblib keeps its processes for five minutes in case of more work. They would hold open the pipe that this
    process prints to, and whoever reads it would wait as long; so they are ended.
    """
    kind = "generator" if ordered else "generator_unordered"
    try:
        yield from joblib.Parallel(workers, return_as=kind)(jobs)
    finally:
        if workers > 1:
            get_reusable_executor().shutdown(wait=True)
