"""The command line: each command prints what its Python function returns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mer_lab.cli.common import Quiet, say
from mer_lab.cli.explain import explain
from mer_lab.cli.predict import demo, finetune, predict
from mer_lab.cli.prepare import prepare
from mer_lab.errors import MerLabError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


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
    say(as_text(rows), quiet)
    if any(row.status == "missing" for row in rows):
        raise typer.Exit(1)


app.add_typer(prepare, name="prepare")
for command in (explain, predict, finetune, demo):
    app.command()(command)


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
    say(str(attach(corpus, name, given, key, channel, match=match, drop=drop, overwrite=overwrite)), quiet)


@app.command()
def audit(
    corpus: Annotated[str, typer.Argument(help="staged, or a corpus folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for audit.csv and audit.png.")] = None,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="Also listen to every file.")] = True,
    accept: Annotated[
        list[str], typer.Option(metavar="CHECK", help="Known, does not fail; may be repeated.")
    ] = [],  # noqa: B006
    scheme: Annotated[str, typer.Option(help="Label scheme of the corpus, in place of its labels.")] = "",
    quiet: Quiet = False,
) -> None:
    """Find what makes published numbers wrong; exit status 1 where a check fails.

    Example: mer-lab audit corpora/iemocap --scheme four --out audits/iemocap
    """
    from mer_lab.corpora import load_corpus
    from mer_lab.corpora.audit import audit as look

    loaded = load_corpus(corpus)
    found = look(loaded.scheme(scheme) if scheme else loaded, sound=sound, accept=accept)
    say(str(found), quiet)
    if out is not None:
        from mer_lab.plots import audit_figure

        found.save(out)
        if found.details:
            audit_figure(found).savefig(out / "audit.png", dpi=150, bbox_inches="tight")
        else:
            say("No figure: the audit saw no label, no copy and no sound to draw.", quiet)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def features(
    corpus: Annotated[str, typer.Argument(help="staged, or a corpus folder.")],
    names: Annotated[
        list[str],
        typer.Argument(
            help="prosody, logmel, mfcc, lowlevel34; or pretrained encoders, by name or folder. A file is "
            "decoded once for all."
        ),
    ],
    hop: Annotated[float, typer.Option(help="Seconds between frames; encoders have their own.")] = 0.01,
    layer: Annotated[str, typer.Option(help="Of an encoder: a number, several (3,6,9), or all.")] = "-1",
    precision: Annotated[str, typer.Option(help="Of a speech encoder: float32 or bfloat16.")] = "float32",
    words: Annotated[bool, typer.Option("--words", help="Of a text encoder: one vector a word.")] = False,
    budget: Annotated[
        float | None, typer.Option(min=0.1, help="GiB of memory for weights and batches of all processes.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one a core, for encoders one for two.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Extract features of every utterance into the store; a killed run goes on where it was.

    Example: mer-lab features corpora/iemocap prosody facebook/wav2vec2-base bert-base-uncased --layer 6

    On several devices: accelerate launch -m mer_lab features corpora/iemocap facebook/wav2vec2-base
    """
    from mer_lab.corpora import load_corpus
    from mer_lab.features import BUILT_IN
    from mer_lab.features.pretrained import PretrainedSpeech, extractor_of
    from mer_lab.features.store import FeatureStore

    try:
        layers = layer if layer == "all" else tuple(int(k) for k in layer.split(","))
    except ValueError:
        raise typer.BadParameter(f"{layer!r}; write 6, or 3,6,9, or all", param_hint="--layer") from None
    if precision not in ("float32", "bfloat16"):
        raise typer.BadParameter(f"{precision!r}; choose float32 or bfloat16", param_hint="--precision")
    extractors = []
    for name in names:
        if name in BUILT_IN:
            extractors.append(BUILT_IN[name](hop=hop))
            continue
        extractor = extractor_of(name)
        own = {"precision": precision} if isinstance(extractor, PretrainedSpeech) else {"words": words}
        chosen = layers[0] if len(layers) == 1 else layers
        extractors.append(replace(extractor, layer=chosen, **own))
    store = FeatureStore()
    found = store.get_all(load_corpus(corpus), extractors, workers, budget and budget * 2**30)
    for name, ragged in zip(names, found, strict=True):
        shape = f"{len(ragged.frames)} frames of {ragged.width} numbers"
        say(f"{name}: {len(ragged)} utterances, {shape}", quiet)
    if store.speed:
        say(str(store.speed), quiet)


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
    workers: Annotated[int | None, typer.Option(min=1, help="Seeds trained at a time.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe over its seeds and read the test split once; a killed run goes on where it was.

    Example: mer-lab run text-bilstm --corpus staged --seeds 3 --out runs
    """
    from mer_lab.experiments import run as execute
    from mer_lab.recipes import find_recipe, table

    chosen = find_recipe(recipe)
    if corpus is not None:
        chosen = replace(chosen, corpus=corpus)
    if seeds is not None:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    result = execute(chosen, out, workers, progress=not quiet)
    path = result.save(out)
    say(f"{table([result])}\n\n{path}", quiet)


@app.command()
def compare(
    grid: Annotated[str, typer.Argument(help="staged, meld, or a TOML file: recipes, corpora, seeds.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; may be shared by several.")] = Path("runs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one a core, or one for an accelerator.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Dask scheduler, such as tcp://head:8786, to do the runs.")
    ] = "",
    quiet: Quiet = False,
) -> None:
    """Run what is missing of a grid and write its table; any number of these may work at one folder.

    Example: mer-lab compare staged --out runs

    On several devices: accelerate launch -m mer_lab compare meld --out runs

    On a cluster: dask scheduler; dask worker ADDRESS --nthreads 1; mer-lab compare staged --scheduler ADDRESS
    """
    import joblib

    from mer_lab.engine import run_grid, run_robustness
    from mer_lab.features.encoders import this_process
    from mer_lab.files import write_text
    from mer_lab.grid import find_grid, report
    from mer_lab.robustness import areas

    found = find_grid(grid)
    workers = workers or (1 if this_process().device.type != "cpu" else joblib.cpu_count())
    results = run_grid(found, out, workers, scheduler, progress=not quiet)
    main = this_process().is_main_process
    for text, path in report(found, results, out) if main else ():
        say(f"{text}\n\n{path}\n", quiet)
    curves = run_robustness(found, out, workers)
    if main and len(curves):
        path = out / f"{found.name}-robustness.csv"
        write_text(path, curves.to_csv(index=False))
        say(f"{areas(curves).round(3).to_string()}\n\n{path}", quiet)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe as TOML.")] = None) -> None:
    """List the named recipes, or print one as TOML to be copied and changed.

    Example: mer-lab recipes text-bilstm > mine.toml
    """
    from mer_lab.recipes import RECIPES, find_recipe

    if name:
        say(find_recipe(name).to_toml(), False)
        return
    say("\n".join(f"{r.name:24} {r.corpus:10} {r.model['name']}" for r in RECIPES.values()), False)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one sentence on standard error and exit status 1."""
    for stream in (sys.stdout, sys.stderr):  # a Windows console may not know every sign
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
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
