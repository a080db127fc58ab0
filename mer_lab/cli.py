"""The command line: each command prints what its Python function returns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mer_lab.errors import MerLabError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)



def _silence(quiet: bool) -> bool:
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, which is later
    return quiet


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_silence, help="Print nothing but errors.")
]


Root = Annotated[Path, typer.Argument(help="Folder of the official files.")]
Out = Annotated[Path, typer.Option(help="Corpus folder to write; absent or empty.")]
Sound = Annotated[bool, typer.Option("--audio/--no-audio", help="Take the sound as well as the text.")]


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


prepare = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(prepare, name="prepare")


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

    _say(repr(save_corpus(load_corpus("staged"), out)), quiet)


@prepare.command("iemocap")
def prepare_iemocap(root: Root, out: Out, audio: Sound = True, quiet: Quiet = False) -> None:
    """IEMOCAP: labels, evaluators, transcripts, word timings and sentence audio of Session1 to Session5.

    Example: mer-lab prepare iemocap ~/IEMOCAP_full_release --out corpora/iemocap
    """
    from mer_lab.corpora.iemocap import prepare_iemocap as do

    _say_imported(do(root, out, audio), quiet)


@prepare.command("meld")
def prepare_meld(root: Root, out: Out, audio: Sound = True, quiet: Quiet = False) -> None:
    """MELD: the three CSV files and, where they are there, the mp4 clips.

    Example: mer-lab prepare meld ~/MELD.Raw --out corpora/meld
    """
    from mer_lab.corpora.meld import prepare_meld as do

    _say_imported(do(root, out, audio), quiet)


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

    _say_imported(do(root, out, folds, rule, audio), quiet)


@prepare.command("ravdess")
def prepare_ravdess(root: Root, out: Out, quiet: Quiet = False) -> None:
    """RAVDESS: the speech clips, under their official names.

    Example: mer-lab prepare ravdess ~/RAVDESS --out corpora/ravdess
    """
    from mer_lab.corpora.ravdess import prepare_ravdess as do

    _say_imported(do(root, out), quiet)


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
    _say_imported(do(table, out, audio, {k: v for k, _, v in given}, split_by, name), quiet)


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
    _say(str(found), quiet)
    if out is not None:
        from mer_lab.plots import audit_figure

        found.save(out)
        if found.details:
            audit_figure(found).savefig(out / "audit.png", dpi=150, bbox_inches="tight")
        else:
            _say("No figure: the audit saw no label, no copy and no sound to draw.", quiet)
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
        _say(f"{name}: {len(ragged)} utterances, {shape}", quiet)
    if store.speed:
        _say(str(store.speed), quiet)


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


def _say_imported(imported: tuple[object, object], quiet: bool) -> None:
    corpus, report = imported
    _say(f"{report}\n{corpus!r}", quiet)


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
