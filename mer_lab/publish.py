"""The published tables: from `results/` to its summaries and to the README, never typed.

``python -m mer_lab.publish [--runs FOLDER]``, which ``make publish`` calls.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pandas as pd

from mer_lab.comparison import as_text, compare, truth_of
from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT, read_json, write_json
from mer_lab.files import write_text
from mer_lab.grid import GRIDS, Grid, find_grid, results
from mer_lab.provenance import together
from mer_lab.recipes import recorded
from mer_lab.records import Result


def gather(grid: Grid, runs: str | Path, folder: str | Path = ROOT / "results") -> list[Path]:
    """Take a grid's finished results out of the folder of its runs; an older result of the same name goes."""
    taken = []
    for result in results(grid, runs):
        for old in Path(folder).glob(f"{result.recipe.name}-*.json"):
            if re.fullmatch(rf"{re.escape(result.recipe.name)}-[0-9a-f]{{10}}", old.stem):
                old.unlink()
        taken.append(result.save(folder))
    curves = Path(runs) / f"{grid.name}-robustness.csv"
    if curves.exists():
        rows = pd.read_csv(curves).round(6).to_dict("list")
        rows["level"] = [None if pd.isna(x) else x for x in rows["level"]]
        write_json(Path(folder) / f"robustness_{grid.name}.json", rows)
    return taken


def recorded_results(grid: Grid, folder: str | Path = ROOT / "results") -> list[Result]:
    """What is recorded of a grid's recipes; nothing where nothing of it is recorded.

    Raises:
        MerLabError: a part of it is missing, or was run otherwise than the grid says.
    """
    found = {recipe.name: recorded(recipe.name, folder) for recipe in grid.recipes}
    if not any(found.values()):
        return []
    for recipe in grid.recipes:
        result = found[recipe.name]
        if result is None or (result.recipe.hash, result.recipe.seeds) != (recipe.hash, recipe.seeds):
            raise MerLabError(
                f"{folder} does not hold {recipe.name} as grid {grid.name} has it, with {len(recipe.seeds)} "
                f"seed(s); run `mer-lab compare {grid.name}` and take its results."
            )
    return list(found.values())


def published(grid: Grid, folder: str | Path = ROOT / "results") -> tuple[list[Result], pd.DataFrame]:
    """The recorded results of a grid, and the table that follows from their predictions.

    Raises:
        MerLabError: a part is not recorded, or the corpus that holds the labels is not on this machine.
    """
    found = recorded_results(grid, folder)
    if not found:
        raise MerLabError(f"nothing of grid {grid.name} is recorded in {folder}.")
    return found, compare(found, grid.control, truth_of(found[0]))


def summary(grid: Grid, folder: str | Path = ROOT / "results") -> pd.DataFrame:
    """The table of a grid as it was last published, to six digits."""
    rows = read_json(Path(folder) / f"comparison_{grid.name}.json")["systems"]
    words = ("metric", "control")
    return pd.DataFrame(rows).T.astype({c: float for c in next(iter(rows.values())) if c not in words})


def publish(folder: str | Path = ROOT / "results", readme: str | Path = ROOT / "README.md") -> list[str]:
    """Write ``comparison_NAME.json`` of every grid and the tables of the README; returns what was done."""
    said, text = [], Path(readme).read_text(encoding="utf-8")
    for path in sorted(GRIDS.glob("*.toml")):
        grid = find_grid(path.stem)
        target = Path(folder) / f"comparison_{grid.name}.json"
        if not (found := recorded_results(grid, folder)):
            continue
        try:
            truth = truth_of(found[0])
        except MerLabError as error:  # no copy of the corpus here: what was published stays
            said.append(f"{grid.name}: left as it is. {error}")
        else:
            frame = compare(found, grid.control, truth)
            write_json(target, {"systems": plain(frame), **together([r.provenance for r in found])})
            said.append(f"{grid.name}: {len(found)} systems.")
        if target.exists() and f"<!-- table {grid.name} -->" in text:
            text = with_table(text, grid.name, as_text(summary(grid, folder), markdown=True))
    write_text(readme, text)
    return said


def plain(frame: pd.DataFrame) -> dict[str, dict]:
    """Rows as JSON: numbers to six digits, None where a column does not apply."""
    rows = json.loads(frame.to_json(orient="index", double_precision=6))
    return {str(name): row for name, row in rows.items()}


def with_table(text: str, name: str, table: str) -> str:
    """A text whose part between ``<!-- table NAME -->`` and ``<!-- end NAME -->`` is the table.

    Raises:
        MerLabError: it has no such part.
    """
    begin, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise MerLabError(f"the README needs one line {begin!r} and one line {end!r} around its table.")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="first take the results of the runs in this folder")
    given = parser.parse_args()
    try:
        if given.runs:
            for path in sorted(GRIDS.glob("*.toml")):
                gather(find_grid(path.stem), given.runs)
        print("\n".join(publish()))
    except MerLabError as error:
        print(f"mer_lab.publish: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
