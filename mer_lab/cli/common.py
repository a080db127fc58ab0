"""What the commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def _silence(quiet: bool) -> bool:
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, which is later
    return quiet


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_silence, help="Print nothing but errors.")
]

Out = Annotated[Path, typer.Option(help="Corpus folder to write; absent or empty.")]


def say(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(text)
