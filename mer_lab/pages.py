"""The course as HTML pages that need no network: one for each lesson, and an index."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jinja2
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from mer_lab import __version__
from mer_lab.files import TEMPLATES


def lesson_page(notebook: NotebookNode, lesson: str, order: list[str]) -> str:
    """A lesson as one HTML page beside ``mathjax/``: readable width, alt text, nothing from the network."""
    exporter = HTMLExporter(
        template_name="lesson",
        extra_template_basedirs=[str(TEMPLATES)],
        mathjax_url="mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    at = order.index(lesson)
    links = [(order[at - 1], f"← {order[at - 1]}") if at else ("", ""), ("index", "All lessons")]
    links.append((order[at + 1], f"{order[at + 1]} →") if at + 1 < len(order) else ("", ""))
    nav = "".join(
        f'<a href="{target}.html">{text}</a>' if target else "<span></span>" for target, text in links
    )
    resources = {
        "metadata": {"name": title_and_question(notebook, lesson)[0]},
        "page_css": _css(),
        "page_nav": f'<nav aria-label="Lessons">{nav}</nav>',
    }
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def with_files(page: str, folder: Path, out: Path) -> str:
    """The page, and beside it in ``out/files`` what it links to of the checkout: exercises, the project.

    Args:
        folder: of the notebook that the page was made of, from which its links start.
    """

    def bring(link: re.Match) -> str:
        target = link[1]
        source = (folder / target).resolve()
        if ":" in target or source.parent == folder.resolve() and source.is_file() or not source.exists():
            return link[0]  # of elsewhere, another lesson, or nothing at all
        kept = Path("files") / source.parent.name / source.name
        (out / kept).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignore = shutil.ignore_patterns(".*")
            shutil.copytree(source, out / kept, dirs_exist_ok=True, ignore=ignore)
        else:
            shutil.copyfile(source, out / kept)
        return link[0].replace(target, kept.as_posix())

    return re.sub(r'<a href="([^"#]+)"', bring, page)


def index_page(rows: list[dict[str, Any]]) -> str:
    """The index: a row a lesson, from :func:`summary`, with ``scale``, ``seconds`` and ``error`` added."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    rows = [row | {"took": _took(row["seconds"])} for row in rows]
    total = _took(sum(row["seconds"] for row in rows))
    return environment.get_template("course.html.j2").render(
        rows=rows, css=_css(), total=total, version=__version__
    )


def summary(notebook: NotebookNode, lesson: str) -> dict[str, Any]:
    """What the index says of an executed lesson: title, question, claims made and passed, first figure."""
    title, question = title_and_question(notebook, lesson)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    marks = [output.get("metadata", {}).get("mer_lab", {}) for output in outputs]
    claims = [mark["claim"] for mark in marks if "claim" in mark]
    first = next((o for o, mark in zip(outputs, marks, strict=True) if "figure" in mark), None)
    return {
        "lesson": lesson,
        "title": title,
        "question": question,
        "claims": len(claims),
        "passed": None if None in claims else sum(claims),
        "figure": f"figures/{first.metadata.mer_lab.figure}" if first else "",
        "tables": [mark["table"] for mark in marks if "table" in mark],
        "alt": first.metadata["image/png"]["alt"] if first else "",
    }


def title_and_question(notebook: NotebookNode, lesson: str) -> tuple[str, str]:
    """A lesson's title and question: "# 01 Corpora. What is a label?", or heading and the line after it."""
    for cell in notebook.cells:
        lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
        if cell.cell_type == "markdown" and lines and lines[0].startswith("# "):
            title, _, question = lines[0][2:].partition(". ")
            return title, question or (lines[1].strip("*_> ") if len(lines) > 1 else "")
    return lesson, ""


def _took(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.1f} minutes"


def _css() -> str:
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")
