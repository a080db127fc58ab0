"""How much of a training epoch is forward and backward?

    python benchmarks/epoch.py [RECIPE ...]

Trains two epochs of each recipe on the Staged corpus with one thread and prints, for the second (the first
warms up), seconds, utterances a second, and the share of the time that is spent in the steps: forward,
backward, clipping and the optimiser's update. The rest is batch making and bookkeeping. The aim is a share of
at least 80 %.
"""

import sys
from dataclasses import replace

import torch

from mer_lab.experiments import prepare
from mer_lab.recipes import find_recipe
from mer_lab.training import fit


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'recipe':20} {'seconds':>8} {'utterances/s':>13} {'in steps':>9}")
    for name in sys.argv[1:] or ("text-bilstm", "text-transformer", "audio-bilstm", "audio-transformer"):
        recipe = find_recipe(name)
        data, build = prepare(recipe)
        run = fit(build, data["train"], data["validation"], replace(recipe.train, epochs=2), progress=False)
        row = run.history[-1]
        rate = len(data["train"]) / row["seconds"]
        print(f"{name:20} {row['seconds']:8.2f} {rate:13.0f} {row['in_steps']:9.1%}")


if __name__ == "__main__":
    main()
