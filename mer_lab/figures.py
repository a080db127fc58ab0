"""Where figures go, what their manifest says of each, and how a lesson shows an output."""

from __future__ import annotations

import hashlib
import html
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mer_lab.errors import MerLabError
from mer_lab.files import ROOT, write_text


def figures_folder() -> Path:
    """Where figures go: ``$MER_LAB_FIGURES``, else ``build/figures`` of the checkout or current folder."""
    chosen = os.environ.get("MER_LAB_FIGURES")
    if chosen:
        return Path(chosen).expanduser()
    return (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / "build" / "figures"


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``folder/manifest.json``; none where there is no manifest."""
    return read_json(folder / "manifest.json").get("figures", [])


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows in the order of the lessons' cells, so that the file changes only where a figure did."""
    rows = sorted(rows, key=lambda row: (row["lesson"], row["cell"] or 0, row["file"]))
    write_json(folder / "manifest.json", {"figures": rows})


def plotted_data(fig: Figure) -> str:
    """SHA-256 over the numbers in a figure's lines, bars, points and images, to six significant digits.

    Colours, labels and fonts do not count: the hash changes when the data does.
    """
    h = hashlib.sha256()
    for axes in fig.axes:
        arrays = [line.get_xydata() for line in axes.lines]
        arrays += [patch.get_patch_transform().transform(patch.get_path().vertices) for patch in axes.patches]
        arrays += [image.get_array() for image in axes.images]
        for collection in axes.collections:
            arrays += [collection.get_offsets(), collection.get_array()]
            arrays += [path.vertices for path in collection.get_paths()]
        for array in arrays:
            values = np.ma.filled(np.ma.asarray(array if array is not None else [], dtype=float), np.nan)
            h.update(str(values.shape).encode())
            h.update(
                " ".join(f"{value + 0.0:.6g}" for value in values.ravel()).encode()
            )  # + 0.0 turns -0 into 0
    return h.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise MerLabError(
            f"{path}: not readable as JSON ({error}); delete it or restore it from git."
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as readable JSON, atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class Shown:
    """An output in several forms with metadata; plain text outside a notebook."""

    def __init__(self, text: str, data: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
        self.text, self.data, self.metadata = text, data, metadata or {}

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        return {"text/plain": self.text, **self.data}, self.metadata


def verdict(holds: bool | None, text: str, note: str = "", mark: dict[str, Any] | None = None) -> Shown:
    """A sentence in a box, with the sign of what is true, false or (``None``) not checked.

    Args:
        note: what stands behind it in brackets.
        mark: metadata by which the output is found again.
    """
    sign, colour = {True: ("✓", "#006B4E"), False: ("✗", "#B23A00"), None: ("–", "#666666")}[holds]
    note = f" ({note})" if note else ""
    markup = (
        f'<div style="border-left: 4px solid {colour}; padding: 0.2em 0.8em; margin: 0.3em 0">'
        f'<strong style="color: {colour}">{sign}</strong> {html.escape(text)}'
        f'<span style="color: #595959">{html.escape(note)}</span></div>'
    )
    return Shown(f"{sign} {text}{note}", {"text/html": markup}, {"mer_lab": mark or {}})
