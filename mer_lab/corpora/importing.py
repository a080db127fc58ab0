"""What all importers share: a folder that appears whole, a list of what was left out, and a report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mer_lab.corpora.corpus import Corpus
from mer_lab.corpora.native import read_folder, write_tables
from mer_lab.errors import MerLabError
from mer_lab.files import explain_os_errors, write_text


@dataclass
class Report:
    """Told to the user after an import; nothing is skipped without a line here.

    Attributes:
        notes: what was done, in order.
        warnings: what differs from the published corpus or was left out.
        counts: the same numbers for programs.
        todo: what to do next.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, object] = field(default_factory=dict)
    todo: str = ""

    def __str__(self) -> str:
        lines = [*self.notes, *(f"WARNING: {w}" for w in self.warnings)]
        return "\n".join([*lines, f"Next: {self.todo}"] if self.todo else lines)


def some(items: list[str], show: int = 3) -> str:
    """The first items of a list, and how many more there are: ``"a, b, c and 7 more"``."""
    rest = len(items) - show
    return ", ".join(items[:show]) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def importing(root: Path, out: Path, wanted: str, settings: str = "") -> Iterator[Path]:
    """Yield a folder to import into; it becomes ``out`` if the block ends well.

    It is hidden beside ``out`` and outlives a kill: the same import, started again, finds the audio that it
    had already decoded. Another root or other settings start afresh.

    Args:
        root: the official files.
        out: the new corpus folder; absent or empty.
        wanted: what root must be, for the message: "MELD's official CSV files".
        settings: whatever else decides what is written.

    Raises:
        MerLabError: there is no root, out holds something or is the folder one is in, the disk is full.
    """
    if not root.exists():
        raise MerLabError(f"{root}: there is no such folder or file; give the place of {wanted}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MerLabError(f"{out} exists already; delete it first or choose another folder.")
    if out.exists() and out.samefile(os.curdir):  # it is replaced, and what is relative to it would be lost
        raise MerLabError(f"{out} is the folder you are in; choose a new folder in it.")
    partial = Path(os.path.abspath(out))  # as "a/.." has no name
    partial = partial.with_name(f".{partial.name}.partial")
    stamp, origin = partial / ".origin", f"{root.resolve()}\n{settings}"
    with explain_os_errors(partial):
        if partial.exists() and not (stamp.is_file() and stamp.read_text(encoding="utf-8") == origin):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        stamp.write_text(origin, encoding="utf-8")
    try:
        yield partial
    except BaseException:
        if not (partial / "audio").is_dir():  # no work to keep
            shutil.rmtree(partial, ignore_errors=True)
        raise
    with explain_os_errors(out):
        if out.exists():
            out.rmdir()  # Windows replaces no folder, not even an empty one
        stamp.unlink()
        os.replace(partial, out)


def write_corpus(corpus: Corpus, folder: Path, quarantine: Sequence[tuple[str, str, str]]) -> None:
    """Write an imported corpus, and ``quarantine.csv``: utterance, file and reason of what is not usable.

    Raises:
        MerLabError: what was written cannot be read back.
    """
    write_tables(corpus, folder)
    listing = pd.DataFrame(quarantine, columns=["utterance_id", "file", "reason"])
    write_text(folder / "quarantine.csv", listing.to_csv(index=False, lineterminator="\n"))
    read_folder(folder)


def link(source: Path, target: Path) -> None:
    """Let ``target`` be the same file as ``source``, or a copy where the disk has no links."""
    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, target)
