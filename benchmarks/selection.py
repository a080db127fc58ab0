"""How much does it seem to help to choose the epoch on the test set?

    python benchmarks/selection.py [--seeds 10] [--out results/selection.json] [RECIPE ...]

Trains each recipe on the Staged corpus with several seeds, three times each, and writes the score of every
epoch on validation and on two halves of the test dialogues; lesson 09 draws it.
"""

import argparse
import time
from pathlib import Path

import joblib
import torch

from mer_lab.figures import write_json
from mer_lab.optimism import watched_epochs
from mer_lab.parallel import in_processes
from mer_lab.provenance import provenance
from mer_lab.recipes import find_recipe


def watched(name: str, seed: int) -> tuple[str, dict]:
    torch.set_num_threads(1)
    frame = watched_epochs(find_recipe(name), seed).round(5)
    return name, {"seed": seed, **frame.drop(columns=["epoch", "train_loss"]).to_dict("list")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=["text-bilstm", "early", "krishna2021"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=joblib.cpu_count())
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    start, runs = time.perf_counter(), {name: [] for name in given.recipes}
    jobs = (joblib.delayed(watched)(name, seed) for name in given.recipes for seed in range(given.seeds))
    for name, row in in_processes(jobs, given.workers):
        runs[name].append(row)
        print(name, row["seed"], f"{time.perf_counter() - start:.0f} s")
    if given.out:
        write_json(given.out, {"runs": runs, **provenance(time.perf_counter() - start)})


if __name__ == "__main__":
    main()
