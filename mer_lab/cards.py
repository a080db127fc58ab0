"""Model cards of what is recorded in ``results/`` (Mitchell et al., FAT* 2019): generated, never typed.

``python -m mer_lab.cards`` writes ``docs/cards/``. Nothing but ``results/`` is read, so a card is the same on
every machine: where labels may not be handed on, its intervals are those that were published with its grid.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mer_lab.card_page import Card, as_markdown, index
from mer_lab.comparison import COLUMNS, compare, truth_of
from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT
from mer_lab.files import write_text
from mer_lab.grid import GRIDS, find_grid
from mer_lab.publish import summary
from mer_lab.recipes import RECIPES, recorded
from mer_lab.records import Result

CARDS = ROOT / "docs" / "cards"
RESULTS = ROOT / "results"


def cards(folder: Path = RESULTS) -> list[Card]:
    """A card for each recorded recipe, in the order of the recipes.

    A system outside a grid is held against the text-only control where both answered the same utterances, p
    corrected over all such systems. Where labels may not be handed on, it has the scores of its seeds alone.

    Raises:
        MerLabError: nothing is recorded.
    """
    results = {name: r for name in RECIPES if (r := recorded(name, folder))}
    if not results:
        raise MerLabError(f"{folder}: no recipe of mer_lab is recorded here.")
    found = {}
    for path in sorted(GRIDS.glob("*.toml")):
        grid = find_grid(path.stem)
        if (folder / f"comparison_{grid.name}.json").exists():
            table = summary(grid, folder)
            for name in (r.name for r in grid.recipes if r.name in results):
                found[name] = Card(
                    results[name], table.loc[name], grid.name, results.get(table.at[name, "control"])
                )
    families = defaultdict(list)
    for name, r in results.items():
        if name not in found:
            families[str(r.truth) if r.truth else name].append(r)
    for family in families.values():
        for r, row, control in _rows(family, results.get("text-bilstm")):
            found[r.recipe.name] = Card(r, row, "", control)
    return [found[name] for name in results]


def _rows(
    family: Sequence[Result], control: Result | None
) -> Iterator[tuple[Result, pd.Series, Result | None]]:
    """Rows of results with one truth, which no grid holds."""
    if not family[0].truth:
        for r in family:
            mean, spread = r.summary()
            learnt = float(np.median([row.get("learnt", np.nan) for row in r.validation]))
            row = {"score": 100 * mean, "spread": 100 * spread, "learnt": learnt}
            yield r, pd.Series(dict.fromkeys(COLUMNS, np.nan) | row, dtype=object), None
        return
    same = control is not None and control.truth == family[0].truth
    others = [r.recipe.name for r in family if same and r is not control]
    against = dict.fromkeys(others, "text-bilstm")
    frame = compare([*family, control] if same else family, against, truth_of(family[0]))
    for r in family:
        yield r, frame.loc[r.recipe.name], control if r.recipe.name in against else None


def pages(folder: Path = RESULTS) -> dict[str, str]:
    """File name → text of all cards and their index."""
    found = cards(folder)
    return {"index.md": index(found)} | {f"{c.name}.md": as_markdown(c, folder) for c in found}


def write_cards(out: Path = CARDS, folder: Path = RESULTS) -> list[Path]:
    """Write all pages; a card of what is no longer recorded goes."""
    wanted = pages(folder)
    for old in set(out.glob("*.md")) - {out / name for name in wanted}:
        old.unlink()
    for name, text in wanted.items():
        write_text(out / name, text)
    return [out / name for name in wanted]


def stale(out: Path = CARDS, folder: Path = RESULTS) -> list[str]:
    """Names of the pages that are missing, too many, or say something else than the results."""
    wanted = pages(folder)
    found = {path.name: path.read_text(encoding="utf-8") for path in out.glob("*.md")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a card is stale (``--check``) or cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m mer_lab.cards", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a card is stale"
    )
    check = parser.parse_args(arguments).check
    try:
        done = stale() if check else write_cards()
    except MerLabError as error:
        print(f"mer_lab.cards: {error}", file=sys.stderr)
        return 1
    if check:
        print(
            "\n".join(f"{name} is stale: run python -m mer_lab.cards" for name in done)
            or "The cards are in order."
        )
        return int(bool(done))
    print(f"{len(done)} pages written to docs/cards.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
