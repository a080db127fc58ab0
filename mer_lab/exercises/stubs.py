"""From a notebook of solutions to the one that is handed out: every solution becomes a line to be replaced.

Solutions stand between nbgrader's two comments, ``### BEGIN SOLUTION`` and ``### END SOLUTION``, so that its
users can take them as they are. Cells tagged ``solution`` are only for those who read the solutions.
"""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT
from mer_lab.files import write_text
from mer_lab.lessons import lesson_paths

TODO = 'raise NotImplementedError("your code here")'
_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_SOLUTION = re.compile(rf"^([ \t]*){_BEGIN}[ \t]*\n.*?^[ \t]*{_END}[ \t]*$", re.DOTALL | re.MULTILINE)


def stub_of(solution: NotebookNode) -> NotebookNode:
    """A copy without outputs, in which :data:`TODO` stands for each solution.

    Raises:
        MerLabError: a mark without its partner, or no solution at all.
    """
    stub = deepcopy(solution)
    stub.cells = [cell for cell in stub.cells if "solution" not in cell.metadata.get("tags", [])]
    replaced = 0
    for number, cell in enumerate(stub.cells, 1):
        if cell.cell_type != "code":
            continue
        cell.source, count = _SOLUTION.subn(rf"\1{TODO}", cell.source)
        replaced += count
        if _BEGIN in cell.source or _END in cell.source:
            raise MerLabError(f"cell {number}: {_BEGIN} and {_END} must come in pairs, each on its own line.")
        cell.outputs, cell.execution_count = [], None
    if not replaced:
        raise MerLabError(f"no solution between {_BEGIN} and {_END} to take out.")
    return stub


def make_stubs(root: Path = ROOT, check: bool = False) -> list[Path]:
    """Write ``notebooks/exercises`` from ``notebooks/solutions``; gives the paths that changed.

    With ``check`` nothing is written, and the paths are those that would change.

    Raises:
        MerLabError: as of :func:`stub_of`, with the notebook's name; there are no solutions.
    """
    changed = []
    for path in lesson_paths(root / "notebooks" / "solutions"):
        try:
            text = nbformat.writes(stub_of(nbformat.read(path, as_version=4))) + "\n"
        except MerLabError as error:
            raise MerLabError(f"{path.name}, {error}") from None
        stub = root / "notebooks" / "exercises" / path.name
        if not stub.exists() or stub.read_text(encoding="utf-8") != text:
            changed.append(stub)
            if not check:
                write_text(stub, text)
    return changed
