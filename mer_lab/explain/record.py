"""Every method on every system, several seeds each: ``results/explanations_staged.json``.

``python -m mer_lab.explain.record --runs build/compare``, which ``make explanations`` calls after ``make
compare`` has trained the systems. A system and seed that is done is kept in ``--out`` and not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from mer_lab.errors import MerLabError
from mer_lab.experiments import open_corpus, prepare, trained
from mer_lab.explain.judging import (
    Judged,
    choose,
    difference,
    explain,
    judge,
    over_seeds,
    planted_rows,
    table,
)
from mer_lab.explain.question import Question
from mer_lab.explain.sanity import similarity, with_random_labels
from mer_lab.explain.truth import found
from mer_lab.explain.units import units_of
from mer_lab.files import ROOT, atomic_path, write_text
from mer_lab.hierarchy import train_model
from mer_lab.parallel import in_processes
from mer_lab.provenance import provenance, together
from mer_lab.recipes import find_recipe
from mer_lab.records import Recipe

SYSTEMS = (
    "cm-roberta", "hcam", "dialogue-rnn", "bc-lstm", "mult", "krishna2021", "xu2019-interacting", "xu2019",
    "early", "gated", "low-rank", "decision-mean",
)  # fmt: skip
"""Slow ones first, so that no worker is left alone with one."""
VERSION = 2
"""Of what is judged, and how: raise it with any change, or what ``--out`` keeps would be taken for new."""
EACH = {
    "accent": 24, "lexical": 16, "contextual": 12, "prosodic": 8, "redundant": 8, "incongruent": 8,
}  # fmt: skip
"""Utterances of each cue: most of those whose planted truth is sharpest."""
RELEARNT = ("early", "cm-roberta")
"""Systems that are trained once more on labels that mean nothing."""


def judged(recipe: Recipe, seed: int, runs: Path, out: Path, threads: int = 1) -> tuple[Judged, dict]:
    """What :func:`~mer_lab.explain.judging.judge` says of one seed, kept in ``out``; and its provenance."""
    path = out / f"{recipe.name}-{recipe.hash}-v{VERSION}-{seed}.npz"
    if (kept := _read(path)) is not None:
        return kept
    torch.set_num_threads(threads)
    start = time.perf_counter()
    test = prepare(recipe)[0]["test"]
    rows = choose(test, EACH)
    one = judge(trained(recipe, seed, runs), test, rows, seed=seed, progress=False)
    if recipe.name in RELEARNT:
        one = one._replace(table=pd.concat([one.table, relearnt(recipe, seed, one)], ignore_index=True))
    made = provenance(time.perf_counter() - start)
    _write(path, one, made)
    return one, made


def relearnt(recipe: Recipe, seed: int, one: Judged) -> pd.DataFrame:
    """The same of a system that has learnt permuted labels: how alike, and what they find."""
    data, build = prepare(recipe)
    train, validation = (with_random_labels(data[split], seed) for split in ("train", "validation"))
    model = train_model(build, train, validation, recipe.train, seed, progress=False).model
    question = Question(model, data["test"], one.rows, one.target)
    units, parts = units_of(question), []
    whole = one.table[one.table["criterion"] == "comprehensiveness"]
    for method in ("integrated-gradients", "gradient-x-input", "occlusion", "attention"):
        values = explain(question, method, seed=seed)
        alike = similarity(one.sums[method], units.sums(values))
        parts.append(whole[whole["method"] == method].assign(criterion="random labels", value=alike))
        parts.append(planted_rows(found(values, units), f"{method}, random labels"))
    return pd.concat(parts, ignore_index=True)


def collect(runs: Path, out: Path, seeds: int = 3, systems: tuple[str, ...] = SYSTEMS) -> dict:
    """All tables by system, the differences between methods that the lesson quotes, and provenance."""
    recipes = [find_recipe(name) for name in systems]
    open_corpus(recipes[0])  # made once, before processes would each do so
    for recipe in recipes:
        prepare(recipe)
    jobs = [(recipe, seed) for recipe in recipes for seed in range(seeds)]
    workers = max(1, min(joblib.cpu_count(), len(jobs)))
    done = list(in_processes((joblib.delayed(judged)(*job, runs, out) for job in jobs), workers))
    record, made = {"systems": {}}, []
    for recipe in recipes:
        own = [answer for answer, job in zip(done, jobs, strict=True) if job[0] is recipe]
        rows = over_seeds([one for one, _ in own])
        made += [p for _, p in own]
        record["systems"][recipe.name] = {
            "recipe": recipe.hash, "seeds": seeds, "table": _plain(table(rows)),
            "differences": _differences(rows),
        }  # fmt: skip
    return record | together(made)


def _differences(rows: pd.DataFrame) -> list[dict]:
    """Paired differences: every method against random order, and integrated gradients against the others."""
    out = []
    names = [m for m in rows["method"].unique() if "," not in m]
    pairs = [("deletion of 20 %", m, "random") for m in names if m != "random"]
    for criterion in ("words", "accents, words", "accents, spans", "comprehensiveness", "infidelity"):
        pairs += [(criterion, "integrated-gradients", m) for m in names if m != "integrated-gradients"]
    for criterion, a, b in pairs:
        interval = difference(rows, criterion, a, b)
        out.append({"criterion": criterion, "a": a, "b": b, **interval._asdict()})
    return _plain(pd.DataFrame(out))


def _plain(frame: pd.DataFrame) -> list[dict]:
    return json.loads(frame.to_json(orient="records", double_precision=4))


def _write(path: Path, one: Judged, made: dict) -> None:
    sums = {f"{m}|{k}": s for m, both in one.sums.items() for k, s in zip("ws", both, strict=True)}
    text = json.dumps({"table": _plain_exact(one.table), "provenance": made, "methods": list(one.sums)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        np.savez_compressed(f, rows=one.rows, target=one.target, text=np.array(text), **sums)


def _plain_exact(frame: pd.DataFrame) -> list[dict]:
    return json.loads(frame.to_json(orient="records", double_precision=10))


def _read(path: Path) -> tuple[Judged, dict] | None:
    try:
        with np.load(path) as kept:  # no pickles: numpy refuses them by itself
            text = json.loads(str(kept["text"]))
            sums = {m: (kept[f"{m}|w"], kept[f"{m}|s"]) for m in text["methods"]}
            frame = pd.DataFrame(text["table"]).astype({"value": float, "chance": float})
            return Judged(frame, sums, kept["rows"], kept["target"]), text["provenance"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        raise MerLabError(f"{path} is not what this mer_lab wrote; delete it to judge again.") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "compare", help="trained systems")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "explanations", help="what is judged")
    parser.add_argument("--to", type=Path, default=ROOT / "results", help="folder of the record")
    given = parser.parse_args()
    try:
        record = collect(given.runs.resolve(), given.out.resolve())
        write_text(given.to / "explanations_staged.json", json.dumps(record, indent=1) + "\n")
    except MerLabError as error:
        print(f"mer_lab.explain.record: {error}", file=sys.stderr)
        return 1
    print(f"{len(record['systems'])} systems judged: {given.to / 'explanations_staged.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
