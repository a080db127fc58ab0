"""Run the lessons: build their pages, renew their committed outputs, check that these are honest.

``python -m mer_lab.lessons build|refresh|check``; the Makefile's ``course`` and ``refresh`` call it.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jupyter_server_mathjax
import nbformat
import pandas as pd
import torch
from nbformat import NotebookNode

from mer_lab import __version__
from mer_lab.course import SCALES
from mer_lab.errors import MerLabError
from mer_lab.execution import Ran, execute_all
from mer_lab.figures import ROOT, read_json, read_manifest, write_json, write_manifest
from mer_lab.files import digest, write_text
from mer_lab.pages import index_page, lesson_page, summary, with_files

_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~:/<-])/(?:home|Users|root|tmp|private|var|opt|usr|mnt|media|srv|work|workspace|data|content)/\w"
    r"|\b[A-Za-z]:\\{1,2}\w"
)
_DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")


def lesson_paths(folder: Path, only: str | None = None) -> list[Path]:
    """The notebooks ``NN_topic.ipynb`` of a folder in order, or those whose name starts with ``only``.

    Raises:
        MerLabError: there are none.
    """
    paths = sorted(path for path in folder.glob("[0-9][0-9]_*.ipynb") if path.name.startswith(only or ""))
    if not paths:
        wanted = f"{only}*.ipynb" if only else "NN_topic.ipynb"
        raise MerLabError(f"{folder}: no lesson {wanted} here; run this from the checkout of mer_lab.")
    return paths


def build(
    out: str | Path = "build/course",
    scale: str = "cpu",
    only: str | None = None,
    notebooks: str | Path = ROOT / "notebooks",
    jobs: int = 1,
) -> list[Ran]:
    """Execute the lessons; write notebooks, pages, figures and ``index.html`` to ``out``, nothing elsewhere.

    The pages need no network. A lesson that fails is reported and the others still run. With ``only``, the
    lessons built earlier keep their place in the index.

    Args:
        jobs: lessons that run at a time: each needs one core.
    """
    out = Path(out)
    paths = lesson_paths(Path(notebooks), only)
    order = [path.stem for path in lesson_paths(Path(notebooks))]
    shutil.copytree(
        Path(jupyter_server_mathjax.__file__).parent / "static", out / "mathjax", dirs_exist_ok=True
    )
    known = {row["lesson"]: row for row in read_json(out / "course.json").get("lessons", [])}
    runs = []
    for run in execute_all(_in_turn(paths, scale), scale, out / "figures", jobs):
        nbformat.write(run.notebook, out / run.path.name)
        page = with_files(lesson_page(run.notebook, run.lesson, order), run.path.parent, out)
        write_text(out / f"{run.lesson}.html", page)
        known[run.lesson] = summary(run.notebook, run.lesson) | {
            "scale": run.scale,
            "seconds": round(run.seconds, 1),
            "error": run.error,
        }
        for table in known[run.lesson]["tables"]:
            lines = pd.DataFrame(table["rows"], columns=table["columns"])
            write_text(out / table["file"], lines.to_csv(index=False))
        rows = [known[lesson] for lesson in order if lesson in known]
        write_json(out / "course.json", {"lessons": rows})
        write_text(out / "index.html", index_page(rows))
        runs.append(run)
    print(f"Open {out / 'index.html'}")
    return sorted(runs, key=lambda run: run.path)


def refresh(scale: str = "cpu", only: str | None = None, root: Path = ROOT) -> list[Ran]:
    """Execute the lessons of ``root/notebooks``; renew what is committed: outputs, stamps, figures, seconds.

    A lesson that fails keeps its old outputs. Each lesson also runs at ``smoke`` scale, for its seconds only.

    Raises:
        MerLabError: ``scale`` is one at which no claim is checked.
    """
    if not SCALES[scale].claims:
        raise MerLabError(f"Committed outputs show checked claims: refresh at cpu or gpu scale, not {scale}.")
    paths = lesson_paths(root / "notebooks", only)
    seconds_file = root / "results" / "lesson_seconds.json"
    figures = root / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for run in execute_all(paths, scale, Path(folder) / "cpu", MER_LAB_RESULTS=str(root / "results")):
            runs.append(run)
            if run.error:
                continue
            [smoke] = execute_all([run.path], "smoke", Path(folder) / "smoke")
            if smoke.error:
                runs.append(smoke)
                continue
            seconds = read_json(seconds_file)
            for timed in (run, smoke):
                row = {"seconds": round(timed.seconds, 1), "machine": _machine()}
                seconds.setdefault(timed.scale, {})[run.lesson] = row
            write_json(
                seconds_file, {key: dict(sorted(rows.items())) for key, rows in sorted(seconds.items())}
            )
            stamp = {"source_sha256": source_sha256(run.notebook), "scale": scale, "version": __version__}
            stamp |= {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}
            run.notebook.metadata["mer_lab"] = stamp
            write_text(run.path, nbformat.writes(run.notebook) + "\n")
            _replace_figures(run.lesson, Path(folder) / "cpu", figures)
    return runs


def check(root: Path = ROOT) -> list[str]:
    """What is dishonest or unfit in the committed lessons, a sentence each; empty when all is well."""
    problems = []
    rows = {row["file"] for row in read_manifest(root / "figures")}
    for path in lesson_paths(root / "notebooks"):
        notebook = nbformat.read(path, as_version=4)
        found = [*_check_order(notebook), *_check_outputs(notebook)]
        for file in _figures_of(notebook):
            if file not in rows or not (root / "figures" / file).exists():
                found.append(f"figure {file} is not in figures/ with a manifest row: run make refresh")
        problems += [f"{path.name}: {problem}" for problem in found]
    return problems


def source_sha256(notebook: NotebookNode) -> str:
    """Hash of what an author writes: the cells' types, sources and tags, and not what running them adds.

    Cells tagged ``hosted`` (:mod:`mer_lab.badges`) say where the course lives and are left out.
    """
    parts = []
    for cell in notebook.cells:
        if "hosted" in cell.metadata.get("tags", []):
            continue
        parts += [cell.cell_type, cell.source, ",".join(cell.metadata.get("tags", []))]
    return digest(*parts, length=64)


def _check_order(notebook: NotebookNode) -> Iterator[str]:
    stamp = notebook.metadata.get("mer_lab", {})
    if "source_sha256" not in stamp:
        yield "has never been run by make refresh"
    elif stamp["source_sha256"] != source_sha256(notebook):
        yield "was edited after its outputs were made: run make refresh"
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    if None in counts:
        yield f"code cell {counts.index(None) + 1} was not executed: run make refresh"
    elif counts != list(range(1, len(counts) + 1)):
        yield f"cells ran out of order ({', '.join(map(str, counts))}): run make refresh"


def _check_outputs(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                yield f"cell {number} shows an error ({output.ename})"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"cell {number} shows stderr output: {output.text.strip()[:80]!r}"
            data = output.get("data", {})
            text = "\n".join([output.get("text", ""), *(v for k, v in data.items() if k.startswith("text/"))])
            if re.search(r"\d+%\|", data.get("text/plain", "")):
                yield f"cell {number} shows a progress bar: run make refresh"
            if path := _ABSOLUTE_PATH.search(_DATA_URI.sub("", text)):
                yield f"cell {number} shows an absolute path: {text[path.start() :][:40].split()[0]}"
            for kind in (key for key in data if key.startswith("image/")):
                if not output.metadata.get(kind, {}).get("alt"):
                    yield f"cell {number} has an image without alt text: show it with course.show"
            if re.search(r"<img(?![^>]*\balt=[\"'][^\"'])", data.get("text/html", "")):
                yield f"cell {number} has an <img> without alt text"


def _figures_of(notebook: NotebookNode) -> Iterator[str]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if file := output.get("metadata", {}).get("mer_lab", {}).get("figure"):
                yield file


def _replace_figures(lesson: str, made: Path, figures: Path) -> None:
    """Put a lesson's new figures in the place of its old ones, those it no longer draws included."""
    new = [row for row in read_manifest(made) if row["lesson"] == lesson]
    old = read_manifest(figures)
    for row in old:
        if row["lesson"] == lesson:
            (figures / row["file"]).unlink(missing_ok=True)
    for row in new:
        shutil.copyfile(made / row["file"], figures / row["file"])
    write_manifest(figures, [*(row for row in old if row["lesson"] != lesson), *new])


def _in_turn(paths: list[Path], scale: str) -> list[Path]:
    """The first lesson, which is looked at first, then those that take longest: none is waited for."""
    took = read_json(ROOT / "results" / "lesson_seconds.json").get(scale, {})
    return paths[:1] + sorted(paths[1:], key=lambda path: -took.get(path.stem, {}).get("seconds", 60.0))


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores, {platform.system()}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all well, 1 a lesson failed or has problems."""
    parser = argparse.ArgumentParser(prog="python -m mer_lab.lessons", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("build", "pages in build/course"), ("refresh", "renew committed outputs")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--scale", choices=list(SCALES), default="cpu")
        command.add_argument("--only", help="first characters of the lessons' names, such as 02")
        if name == "build":
            command.add_argument("--out", type=Path, default=Path("build/course"))
            command.add_argument("--jobs", type=int, default=1, help="lessons at a time, a core each")
    commands.add_parser("check", help="are the committed outputs honest?")
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "check":
            problems = check()
            print("\n".join(problems) or "The committed lessons are in order.")
            return int(bool(problems))
        runs = (build if command == "build" else refresh)(**options)
    except MerLabError as error:
        print(f"mer_lab: {error}", file=sys.stderr)
        return 1
    return int(any(run.error for run in runs))


if __name__ == "__main__":
    sys.exit(main())
