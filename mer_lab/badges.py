"""Badges that open the lessons on Colab and Binder, and the cell that fetches the course there.

``python -m mer_lab.badges https://github.com/NAME/mer_lab`` writes a fork's address into the README and every
lesson; until somebody does, there is no badge and the cell does nothing. It writes into cells tagged
``hosted``, which do not count as a lesson's source: no output depends on them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT
from mer_lab.files import write_text
from mer_lab.lessons import lesson_paths

TAG = "hosted"
_MARK = re.compile(r"<!-- badges -->.*?<!-- end badges -->", re.DOTALL)
_ADDRESS = re.compile(r"https://github\.com/([\w-]{1,39}/[\w.-]{1,100})")
_FETCH = '''\
# Colab has nothing but this notebook: there, this cell fetches the rest. Anywhere else it does nothing.
import os
import subprocess
import sys

address = "{address}"
if "google.colab" in sys.modules and address:
    if not os.path.isdir("mer_lab"):  # Colab may ask for a restart after it
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, "mer_lab"], check=True)
    options = ["--quiet", "--editable", "mer_lab[course]", "--constraint", "mer_lab/constraints.txt"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    sys.path.insert(0, "mer_lab")'''


def write_badges(address: str, root: Path = ROOT) -> list[Path]:
    """Put badges and the fetching cell of an address into the README and the lessons; gives what changed.

    Args:
        address: ``https://github.com/NAME/REPOSITORY``; ``""`` takes the badges out again.

    Raises:
        MerLabError: another kind of address.
    """
    found = _ADDRESS.fullmatch(address.removesuffix("/").removesuffix(".git"))
    if address and not found:
        raise MerLabError(f"{address!r} is no repository's address; write https://github.com/NAME/mer_lab.")
    name = found[1] if found else ""
    changed = []
    for path in lesson_paths(root / "notebooks"):
        notebook = with_badges(nbformat.read(path, as_version=4), name, path.name)
        changed += _write(path, nbformat.writes(notebook) + "\n")
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    shown = badges(name, "notebooks/00_start_here.ipynb")
    changed += _write(readme, _MARK.sub(f"<!-- badges -->{shown}<!-- end badges -->", text))
    return changed


def with_badges(notebook: NotebookNode, name: str, file: str) -> NotebookNode:
    """The lesson with its hosted cells: badges where there is an address, and what fetches."""
    old = {c.cell_type: c for c in notebook.cells if TAG in c.metadata.get("tags", [])}
    cells = [c for c in notebook.cells if TAG not in c.metadata.get("tags", [])]
    fetch = old.get("code") or nbformat.v4.new_code_cell(id="hosted-fetch")
    fetch.source = _FETCH.format(address=f"https://github.com/{name}" if name else "")
    extra = [fetch]
    if name:
        shown = old.get("markdown") or nbformat.v4.new_markdown_cell(id="hosted-badges")
        shown.source = badges(name, f"notebooks/{file}")
        extra = [shown, fetch]
    for cell in extra:
        cell.metadata["tags"] = [TAG]
    notebook.cells = [*cells[:1], *extra, *cells[1:]]
    return notebook


def badges(name: str, path: str) -> str:
    """Markdown of the two badges; ``""`` without a repository's name."""
    if not name:
        return ""
    colab = f"https://colab.research.google.com/github/{name}/blob/HEAD/{path}"
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?labpath={path.replace('/', '%2F')}"
    return f"[Open in Colab]({colab}) · [Open in Binder]({binder})"


def _write(path: Path, text: str) -> list[Path]:
    if path.read_text(encoding="utf-8") == text:
        return []
    write_text(path, text)
    return [path]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m mer_lab.badges https://github.com/NAME/mer_lab", file=sys.stderr)
        return 2
    try:
        for path in write_badges(arguments[0]):
            print(path.name)
    except MerLabError as error:
        print(f"mer_lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
