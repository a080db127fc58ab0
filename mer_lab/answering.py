"""What trained systems answer about the turns of a conversation, and how far each answer is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mer_lab.batches import Dataset
from mer_lab.calibration import temper
from mer_lab.conformal import prediction_sets
from mer_lab.conversation import conversation
from mer_lab.errors import MerLabError
from mer_lab.models import System
from mer_lab.prediction import predict


@dataclass(frozen=True)
class Answers:
    """Probabilities of the turns of a conversation.

    Attributes:
        data: the turns, as the first system reads them.
        systems: usually the seeds of one recipe.
        seeds: ``(S, U, K)`` calibrated probabilities of each system.
        sets: ``(U, K)`` of bool, the labels that cannot be ruled out; None where a system was saved without
            what it takes to tell.
        coverage: the share of such sets that hold the right label, on recordings like those of validation.
    """

    data: Dataset
    systems: Sequence[System]
    seeds: np.ndarray
    sets: np.ndarray | None = None
    coverage: float = 0.0

    @property
    def labels(self) -> tuple[str, ...]:
        return self.data.corpus.labels

    @property
    def probabilities(self) -> np.ndarray:
        """``(U, K)``, the mean over systems."""
        return self.seeds.mean(0)

    def table(self) -> pd.DataFrame:
        """A row a turn: speaker, text, ``decision``, its probability and range over systems, the set."""
        p, each = self.probabilities, np.arange(len(self.data))
        best = p.argmax(1)
        own = self.seeds[:, each, best]
        table = self.data.corpus.table[["speaker", "text"]].reset_index(drop=True)
        table.index = pd.RangeIndex(1, len(table) + 1, name="turn")
        table["decision"] = [self.labels[k] for k in best]
        table["probability"] = p[each, best]
        if len(self.systems) > 1:
            table["low"], table["high"] = own.min(0), own.max(0)
        if self.sets is not None:
            order = np.argsort(-p, axis=1)
            table["not_ruled_out"] = [
                ", ".join(self.labels[k] for k in row if kept[k])
                for row, kept in zip(order, self.sets, strict=True)
            ]
        return table


def load_systems(place: str | Path) -> list[System]:
    """The system saved in a folder, or of that name on the hub; of a run's folder all its seeds.

    Raises:
        MerLabError: neither; or a run none of whose seeds has ended.
    """
    folder = Path(place)
    if folder.is_dir() and not (folder / "config.json").is_file():
        found = sorted(folder.glob("seed-*/run.json"), key=lambda p: (len(p.parent.name), p.parent.name))
        if not found:
            raise MerLabError(
                f"{folder}: holds neither a saved system (config.json) nor a seed of a run that has ended."
            )
        return [System.from_pretrained(path.with_name("model")) for path in found]
    return [System.from_pretrained(place)]


def answer(systems: Sequence[System], turns: Sequence[tuple], name: str = "conversation") -> Answers:
    """Decide on every turn of a conversation; a system that reads context sees all of it.

    Args:
        systems: of :func:`load_systems`; their probabilities are averaged.
        turns: as of :func:`~mer_lab.conversation.conversation`.

    Raises:
        MerLabError: as of :func:`~mer_lab.conversation.conversation`; systems with other labels.
    """
    labels = {tuple(system.about.get("labels", ())) for system in systems}
    if len(labels) != 1:
        raise MerLabError(f"{len(systems)} systems that tell apart different labels cannot answer together.")
    read: dict[str, Dataset] = {}
    seeds, thresholds, coverage = [], [], 0.0
    for system in systems:
        known = repr((system.about.get("recipe"), system.text.settings))
        if known not in read:  # the seeds of a run hear and read alike
            read[known] = conversation(system, turns, name)
        trust = system.about.get("confidence", {})
        seeds.append(temper(predict(system, read[known]), trust.get("temperature", 1.0)))
        if trust:
            thresholds.append(trust["threshold"])
            coverage = trust["coverage"]
    p = np.stack(seeds)
    sets = prediction_sets(p, np.array(thresholds)) if len(thresholds) == len(systems) else None
    if sets is not None:
        sets[np.arange(len(sets)), p.mean(0).argmax(1)] = True  # what the mean decides no seed may rule out
    return Answers(next(iter(read.values())), systems, p, sets, coverage)
