"""Notebooks that were handed in, run with our checks, and a table of what passed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
import pandas as pd
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.reader import NotJSONError
from tqdm.auto import tqdm

from mer_lab.errors import MerLabError
from mer_lab.execution import client_of, kernel_environment
from mer_lab.exercises.checking import all_exercises
from mer_lab.figures import ROOT
from mer_lab.files import write_text

LARGEST = 20 * 2**20
"""Bytes of a notebook that is read."""
_COLUMNS = ["student", "notebook", "exercise", "title", "passed", "message"]


def grade_folder(
    folder: str | Path, out: str | Path | None = None, seconds: int = 120, root: Path = ROOT
) -> pd.DataFrame:
    """Run every notebook ``NN_*.ipynb`` below a folder; a row an exercise: student, passed, message.

    A student is a folder (or, of notebooks that lie in ``folder`` itself, ``""``). Cells that check are taken
    from our solutions by their ids and end as ours do, so that an edited or deleted check counts for nothing;
    what the student's own code did to Python before them is beyond this. A notebook that cannot be run has
    each of its exercises as not passed, with the reason.

    Args:
        out: CSV to write.
        seconds: that a cell may take.

    Raises:
        MerLabError: there is no such folder, or no such notebook in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MerLabError(f"{folder}: there is no such folder; give the folder of the notebooks handed in.")
    solutions = {p.name: p for p in sorted((root / "notebooks" / "solutions").glob("[0-9][0-9]_*.ipynb"))}
    found = [p for p in sorted(folder.rglob("[0-9][0-9]_*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    unknown = [p for p in found if p.name not in solutions]
    found = [p for p in found if p.name in solutions]
    if not found:
        more = f"; {unknown[0].name} is no exercise of this course" if unknown else ""
        raise MerLabError(f"{folder}: no notebook with the name of an exercise is below it{more}.")
    rows = []
    for path in tqdm(found, desc="grading", unit="notebook"):
        student = path.parent.relative_to(folder).as_posix().removeprefix(".")
        messages = _grade(path, solutions[path.name], seconds)
        for _, known in all_exercises():
            if known.number.startswith(path.name[:2]):
                message = messages.get(known.number, "its check was not reached")
                rows.append([student, path.name, known.number, known.title, not message, message])
    table = pd.DataFrame(rows, columns=_COLUMNS)
    if out is not None:
        write_text(out, table.to_csv(index=False))
    return table


def summary(table: pd.DataFrame) -> str:
    """How many checks each student passed, and the exercises that most did not."""
    by = table.groupby("student")["passed"].agg(["sum", "count"])
    lines = [f"{student or '(no folder)'}: {n} of {of} exercises" for student, n, of in by.itertuples()]
    hard = table.groupby(["exercise", "title"])["passed"].mean().sort_values().head(3)
    missed = [f"{n} {title} ({share:.0%} passed)" for (n, title), share in hard.items() if share < 1]
    return "\n".join(lines + (["hardest: " + "; ".join(missed)] if missed else []))


def _grade(path: Path, solution: Path, seconds: int) -> dict[str, str]:
    """What each exercise of a notebook was told, ``""`` where it passed."""
    ours = nbformat.read(solution, as_version=4)
    numbers = [e.number for _, e in all_exercises() if e.number.startswith(path.name[:2])]
    try:
        theirs = with_our_checks(_read(path), ours)
        _execute(theirs, seconds)
    except MerLabError as error:
        return dict.fromkeys(numbers, str(error))
    except Exception as error:  # whatever a file can be: the others are still to be graded
        return dict.fromkeys(numbers, f"{path.name} could not be run ({type(error).__name__}).")
    told = {}
    checks = [cell for cell in theirs.cells if cell.metadata.get("mer_lab_check")]
    for number, cell in zip(numbers, checks, strict=True):
        passed = any(o.get("metadata", {}).get("mer_lab", {}).get("exercise") == number for o in cell.outputs)
        error = next((o.evalue for o in cell.outputs if o.output_type == "error"), "")
        told[number] = error or ("" if passed else "its check said nothing")
    return told


def with_our_checks(theirs: NotebookNode, ours: NotebookNode) -> NotebookNode:
    """The notebook handed in, each of its check cells replaced by ours; those that are missing come last.

    An import of our checks stands before each, so that a name taken for something else is ours again.
    """
    for cell in theirs.cells:
        cell.metadata.pop("mer_lab_check", None)
    imports = next(
        line for cell in ours.cells for line in cell.source.splitlines() if line.endswith(" as check")
    )
    checks = {c.id: c for c in ours.cells if "check" in c.metadata.get("tags", [])}
    for cell in checks.values():
        cell.source = f"{imports}\n{cell.source}"
        cell.metadata["mer_lab_check"] = True
    kept = [checks.pop(cell.get("id"), cell) if cell.cell_type == "code" else cell for cell in theirs.cells]
    order = {c.id: k for k, c in enumerate(ours.cells)}
    theirs.cells = [*kept, *checks.values()]
    ranks = [order[c.id] for c in theirs.cells if c.metadata.get("mer_lab_check")]
    if ranks != sorted(ranks):
        raise MerLabError("its check cells were put into another order; put them back as they were.")
    return theirs


def _read(path: Path) -> NotebookNode:
    if path.stat().st_size > LARGEST:
        raise MerLabError(f"{path.name} has more than {LARGEST >> 20} MB; clear its outputs.")
    try:
        return nbformat.read(path, as_version=4)
    except (NotJSONError, ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:80]
        raise MerLabError(f"{path.name} is not a notebook ({reason}).") from None


def _execute(notebook: NotebookNode, seconds: int) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what they say of an earlier run is no evidence
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        client = client_of(notebook, folder, timeout=seconds, allow_errors=True)
        try:
            client.execute(env=kernel_environment("smoke", Path(folder) / "figures"))
        except CellTimeoutError:
            raise MerLabError(f"a cell took longer than {seconds} seconds and was stopped.") from None
        except DeadKernelError:
            raise MerLabError("its Python died, most often for want of memory.") from None
