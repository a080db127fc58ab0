"""The named recipes: what the lessons run, and what `mer-lab run NAME` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mer_lab.corpora.staged import StagedConfig
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, Result
from mer_lab.files import ROOT
from mer_lab.recipes import full, meld, ravdess, staged

_ALL = (*staged.RECIPES, *meld.RECIPES, *ravdess.RECIPES, *full.RECIPES)
RECIPES: dict[str, Recipe] = {r.name: r for r in _ALL}


class Sizes(Protocol):
    """What :func:`at_scale` reads of a lesson's scale."""

    staged: tuple[int, int, int]
    epochs: int
    seeds: int


def at_scale(recipe: Recipe, scale: Sizes) -> Recipe:
    """A recipe with the sizes of a scale: dialogues of the Staged corpus, epochs, seeds."""
    default = tuple(scale.staged) == StagedConfig().dialogues
    return replace(
        recipe,
        staged=recipe.staged if default else {**recipe.staged, "dialogues": list(scale.staged)},
        train=replace(recipe.train, epochs=min(recipe.train.epochs, scale.epochs)),
        seeds=recipe.seeds[:1] if len(recipe.seeds) == 1 else tuple(range(scale.seeds)),
    )


def live(name: str, scale: Sizes) -> Recipe:
    """A named recipe at a lesson's scale, with one seed: what a lesson trains while it is read."""
    return replace(at_scale(RECIPES[name], scale), seeds=(0,))


def find_recipe(name: str) -> Recipe:
    """A named recipe, or one from a TOML file.

    Raises:
        MerLabError: neither.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return Recipe.from_toml(path.read_text(encoding="utf-8-sig"), str(path))
        except UnicodeDecodeError:  # as Windows PowerShell 5 writes what is sent to a file with >
            raise MerLabError(f"{path}: is not text in UTF-8; save it again as UTF-8.") from None
        except OSError:
            raise MerLabError(f"{path}: there is no readable recipe file of that name.") from None
    raise MerLabError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}, or a .toml file.")


def recorded(name: str, folder: str | Path = ROOT / "results") -> Result | None:
    """The result that the repository records of a named recipe as it stands; None where there is none."""
    recipe = find_recipe(name)
    path = Path(folder) / f"{recipe.name}-{recipe.hash}.json"
    return Result.load(path) if path.exists() else None


def at_full_scale(names: Sequence[str]) -> str:
    """The command that runs each recipe, its hours and memory by estimate, and what is recorded of it."""
    lines = []
    for name in names:
        (hours, gib), result = full.expected(RECIPES[name]), recorded(name)
        score = f"{result.recipe.train.monitor} {result.summary()[0]:.3f}" if result else "nothing"
        cost = f"about {hours:.1f} h, {gib:.0f} GiB"
        lines.append(f"mer-lab run {name:24} --out runs  # {cost}; recorded: {score}")
    lines.append(f"accelerate launch -m mer_lab run {names[0]} --out runs  # on several accelerators")
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """A plain table of results: test scores as mean ± standard deviation over seeds, in per cent.

    Of results whose target is a score the mean absolute error, the correlation and Acc-7, as numbers.
    """
    if results and results[0].recipe.train.target == "score":
        rows = [["recipe", "corpus", "seeds", "MAE", "correlation", "Acc-7"]]
        metrics, unit, digits = ("mae", "correlation", "acc7"), 1, 3
    else:
        rows = [["recipe", "corpus", "seeds", "WA", "UA", "weighted F1", "macro F1"]]
        metrics, unit, digits = ("wa", "ua", "weighted_f1", "macro_f1"), 100, 1
    for result in results:
        cells = [result.recipe.name, Path(result.recipe.corpus).name, str(len(result.test))]
        for metric in metrics:
            mean, std = (unit * value for value in result.summary(metric))
            spread = f" ± {std:.{digits}f}" if len(result.test) > 1 else ""
            cells.append(f"{mean:.{digits}f}{spread}")
        rows.append(cells)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
