"""`mer-lab explain`: why a trained system decides as it does about one recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mer_lab.cli.common import Quiet, say
from mer_lab.errors import MerLabError

if TYPE_CHECKING:
    import pandas as pd


def explain(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a saved system, or its name on the hub.")],
    audio: Annotated[Path, typer.Argument(help="The recording: wav, flac, ogg, mp3 or mp4.")],
    text: Annotated[str, typer.Option(help="What is said in it.")],
    method: Annotated[
        str,
        typer.Option(
            help="integrated-gradients, layer-integrated-gradients, gradient-x-input, smoothgrad, "
            "gradient-shap, occlusion, kernel-shap or random."
        ),
    ] = "integrated-gradients",
    baseline_audio: Annotated[
        str,
        typer.Option(help="What an absent voice is: mean, noise or silence; mean, or noise for waves."),
    ] = "",
    baseline_text: Annotated[str, typer.Option(help="What an absent word is: mask, mean or zero.")] = "mask",
    context: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", help="Earlier turns in order: columns audio, text and, if known, speaker."
        ),
    ] = None,
    speaker: Annotated[str, typer.Option(help="Who speaks, as the context calls them.")] = "",
    words: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Times of the words (s): a row a word, columns start and end."),
    ] = None,
    target: Annotated[str, typer.Option(metavar="LABEL", help="Explain this class, not the decision.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for explanation.png and explanation.html.")] = Path(
        "explanation"
    ),
    quiet: Quiet = False,
) -> None:
    """Explain a decision: a figure, and a page that plays the recording with words and voice coloured.

    Example: mer-lab explain runs/early-d8c6b78340/seed-0/model call.wav --text "I saw a dreary essay."
    """
    from mer_lab.conversation import read_conversation
    from mer_lab.explain.page import explanation_page, number, percent
    from mer_lab.explain.single import explain_recording
    from mer_lab.files import atomic_path, write_text
    from mer_lab.models import System
    from mer_lab.plots import explanation

    if out.exists() and not out.is_dir():
        raise MerLabError(f"{out}: is a file; give a folder to write into.")
    turns = read_conversation(context) if context is not None else []
    times = _times(words) if words is not None else None
    model = System.from_pretrained(checkpoint)
    found = explain_recording(
        model, audio, text, turns, speaker, target, times, method, baseline_audio, baseline_text
    )
    page, figure = explanation_page(*found), explanation(*found)  # both, before either is written
    with atomic_path(out / "explanation.png") as temporary:  # is put there last
        figure.savefig(temporary, dpi=150, format="png")
        write_text(out / "explanation.html", page)
    values, decided = found.values, int(found.probabilities.argmax())
    shares = values.modalities[0] if turns else values.modalities[0][:2]
    named = zip(("text", "audio", "context"), shares, strict=False)
    lines = [
        f"decision: {found.labels[decided]}",
        "probabilities: "
        + ", ".join(
            f"{label} {percent(float(p))}" for label, p in zip(found.labels, found.probabilities, strict=True)
        ),
        f"explained: {found.labels[int(values.question.target[0])]} by {values.method}, baseline "
        f"{' and '.join(values.baseline)}; " + ", ".join(f"{k} {number(float(v))}" for k, v in named),
        f"completeness error: {percent(float(values.error[0]))}",
        f"{out / 'explanation.png'}\n{out / 'explanation.html'}",
    ]
    say("\n".join(lines), quiet)


def _times(path: Path) -> pd.DataFrame:
    from mer_lab.conversation import read_columns

    table = read_columns(path, "start", "end")
    try:
        return table[["start", "end"]].astype(float)
    except ValueError:
        raise MerLabError(f"{path}: start and end of every word are numbers of seconds.") from None
