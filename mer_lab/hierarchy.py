"""Training in stages: what one stage has learnt stays frozen in the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.prediction import embed
from mer_lab.ragged import Ragged
from mer_lab.training import Run, TrainConfig, fit


def train_model(
    build: Callable[[], nn.Module],
    train: Dataset,
    validation: Dataset,
    config: TrainConfig | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    **options: bool,
) -> Run:
    """Train a system the way it asks for: in stages where it has them, else in one piece.

    A system with ``config.stagewise`` is trained part by part (its ``parts()``), each by :func:`fit` with the
    same settings and its own best epoch. Then a part's vectors of all utterances are cached and are what the
    next stage reads, so no later stage can change it.

    Args: as of :func:`fit`, ``options`` its ``progress`` and ``cpu``; the parts keep their checkpoints in
    ``folder/stage-NAME``.

    Returns:
        the whole system; rows of its history tell the stages apart by ``"stage"``, seconds are the sum, and
        the best epoch is that of the last part.
    """
    config = config or TrainConfig()
    set_seed(seed)
    model = build()
    if not getattr(getattr(model, "config", None), "stagewise", False):
        drawn = torch.get_rng_state()  # so that fit, which seeds again, goes on as if it had built the model

        def built() -> nn.Module:
            torch.set_rng_state(drawn)
            return model

        return fit(built, train, validation, config, seed, folder, **options)
    if config.modality_dropout:
        raise MerLabError(
            f"{type(model).__name__} is trained in stages of one channel each: modality_dropout needs "
            "stagewise = false."
        )
    run = Run(model)
    for stage in model.parts():
        vectors: list[dict[str, Ragged]] = [{}, {}]  # of training and validation, by channel
        for k, part in enumerate(stage):
            data = [_only(part.channels, d) for d in (train, validation)]
            by = "dialogue" if part.contextual else "length"
            settings = replace(config, batch_by=by, lr=config.lr * part.rate)
            place = Path(folder) / f"stage-{part.name.replace(' ', '-')}" if folder else None
            # parts of a stage meet the data in orders of their own
            done = fit(lambda part=part: part, *data, settings, seed + 1000 * k, place, **options)
            run.history += [{"stage": part.name, **row} for row in done.history]
            run.best_epoch = done.best_epoch
            run.seconds += done.seconds
            start = time.perf_counter()
            if len(part.channels) == 1:  # a part that reads both is the last
                for made, d in zip(vectors, data, strict=True):
                    made[part.channels[0]] = cached(part, d)
            run.seconds += time.perf_counter() - start
        if all(vectors):
            train, validation = (
                Dataset(d.corpus, **made) for d, made in zip((train, validation), vectors, strict=True)
            )
    model.eval()
    return run


def _only(channels: tuple[str, ...], data: Dataset) -> Dataset:
    return Dataset(data.corpus, **{channel: getattr(data, channel) for channel in channels})


def cached(part: nn.Module, data: Dataset) -> Ragged:
    """A part's vectors as features of one frame an utterance."""
    vectors = embed(part, data)
    return Ragged(vectors, np.arange(len(vectors) + 1), data.corpus.ids, {"name": part.name})
