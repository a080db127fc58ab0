"""`mer-lab predict`, `finetune` and `demo`: a trained system put to use on one's own recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mer_lab.cli.common import Quiet, say

if TYPE_CHECKING:
    from mer_lab.answering import Answers

Trained = Annotated[
    str, typer.Argument(metavar="MODEL", help="A saved system, or a run's folder for all its seeds.")
]


def predict(
    model: Trained,
    recording: Annotated[
        Path,
        typer.Argument(
            metavar="RECORDING",
            help="A recording, or a conversation as FILE.csv: columns audio, text and, if known, speaker.",
        ),
    ],
    text: Annotated[str, typer.Option(help="What is said in a single recording.")] = "",
    recogniser: Annotated[
        str, typer.Option(help="Speech recogniser, name or folder, for turns without text.")
    ] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the answers there too.")] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page that plays and explains each turn.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Which emotion each turn of a conversation shows, how sure that is, and what cannot be ruled out.

    Example: mer-lab predict runs/early-d8c6b78340 conversation.csv --page conversation.html
    """
    from mer_lab.answering import answer, load_systems
    from mer_lab.conversation import Turn, read_conversation

    systems = load_systems(model)
    turns = [Turn(recording, text)]
    if recording.suffix.lower() == ".csv":
        if text:
            raise typer.BadParameter("a conversation has its texts in the CSV file", param_hint="--text")
        turns = read_conversation(recording)
    if recogniser:
        from mer_lab.transcription import transcribe

        turns = [t if t.text.strip() else t._replace(text=transcribe(t.audio, recogniser)) for t in turns]
    found = answer(systems, turns, recording.stem)
    table = found.table()
    if out is not None:
        from mer_lab.files import write_text

        write_text(out, table.to_csv())
    if page is not None:
        from mer_lab.explain.turns import conversation_page
        from mer_lab.files import write_text

        write_text(page, conversation_page(found))
    say(f"{table.round(3).to_string()}\n\n{trust(found)}", quiet)


def trust(found: Answers) -> str:
    """How the numbers are to be read."""
    several = len(found.systems)
    ranges = f"low and high: the range over {several} seeds. " if several > 1 else ""
    if found.sets is None:
        return f"{ranges}This system was saved without its calibration, so nothing can be ruled out."
    return (
        f"{ranges}not_ruled_out: holds the right label in {found.coverage:.0%} of recordings like those that "
        "it was calibrated on; of other voices, rooms or ways to speak nothing is promised."
    )


def finetune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A saved system to go on with.")],
    corpus: Annotated[Path, typer.Argument(help="Corpus folder, such as `mer-lab prepare own` writes.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="At most; 10 by default.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; a third of the first by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for results and checkpoints.")] = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Go on training a saved system on your own corpus, and read its test split once.

    All seeds go on from the same weights: they differ in the order of the clips and in dropout.

    Example: mer-lab finetune runs/early-d8c6b78340/seed-0/model corpora/mine --seeds 3
    """
    from dataclasses import replace

    from mer_lab.experiments import run
    from mer_lab.finetuning import finetuning
    from mer_lab.recipes import table

    given = {k: v for k, v in {"epochs": epochs, "lr": lr}.items() if v is not None}
    recipe = replace(finetuning(model, corpus, **given), seeds=tuple(range(seeds)))
    result = run(recipe, out, progress=not quiet)
    path = result.save(out)
    say(f"{table([result])}\n\n{path}\n{out / f'{recipe.name}-{recipe.hash}'}", quiet)


def demo(
    model: Trained,
    recogniser: Annotated[
        str, typer.Option(help="Speech recogniser, name or folder, for turns without text.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """A page on this machine where you record or upload clips and see what a system makes of them.

    Example: mer-lab demo runs/early-d8c6b78340
    """
    from mer_lab.demo import serve

    raise typer.Exit(serve(model, port, browser, recogniser))
