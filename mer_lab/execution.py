"""Run notebooks: each in an empty folder, on the kernel of this very Python, and tidy what they leave."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets import default

from mer_lab.figures import ROOT
from mer_lab.files import cache_dir

CELL_SECONDS = 1800  # a cell that takes longer hangs


@dataclass
class Ran:
    """One lesson, executed: the notebook with its outputs; ``error`` tells what stopped it, "" if nothing."""

    path: Path
    notebook: NotebookNode
    scale: str
    seconds: float
    error: str

    @property
    def lesson(self) -> str:
        return self.path.stem


def execute_all(
    paths: Sequence[Path], scale: str, figures: Path, jobs: int = 1, **environment: str
) -> Iterator[Ran]:
    """Run lessons, ``jobs`` at a time, printing what each took; they come as they are done."""
    start = time.perf_counter()
    if len(paths) > 1:
        print(f"{len(paths)} lessons, {jobs} at a time:", flush=True)
    for run in _runs(paths, scale, figures, jobs, environment):
        ended = "FAILED" if run.error else "ok"
        print(f"{run.lesson:<28} {scale:<6}{run.seconds:7.1f} s  {ended}", flush=True)
        if run.error:
            print(f"  {run.lesson}: {run.error}", file=sys.stderr, flush=True)
        yield run
    if len(paths) > 1:
        print(f"{'total':<28} {scale:<6}{time.perf_counter() - start:7.1f} s", flush=True)


def _runs(
    paths: Sequence[Path], scale: str, figures: Path, jobs: int, environment: dict[str, str]
) -> Iterator[Ran]:
    if jobs == 1:  # no thread: the next begins when this one was taken, or its seconds would not be its own
        yield from (execute(path, scale, figures, environment) for path in paths)
        return
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(execute, path, scale, figures, environment) for path in paths]
        try:
            for done in as_completed(running):
                yield done.result()
        except BaseException:  # a reader who presses Ctrl-C does not wait for those that have not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class ThisPython(AsyncKernelManager):
    """Starts the kernel of this very Python, whatever kernels the user has registered under its name."""

    @default("kernel_spec_manager")
    def _no_others(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def client_of(notebook: NotebookNode, folder: str, **options) -> NotebookClient:
    """What runs a notebook in a folder, and ends its kernel whatever comes of it."""
    return NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=ThisPython,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # some versions warn of their own default transport
        resources={"metadata": {"path": folder}},
        **options,
    )


def kernel_environment(scale: str, figures: Path, **more: str) -> dict[str, str]:
    """The environment of a notebook's kernel."""
    return {k: v for k, v in os.environ.items() if k != "MER_LAB_RESULTS"} | more | {
        "MER_LAB_SCALE": scale,
        "MER_LAB_FIGURES": str(figures.resolve()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TQDM_DISABLE": "1",  # a bar that has reached its end tells a reader nothing
        # small networks gain nothing from a second thread, and lose much where the cores are shared
        **{name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
    }


def execute(path: Path, scale: str, figures: Path, environment: dict[str, str]) -> Ran:
    """One lesson; what stops it is told in :attr:`Ran.error`."""
    notebook = nbformat.read(path, as_version=4)
    error = ""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a kernel may still die in it
        client = client_of(notebook, folder, timeout=CELL_SECONDS)
        try:
            client.execute(env=kernel_environment(scale, figures, **environment))
        except CellExecutionError as failure:
            said = failure.evalue.strip() or failure.ename
            named = said if failure.ename in ("MerLabError", "ClaimFailed") else f"{failure.ename}: {said}"
            error = f"cell {_failed_cell(notebook)} failed: {named.splitlines()[0]}"
        except CellTimeoutError:
            error = f"a cell took longer than {CELL_SECONDS} seconds and was stopped"
        except DeadKernelError:
            error = "the Python of the lesson died, most often for want of memory"
        seconds = time.perf_counter() - start
        _tidy(
            notebook, [(folder, "."), (str(ROOT), "."), (str(cache_dir()), "CACHE"), (str(Path.home()), "~")]
        )
    return Ran(path, notebook, scale, seconds, error)


def _failed_cell(notebook: NotebookNode) -> int | str:
    for number, cell in enumerate(notebook.cells, 1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return f"{number} ({cell.source.strip().splitlines()[0][:60]})"
    return "?"


def _tidy(notebook: NotebookNode, folders: list[tuple[str, str]]) -> None:
    """Take out what belongs to this machine and run: paths, widgets, progress bars, versions of tools."""
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
        **({"title": notebook.metadata.title} if "title" in notebook.metadata else {}),
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream":
                if output.name == "stderr" and re.search(r"\d+%\||\d+(it|s)/(it|s)", output.text):
                    continue
                output.text = _without(output.text, folders)
            elif "data" in output:
                widget = output.data.pop("application/vnd.jupyter.widget-view+json", None)
                if widget and re.search(r"\d+%\||\d+it \[", output.data.get("text/plain", "")):
                    continue
                for kind in ("text/plain", "text/html", "text/markdown"):
                    if kind in output.data:
                        output.data[kind] = _without(output.data[kind], folders)
            kept.append(output)
        cell.outputs = kept


def _without(text: str, folders: list[tuple[str, str]]) -> str:
    for folder, short in folders:
        if len(folder) > 1:
            text = text.replace(folder, short)
    return text
