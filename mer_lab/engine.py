"""The work at a grid: whoever is at it takes what is missing, and nothing is done twice.

A run is finished when its ``run.json`` is there, and in work while somebody holds its lock, which the system
lets go even of a killed process. So any number of commands, on one machine or on several that share the
folder, may work at the same grid at the same time. A network disk must know file locks for that, as NFS 4 and
Lustre mounted with ``flock`` do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list, gather_object
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from mer_lab.degrade import KINDS, VERSION
from mer_lab.errors import MerLabError
from mer_lab.experiments import open_corpus, run_seed, trained
from mer_lab.features.encoders import this_process
from mer_lab.files import digest, explain_os_errors, locked, write_text
from mer_lab.grid import Grid, Run, finished_rows, results
from mer_lab.parallel import in_processes
from mer_lab.records import Recipe, Result
from mer_lab.robustness import robustness
from mer_lab.runs import BUSY, FREE, claimed, finished, seed_folder

STRIKES = 3
"""Times in a row that processes may die before a run is finished."""
ANSWERS = 20
"""Seconds in which a scheduler has to answer."""
VISIBLE = 60
"""Seconds after which what a worker has finished must be seen in the folder."""
_ALONE = threading.Lock()  # two runs in threads of one process would share torch's random numbers


def run_grid(
    grid: Grid, folder: str | Path, workers: int = 1, scheduler: str = "", progress: bool = True
) -> list[Result]:
    """Run what is missing of a grid in a folder; returns the results of the recipes that are complete.

    Args:
        workers: processes on this machine, each with its share of the cores. Under ``accelerate launch`` the
            processes train one run after the other together.
        scheduler: address of a Dask scheduler, whose workers see the same folder: they do the work.

    Raises:
        MerLabError: runs that failed, by name and with their reason, once all others have ended; processes
            that die again and again; workers that write to another folder.
    """
    folder = Path(folder).resolve()
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    missing = _missing(grid.runs, folder)
    failed: dict[str, str] = {}
    ended: dict[str, float] = {}  # by what was said, not by what is seen
    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    with tqdm(total=len(grid.runs), initial=len(grid.runs) - len(missing), unit="run", **quiet) as bar:
        while missing:
            for name, state in _rounds(missing, folder, workers, scheduler):
                bar.set_postfix_str(name)
                bar.update(state == "")
                if state == "":
                    ended.setdefault(name, time.monotonic())
                elif state != BUSY:
                    failed[name] = state
            missing = [run for run in _missing(missing, folder) if _name(run) not in failed]
            for name in map(_name, missing):
                if time.monotonic() - ended.get(name, time.monotonic()) > VISIBLE:
                    raise MerLabError(f"{name} has ended and is not in {folder}: do all workers see it?")
            if missing:
                time.sleep(1)  # others are at these
    if failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise MerLabError(f"{len(failed)} of {len(grid.runs)} runs failed; the others are kept.\n{reasons}")
    return results(grid, folder)


def _missing(runs: list[Run], folder: Path) -> list[Run]:
    """The runs that are not finished; of launched processes, what the first of them sees."""
    missing = [run for run in runs if finished(*run, folder) is None]
    return broadcast_object_list([missing])[0] if this_process().num_processes > 1 else missing


def _rounds(runs: list[Run], folder: Path, workers: int, scheduler: str) -> Iterator[tuple[str, str]]:
    """Each run's name and what became of it: "", "busy" or the reason of its failure."""
    if this_process().num_processes > 1:
        return _together(runs, folder)
    if scheduler:
        return _on_cluster(runs, folder, scheduler)
    if workers > 1:
        return _in_processes(runs, folder, workers)
    return (attempt(*run, folder) for run in runs)


def attempt(recipe: Recipe, seed: int, folder: Path, threads: int | None = None) -> tuple[str, str]:
    """Do a run unless it is done or in work; its name and ``""``, ``"busy"`` or the reason of its failure."""
    name = _name((recipe, seed))
    try:
        with _ALONE, claimed(recipe, seed, folder) as state:
            if state == FREE:
                run_seed(recipe, seed, folder, progress=False, threads=threads)
        return name, BUSY if state == BUSY else ""
    except Exception as error:  # whatever it is, it must not end the runs beside it
        return name, _reason(error)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MerLabError) else f"{type(error).__name__}: {error}"


def _survived(work: Callable[[], Iterator]) -> Iterator:
    """Goes through what ``work()`` yields, and calls it anew where the system has killed a process."""
    strikes = 0
    while True:
        try:
            for result in work():
                strikes = 0
                yield result
            return
        except TerminatedWorkerError:  # as the system does where memory runs out
            strikes += 1
            if strikes == STRIKES:
                raise MerLabError(
                    f"the processes were killed {STRIKES} times in a row, most likely for want of memory; "
                    "what is finished is kept: go on with fewer --workers."
                ) from None


def _in_processes(runs: list[Run], folder: Path, workers: int) -> Iterator[tuple[str, str]]:
    threads, told = max(1, joblib.cpu_count() // workers), set()

    def work() -> Iterator[tuple[str, str]]:
        jobs = (joblib.delayed(attempt)(*run, folder, threads) for run in runs if _name(run) not in told)
        return in_processes(jobs, workers, ordered=False)

    for name, state in _survived(work):
        told.add(name)
        yield name, state


def _together(runs: list[Run], folder: Path) -> Iterator[tuple[str, str]]:
    """All launched processes at one run after the other; what one of them cannot do has failed."""
    for run in runs:
        states = gather_object([attempt(*run, folder)[1]])
        yield _name(run), next((s for s in states if s), "")


def _on_cluster(runs: list[Run], folder: Path, scheduler: str) -> Iterator[tuple[str, str]]:
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError:
        raise MerLabError('a scheduler needs Dask: pip install "mer_lab[cluster]".') from None
    try:
        client = Client(scheduler, timeout=ANSWERS)
    except (OSError, ValueError) as error:
        raise MerLabError(f"no Dask scheduler answers at {scheduler}: {error}.") from None
    with client:
        futures = {client.submit(attempt, *run, folder, pure=False): _name(run) for run in runs}
        for future in as_completed(futures):
            try:
                yield future.result()
            except KilledWorker:
                yield futures[future], "its worker died again and again, most likely for want of memory."
            except Exception as error:  # such as a worker that has another mer_lab
                yield futures[future], _reason(error)


def run_robustness(grid: Grid, folder: str | Path, workers: int = 1) -> pd.DataFrame:
    """Curves over degraded test data of the grid's finished recipes that ask for them; done once each.

    Returns:
        the rows of :func:`mer_lab.robustness.robustness` with a column ``system``.

    Raises:
        MerLabError: whatever the degradations complain about, or processes that die again and again.
    """
    folder = Path(folder).resolve()
    ready = [r for r in grid.recipes if r.name in grid.robustness and all(finished_rows(r, folder))]
    if this_process().num_processes > 1 or workers == 1:
        frames = [_curves(recipe, folder) for recipe in ready]
    else:
        threads = max(1, joblib.cpu_count() // workers)

        def work() -> Iterator[pd.DataFrame]:
            return in_processes((joblib.delayed(_curves)(r, folder, threads) for r in ready), workers)

        frames = list(_survived(work))[-len(ready) :] if ready else []
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _curves(recipe: Recipe, folder: Path, threads: int | None = None) -> pd.DataFrame:
    """Kept under a name that changes with the models and with what is done to the data."""
    if threads is not None:
        torch.set_num_threads(threads)
    answered = [row["probabilities"] for row in finished_rows(recipe, folder)]
    key = digest(*answered, repr(sorted(KINDS.items())), str(VERSION), length=10)
    path = seed_folder(recipe, 0, folder).parent / f"robustness-{key}.csv"
    state = this_process()
    if not (broadcast_object_list([path.exists()])[0] if state.num_processes > 1 else path.exists()):
        models = [trained(recipe, seed, folder) for seed in recipe.seeds]
        frame = robustness(models, recipe, open_corpus(recipe), progress=False)
        frame.insert(0, "system", recipe.name)
        if state.is_main_process:
            with locked(path):
                write_text(path, frame.to_csv(index=False))
        state.wait_for_everyone()
    return pd.read_csv(path)


def _name(run: Run) -> str:
    return f"{run[0].name} seed {run[1]}"
