"""What a lesson needs: one switch for its size, claims that can fail, figures with alt text, sound.

A lesson begins with ``course.setup("02_features")``; the functions here then know which lesson they serve.
"""

from __future__ import annotations

import base64
import html
import io
import os
import platform
import random
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
import torch
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from mer_lab import __version__, palette
from mer_lab.errors import MerLabError
from mer_lab.figures import (
    ROOT,
    Shown,
    figures_folder,
    plotted_data,
    read_json,
    read_manifest,
    verdict,
    write_json,
    write_manifest,
)
from mer_lab.files import locked
from mer_lab.provenance import provenance

# Text bars do as well where ipywidgets is absent, and a lesson should not open with a warning.
warnings.filterwarnings("ignore", message="IProgress not found")

_PIXEL_RATIO = 1.5  # pixels of the PNG for each pixel on the page: sharp, and still small enough to commit


@dataclass(frozen=True)
class Scale:
    """All sizes of a lesson. Every scale runs the same code: a lesson reads sizes here and asks no ``if``."""

    name: str
    staged: tuple[int, int, int]  # dialogues for training, validation, test
    students: tuple[int, int, int]  # of the class in lesson 11, likewise
    epochs: int
    seeds: int
    width: int  # hidden units
    claims: bool  # are claims checked?


SCALES = {
    scale.name: scale
    for scale in (
        Scale("smoke", staged=(12, 4, 4), students=(2, 2, 2), epochs=1, seeds=1, width=16, claims=False),
        Scale("cpu", staged=(160, 32, 64), students=(8, 4, 8), epochs=20, seeds=3, width=64, claims=True),
        Scale("gpu", staged=(160, 32, 64), students=(8, 4, 8), epochs=40, seeds=5, width=128, claims=True),
    )
}


@dataclass(frozen=True)
class Course:
    """The lesson that is running: its name, its sizes, and where it computes."""

    lesson: str
    scale: Scale
    device: str
    seed: int


class ClaimFailed(MerLabError, AssertionError):
    """A sentence of the course turned out to be false; the lesson stops here."""


_current: Course | None = None


def setup(lesson: str, scale: str | None = None, seed: int = 0) -> Course:
    """Begin a lesson: fix the scale and the random seeds, set the figures' style, print one line.

    Args:
        lesson: the notebook's name without its ending, such as ``"02_features"``.
        scale: ``"smoke"``, ``"cpu"`` or ``"gpu"``; without it ``$MER_LAB_SCALE`` decides, else ``"cpu"``.

    Raises:
        MerLabError: there is no such scale.
    """
    global _current
    wanted = scale or os.environ.get("MER_LAB_SCALE") or "cpu"
    if wanted not in SCALES:
        where = "course.setup(scale=...)" if scale else "MER_LAB_SCALE"
        raise MerLabError(f'{where} is "{wanted}"; choose one of {", ".join(SCALES)}.')
    # Claims are calibrated on the CPU, so the smaller scales stay there even where a GPU is present.
    device = accelerator() if wanted == "gpu" else "cpu"
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"
    else:
        os.environ.pop("ACCELERATE_USE_CPU", None)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    palette.style()
    _current = Course(lesson, SCALES[wanted], device, seed)
    threads = torch.get_num_threads()
    parts = [
        f"Lesson {lesson}",
        f"scale {wanted}",
        device.upper() if device != "cpu" else f"CPU, {threads} thread{'s' if threads > 1 else ''}",
        f"mer_lab {__version__}, Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}",
    ]
    if minutes := measured_minutes(lesson, wanted):
        parts.append(minutes)
    print(" · ".join(parts))
    return _current


def accelerator() -> str:
    """The device that training at ``gpu`` scale uses: ``"cuda"``, ``"mps"``, or ``"cpu"`` without either."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def measured_minutes(lesson: str, scale: str) -> str:
    """``"takes about 1.2 minutes (...)"`` from ``results/lesson_seconds.json``; ``""`` where not recorded."""
    row = read_json(ROOT / "results" / "lesson_seconds.json").get(scale, {}).get(lesson)
    if not row:
        return ""
    seconds = row["seconds"]
    took = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.1f} minutes"
    return f"takes about {took} ({row['machine']})"


def claim(text: str, ok: bool | np.bool_, detail: str = "") -> None:
    """Print whether a sentence of the course holds; a false one stops the lesson.

    At ``smoke`` scale models are not trained long enough to judge, and the line says so.

    Args:
        text: the sentence, as a reader would quote it.
        ok: whether it holds, a truth value and nothing that merely can be read as one.
        detail: the numbers behind the verdict.

    Raises:
        ClaimFailed: the sentence is false at ``cpu`` scale or above.
        MerLabError: ``ok`` is no truth value, or there was no ``course.setup``.
    """
    checked = _lesson("claim").scale.claims
    if not isinstance(ok, bool | np.bool_):
        raise MerLabError(
            f'The claim "{text}" got {type(ok).__name__} and needs True or False: compare, as in gain > 0.1.'
        )
    holds = bool(ok) if checked else None
    note = detail if checked else "not checked at smoke scale"
    shown = verdict(holds, text, note, {"claim": holds})
    display(shown)
    if holds is False:
        raise ClaimFailed(f"this claim of the lesson is false here: {shown.text.partition(' ')[2]}.")


def show(fig: Figure, name: str, alt: str) -> None:
    """Display a figure with its alt text, export it as PNG with a row in the manifest, and close it.

    The files go to ``$MER_LAB_FIGURES``, else ``build/figures``: ``NN_name.png`` and ``manifest.json``,
    whose rows have the lesson, cell, scale, seed and a hash of the numbers plotted.

    Args:
        name: the file's name, small letters, digits and underscores.
        alt: what somebody should learn who cannot see the figure: what is drawn, and what it shows.

    Raises:
        MerLabError: the alt text is missing or shorter than six words, or the name is unfit for a file.
    """
    lesson = _lesson("show")
    if not isinstance(alt, str) or len(alt.split()) < 6:
        raise MerLabError(
            f'Figure "{name}" needs alt text, six words or more: what is drawn, and what a reader should see.'
        )
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise MerLabError(f'"{name}" cannot name a figure: use small letters, digits and underscores.')
    alt = " ".join(alt.split())
    data = plotted_data(fig)
    buffer = io.BytesIO()
    dpi = palette.STYLE["figure.dpi"] * _PIXEL_RATIO
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    png = buffer.getvalue()
    width = round(int.from_bytes(png[16:20], "big") / _PIXEL_RATIO)  # PNG keeps its width at byte 16

    folder = figures_folder()
    file = f"{lesson.lesson[:2]}_{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(png)
    shell = get_ipython()
    row = {
        "file": file,
        "lesson": lesson.lesson,
        # IPython's own counter moves on before the cell runs in some versions and after it in others.
        "cell": len(shell.history_manager.input_hist_parsed) - 1 if shell else None,
        "scale": lesson.scale.name,
        "seed": lesson.seed,
        "data_sha256": data,
        "alt": alt,
    }
    with locked(folder / "manifest.json"):  # lessons may run side by side
        write_manifest(folder, [row, *(r for r in read_manifest(folder) if r["file"] != file)])
    metadata = {"image/png": {"alt": alt, "width": width}, "mer_lab": {"figure": file}}
    display(Shown(f"Figure {name}: {alt}", {"image/png": base64.b64encode(png).decode()}, metadata))


def table(frame: pd.DataFrame, name: str, caption: str) -> None:
    """Display a table of results; ``make course`` shows it on the index page too, and as ``NN_name.csv``.

    Args:
        frame: rows by name, numbers as they are; shown with three decimals.
        caption: what the numbers are, with their unit.
    """
    lesson = _lesson("table")
    shown = frame.map(lambda x: f"{x:.3f}" if isinstance(x, float | np.floating) else str(x))
    content = {
        "file": f"{lesson.lesson[:2]}_{name}.csv",
        "caption": caption,
        "columns": ["", *map(str, shown.columns)],
        "rows": [[str(index), *row] for index, row in zip(shown.index, shown.to_numpy(), strict=True)],
    }
    markup = f"<p><em>{html.escape(caption)}</em></p>{shown.to_html(border=0)}"
    display(Shown(f"{caption}\n{shown}", {"text/html": markup}, {"mer_lab": {"table": content}}))


def listen(wave: np.ndarray, rate: int, caption: str) -> None:
    """Show a small audio player with a caption.

    Args:
        wave: float, shape ``(N,)`` (mono), between -1 and 1.
        rate: samples a second, one that MP3 knows (8000, 16000, 22050, 44100, ...).
        caption: what is heard; also the player's label for screen readers.

    Raises:
        MerLabError: the sound is empty or not mono, or MP3 cannot hold its rate.
    """
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or not len(wave):
        raise MerLabError(
            f'The sound "{caption}" has shape {wave.shape}; expected one channel, shape (N,), N > 0.'
        )
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, np.clip(wave, -1, 1), rate, format="MP3")
    except (soundfile.LibsndfileError, ValueError) as error:
        raise MerLabError(
            f'The sound "{caption}" has {rate} samples a second, which MP3 cannot hold: resample to 16000.'
        ) from error
    label = html.escape(caption, quote=True)
    markup = (
        '<figure style="margin: 0.4em 0; display: flex; align-items: center; gap: 0.8em; flex-wrap: wrap">'
        f'<audio controls preload="metadata" aria-label="{label}" style="height: 2.4em" '
        f'src="data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"></audio>'
        f"<figcaption>{label}</figcaption></figure>"
    )
    display(Shown(f"Sound ({len(wave) / rate:.1f} s): {caption}", {"text/html": markup}))


def real_data(folder: str) -> Path | None:
    """Where a folder of real data is: in ``$MER_LAB_DATA``, ``$MER_LAB_SHARED_DATA`` or ``../shared/data``.

    The last is seen from the checkout. ``None`` where there is none.
    """
    named = [os.environ.get(name) for name in ("MER_LAB_DATA", "MER_LAB_SHARED_DATA")]
    roots = [*(Path(name).expanduser() for name in named if name), ROOT.parent / "shared" / "data"]
    return next((root / folder for root in roots if (root / folder).is_dir()), None)


def real_cell(name: str, run: Callable[[], Any], data: str | Path | None) -> Any:
    """``run()`` where the folder ``data`` is present; else, and at smoke scale, what :func:`recorded` finds.

    ``make refresh`` names a folder in ``$MER_LAB_RESULTS``: a dict that ``run`` returns is recorded there as
    ``<name>.json`` with its provenance. Aggregates only: nothing of the data's text or sound.
    """
    if data is None or not Path(data).expanduser().exists():
        print("The data is not on this machine, so nothing is trained here.")
        return recorded(name)
    if not _lesson("real_cell").scale.claims:
        print("At smoke scale no real data is read.")
        return recorded(name)
    start = time.perf_counter()
    result = run()
    folder = os.environ.get("MER_LAB_RESULTS")
    if folder and isinstance(result, dict) and _lesson("real_cell").scale.claims:
        write_json(Path(folder) / f"{name}.json", {**result, **_where(start)})
    return result


def _where(start: float) -> dict[str, Any]:
    lesson = _lesson("real_cell")
    return {"lesson": lesson.lesson, "scale": lesson.scale.name, **provenance(time.perf_counter() - start)}


def gpu_cell(name: str, run: Callable[[], Any], data: str | Path | None = None) -> Any:
    """For cells tagged ``gpu``: as :func:`real_cell`, and only at ``gpu`` scale with an accelerator."""
    lesson = _lesson("gpu_cell")
    if lesson.device == "cpu":
        print(f"Trained at gpu scale on an accelerator; this run is at {lesson.scale.name} scale on the CPU.")
        return recorded(name)
    return run() if data is None else real_cell(name, run, data)


def recorded(name: str) -> dict[str, Any] | None:
    """The result in ``results/<name>.json``, its provenance printed; ``None``, said plainly, without one."""
    path = ROOT / "results" / f"{name}.json"
    result = read_json(path)
    if not result:
        print(f"No recorded result: results/{name}.json does not exist (yet).")
        return None
    plain = {
        k: v for k, v in result.items() if isinstance(v, str | int | float) and k not in ("recipe_toml",)
    }
    print(f"Recorded result (results/{name}.json), not computed here: ", end="")
    print(
        ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in plain.items()
        )
    )
    return result


def _lesson(function: str) -> Course:
    if _current is None:
        raise MerLabError(f'course.{function} needs course.setup("NN_lesson") first: run the top cell.')
    return _current
