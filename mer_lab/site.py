"""The course as a site to read: lessons with their outputs, exercises and documents; no network needed.

``python -m mer_lab.site`` gathers the pages in a temporary folder that mirrors the checkout, so that links
between them hold as they stand, and has Sphinx (docs/conf.py) make HTML of them. Nothing is executed.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath

import jupyter_server_mathjax
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from mer_lab.errors import MerLabError
from mer_lab.figures import read_json
from mer_lab.files import ROOT, atomic_folder, write_text
from mer_lab.lessons import lesson_paths
from mer_lab.pages import title_and_question

NAVIGATION = {
    "Start": ["docs/install"],
    "Lessons": ["notebooks/[0-9][0-9]_*"],
    "Practice": ["notebooks/exercises/index", "notebooks/solutions/index", "docs/project"],
    "For lecturers": ["docs/syllabus", "docs/grading", "docs/add_a_lesson"],
    "For researchers": ["docs/add_a_system", "docs/add_a_corpus", "docs/data_statement", "docs/cards/index"],
    "The project": ["docs/*", "CONTRIBUTING", "CHANGELOG"],
}
"""The parts of the navigation and the pages of each in order; a pattern takes what none before it took."""

FOLDERS = {
    "notebooks/exercises": (
        "Exercises\n\nThree or four to a lesson, from easy to hard, each with a check that names the "
        "misconception. Open them in `notebooks/exercises/`, or download one into that folder."
    ),
    "notebooks/solutions": (
        "Solutions\n\nOne good answer to each exercise. Try first: what you once got wrong, you remember."
    ),
}  # fmt: skip
"""Folders that are one entry of the navigation, which opens to their pages; what that entry's page says."""

_APART = "_apart"  # what pages show or offer and is no page itself
_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")


def build(out: str | Path = "build/site", notebooks: str | Path | None = None, root: Path = ROOT) -> Path:
    """Make the site of the checkout ``root``; returns the path of its first page.

    The folder ``out`` is written whole or not at all, and takes the place of a site made earlier.

    Args:
        notebooks: folder of lessons to show, such as ``build/course``; by default the committed ones.

    Raises:
        MerLabError: Sphinx or docs/ is missing; ``out`` holds something else than a site; a page has a
            mistake, such as a link that leads nowhere: the first is named.
    """
    out = Path(out)
    if not (root / "docs" / "conf.py").is_file():
        raise MerLabError(f"{root}: no docs/conf.py here; the site is made from the checkout of mer_lab.")
    if out.exists() and not (out / ".buildinfo").is_file() and (out.is_file() or any(out.iterdir())):
        raise MerLabError(f"{out} holds something else than a site: name another place, or empty it.")
    with tempfile.TemporaryDirectory() as folder, atomic_folder(out) as made:
        source, pages = Path(folder).resolve() / "source", Path(folder) / "html"
        Sources(root.resolve(), source, Path(notebooks or root / "notebooks")).write()
        _sphinx(source, root / "docs", pages, Path(folder) / "doctrees")
        shutil.copytree(pages, made, dirs_exist_ok=True)  # MyST-NB writes beside Sphinx's folder, too
        mathjax = Path(jupyter_server_mathjax.__file__).parent / "static"
        unused = shutil.ignore_patterns("localization", "a11y", "SVG")
        shutil.copytree(mathjax, made / "_static" / "mathjax", ignore=unused)
    return out / "index.html"


class Sources:
    """The pages of the checkout ``root``, as Sphinx is to find them in the folder ``source``.

    Raises:
        MerLabError: there are no lessons in ``notebooks``.
    """

    def __init__(self, root: Path, source: Path, notebooks: Path) -> None:
        self.root, self.source, self.lessons = root, source, lesson_paths(notebooks)
        self.files = {f"notebooks/{path.name}": path for path in self.lessons}
        for pattern in (
            "notebooks/exercises/*.ipynb", "notebooks/solutions/*.ipynb", "docs/*.md", "docs/cards/*.md",
            "CONTRIBUTING.md", "CHANGELOG.md",
        ):  # fmt: skip
            self.files |= {path.relative_to(root).as_posix(): path for path in sorted(root.glob(pattern))}
        self.first = self.files.pop("docs/index.md")

    def write(self) -> None:
        """Write every page, the pages of folders, and the first page with the navigation."""
        for name, path in self.files.items():
            page = self._notebook(name) if path.suffix == ".ipynb" else self._document(name)
            write_text(self.source / name, page)
        pages = [name.rpartition(".")[0] for name in self.files]
        for folder, words in FOLDERS.items():
            inside = []
            for name, path in self.files.items():
                if name.startswith(f"{folder}/"):
                    title = title_and_question(nbformat.read(path, as_version=4), path.stem)[0]
                    inside.append(f"{title.partition(':')[0]} </{name.rpartition('.')[0]}>")
            if inside:
                page = f"# {words}\n{_toctree(inside, ':maxdepth: 1')}"
                write_text(self.source / folder / "index.md", page)
                pages.append(f"{folder}/index")
        self._first_page(pages)

    def _first_page(self, pages: list[str]) -> None:
        """docs/index.md with the list of lessons; it moves up a folder, and so do its links."""
        seconds = read_json(self.root / "results" / "lesson_seconds.json").get("cpu", {})
        rows, titles = [], {}
        for path in self.lessons:
            title, question = title_and_question(nbformat.read(path, as_version=4), path.stem)
            took = f" <small>{seconds[path.stem]['seconds']:.0f} s</small>" if path.stem in seconds else ""
            rows.append(f"- [{title}](notebooks/{path.name}){took}\\\n  {question}")
            titles[f"notebooks/{path.stem}"] = title
        text = self.first.read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!\w+:|#|\.\./)", "](docs/", text).replace("](../", "](")
        text = self._linked(text, "index.md").replace("<!-- lessons -->", "\n".join(rows))
        for caption, patterns in NAVIGATION.items():
            found = []
            for pattern in patterns:
                found += [page for page in pages if PurePosixPath(page).match(pattern) and page not in found]
            pages = [page for page in pages if page not in found]
            entries = [f"{titles[page]} <{page}>" if page in titles else page for page in found]
            text += _toctree(entries, ":hidden:", f":caption: {caption}") if entries else ""
        write_text(self.source / "index.md", text)

    def _document(self, name: str) -> str:
        text = self._linked(self.files[name].read_text(encoding="utf-8"), name)
        if not name.startswith("docs/cards/") or name.endswith("/index.md"):
            return text
        # too many for a menu: their index lists them, and they lead back to it
        title, _, rest = text.partition("\n")
        return f"---\norphan: true\n---\n{title}\n\n{{.neighbours}}\n[All model cards](index.md)\n{rest}"

    def _notebook(self, name: str) -> str:
        """One notebook as a page: links to its neighbours under its title, alt text where MyST-NB looks."""
        notebook = nbformat.read(self.files[name], as_version=4)
        links = [f"{{download}}`Download this notebook </{self._apart(name)}>`"]
        for folder, label in (("", "Lesson"), ("exercises/", "Exercises"), ("solutions/", "Solutions")):
            other = f"notebooks/{folder}{PurePosixPath(name).name}"
            # who reads a lesson is led to its exercises, and from these to their solutions
            if other in self.files and other != name and (name.count("/") == 2 or label == "Exercises"):
                links.append(f"[{label}](/{other})")
        neighbours = f"{{.neighbours}}\n{' · '.join(links)}"
        cells = []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self._linked(cell.source, name)
                if neighbours and cell.source.lstrip().startswith("# "):
                    title, _, rest = cell.source.lstrip().partition("\n")
                    cells += [new_markdown_cell(title), new_markdown_cell(neighbours)]
                    cell.source, neighbours = rest, ""
            cells += _one_image_each(cell)
        notebook.cells = cells
        notebook.metadata["language_info"] = {"name": "python"}  # one that never ran has none
        return nbformat.writes(notebook)

    def _linked(self, text: str, name: str) -> str:
        """Markdown whose links hold on the site.

        A file of the repository that is no page comes along, to be downloaded; a link to a folder leads to
        its page, or keeps its words only; an image from the network becomes its description.
        """

        def follow(match: re.Match) -> str:
            mark, words, target = match[1], match[2], match[3].partition("#")[0]
            if re.match(r"\w+:", target):
                return words if mark and target.startswith("http") else match[0]
            path = Path(os.path.normpath(self.root / PurePosixPath(name).parent / target))
            inside = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""
            if not target or not inside or inside in self.files:
                return match[0]
            if path.is_dir():
                made = inside in FOLDERS and any(file.startswith(f"{inside}/") for file in self.files)
                page = made or f"{inside}/index.md" in self.files
                return f"[{words}](/{inside}/index.md)" if page else words
            if not path.is_file():
                # Sphinx will complain, and say of which line; the first page may name what is not there yet
                return words if name == "index.md" else match[0]
            place = self._apart(inside)
            return f"![{words}](/{place})" if mark else f"{{download}}`{words} </{place}>`"

        return _LINK.sub(follow, text)

    def _apart(self, name: str) -> str:
        """Bring a file along, for download or display; returns its place in ``source``."""
        path = self.source / _APART / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.files.get(name, self.root / name), path)
        return f"{_APART}/{name}"


def _one_image_each(cell: NotebookNode) -> list[NotebookNode]:
    """The cell, in parts with at most one image each: MyST-NB knows one alt text and width a cell."""
    if cell.cell_type != "code":
        return [cell]
    parts, outputs, cell.outputs = [cell], cell.outputs, []
    for output in outputs:
        kind = next((kind for kind in output.get("data", {}) if kind.startswith("image/")), None)
        if kind and "mystnb" in parts[-1].metadata:
            # its source is not shown again, but a cell without one would be dropped
            parts.append(new_code_cell(cell.source, metadata={"tags": ["remove-input"]}))
        if kind:
            about = output.metadata.get(kind, {})
            image = {key: str(about[key]) for key in ("alt", "width", "height") if key in about}
            parts[-1].metadata["mystnb"] = {"image": image}
        parts[-1].outputs.append(output)
    return parts


def _toctree(entries: list[str], *options: str) -> str:
    return "\n".join(["", "```{toctree}", *options, "", *entries, "```", ""])


def _sphinx(source: Path, configuration: Path, out: Path, doctrees: Path) -> None:
    """Run Sphinx; whatever it complains of, the site is not made."""
    try:
        from sphinx.application import Sphinx
        from sphinx.errors import SphinxError
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError as error:
        raise MerLabError('the site needs Sphinx: pip install "mer_lab[course,site]".') from error
    warnings = io.StringIO()
    try:
        with patch_docutils(configuration), docutils_namespace():
            Sphinx(source, configuration, out, doctrees, "html", status=None, warning=warnings).build()
    except SphinxError as error:
        raise MerLabError(f"the site was not made: {error}") from error
    # without colours, our temporary folder, and the "lines" of a notebook, which are cells × 10,000
    said = re.sub(r"\x1b\[[0-9;]*m|(?<=\.ipynb):\d+", "", warnings.getvalue())
    if lines := said.replace(f"{source}{os.sep}", "").splitlines():
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise MerLabError(f"the site was not made: {lines[0]}{more}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all well, 1 the site was not made."""
    parser = argparse.ArgumentParser(prog="python -m mer_lab.site", description=__doc__)
    parser.add_argument("--out", default="build/site", help="where the site goes")
    parser.add_argument("--notebooks", help="lessons to show, such as build/course; else the committed ones")
    given = parser.parse_args(arguments)
    try:
        print(f"Open {build(given.out, given.notebooks)}")
    except MerLabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
