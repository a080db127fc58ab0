"""A grid of runs, recipes × corpora × seeds, from one small TOML file, and what has come of it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path

from mer_lab.comparison import as_text, asked, compare, truth_of
from mer_lab.corpora.staged import StagedConfig
from mer_lab.errors import MerLabError
from mer_lab.experiments import collect
from mer_lab.files import write_text
from mer_lab.models.baselines import BASELINES
from mer_lab.recipes import find_recipe
from mer_lab.records import Recipe, Result
from mer_lab.runs import finished, seed_folder, tested_on
from mer_lab.train_config import TrainConfig

GRIDS = Path(__file__).parent / "grids"

Run = tuple[Recipe, int]
"""One recipe with one seed."""


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
    corpora: list = ()
    controls: dict = ()
    robustness: list = ()
    staged: dict = ()
    train: dict = ()


_KINDS = {"list": (list, "a list of names"), "dict": (dict, "a table"), "str": (str, "a name"),
          "int": (int, "a whole number of at least 1")}  # fmt: skip


def find_grid(name: str | Path) -> Grid:
    """A grid that comes with mer_lab, or one from a TOML file.

    Raises:
        MerLabError: neither, not TOML, an unknown, mistyped or missing setting, recipe or control, or a
            recipe that predicts a score: a grid compares classes.
    """
    path = Path(name) if Path(name).suffix == ".toml" else GRIDS / f"{name}.toml"
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        known = ", ".join(sorted(p.stem for p in GRIDS.glob("*.toml")))
        raise MerLabError(f"there is no grid {str(name)!r}; choose {known}, or a .toml file.") from None
    except tomllib.TOMLDecodeError as error:
        raise MerLabError(f"{path}: not valid TOML: {error}.") from None
    kinds = {f.name: _KINDS[f.type] for f in fields(_Spec)}
    for key, value in given.items():
        if key not in kinds:
            raise MerLabError(f"{path}: unknown setting {key!r}; known are {', '.join(kinds)}.")
        kind, expected = kinds[key]
        if not isinstance(value, kind) or (kind is int and not value >= 1):
            raise MerLabError(f"{path}: {key} is {value!r}, expected {expected}.")
        names = value if kind is list else value.values() if key == "controls" else ()
        if wrong := [x for x in names if not isinstance(x, str)]:
            raise MerLabError(f"{path}: {key} holds {wrong[0]!r}, expected names.")
    if not given.get("recipes"):
        raise MerLabError(f'{path}: recipes is missing; give a list of names, such as ["early", "hcam"].')
    try:
        return _grid(path.stem, _Spec(**given))
    except (MerLabError, TypeError) as error:
        raise MerLabError(f"{path}: {error}") from None


def _grid(name: str, spec: _Spec) -> Grid:
    recipes, control = {}, {}
    train, staged = dict(spec.train), dict(spec.staged)
    if unknown := [key for key in train if key not in TrainConfig.__dataclass_fields__]:
        raise MerLabError(f"unknown setting {unknown[0]!r} of [train].")
    StagedConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in staged.items()})  # complains
    for corpus in spec.corpora or [""]:
        mark = f"@{Path(corpus).name}" if len(spec.corpora) > 1 else ""
        for given in spec.recipes:
            recipe = find_recipe(given)
            against = dict(spec.controls).get(recipe.name, spec.control)
            if len(recipe.seeds) > 1:
                recipe = replace(recipe, seeds=tuple(range(spec.seeds)))
            recipe = replace(
                recipe, name=recipe.name + mark, corpus=corpus or recipe.corpus,
                staged=recipe.staged | staged, train=replace(recipe.train, **train),
            )  # fmt: skip
            if recipe.train.target != "label":
                raise MerLabError(f"{recipe.name} predicts a score; a grid compares classes.")
            if recipe.name in recipes:
                raise MerLabError(f"the recipe {recipe.name!r} stands twice.")
            recipes[recipe.name] = recipe
            if against and recipe.name != against + mark:
                control[recipe.name] = against + mark
    for one, other in control.items():
        if other not in recipes:
            raise MerLabError(f"the control {other!r} is not among the recipes.")
        if _compared(recipes[one]) != _compared(recipes[other]):
            raise MerLabError(f"{one} and its control {other} have no corpus, fold and monitor in common.")
    hardened = tuple(n for n in recipes if n.partition("@")[0] in spec.robustness)
    if unknown := [n for n in spec.robustness if n not in {x.partition("@")[0] for x in recipes}]:
        raise MerLabError(f"{unknown[0]!r} of robustness is not among the recipes.")
    if without := [n for n in hardened if recipes[n].model.get("name") in BASELINES]:
        raise MerLabError(f"{without[0]} of robustness is a baseline, which leaves no model to test.")
    return Grid(name, tuple(recipes.values()), control, hardened)


def _compared(recipe: Recipe) -> tuple:
    """What two recipes must share to stand in one table."""
    return recipe.corpus, repr(recipe.staged), recipe.scheme, recipe.fold, recipe.train.monitor


def finished_rows(recipe: Recipe, folder: str | Path) -> list[dict | None]:
    """What each seed of a recipe left in a folder; None of those that have not ended."""
    return [finished(recipe, seed, folder) for seed in recipe.seeds]


def results(grid: Grid, folder: str | Path) -> list[Result]:
    """What a grid has given so far: a result of each recipe whose seeds are all finished.

    Raises:
        MerLabError: a run was tested on other utterances than the corpus holds now.
    """
    found, tests = [], {}
    for recipe in grid.recipes:
        if all(rows := finished_rows(recipe, folder)):
            same = _compared(recipe)
            if same not in tests:
                tests[same] = asked(recipe)
            for row in rows:
                tested_on(row, tests[same], seed_folder(recipe, row["seed"], folder))
            found.append(collect(recipe, tests[same], rows))
    return found


def report(grid: Grid, found: list[Result], folder: str | Path) -> list[tuple[str, Path]]:
    """Save the results and write a table of those that share corpus, fold and monitor.

    Returns:
        of each table its text and its CSV file: ``GRID.csv``, or ``GRID-CORPUS-SCHEME-FOLD-MONITOR.csv``
        where there are several.
    """
    folder, tables = Path(folder), []
    together: dict[tuple, list[Result]] = {}
    for result in found:
        result.save(folder)
        together.setdefault(_compared(result.recipe), []).append(result)
    for (corpus, _, *rest), members in together.items():
        parts = [Path(corpus).name, *rest] if len(together) > 1 else []
        path = folder / ("-".join([grid.name, *(p.replace("=", "") for p in parts if p)]) + ".csv")
        frame = compare(members, grid.control, truth_of(members[0]))
        write_text(path, frame.to_csv())
        tables.append((as_text(frame), path))
    return tables
