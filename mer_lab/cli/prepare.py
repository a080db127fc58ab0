"""`mer-lab prepare`: from official files, or one's own, to a corpus folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mer_lab.cli.common import Out, Quiet, say

Root = Annotated[Path, typer.Argument(help="Folder of the official files.")]
Sound = Annotated[bool, typer.Option("--audio/--no-audio", help="Take the sound as well as the text.")]

prepare = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@prepare.callback()
def _about_prepare() -> None:
    """Turn a corpus's official files, or your own recordings, into a corpus folder.

    Example: mer-lab prepare iemocap ~/IEMOCAP_full_release --out corpora/iemocap
    """


@prepare.command("staged")
def prepare_staged(out: Out, quiet: Quiet = False) -> None:
    """The built-in Staged corpus, written out as a folder.

    Example: mer-lab prepare staged --out corpora/staged
    """
    from mer_lab.corpora import load_corpus, save_corpus

    say(repr(save_corpus(load_corpus("staged"), out)), quiet)


@prepare.command("iemocap")
def prepare_iemocap(root: Root, out: Out, audio: Sound = True, quiet: Quiet = False) -> None:
    """IEMOCAP: labels, evaluators, transcripts, word timings and sentence audio of Session1 to Session5.

    Example: mer-lab prepare iemocap ~/IEMOCAP_full_release --out corpora/iemocap
    """
    from mer_lab.corpora.iemocap import prepare_iemocap as do

    _say_corpus(do(root, out, audio), quiet)


@prepare.command("meld")
def prepare_meld(root: Root, out: Out, audio: Sound = True, quiet: Quiet = False) -> None:
    """MELD: the three CSV files and, where they are there, the mp4 clips.

    Example: mer-lab prepare meld ~/MELD.Raw --out corpora/meld
    """
    from mer_lab.corpora.meld import prepare_meld as do

    _say_corpus(do(root, out, audio), quiet)


@prepare.command("mosi")
def prepare_mosi(
    root: Annotated[Path, typer.Argument(help="The raw folder, a folder of .csd files, or an MMSA .pkl.")],
    out: Out,
    folds: Annotated[str, typer.Option(help="standard (52/10/31 videos) or hcam (49/13/31).")] = "standard",
    rule: Annotated[
        str, typer.Option(help="negative-vs-nonnegative, drop-zero or nonpositive-vs-positive.")
    ] = "negative-vs-nonnegative",
    audio: Sound = True,
    quiet: Quiet = False,
) -> None:
    """CMU-MOSI: from the raw layout, from the SDK's .csd files or from MMSA's pickle.

    Example: mer-lab prepare mosi ~/CMU_MOSI --out corpora/mosi --folds hcam
    """
    from mer_lab.corpora.mosi import prepare_mosi as do

    _say_corpus(do(root, out, folds, rule, audio), quiet)


@prepare.command("ravdess")
def prepare_ravdess(root: Root, out: Out, quiet: Quiet = False) -> None:
    """RAVDESS: the speech clips, under their official names.

    Example: mer-lab prepare ravdess ~/RAVDESS --out corpora/ravdess
    """
    from mer_lab.corpora.ravdess import prepare_ravdess as do

    _say_corpus(do(root, out), quiet)


@prepare.command("own")
def prepare_own(
    table: Annotated[Path, typer.Argument(help="CSV file, one row an utterance, with a header.")],
    out: Out,
    audio: Annotated[Path | None, typer.Option(help="Folder of the recordings.")] = None,
    column: Annotated[
        list[str], typer.Option(help="WHAT=COLUMN where the header says it otherwise; may be repeated.")
    ] = [],  # noqa: B006
    split_by: Annotated[
        str, typer.Option(help="Without a split column: keep together what shares this column.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the corpus; the file's by default.")] = "",
    quiet: Quiet = False,
) -> None:
    """Your own recordings: a CSV and a folder of audio, or a CSV alone.

    Example: mer-lab prepare own clips.csv --audio recordings --out corpora/mine --column text=transcript
    """
    from mer_lab.corpora.own import prepare_own as do

    given = [c.partition("=") for c in column]
    if bad := [c for c, (_, mark, _) in zip(column, given, strict=True) if not mark]:
        raise typer.BadParameter(f"{bad[0]!r} has no '='; write text=transcript", param_hint="--column")
    _say_corpus(do(table, out, audio, {k: v for k, _, v in given}, split_by, name), quiet)


def _say_corpus(imported: tuple[object, object], quiet: bool) -> None:
    corpus, report = imported
    say(f"{report}\n{corpus!r}", quiet)
