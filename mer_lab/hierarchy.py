"""Training in stages: what one stage has learnt stays frozen in the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from mer_lab.batches import Dataset
from mer_lab.training import Run, TrainConfig, fit


def train_model(
    build: Callable[[], nn.Module],
    train: Dataset,
    validation: Dataset,
    config: TrainConfig | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    cpu: bool = False,
) -> Run:
    """Train a system the way it asks for: in stages where it has them, else in one piece."""
    return fit(build, train, validation, config, seed, folder, progress, cpu)
