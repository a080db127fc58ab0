"""The command line: each command prints what its Python function returns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mer_lab.errors import MerLabError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


class Source(StrEnum):
    """Corpora that `prepare` knows."""

    staged = "staged"
    meld = "meld"
    ravdess = "ravdess"


@app.callback()
def _about() -> None:
    """mer_lab: emotion recognition from speech and text. Exit status: 0 done, 1 could not, 2 wrong usage."""


@app.command()
def doctor(quiet: Quiet = False) -> None:
    """What is here, what is missing, and what to do.

    Example: mer-lab doctor
    """
    from mer_lab.doctor import as_text
    from mer_lab.doctor import doctor as look

    rows = look()
    _say(as_text(rows), quiet)
    if any(row.status == "missing" for row in rows):
        raise typer.Exit(1)


@app.command()
def prepare(
    source: Source,
    root: Annotated[
        Path | None, typer.Argument(help="Folder of the official files; none for staged.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Corpus folder to write.")] = ...,
    clips: Annotated[bool, typer.Option(help="MELD: decode the mp4 clips where they are there.")] = True,
    quiet: Quiet = False,
) -> None:
    """Turn a corpus's official files into a corpus folder.

    Example: mer-lab prepare meld ~/MELD.Raw --out corpora/meld
    """
    from mer_lab.corpora import load_corpus, save_corpus
    from mer_lab.corpora.meld import prepare_meld
    from mer_lab.corpora.ravdess import prepare_ravdess

    if source is Source.staged:
        _say(repr(save_corpus(load_corpus("staged"), out)), quiet)
        return
    if root is None:
        raise typer.BadParameter(f"give the folder of {source.value}'s official files", param_hint="ROOT")
    corpus, report = prepare_meld(root, out, clips) if source is Source.meld else prepare_ravdess(root, out)
    _say(f"{report}\n{corpus!r}", quiet)


@app.command("add-features")
def add_features(
    corpus: Annotated[Path, typer.Argument(help="Corpus folder.")],
    name: Annotated[str, typer.Argument(help="What to call the features.")],
    table: Annotated[
        list[str], typer.Argument(help="FILE, or SPLIT=FILE for each split: csv, parquet, npz, safetensors.")
    ],
    key: Annotated[str, typer.Option(help="Column that names the utterance.")] = "utterance_id",
    match: Annotated[
        str, typer.Option(help="Column of the corpus that the key is compared with.")
    ] = "utterance_id",
    channel: Annotated[str, typer.Option(help="audio or text.")] = "audio",
    drop: Annotated[list[str], typer.Option(help="Column to leave out; may be repeated.")] = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option(help="Replace features of that name.")] = False,
    quiet: Quiet = False,
) -> None:
    """Attach a table of features that were extracted elsewhere.

    Example: mer-lab add-features corpora/meld prosody train=a.csv validation=b.csv test=c.csv --match clip
    """
    from mer_lab.corpora.attach import add_features as attach
    from mer_lab.corpora.corpus import SPLITS

    by_split = {s: f for s, _, f in (t.partition("=") for t in table) if f and s in SPLITS}
    if by_split and len(by_split) != len(table) or not by_split and len(table) > 1:
        raise typer.BadParameter("give one FILE, or SPLIT=FILE once for each split", param_hint="TABLE")
    given = by_split or table[0]
    _say(str(attach(corpus, name, given, key, channel, match=match, drop=drop, overwrite=overwrite)), quiet)


@app.command()
def features(
    corpus: Annotated[str, typer.Argument(help="staged, or a corpus folder.")],
    name: Annotated[str, typer.Argument(help="prosody, logmel, mfcc or lowlevel34.")],
    hop: Annotated[float, typer.Option(help="Seconds between frames.")] = 0.01,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
    quiet: Quiet = False,
) -> None:
    """Extract features of every utterance into the store; a killed run goes on where it was.

    Example: mer-lab features staged prosody --hop 0.02
    """
    from mer_lab.corpora import load_corpus
    from mer_lab.experiments import AUDIO
    from mer_lab.features.store import FeatureStore

    if name not in AUDIO:
        raise typer.BadParameter(f"{name!r}; choose one of {', '.join(AUDIO)}", param_hint="NAME")
    ragged = FeatureStore().get(load_corpus(corpus), AUDIO[name](hop=hop), workers)
    _say(f"{name}: {len(ragged)} utterances, {len(ragged.frames)} frames of {ragged.width} numbers", quiet)


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="A named recipe (`mer-lab recipes` lists them) or a TOML file.")
    ],
    corpus: Annotated[
        str | None, typer.Option(help="staged, or a corpus folder, in place of the recipe's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds, in place of the recipe's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and checkpoints.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(help="Seeds trained at a time.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe over its seeds and read the test split once; a killed run goes on where it was.

    Example: mer-lab run text-bilstm --corpus staged --seeds 3 --out runs
    """
    from dataclasses import replace

    from mer_lab.experiments import run as execute
    from mer_lab.recipes import find_recipe, table

    chosen = find_recipe(recipe)
    if corpus is not None:
        chosen = replace(chosen, corpus=corpus)
    if seeds is not None:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    result = execute(chosen, out, workers, progress=not quiet)
    path = result.save(out)
    _say(f"{table([result])}\n\n{path}", quiet)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe as TOML.")] = None) -> None:
    """List the named recipes, or print one as TOML to be copied and changed.

    Example: mer-lab recipes text-bilstm > mine.toml
    """
    from mer_lab.recipes import RECIPES, find_recipe

    if name:
        _say(find_recipe(name).to_toml(), False)
        return
    _say("\n".join(f"{r.name:24} {r.corpus:10} {r.model['name']}" for r in RECIPES.values()), False)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(text)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one sentence on standard error and exit status 1."""
    sys.exit(_status(lambda: app(arguments, standalone_mode=True)))


def _status(command: Callable[[], object]) -> int:
    try:
        command()
    except MerLabError as error:
        print(f"mer-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mer-lab: stopped; the same command goes on where it was.", file=sys.stderr)
        return 1
    return 0
