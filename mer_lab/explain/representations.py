"""What the vectors inside a system hold, stage by stage: probes, similarity of stages, maps to look at.

A probe says what a linear function can read from a vector, not that the system uses it. Centred kernel
alignment says how alike two stages arrange the same utterances. A map comes with how far it can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from mer_lab.batches import Batch, Dataset
from mer_lab.errors import MerLabError
from mer_lab.models import System
from mer_lab.models.layers import Conversation
from mer_lab.models.unimodal import average_steps
from mer_lab.prediction import at_once
from mer_lab.ragged import Ragged
from mer_lab.statistics import cluster_bootstrap, score_interval

# Part of a module's name → the channel whose steps it gives; any other gives words, or turns of a dialogue.
_CLOCKS = {"text": "text", "read": "text", "audio": "audio", "hear": "audio", "project": "audio"}
# Encoders, which are asked themselves; the classifier; a cell that reads its dialogue from the end.
_LEFT_OUT = ("audio", "text", "classify", "cells 2")
_C, _ALPHA = (0.003, 0.03, 0.3), (1.0, 10.0, 100.0, 1000.0)  # more only cost time on standardised vectors
_RESAMPLES, _FOLDS = 1000, 4


def stages(model: System, data: Dataset) -> dict[str, np.ndarray]:
    """A vector ``(U, D)`` of every utterance at each stage of a system, in the corpus's order.

    "audio input" and "text input" are what the encoders give; then come the outputs of the system's modules
    that have parameters, in the order of their calls, under their names in the code, numbered from 1 where
    there are several; last "fused", what the classifier saw. Sequences are averaged over their real steps.

    Raises:
        MerLabError: there are no utterances, or a channel that the system reads is missing.
    """
    if not len(data):
        raise MerLabError("there are no utterances whose vectors could be taken.")
    parts: dict[str, list[Tensor]] = {}
    rows, device = [], next(model.eval().parameters()).device
    with torch.inference_mode():
        for batch in data.batches(at_once(model), "dialogue" if model.contextual else "length"):
            rows.append(batch.index)
            for name, x in _of_batch(model, batch.to(device)).items():
                parts.setdefault(name, []).append(x.float().cpu())
    back = torch.cat(rows).argsort()
    # the steps of a module whose clock is not known can fit in one batch by chance: such a one is no stage
    whole = {name: torch.cat(x)[back].numpy() for name, x in parts.items() if len(x) == len(rows)}
    fused = whole.pop("fused")
    return {name: x for name, x in whole.items() if not np.array_equal(x, fused)} | {"fused": fused}


def _of_batch(model: System, batch: Batch) -> dict[str, Tensor]:
    x, frames, w, words = model.encode(batch)
    found = {"audio input": _mean(x, frames), "text input": _mean(w, words)}
    masks = {"audio": average_steps(x, frames, getattr(model.config, "stride", 1))[1], "text": words}
    turns = Conversation.of(batch) if model.contextual else None

    def keep(name: str, module: nn.Module, _, output: object) -> None:
        if (vector := _vector(name, module, output, masks, turns)) is not None:
            found[name] = vector

    with ExitStack() as hooks:
        for name, module in _modules(model):
            hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        return found | {"fused": model(batch).embedding}


def _modules(model: nn.Module, path: str = "", count: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Children with parameters; of lists and dictionaries of modules what they hold, of lists by number."""
    for k, (name, module) in enumerate(model.named_children(), start=1):
        shown = f"{path} {k if count else name.replace('_', ' ')}".strip()
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            yield from _modules(module, shown, isinstance(module, nn.ModuleList))
        elif shown not in _LEFT_OUT and list(module.parameters()):
            yield shown, module


def _vector(
    name: str, module: nn.Module, output: object, masks: Mapping[str, Tensor], turns: Conversation | None
) -> Tensor | None:
    """What a module gave as vectors ``(U, D)``; None where it is neither of utterances nor of their steps."""
    for field in ("embedding", "vector"):
        output = getattr(output, field, output)
    x = output[0] if isinstance(output, tuple) else output
    if not isinstance(x, Tensor) or x.dim() != 3:
        return x if isinstance(x, Tensor) and x.dim() == 2 and len(x) == len(masks["text"]) else None
    if isinstance(module, nn.Conv1d):
        x = x.transpose(1, 2)  # (U, D, T) to (U, T, D)
    channel = next((c for part, c in _CLOCKS.items() if part in name.split()), "" if turns else "text")
    if not channel:
        return turns.utterances(x) if x.shape[:2] == turns.mask.shape else None
    mask = masks[channel]
    return _mean(x, mask) if x.shape[:2] == mask.shape else None


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """``x (U, T, D)``, ``mask (U, T)`` to ``(U, D)``; without a real step zeros."""
    return x.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class Examples(NamedTuple):
    """Utterances that a probe is taught or tested on.

    ``vectors (U, D)``; ``targets (U,)``, numbers if they are floats, else classes; ``dialogues (U,)``
    and ``types (U,)`` of the control task, such as sentences: without these each utterance stands alone.
    """

    vectors: np.ndarray
    targets: np.ndarray
    dialogues: Iterable[object] | None = None
    types: Iterable[object] | None = None


class Probe(NamedTuple):
    """How well something can be read from vectors.

    Attributes:
        score: balanced accuracy of classes (mean recall), R² of numbers, on the test utterances.
        chance: of whatever does not look at the vectors: 1 / classes, or 0.
        low, high: 95 % interval of the score over dialogues; ``control``, score on the control task.
        selectivity: score less control, what it owes to the vectors and not to the probe's memory.
        utterances: that were tested.
    """

    score: float
    chance: float
    low: float
    high: float
    control: float
    selectivity: float
    utterances: int


def probe(train: Examples, test: Examples | None = None, seed: int = 0) -> Probe:
    """A linear probe: logistic regression for classes, ridge regression for numbers.

    The vectors are standardised; the regularisation is the one that does best on a quarter of the training
    dialogues. The control task (Hewitt and Liang, "Designing and Interpreting Probes with Control Tasks",
    EMNLP 2019) draws a target at random for each type, the same wherever it occurs: a probe that does well
    there knows types by heart. Types that never recur are shuffled targets, at chance unless something leaks.

    Args:
        test: without, the probe is taught on some dialogues and tested on the others, each once in four
            folds: for what is in one split only, such as a speaker.
        seed: of the held-out quarter, the folds, the control task and the interval.

    Raises:
        MerLabError: lengths that do not fit, a missing target, fewer than two classes or four dialogues.
    """
    sides = [_checked(side, k) for k, side in enumerate((train, test)) if side is not None]
    x, y, dialogues, types = (np.concatenate(column) for column in zip(*sides, strict=True))
    if (given := len(np.unique(sides[0][2]))) < _FOLDS:
        raise MerLabError(f"{given} dialogue(s) to teach a probe on; expected at least {_FOLDS}.")
    count = len(sides[0][1])
    folds, tested = [(np.arange(count), np.arange(count, len(y)))], slice(count if test else 0, None)
    if test is None:
        folds = GroupKFold(_FOLDS, shuffle=True, random_state=seed).split(x, y, dialogues)
    names, of = np.unique(types, return_inverse=True)
    drawn = y[np.random.default_rng(seed).integers(count, size=len(names))][of]
    read, control = np.empty_like(y), np.empty_like(y)
    for learnt, asked in folds:
        found = _fit(x[learnt], y[learnt], dialogues[learnt], seed)
        read[asked] = found.predict(x[asked])
        control[asked] = clone(found).fit(x[learnt], drawn[learnt]).predict(x[asked])
    y, read, drawn, control, dialogues = (v[tested] for v in (y, read, drawn, control, dialogues))
    if y.dtype.kind == "f":
        chance, other = 0.0, _r2(drawn, control)
        found = cluster_bootstrap(lambda at: _r2(y[at], read[at]), dialogues, n=_RESAMPLES, seed=seed)
    else:
        chance, other = 1 / len(np.unique(y)), _recall(drawn, control)
        codes = np.unique(np.concatenate([y, read]).astype(str), return_inverse=True)[1].reshape(2, -1)
        found = score_interval("ua", *codes, dialogues, n=_RESAMPLES, seed=seed)
    return Probe(found.estimate, chance, found.low, found.high, other, found.estimate - other, len(y))


def _checked(side: Examples, number: int) -> tuple[np.ndarray, ...]:
    x, y = np.asarray(side.vectors, np.float64), np.asarray(side.targets)
    names = [[f"{number} {k}" for k in range(len(y))] if v is None else list(map(str, v)) for v in side[2:]]
    if x.ndim != 2 or any(len(v) != len(x) for v in (y, *names)):
        sizes = " and ".join(str(len(v)) for v in (y, *names))
        raise MerLabError(f"vectors are {x.shape}, targets, dialogues and types {sizes}; expected U of each.")
    if pd.isna(y).any() or len(np.unique(y.astype(str))) < 2:
        raise MerLabError("a probe needs targets that vary, one each; leave out utterances without a target.")
    return x, y if y.dtype.kind == "f" else y.astype(str).astype(object), *map(np.array, names)


def _fit(x: np.ndarray, y: np.ndarray, dialogues: np.ndarray, seed: int) -> Pipeline:
    if y.dtype.kind == "f":
        last, grid, score = Ridge(), {"ridge__alpha": _ALPHA}, _r2
    else:  # classes weigh the same, as they do in the score
        last = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3)
        grid, score = {"logisticregression__C": _C}, _recall
    held = GroupShuffleSplit(1, test_size=0.25, random_state=seed)
    search = GridSearchCV(make_pipeline(StandardScaler(), last), grid, scoring=make_scorer(score), cv=held)
    return search.fit(x, y, groups=dialogues).best_estimator_


def _r2(y: np.ndarray, read: np.ndarray) -> float:
    return float(1 - np.square(y - read).mean() / y.var())  # scikit-learn's takes long, for its checks


def _recall(y: np.ndarray, read: np.ndarray) -> float:  # balanced accuracy, over the classes that occur
    return float(recall_score(y, read, labels=np.unique(y), average="macro", zero_division=0))


def facts(data: Dataset, prosody: Ragged | None = None) -> pd.DataFrame:
    """What is known of every utterance, in the corpus's order; None or NaN where it is not.

    ``emotion`` (its label), ``speaker``; with ``prosody`` (by default the data's audio) ``pitch``, the
    mean of voiced frames in semitones above 100 Hz; on Staged ``word``, the emotion that the sentence
    means if it is one, and ``stressed``, the emotion if a stressed word decides among several.
    """
    corpus, table = data.corpus, data.corpus.table
    named = np.array([*corpus.labels, None], object)[data.targets]
    known = {"emotion": named, "speaker": table["speaker"].replace("", None).to_numpy(object)}
    prosody = data.audio if prosody is None else prosody.take(corpus.ids)
    columns = list(prosody.meta.get("columns", ())) if prosody is not None else []
    if {"pitch", "voiced"} <= set(columns):
        pitch, voiced = columns.index("pitch"), columns.index("voiced")
        frames = (x[x[:, voiced] > 0.5, pitch] for x in (prosody[k] for k in range(len(prosody))))
        known["pitch"] = np.array([x.mean() if len(x) else np.nan for x in frames], float)
    if {"words_mean", "cue", "emotion"} <= set(table):
        single = table["words_mean"].isin(corpus.labels)
        known["word"] = table["words_mean"].where(single, None).to_numpy(object)
        known["stressed"] = table["emotion"].where(table["cue"] == "accent", None).to_numpy(object)
    return pd.DataFrame(known, index=table.index)


def probe_all(
    model: System, data: Mapping[str, Dataset], truth: Mapping[str, pd.DataFrame] | None = None, seed: int = 0
) -> pd.DataFrame:
    """What can be read at each stage of a system, taught on training utterances and tested on test ones.

    Speakers are in one split only: their probe is taught and tested on different dialogues of the test split.

    Args:
        data: ``"train"`` and ``"test"``.
        truth: of both, :func:`facts` by default; all its columns that vary are probed.

    Returns:
        one row a stage and column: ``stage, what, width`` and the fields of :class:`Probe`, whose control
        task has sentences for types.

    Raises:
        MerLabError: a split is missing.
    """
    if not {"train", "test"} <= set(data):
        raise MerLabError(f"probes need the splits train and test; got {', '.join(data) or 'none'}.")
    truth = truth or {split: facts(data[split]) for split in ("train", "test")}
    found, rows = {split: stages(model, data[split]) for split in ("train", "test")}, []
    for stage, what in product(found["test"], truth["test"]):
        sides = []
        for split in ("test",) if what == "speaker" else ("train", "test"):
            y = truth[split][what]
            kept = y.notna().to_numpy()
            about = data[split].corpus.table[kept]
            x = found[split][stage]
            sides.append(Examples(x[kept], y[kept].to_numpy(), about["dialogue_id"], about["text"]))
        if all(len(np.unique(side.targets)) > 1 for side in sides):
            read = probe(*sides, seed=seed)
            rows.append({"stage": stage, "what": what, "width": x.shape[1], **read._asdict()})
    return pd.DataFrame(rows)


def cka(x: np.ndarray, y: np.ndarray, debiased: bool = True) -> float:
    """Linear centred kernel alignment of two stages ``(U, D1)`` and ``(U, D2)``: 1 where they agree.

    ``|X^T Y|² / (|X^T X| |Y^T Y|)`` of centred columns (Kornblith et al., "Similarity of Neural Network
    Representations Revisited", ICML 2019): turning a space, or scaling it as a whole, changes nothing.

    Args:
        debiased: with the unbiased estimator of HSIC (Song et al., JMLR 2012, HSIC_1): about 0, at times
            below, for stages that share nothing. False gives the published value, which is far too high
            where U is small against D: noise looks alike there.

    Raises:
        MerLabError: they are not of the same utterances, or of fewer than four.
    """
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise MerLabError(f"stages {x.shape} and {y.shape}; expected (U, D) of the same utterances, U >= 4.")
    x, y = x - x.mean(0), y - y.mean(0)
    size = _hsic(x, x, debiased) * _hsic(y, y, debiased)
    return float(_hsic(x, y, debiased) / np.sqrt(size)) if size > 0 else float("nan")  # one never varies


def _hsic(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """Of centred columns, HSIC of ``K = X X^T`` and ``L = Y Y^T`` up to a factor; HSIC_1 if debiased."""
    shared = np.square(x.T @ y).sum()
    if not debiased:
        return shared
    # HSIC_1 takes kernels without diagonals; rows of the centred K and L sum to 0, so only those are left
    n, k, m = len(x), np.square(x).sum(1), np.square(y).sum(1)
    return shared - k @ m + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m)


def cka_table(stages: Mapping[str, np.ndarray], debiased: bool = True) -> pd.DataFrame:
    """:func:`cka` of all pairs of stages, symmetrical, in their order."""
    names = list(stages)
    table = pd.DataFrame(index=names, columns=names, dtype=float)
    for a, b in combinations_with_replacement(names, 2):
        table.loc[a, b] = table.loc[b, a] = cka(stages[a], stages[b], debiased)
    return table


class Map(NamedTuple):
    """``points (U, 2)``; ``trustworthiness``, 1 if neighbours on it are true ones (Venna and Kaski 2001)."""

    points: np.ndarray
    trustworthiness: float


def map2d(vectors: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Map]:
    """A map of the utterances at each stage ``(U, D)``: standardised, 20 principal components, t-SNE.

    It keeps neighbourhoods: neither distances between groups nor their sizes mean anything (van der Maaten
    and Hinton, "Visualizing Data using t-SNE", JMLR 2008). The same numbers every time.

    Raises:
        MerLabError: fewer than ten utterances.
    """
    maps = {}
    for name, x in vectors.items():
        if len(x) < 10:
            raise MerLabError(f"there are {len(x)} utterances of {name!r}; a map needs at least 10.")
        x = StandardScaler().fit_transform(np.asarray(x, np.float64))
        few = PCA(min(20, *x.shape), svd_solver="full").fit_transform(x)
        points = TSNE(perplexity=min(30, len(x) / 4), init="pca", random_state=seed).fit_transform(few)
        maps[name] = Map(points, float(trustworthiness(x, points, n_neighbors=min(10, len(x) // 2 - 1))))
    return maps
