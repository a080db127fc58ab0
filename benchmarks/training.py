"""How fast an epoch is against a plain loop over utterances, and what a longer dialogue costs.

    python benchmarks/training.py [--share 0.33] [--out results/training_speed.json]

One thread, one run; seconds are the core's own, which a busy machine disturbs less. Three parts:

- an epoch of HCAM (in one piece), cross-modal attention and DialogueRNN on the Staged corpus, ours and as the
  loop of `references.py`, turn and turn about: the same first weights, batches, dropout, loss, clipping of
  gradients and AdamW, once both have given the same logits. A loop takes a share of the epoch's batches,
  spread over it, and its seconds are scaled up by utterances. Making a padded batch counts for ours and not
  for the loop, which cuts it up again. To a loop, larger batches are only fewer steps of the optimiser. In
  batches of 32 utterances two dialogues stand side by side, so DialogueRNN, turn after turn, gains least;
- the same where an utterance is one vector, as in most work on MELD: made-up numbers, dialogues of 10 turns;
- forward and backward for dialogues of 8 to 512 turns, one vector an utterance. The exponent is that of the
  seconds a dialogue, fitted by least squares to the logarithms from 64 turns on: 1 where a turn costs as much
  in a dialogue of any length. 1024 utterances at a time is what training does, where longer dialogues also
  mean fewer of them side by side; with one dialogue at a time only its own length counts. `early` reads no
  conversation and is the control. The least of several passes counts; memory is the most that a pass held,
  above what was held before it.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from extraction import held
from references import CrossModalLoop, DialogueLoop, HCAMLoop
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from mer_lab.batches import Batch
from mer_lab.experiments import prepare
from mer_lab.files import write_text
from mer_lab.losses import supervised_contrastive
from mer_lab.models import SYSTEMS, System
from mer_lab.models.layers import FrameEncoder
from mer_lab.provenance import provenance
from mer_lab.recipes import find_recipe
from mer_lab.training import TrainConfig

LOOPS = {"hcam-end-to-end": HCAMLoop, "krishna2021": CrossModalLoop, "dialogue-rnn": DialogueLoop}
SIZES = (32, 128)
LONG = ("hcam-end-to-end", "cm-roberta", "bc-lstm", "dialogue-rnn", "early")
TURNS = (8, 16, 32, 64, 128, 256, 512)
ROUNDS = 4  # through all lengths, so that a busy minute does not tilt the slope
WIDTH = 64  # of a made-up utterance's two vectors


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--share", type=float, default=1 / 3, help="of an epoch's batches, for a loop")
    options.add_argument("--out", type=Path, help="write the numbers there, too")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows = epochs(chosen.share)
    costs = lengths()
    if chosen.out:
        gain = {name: {kind: row["times faster"] for kind, row in of.items()} for name, of in rows.items()}
        fitted = {name: {way: row["exponent"] for way, row in of.items()} for name, of in costs.items()}
        result = {"times faster than the loop": gain, "exponents": fitted, "share": round(chosen.share, 3)}
        result |= {"epochs": rows, "turns": TURNS, "lengths": costs}
        made_by = provenance(time.perf_counter() - start)
        write_text(chosen.out, json.dumps(rounded(result) | made_by, indent=1) + "\n")


def epochs(share: float) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds an epoch of ours and of the loop, by system and by data."""
    print(f"seconds an epoch; of a loop {share:.0%} of the batches were timed\n")
    print(f"{'system':17} {'data':24} {'ours':>6} {'loop':>7} {'times faster':>13}")
    rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in LOOPS}
    rng = np.random.default_rng(0)
    for name in LOOPS:
        recipe = find_recipe(name)
        data, build = prepare(recipe)
        train = data["train"]
        runs: dict[str, tuple[System, list[Callable[[], Batch]]]] = {}
        torch.manual_seed(0)
        for size in SIZES:
            plan = train.plan(size, recipe.train.batch_by, np.random.default_rng(0))
            runs[f"Staged, {size} a batch"] = build(), [partial(train.batch, index) for index in plan]
        vectors = [made(10, 3, rng) for _ in range(len(train) // 30)]
        runs["one vector, 30 a batch"] = assembled(name), [partial(copy.copy, batch) for batch in vectors]
        for kind, (model, batches) in runs.items():
            rows[name][kind] = row = race(model, LOOPS[name], batches, recipe.train, share)
            gain = f"{row['ours']:6.2f} {row['loop']:7.2f} {row['times faster']:13.1f}"
            print(f"{name:17} {kind:24} {gain}", flush=True)
    kind = f"Staged, {SIZES[0]} a batch"
    by_step = rows["dialogue-rnn"][kind]["loop"]
    shown = (f"{name} {by_step / rows[name][kind]['ours']:.1f}" for name in LOOPS)
    print(f"\ntimes faster than DialogueRNN step by step, {kind}: {', '.join(shown)}\n")
    return rows


def race(
    model: System, loop_of: Callable[[System], nn.Module], batches: list[Callable[[], Batch]],
    config: TrainConfig, share: float,
) -> dict[str, float]:  # fmt: skip
    """Seconds an epoch of a system and of its loop, in turns, so that a busy machine slows both."""
    loop = loop_of(copy.deepcopy(model))
    assert_equal(model, loop, batches[0]())
    ours, theirs = learner(model, config), learner(loop, config)
    for make in batches[:2]:  # to warm up
        ours(make())
        theirs(make())
    timed = np.linspace(0, len(batches) - 1, max(2, round(share * len(batches)))).round().astype(int).tolist()
    seconds = by_loop = 0.0
    whole = part = 0
    for k, make in enumerate(batches):
        start = time.process_time()
        batch = make()
        ours(batch)
        seconds += time.process_time() - start
        whole += len(batch)
        if k in timed:
            start = time.process_time()
            theirs(batch)
            by_loop += time.process_time() - start
            part += len(batch)
    by_loop *= whole / part
    return {"ours": seconds, "loop": by_loop, "times faster": by_loop / seconds}


def learner(model: nn.Module, config: TrainConfig) -> Callable[[Batch], None]:
    """One optimiser step on a batch, as in :func:`mer_lab.training.fit`."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    model.train()

    def learn(batch: Batch) -> None:
        out = model(batch)
        loss = (1 - config.contrastive) * cross_entropy(out.logits, batch.label, ignore_index=-1)
        if config.contrastive:
            contrast = supervised_contrastive(out.embedding, batch.label, config.temperature)
            loss = loss + config.contrastive * contrast
        loss.backward()
        clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        optimiser.zero_grad()

    return learn


def assert_equal(model: System, loop: nn.Module, batch: Batch, tolerance: float = 1e-4) -> None:
    """Both give the same logits, so the race is between two ways to compute one thing."""
    with torch.no_grad():
        error = (model.eval()(batch).logits - loop.eval()(batch).logits).abs().max()
    assert error < tolerance, f"{type(loop).__name__}'s logits are {error:.1e} off"


def lengths() -> dict[str, dict[str, dict]]:
    """What a dialogue costs, by its length: forward and backward, one vector an utterance."""
    rng = np.random.default_rng(0)
    rows: dict[str, dict[str, dict]] = {}
    print("milliseconds a dialogue of so many turns, forward and backward\n")
    print(f"{'system':17} {'at a time':16}" + "".join(f"{t:8}" for t in TURNS) + f"{'exponent':>10}")
    for name in LONG:
        torch.manual_seed(0)
        model, rows[name] = assembled(name).train(), {}
        for way, total in (("1024 utterances", 1024), ("one dialogue", 0)):
            many = [max(1, total // turns) for turns in TURNS]
            batches = [made(turns, n, rng) for turns, n in zip(TURNS, many, strict=True)]
            passes = [[measured(model, batch) for batch in batches] for _ in range(ROUNDS)]
            seconds, memory = [], []
            for n, of_length in zip(many, zip(*passes, strict=True), strict=True):
                took, most = zip(*of_length, strict=True)
                seconds.append(min(took) / n)
                memory.append(None if None in most else max(most))
            upper = [k for k, turns in enumerate(TURNS) if turns >= 64]
            x, y = (np.log([of[k] for k in upper]) for of in (TURNS, seconds))
            slope = float(np.polyfit(x, y, 1)[0])
            rows[name][way] = {"exponent": slope, "seconds a dialogue": seconds}
            shown = "".join(f"{1000 * s:8.2f}" for s in seconds)
            print(f"{name:17} {way:16}{shown}{slope:10.2f}", flush=True)
            if total and None not in memory:
                rows[name][way]["MiB"] = memory
                print(f"{'':17} {'MiB in all':16}" + "".join(f"{m:8.0f}" for m in memory), flush=True)
    return rows


def made(turns: int, many: int, rng: np.random.Generator) -> Batch:
    """Dialogues of two speakers who take turns; voice and words of an utterance are one vector each."""
    total = turns * many
    audio, text = (torch.from_numpy(rng.normal(size=(total, 1, WIDTH)).astype(np.float32)) for _ in "at")
    real, row = torch.ones(total, 1, dtype=torch.bool), torch.arange(total)
    dialogue, turn = row // turns, row % turns
    label, score = torch.from_numpy(rng.integers(4, size=total)), torch.full((total,), torch.nan)
    return Batch(audio, real, text, real, dialogue, turn, 2 * dialogue + turn % 2, label, score, row)


def assembled(name: str) -> System:
    """A Staged recipe's system, its sizes kept, that reads vectors of ``WIDTH`` for both channels."""
    settings = dict(find_recipe(name).model)
    system, config = SYSTEMS[settings.pop("name")]
    config = replace(config, **settings | {"stride": 1})
    return system(FrameEncoder(WIDTH), FrameEncoder(WIDTH), 4, config)


def measured(model: System, batch: Batch) -> tuple[float, float | None]:
    """The core's seconds of a forward and backward pass, and MiB that it needed."""

    def once() -> float:
        model.zero_grad()
        start = time.process_time()
        cross_entropy(model(batch).logits, batch.label).backward()
        return time.process_time() - start

    model.zero_grad()
    trim()
    before = held(reset=True)
    once()
    most = 1024 * (held("VmHWM") - before) if before else None
    return min(once(), once()), most


def trim() -> None:
    """Give freed memory back to the system, where its C library can (glibc), so that it is not held."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass


def rounded(x):
    """Numbers to four digits, however deep they stand."""
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [rounded(v) for v in x]
    return float(f"{x:.4g}") if isinstance(x, float) else x


if __name__ == "__main__":
    main()
