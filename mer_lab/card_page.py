"""One model card, and the table of all, as Markdown; :mod:`mer_lab.cards` gathers what they say."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import pandas as pd

from mer_lab.comparison import SCORES
from mer_lab.corpora.staged import CUES
from mer_lab.errors import MerLabError
from mer_lab.experiments import MODELS
from mer_lab.figures import ROOT, read_json
from mer_lab.files import TEMPLATES
from mer_lab.grid import find_grid
from mer_lab.metrics import METRICS
from mer_lab.models import SYSTEMS
from mer_lab.models.baselines import BASELINES
from mer_lab.recipes import RECIPES
from mer_lab.records import Recipe, Result
from mer_lab.statistics import accuracy_by

FACTS = tomllib.loads((TEMPLATES / "cards.toml").read_text(encoding="utf-8"))
"""What a card says of a corpus, and the licences of encoders."""
_NAMES = {"staged": "Staged", "meld": "MELD", "ravdess": "RAVDESS"}
_INTRO = """# Model cards

*Made by `python -m mer_lab.cards` from `results/`; do not edit.*

One card for each recorded system, in the spirit of Mitchell et al., *Model cards for model reporting* (FAT* 2019).
Scores are in points of 100: mean ± standard deviation over seeds, and in brackets the 95 % interval over dialogues and
seeds where it is known. No weights are in the repository: each card has the command that trains them again.
"""  # noqa: E501


class Card(NamedTuple):
    """A recorded result and its row, as :func:`mer_lab.comparison.compare` has it.

    Attributes:
        grid: that it was published with; "" where its row was computed from its predictions.
        control: the result that it is held against; None without one.
    """

    result: Result
    row: pd.Series
    grid: str
    control: Result | None

    @property
    def name(self) -> str:
        return self.result.recipe.name

    @property
    def kind(self) -> type:
        model = self.result.recipe.model["name"]
        return SYSTEMS[model][0] if model in SYSTEMS else (MODELS | BASELINES)[model]

    @property
    def metric(self) -> str:
        return self.result.recipe.train.monitor


def as_markdown(card: Card, folder: Path = ROOT / "results") -> str:
    """The card as Markdown.

    Raises:
        MerLabError: nothing is known here of the licence of its corpus or encoder.
    """
    r, recipe = card.result, card.result.recipe
    if recipe.corpus not in FACTS["corpora"]:
        raise MerLabError(f"{recipe.name}: templates/cards.toml says nothing of corpus {recipe.corpus}.")
    corpus, p = FACTS["corpora"][recipe.corpus], r.provenance
    seeds = "" if recipe.seeds == RECIPES[card.name].seeds else f" --seeds {len(recipe.seeds)}"
    brackets = "; brackets hold the 95 % interval over dialogues and seeds"
    changed = ", ".join(f"{k} = {v}" for k, v in recipe.staged.items())
    fill = {
        "name": card.name, "hash": recipe.hash, "stem": f"{card.name}-{recipe.hash}", "corpus": corpus,
        "summary": (card.kind.__doc__ or "").partition("\n")[0],
        "code": f"{card.kind.__module__}.{card.kind.__name__}", "paper": getattr(card.kind, "paper", ""),
        "reads": "; ".join(_reads(card)), "changed": f"; with {changed}" if changed else "",
        "learnt": "" if np.isnan(card.row["learnt"]) else f"{card.row['learnt']:,.0f}",
        "seeds": ", ".join(map(str, recipe.seeds)),
        "recorded": f"{p['date']}, {p['device']}, torch {p['versions']['torch']}, commit {p['commit']}",
        "utterances": f"{r.test[0]['n']:,}", "brackets": "" if np.isnan(card.row["low"]) else brackets,
        "dialogues": f" of {len(set(r.truth['dialogue']))} dialogues" if r.truth else "",
        "scores": _scores(card), "gain": _gain(card), "classes": _classes(r), "cues": _cues(r),
        "measures": _list(_measures(card)), "limits": _list(_limits(card, folder)),
        "licences": " ".join([corpus["licence"], *_encoder_licences(recipe)]),
        "command": f"mer-lab run {card.name}{seeds} --out runs", "leaves": _leaves(card),
        "toml": _on_one_line(recipe.to_toml()).strip(),
    }  # fmt: skip
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((TEMPLATES / "card.md.j2").read_text(encoding="utf-8")).render(fill)


def index(found: Sequence[Card]) -> str:
    """The table of all cards as Markdown; of each test set, the best score first."""
    lines = [_INTRO.rstrip()]
    groups = defaultdict(list)
    for c in found:
        changed = ", ".join(f"{k} = {v}" for k, v in c.result.recipe.staged.items())
        groups[_NAMES[c.result.recipe.corpus] + (f", {changed}" if changed else "")].append(c)
    for head, own in groups.items():
        rows = [["system", SCORES[own[0].metric], "gain over text alone", "seeds"]]
        for c in sorted(own, key=lambda c: (-round(float(c.row["score"]), 4), c.name)):
            gain = "" if np.isnan(c.row["gain"]) else _difference(c.row)
            rows.append([f"[{c.name}]({c.name}.md)", _score(c.row), gain, str(len(c.result.test))])
        lines += ["", f"## {head}", "", _table(rows)]
    return "\n".join(lines) + "\n"


def _scores(card: Card) -> str:
    columns = {card.name: card.result}
    if card.control:
        name = card.control.recipe.name
        columns[f"text alone ([{name}]({name}.md))"] = card.control
    rows = [["", *columns]]
    for metric in dict.fromkeys([card.metric, *METRICS]):
        cells = [_mean(r, metric) for r in columns.values()]
        if metric == card.metric:
            cells[0] = _score(card.row)
        rows.append([SCORES[metric], *cells])
    return _table(rows)


def _gain(card: Card) -> str:
    if card.grid and card.name in find_grid(card.grid).control.values():
        return "It is the text-only control that others are held against."
    if card.control is None:
        return "There is no text-only control on the same test utterances to hold it against."
    family = f"the systems of grid *{card.grid}*" if card.grid else "the recorded systems outside the grid"
    shown = float(card.row["p_holm"]) < 0.05
    said = ("better" if card.row["gain"] > 0 else "worse") if shown else "no difference is shown"
    context = (
        " Text alone reads one utterance, so this counts context as well as sound."
        if _contextual(card)
        else ""
    )
    return (
        f"Paired difference to text alone: **{_difference(card.row)}**; after Holm's correction over "
        f"{family}: {said}.{context}"
    )


def _classes(r: Result) -> str:
    rows = [["class", "utterances", "precision", "recall", "F1"]]
    for label in r.labels:
        each = pd.DataFrame([row["per_class"][label] for row in r.test]).mean()
        rows.append(
            [label, f"{each['support']:.0f}", *(_points(each[k]) for k in ("precision", "recall", "f1"))]
        )
    return _table(rows)


def _by_cue(r: Result) -> pd.DataFrame:
    label, cue, dialogue = (np.array(r.truth[k]) for k in ("label", "cue", "dialogue"))
    return accuracy_by(cue, label, np.array(r.predictions), dialogue).reindex(CUES).dropna()


def _cues(r: Result) -> str:
    if not r.truth:
        return ""
    rows = [["cue", "utterances", "accuracy", "95 % interval over dialogues"]]
    for cue, x in _by_cue(r).iterrows():
        rows.append([str(cue), f"{x['utterances']:.0f}", _points(x["estimate"]), _bounds(x)])
    return _table(rows)


def _measures(card: Card) -> Iterator[str]:
    row, r = card.row, card.result
    if not np.isnan(row["ece"]):
        tempered = f"{row['ece_tempered']:.1f} after a temperature fitted on validation"
        yield f"Expected calibration error: {row['ece']:.1f} points, {tempered}."
    else:
        yield "Calibration was not recorded."
    if not np.isnan(row["value_text"]):
        text, audio, gap = (row[k] for k in ("value_text", "value_audio", "emap_gap"))
        yield f"Shapley value of the text: {text:.0f} points, of the audio: {audio:.0f}."
        lost = f"{gap:.1f}".replace("-", "\N{MINUS SIGN}")
        yield f"EMAP gap, what is lost when only `f(text) + g(audio)` is left: {lost} points."
    where = f"{r.provenance['device']}, {r.provenance['cores']} cores"
    if not np.isnan(row["seconds_epoch"]):
        memory = "" if np.isnan(row["peak_mib"]) else f", {row['peak_mib']:.0f} MiB at the peak of training"
        speed = f"{row['utterances_per_second']:,.0f} utterances a second in use"
        yield f"{row['seconds_epoch']:.2f} s an epoch{memory}, {speed}, features ready ({where})."
    else:
        yield f"All seeds together took {r.provenance['seconds']:.0f} s ({where})."


def _limits(card: Card, folder: Path) -> Iterator[str]:
    r = card.result
    if r.truth:
        cues = _by_cue(r)
        worst = cues["estimate"].idxmin()
        yield f"Worst cue: *{worst}*, {_points(cues.at[worst, 'estimate'])} {_bounds(cues.loc[worst])}."
    recall = {label: np.mean([row["per_class"][label]["recall"] for row in r.test]) for label in r.labels}
    weakest = min(recall, key=recall.get)
    yield f"Weakest class: *{weakest}*, of which it finds {_points(recall[weakest])} in 100."
    wrong = np.mean([row["confusion"] for row in r.test], 0)
    np.fill_diagonal(wrong, 0)
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    yield f"Most frequent mistake: *{r.labels[i]}* taken for *{r.labels[j]}*, {wrong[i, j]:.0f} times a seed."
    curves = pd.DataFrame(read_json(folder / f"robustness_{card.grid}.json") if card.grid else {})
    if len(curves) and len(own := curves[curves["system"] == card.name]):
        clean = own.loc[own["kind"] == "clean", "estimate"].item()
        harm = own.loc[own["estimate"].idxmin()]
        level = f" at {harm['level']:g} dB" if harm["kind"] in ("white", "babble", "music") else ""
        after = f"{_points(clean)} falls to {_points(harm['estimate'])} {_bounds(harm)}"
        yield f"Of the harms that were tried on it, *{harm['kind']}*{level} costs most: {after}."
    if len(r.test) == 1 and "learnt" in r.validation[0]:
        yield "One seed: how far another would move it is not known."
    if np.isnan(card.row["low"]):
        yield "The spread is of seeds alone; other test speakers could move it further."


def _reads(card: Card) -> Iterator[str]:
    recipe = card.result.recipe
    if recipe.model["name"] == "majority":
        yield "nothing"
        return
    for channel, spec in (
        ("audio", recipe.audio),
        ("text", recipe.text or ({} if recipe.audio else {"name": "words"})),
    ):
        if spec:
            name = f"{spec['attached']}, attached" if "attached" in spec else spec["name"]
            through = spec.get("encoder") or (recipe.encoder.get("encoder") if channel == "audio" else "")
            yield f"{channel}: {name}" + (f" ({through})" if through else "")
    yield "whole dialogues" if _contextual(card) else "one utterance at a time"


def _contextual(card: Card) -> bool:
    return getattr(card.kind, "contextual", False)


def _encoder_licences(recipe: Recipe) -> Iterator[str]:
    for spec in (recipe.audio, recipe.text, recipe.encoder):
        if name := spec.get("encoder"):
            if name not in FACTS["encoders"]:
                raise MerLabError(f"{recipe.name}: templates/cards.toml says nothing of encoder {name}.")
            yield f"The encoder {name} is under {FACTS['encoders'][name]}."


def _leaves(card: Card) -> str:
    recipe = card.result.recipe
    if recipe.model["name"] in BASELINES:
        return "fits it again; it is no network and has none to keep"
    place = f"runs/{card.name}-{recipe.hash}/seed-0"
    if recipe.model["name"] in SYSTEMS:
        return f"trains them again, those of the first seed into `{place}/model` for `System.from_pretrained`"
    return f"trains them again, those of the first seed into `{place}` for `mer_lab.experiments.trained`"


def _on_one_line(toml: str) -> str:
    """Arrays as a person would write them."""
    return re.sub(r"\[\s+([^]]*?),\s+]", lambda m: f"[{' '.join(m[1].split())}]", toml)


def _score(row: pd.Series) -> str:
    spread = "" if np.isnan(row["spread"]) or row.get("seeds") == 1 else f" ± {row['spread']:.1f}"
    bounds = "" if np.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['score']:.1f}{spread}{bounds}"


def _mean(r: Result, metric: str) -> str:
    mean, spread = r.summary(metric)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}" if len(r.test) > 1 else f"{100 * mean:.1f}"


def _difference(row: pd.Series) -> str:
    return f"{row['gain']:+.1f} [{row['gain_low']:.1f}, {row['gain_high']:.1f}]".replace(
        "-", "\N{MINUS SIGN}"
    )


def _bounds(x: pd.Series) -> str:
    return f"[{_points(x['low'])}, {_points(x['high'])}]"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(rows: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [rows[0], rule, *rows[1:]])


def _list(items: Iterator[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
