"""Seconds of an explanation by the default method: one utterance by itself, and many together.

    python benchmarks/explaining.py [--runs build/compare] [--out results/explaining_speed.json]

Systems are those that `make compare` has trained, seed 0, on Staged's test split; a system that reads
conversations is given the whole of them. One utterance: the median and the most of several, each asked by
itself, the loading of nothing counted. Many: 200 utterances, with their progress shown.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from mer_lab.experiments import prepare, trained
from mer_lab.explain import Question, attribute
from mer_lab.explain.record import SYSTEMS
from mer_lab.files import write_text
from mer_lab.provenance import provenance
from mer_lab.recipes import find_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("build/compare"))
    parser.add_argument("--out", type=Path, default=Path("results/explaining_speed.json"))
    parser.add_argument("--singles", type=int, default=12)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    given = parser.parse_args()
    begin, rows = time.perf_counter(), {}
    for name in given.systems:
        recipe = find_recipe(name)
        test, model = prepare(recipe)[0]["test"], trained(recipe, 0, given.runs)
        drawn = np.random.default_rng(0).permutation(len(test))
        attribute(Question(model, test, drawn[:1]), refuse=False)  # what is done once is not counted
        singles = [_seconds(model, test, [row])[0] for row in drawn[: given.singles]]
        many, values = _seconds(model, test, drawn[: given.many], progress=True)
        rows[name] = {
            "one": float(np.median(singles)), "one_most": max(singles), "many": many,
            "utterances": len(values), "a_second": len(values) / many,
            "error_median": float(np.median(values.error)), "error_most": float(values.error.max()),
            "within_1_percent": float((values.error <= 0.01).mean()),
            "error_of_all": float(np.abs(values.total - values.output + values.reference).sum()
                                  / np.abs(values.output - values.reference).sum()),
        }  # fmt: skip
        print(name, {k: round(v, 4) for k, v in rows[name].items()}, flush=True)
    made = provenance(time.perf_counter() - begin) | {"threads": torch.get_num_threads()}
    write_text(given.out, json.dumps({"systems": rows, **made}, indent=1) + "\n")


def _seconds(model, test, rows, progress: bool = False):
    start = time.perf_counter()
    values = attribute(Question(model, test, rows), refuse=False, progress=progress)
    return time.perf_counter() - start, values


if __name__ == "__main__":
    main()
