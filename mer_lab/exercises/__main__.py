"""``python -m mer_lab.exercises``: list the exercises, make the notebooks to hand out, grade what returns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mer_lab.errors import MerLabError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


@app.command("list")
def list_exercises() -> None:
    """Every exercise with its level, minutes and check.

    Example: python -m mer_lab.exercises list
    """
    from mer_lab.exercises import all_exercises

    for name, found in all_exercises():
        typer.echo(f"{found.number}  {found.level:6}  {found.minutes:3} min  {found.title}  [{name}]")


@app.command()
def stubs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if one is stale.")
    ] = False,
) -> None:
    """Make notebooks/exercises from notebooks/solutions.

    Example: python -m mer_lab.exercises stubs
    """
    from mer_lab.exercises.stubs import make_stubs

    changed = make_stubs(check=check)
    for path in changed:
        typer.echo(f"{path.name} {'is stale: run python -m mer_lab.exercises stubs' if check else 'written'}")
    if check and changed:
        raise typer.Exit(1)


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="Folder of the notebooks handed in, a folder a student.")],
    out: Annotated[Path, typer.Option(help="CSV to write: a row an exercise and notebook.")] = Path(
        "grades.csv"
    ),
    seconds: Annotated[int, typer.Option(min=1, help="Longest that a cell may run.")] = 120,
) -> None:
    """Run every notebook below a folder and write which checks it passes.

    The checks are ours, whatever stands in the notebook. It runs what students wrote: use a machine,
    container or account that has nothing to lose.

    Example: python -m mer_lab.exercises grade submissions --out grades.csv
    """
    from mer_lab.exercises.grading import grade_folder, summary

    table = grade_folder(folder, out, seconds)
    typer.echo(f"{summary(table)}\n\n{out}")


if __name__ == "__main__":
    try:
        app()
    except MerLabError as error:
        print(f"mer_lab: {error}", file=sys.stderr)
        sys.exit(1)
