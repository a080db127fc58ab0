"""A grid of runs, recipes × corpora × seeds: whoever works at it takes what is missing, and nothing twice.

A run is one recipe with one seed. It is finished when its ``run.json`` is there, and in work while somebody
holds its lock, which the system lets go even of a killed process. So any number of commands, on one machine
or on several that share the folder, may work at the same grid at the same time.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import joblib
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from mer_lab.comparison import as_text, asked, compare, truth_of
from mer_lab.errors import MerLabError
from mer_lab.experiments import collect, finished, open_corpus, run_seed, seed_folder, trained
from mer_lab.features.encoders import this_process
from mer_lab.files import explain_os_errors, locked, write_text
from mer_lab.parallel import in_processes
from mer_lab.recipes import find_recipe
from mer_lab.records import Recipe, Result
from mer_lab.robustness import robustness
from mer_lab.train_config import TrainConfig

GRIDS = Path(__file__).parent / "grids"
STRIKES = 3
"""Times in a row that processes may die before a run is finished."""
ANSWERS = 20
"""Seconds in which a scheduler has to answer."""

Run = tuple[Recipe, int]


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        recipes: their ``seeds`` are those of the grid, or the single one of a recipe that has no randomness.
        control: name of a recipe → that of its text-only control, which its fusion is held against.
        robustness: names of those that are also tested on degraded data.
    """

    name: str
    recipes: tuple[Recipe, ...]
    control: dict[str, str]
    robustness: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """All runs; the first seed of every recipe comes first."""
        pairs = [(k, recipe, seed) for recipe in self.recipes for k, seed in enumerate(recipe.seeds)]
        return [(recipe, seed) for _, recipe, seed in sorted(pairs, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class _Spec:
    """The tables and keys of a grid's TOML file.

    ``recipes`` are names or TOML files, ``corpora`` replace that of each recipe, ``control`` is the text-only
    control of all but those that ``controls`` name; ``robustness`` are the names of recipes; ``staged`` and
    ``train`` replace settings of all.
    """

    recipes: list
    seeds: int = 5
    control: str = ""
    corpora: list | None = None
    controls: dict | None = None
    robustness: list | None = None
    staged: dict | None = None
    train: dict | None = None


def find_grid(name: str | Path) -> Grid:
    """A grid that comes with mer_lab, or one from a TOML file.

    Raises:
        MerLabError: neither, not TOML, an unknown or missing setting, recipe or control.
    """
    path = Path(name) if Path(name).suffix == ".toml" else GRIDS / f"{name}.toml"
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        known = ", ".join(sorted(p.stem for p in GRIDS.glob("*.toml")))
        raise MerLabError(f"there is no grid {str(name)!r}; choose {known}, or a .toml file.") from None
    except tomllib.TOMLDecodeError as error:
        raise MerLabError(f"{path}: not valid TOML: {error}.") from None
    known = [f.name for f in fields(_Spec)]
    if unknown := [key for key in given if key not in known]:
        raise MerLabError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(known)}.")
    spec = _Spec(**({"recipes": []} | given))
    if not isinstance(spec.recipes, list) or not spec.recipes:
        raise MerLabError(f'{path}: recipes is missing; give a list of names, such as ["early", "hcam"].')
    if not isinstance(spec.seeds, int) or spec.seeds < 1:
        raise MerLabError(f"{path}: seeds is {spec.seeds!r}, expected a whole number of at least 1.")
    try:
        return _grid(path.stem, spec)
    except (MerLabError, TypeError) as error:
        raise MerLabError(f"{path}: {error}") from None


def _grid(name: str, spec: _Spec) -> Grid:
    recipes, control = [], {}
    for corpus in spec.corpora or [None]:
        mark = f"@{Path(corpus).name}" if corpus and len(spec.corpora) > 1 else ""
        for given in spec.recipes:
            recipe = find_recipe(given)
            against = (spec.controls or {}).get(recipe.name, spec.control)
            if len(recipe.seeds) > 1:
                recipe = replace(recipe, seeds=tuple(range(spec.seeds)))
            train = spec.train or {}
            if unknown := [key for key in train if key not in TrainConfig.__dataclass_fields__]:
                raise MerLabError(f"unknown setting {unknown[0]!r} of [train].")
            recipe = replace(
                recipe, name=recipe.name + mark, corpus=corpus or recipe.corpus,
                staged=recipe.staged | (spec.staged or {}), train=replace(recipe.train, **train),
            )  # fmt: skip
            recipes.append(recipe)
            if against and recipe.name != against + mark:
                control[recipe.name] = against + mark
    names = [recipe.name for recipe in recipes]
    hardened = tuple(n for n in names if n.partition("@")[0] in (spec.robustness or []))
    if twice := [n for n in names if names.count(n) > 1]:
        raise MerLabError(f"the recipe {twice[0]!r} stands twice.")
    if missing := sorted(set(control.values()) - set(names)):
        raise MerLabError(f"the control {missing[0]!r} is not among the recipes.")
    if unknown := [n for n in spec.robustness or [] if n not in {x.partition("@")[0] for x in names}]:
        raise MerLabError(f"{unknown[0]!r} of robustness is not among the recipes.")
    return Grid(name, tuple(recipes), control, hardened)


def run_grid(
    grid: Grid, folder: str | Path, workers: int = 1, scheduler: str = "", progress: bool = True
) -> list[Result]:
    """Run what is missing of a grid in a folder; returns the results of the recipes that are complete.

    Args:
        workers: processes on this machine, each with its share of the cores. Under ``accelerate launch`` the
            processes train one run after the other together.
        scheduler: address of a Dask scheduler, whose workers see the same folder: they do the work.

    Raises:
        MerLabError: runs that failed, by name and with their reason, once all others have ended; or processes
            that die again and again.
    """
    folder = Path(folder).resolve()
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    missing = [run for run in grid.runs if finished(*run, folder) is None]
    failed: dict[str, str] = {}
    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    with tqdm(total=len(grid.runs), initial=len(grid.runs) - len(missing), unit="run", **quiet) as bar:
        while missing:
            for name, state in _rounds(missing, folder, workers, scheduler):
                bar.set_postfix_str(name)
                bar.update(state == "")
                if state not in ("", BUSY):
                    failed[name] = state
            missing = [
                run for run in missing if finished(*run, folder) is None and _name(run) not in failed
            ]
            if missing:
                time.sleep(1)  # others are at these
    if failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise MerLabError(f"{len(failed)} of {len(grid.runs)} runs failed; the others are kept.\n{reasons}")
    return results(grid, folder)


def results(grid: Grid, folder: str | Path) -> list[Result]:
    """What a grid has given so far: a result of each recipe whose seeds are all finished."""
    found, tests = [], {}
    for recipe in grid.recipes:
        if all(rows := _rows(recipe, folder)):
            key = repr([recipe.corpus, recipe.staged, recipe.scheme, recipe.fold])
            if key not in tests:
                tests[key] = asked(recipe)
            found.append(collect(recipe, tests[key], rows))
    return found


def run_robustness(grid: Grid, folder: str | Path, workers: int = 1) -> pd.DataFrame:
    """Curves over degraded test data of the grid's finished recipes that ask for them; done once each.

    Returns:
        the rows of :func:`mer_lab.robustness.robustness` with a column ``system``.
    """
    folder = Path(folder).resolve()
    ready = [r for r in grid.recipes if r.name in grid.robustness and all(_rows(r, folder))]
    threads = max(1, (joblib.cpu_count() or 1) // workers)
    jobs = (joblib.delayed(_curves)(recipe, folder, threads) for recipe in ready)
    frames = list(in_processes(jobs, workers)) if workers > 1 else [_curves(r, folder) for r in ready]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _curves(recipe: Recipe, folder: Path, threads: int | None = None) -> pd.DataFrame:
    if threads is not None:
        torch.set_num_threads(threads)
    path = seed_folder(recipe, 0, folder).parent / "robustness.csv"
    with locked(path):
        if not path.exists():
            models = [trained(recipe, seed, folder) for seed in recipe.seeds]
            frame = robustness(models, recipe, open_corpus(recipe), progress=False)
            frame.insert(0, "system", recipe.name)
            write_text(path, frame.to_csv(index=False))
    return pd.read_csv(path)


def report(grid: Grid, found: list[Result], folder: str | Path) -> list[tuple[str, Path]]:
    """Save the results and write the table of each corpus as ``NAME.csv``; its text, and where it is."""
    folder, tables = Path(folder), []
    by_corpus: dict[str, list[Result]] = {}
    for result in found:
        result.save(folder)
        same = repr([result.utterances, result.labels, result.recipe.train.monitor])
        by_corpus.setdefault(same, []).append(result)
    for members in by_corpus.values():
        name = grid.name if len(by_corpus) == 1 else f"{grid.name}-{Path(members[0].recipe.corpus).name}"
        frame = compare(members, grid.control, truth_of(members[0]))
        write_text(folder / f"{name}.csv", frame.to_csv())
        tables.append((as_text(frame), folder / f"{name}.csv"))
    return tables


def _rows(recipe: Recipe, folder: str | Path) -> list[dict | None]:
    return [finished(recipe, seed, folder) for seed in recipe.seeds]


BUSY = "busy"


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
    place = seed_folder(recipe, seed, folder)
    try:
        with explain_os_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / ".lock", timeout=0):
                if finished(recipe, seed, folder) is None:  # somebody may have been quicker
                    run_seed(recipe, seed, folder, progress=False, threads=threads)
        return name, ""
    except Timeout:
        return name, BUSY
    except MerLabError as error:
        return name, str(error)


def _in_processes(runs: list[Run], folder: Path, workers: int) -> Iterator[tuple[str, str]]:
    threads = max(1, (joblib.cpu_count() or 1) // workers)
    left, strikes = list(runs), 0
    while left:
        try:
            jobs = (joblib.delayed(attempt)(*run, folder, threads) for run in left)
            for name, state in in_processes(jobs, workers, ordered=False):
                strikes = 0
                left = [run for run in left if _name(run) != name]
                yield name, state
        except TerminatedWorkerError:  # killed, as the system does where memory runs out
            strikes += 1
            if strikes == STRIKES:
                raise MerLabError(
                    f"the processes were killed {STRIKES} times in a row, most likely for want of memory; "
                    "what is finished is kept: go on with fewer --workers."
                ) from None


def _together(runs: list[Run], folder: Path) -> Iterator[tuple[str, str]]:
    """All launched processes at one run after the other; the first decides, so that all are of one mind."""
    state = this_process()
    for run in runs:
        done = broadcast_object_list([finished(*run, folder) is not None])[0]
        if not done:
            run_seed(*run, folder, progress=False)
        state.wait_for_everyone()
        yield _name(run), ""


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


def _name(run: Run) -> str:
    return f"{run[0].name} seed {run[1]}"

