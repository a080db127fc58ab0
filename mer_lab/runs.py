"""Where a run, one recipe with one seed, is kept; whether it is finished, and who is at it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.features.encoders import this_process
from mer_lab.files import digest, explain_os_errors
from mer_lab.records import Recipe

_ROW = (
    "seed", "utterances", "validation", "test", "log", "probabilities", "measures", "coalitions", "provenance"
)  # fmt: skip
FREE, DONE, BUSY = "free", "done", "busy"


def seed_folder(recipe: Recipe, seed: int, folder: str | Path) -> Path:
    """Where a seed's checkpoints, model and answers are kept."""
    return Path(folder) / f"{recipe.name}-{recipe.hash}" / f"seed-{seed}"


def finished(recipe: Recipe, seed: int, folder: str | Path) -> dict | None:
    """What :func:`mer_lab.experiments.run_seed` has written of a seed; None where it has not ended.

    Raises:
        MerLabError: the file is not one of mer_lab.
    """
    path = seed_folder(recipe, seed, folder) / "run.json"
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return {name: row[name] for name in _ROW}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError):
        raise MerLabError(f"{path} is not a finished run of this mer_lab; delete it to run again.") from None


@contextmanager
def claimed(recipe: Recipe, seed: int, folder: str | Path, wait: bool = False) -> Iterator[str]:
    """Hold a run's lock, and yield whether the run is free, done, or busy elsewhere, where it is not held.

    Of processes that were launched together the first holds the lock, and all are told the same.

    Raises:
        MerLabError: the folder cannot be written, or does not know file locks.
    """
    place, state = seed_folder(recipe, seed, folder), this_process()
    lock, found = FileLock(place / ".lock", fallback_to_soft=False), FREE
    if state.is_main_process:
        try:
            with explain_os_errors(place):
                place.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0)
            list(place.iterdir())  # a network disk may remember that a file was not there
            found = FREE if finished(recipe, seed, folder) is None else DONE
        except Timeout:
            found = BUSY
        except MerLabError as error:
            found = error
        except (OSError, NotImplementedError) as error:
            found = MerLabError(f"{place}: no file can be locked here ({error}); choose another disk.")
    try:
        if state.num_processes > 1:
            found = broadcast_object_list([found])[0]
        if isinstance(found, MerLabError):
            raise found
        yield found
        state.wait_for_everyone()
    finally:
        lock.release()


def tested_on(row: dict, test: Dataset, place: Path) -> dict:
    """The row of a finished run, if it was tested on these utterances.

    Raises:
        MerLabError: it was not.
    """
    if row["utterances"] != identity(test):
        raise MerLabError(
            f"{place} was tested on other utterances: the corpus has changed since; choose a new folder."
        )
    return row


def identity(test: Dataset) -> str:
    """Changes with the test utterances and the label scheme."""
    return digest(*test.corpus.ids, *test.corpus.labels)
