"""From a recipe to a result: what was run, on what, with which seeds, and every test prediction."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.calibration import fit_temperature, temper
from mer_lab.checkpoints import load_weights
from mer_lab.conformal import COVERAGE, fit_threshold
from mer_lab.corpora import Corpus, load_corpus
from mer_lab.corpora.splits import leave_one_group_out
from mer_lab.corpora.staged import StagedConfig, staged
from mer_lab.cost import costs, peak_memory
from mer_lab.errors import MerLabError
from mer_lab.features.encoders import this_process
from mer_lab.files import write_text
from mer_lab.hierarchy import train_model
from mer_lab.inputs import build_encoder, read_audio_features, read_text_features
from mer_lab.modality import coalitions
from mer_lab.models import (
    SYSTEMS,
    System,
    UnimodalBiLSTM,
    UnimodalPooling,
    UnimodalStatistics,
    UnimodalTransformer,
)
from mer_lab.models.baselines import BASELINES
from mer_lab.parallel import in_processes
from mer_lab.prediction import evaluate, predict
from mer_lab.provenance import provenance, together
from mer_lab.records import Recipe, Result, pack
from mer_lab.runs import claimed, finished, identity, seed_folder, tested_on

MODELS: dict[str, Callable[..., nn.Module]] = {
    "bilstm": UnimodalBiLSTM,
    "transformer": UnimodalTransformer,
    "pooling": UnimodalPooling,
    "statistics": UnimodalStatistics,
}


def open_corpus(recipe: Recipe) -> Corpus:
    """The recipe's corpus under its label scheme."""
    if recipe.corpus == "staged":
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.staged.items()}
        corpus = staged(StagedConfig(**options))
    else:
        corpus = load_corpus(recipe.corpus)
    corpus = corpus.scheme(recipe.scheme) if recipe.scheme else corpus
    if not recipe.fold:
        return corpus
    column, _, value = recipe.fold.partition("=")
    folds = dict(leave_one_group_out(corpus, column))
    if value not in folds:
        known = ", ".join(f"{column}={k}" for k in folds)
        raise MerLabError(f"there is no fold {recipe.fold!r}; choose one of {known}.")
    return folds[value]


def prepare(
    recipe: Recipe, corpus: Corpus | None = None
) -> tuple[dict[str, Dataset], Callable[[], nn.Module] | None]:
    """Data sets by split, and the function that builds the model (None for a baseline).

    Vocabulary, means and deviations come from the training split.

    Raises:
        MerLabError: an unknown model, extractor or setting.
    """
    corpus = corpus if corpus is not None else open_corpus(recipe)
    settings = dict(recipe.model)
    name = settings.pop("name", None)
    if name not in (known := [*SYSTEMS, *MODELS, *BASELINES]):
        raise MerLabError(f"there is no model {name!r}; choose one of {', '.join(known)}.")
    if name in SYSTEMS and not (recipe.audio and recipe.text):
        raise MerLabError(f"{name} reads two channels: give recipe {recipe.name} audio and text features.")
    if recipe.start:
        from mer_lab.finetuning import going_on

        return going_on(recipe, corpus)
    train = corpus.select(split="train")
    audio = read_audio_features(recipe.audio, corpus) if recipe.audio else None
    text, words = (None, None)
    if recipe.text or audio is None:
        text, words = read_text_features(recipe.text, corpus, train)
    whole = Dataset(corpus, audio, text)
    data = {split: whole.select(split) for split in ("train", "validation", "test")}
    if name in BASELINES:
        if recipe.train.target != "label":
            raise MerLabError(f"the baseline {name} predicts labels only; choose a network for scores.")
        return data, None
    outputs = len(corpus.labels) if recipe.train.target == "label" else 1

    def encoder(channel: str, spec: dict) -> nn.Module:
        if channel == "text" and words is not None:
            return words()
        return build_encoder(spec, channel, getattr(data["train"], channel))

    def build() -> nn.Module:
        if name in MODELS:
            channel = "audio" if audio is not None else "text"
            return MODELS[name](encoder(channel, recipe.encoder), channel, outputs, **settings)
        system, config = SYSTEMS[name]
        both = (encoder(channel, recipe.encoder.get(channel, {})) for channel in ("audio", "text"))
        model = system(*both, outputs, replace(config, **settings))
        model.about = {"recipe": recipe.to_toml(), "labels": list(corpus.labels)}
        return model

    return data, _explain_settings(recipe, build)


def planted_truth(data: Dataset) -> dict[str, list]:
    """What may be written down beside predictions: labels, dialogues and cues, of the Staged corpus only."""
    table = data.corpus.table
    if "cue" not in table:
        return {}
    columns = {"dialogue": table["dialogue_id"].tolist(), "cue": table["cue"].tolist()}
    return {"label": data.targets.tolist(), **columns}


def _explain_settings(recipe: Recipe, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def checked() -> nn.Module:
        try:
            return build()
        except TypeError as error:
            raise MerLabError(
                f"recipe {recipe.name}: a setting of the model or encoder does not exist: {error}."
            ) from None

    return checked


def run(
    recipe: Recipe, folder: str | Path | None = None, workers: int | None = None, progress: bool = True
) -> Result:
    """Train every seed of a recipe, then read the test split once.

    Args:
        folder: keep each seed there as :func:`run_seed` does; a killed run goes on where it was, and a seed
            that is finished is not trained again.
        workers: seeds trained at a time, each in a process with its share of the cores; by default as many as
            there are cores on a CPU, and one on an accelerator.

    Raises:
        MerLabError: whatever the recipe, the corpus or the training complains about.
    """
    corpus = open_corpus(recipe)
    data, build = prepare(recipe, corpus)  # extracts features once, before processes would each do so
    cores = joblib.cpu_count()
    if workers is None:
        workers = cores if this_process().device.type == "cpu" else 1
    launched = this_process().num_processes > 1  # together they train one seed after the other
    workers = 1 if launched else max(1, min(workers, len(recipe.seeds)))
    if build is None or workers == 1:
        rows = [_waited(recipe, seed, folder, progress, None, (data, build)) for seed in recipe.seeds]
    else:
        threads = max(1, cores // workers)
        jobs = (joblib.delayed(_waited)(recipe, s, folder, False, threads) for s in recipe.seeds)
        rows = list(in_processes(jobs, workers))
    return collect(recipe, data["test"], rows)


def _waited(recipe: Recipe, seed: int, folder: str | Path | None, *options) -> dict:
    """:func:`run_seed`, after whoever else is at the same run."""
    if folder is None:
        return run_seed(recipe, seed, None, *options)
    with claimed(recipe, seed, folder, wait=True):
        return run_seed(recipe, seed, folder, *options)


def collect(recipe: Recipe, test: Dataset, rows: Sequence[dict]) -> Result:
    """The result of a recipe from what :func:`run_seed` returned of each of its seeds."""
    return Result(
        recipe=replace(recipe, seeds=tuple(row["seed"] for row in rows)),
        labels=list(test.corpus.labels),
        utterances=test.corpus.ids,
        predictions=[row["test"] for row in rows],
        validation=[{"seed": row["seed"], **row["log"], **row["validation"]} for row in rows],
        test=[
            {"seed": row["seed"], **evaluate(test, np.array(row["test"]), recipe.train.target)}
            for row in rows
        ],
        truth=planted_truth(test),
        provenance=together([row["provenance"] for row in rows]),
        probabilities=[row["probabilities"] for row in rows if row["probabilities"]],
        measures=[{"seed": row["seed"], **row["measures"]} for row in rows if row["measures"]],
        coalitions=[row["coalitions"] for row in rows if row["coalitions"]],
    )


def run_seed(
    recipe: Recipe, seed: int, folder: str | Path | None = None, progress: bool = True,
    threads: int | None = None, prepared: tuple | None = None,
) -> dict:  # fmt: skip
    """Train one seed on train, choose its epoch on validation, answer the test split once.

    Args:
        folder: keep checkpoints there, the system as :meth:`System.save_pretrained` writes it, and last, as
            the sign that it is done, the answers (``run.json``), with what :mod:`mer_lab.cost` measures and
            what the system decides on with each channel alone (:mod:`mer_lab.modality`). A seed that is done
            is read.
        threads: of this process; as they are by default.
        prepared: what :func:`prepare` returned, to save doing it again.

    Returns:
        a row of :func:`collect`: seed, log of the training, validation scores, test predictions, provenance;
        with a folder also probabilities, measures and coalitions.
    """
    start = time.perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    data, build = prepared or prepare(recipe)
    train, validation, test = data["train"], data["validation"], data["test"]
    if folder and (row := finished(recipe, seed, folder)):
        return tested_on(row, test, seed_folder(recipe, seed, folder))
    place = seed_folder(recipe, seed, folder) if folder else None
    classes, log, measures, decided = recipe.train.target == "label", {}, {}, {}
    if build is None:
        model = BASELINES[recipe.model["name"]]().fit(train, validation, recipe.train.monitor, seed)
        answers = [model.predict_proba(part) for part in (validation, test)]
    else:
        with peak_memory() as memory:
            done = train_model(build, train, validation, recipe.train, seed, place, progress=progress)
        model = done.model
        log = {
            "best_epoch": done.best_epoch,
            "seconds": round(done.seconds, 2),
            "learnt": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "history": _rounded(done.history),
        }
        answers = [predict(model, part) for part in (validation, test)]
        if place:
            measures = costs(model, test, done.history, memory)
    if place and classes:
        measures["temperature"] = round(fit_temperature(answers[0], validation.targets), 4)
        trust = {"temperature": measures["temperature"], "coverage": COVERAGE}
        trust["threshold"] = fit_threshold(temper(answers[0], trust["temperature"]), validation.targets)
        both = isinstance(model, System) and test.audio is not None and test.text is not None
        if both and test.dialogue.max() > 0:  # a channel is taken away by giving that of another dialogue
            decided = {k: v.tolist() for k, v in coalitions(model, test).items()}
    p, q = (x.argmax(1) if classes else x[:, 0] for x in answers)
    chosen = evaluate(validation, p, recipe.train.target)
    keep = {k: v for k, v in chosen.items() if isinstance(v, float)}
    row = {
        "seed": seed, "utterances": identity(test), "validation": keep, "test": q.tolist(), "log": log,
        "probabilities": pack(answers[1]) if place and classes else "", "measures": measures,
        "coalitions": decided,
        "provenance": provenance(time.perf_counter() - start),
    }  # fmt: skip
    if place and this_process().is_main_process:
        if isinstance(model, System):
            model.about |= {"validation": keep} | ({"confidence": trust} if classes else {})
            model.save_pretrained(place / "model")
        write_text(place / "run.json", json.dumps(row, separators=(",", ":")))
    return row


def trained(recipe: Recipe, seed: int, folder: str | Path) -> nn.Module:
    """The model that :func:`run_seed` left in a folder, in evaluation mode.

    Raises:
        MerLabError: it has not ended there, or is a baseline, which keeps nothing.
    """
    place = seed_folder(recipe, seed, folder)
    if (place / "model").is_dir():
        return System.from_pretrained(place / "model")
    build = prepare(recipe)[1]
    if build is None or not (place / "run.json").is_file():
        raise MerLabError(f"{place} holds no trained model; run {recipe.name} with seed {seed} there first.")
    return load_weights(place, build())


def _rounded(history: Iterable[dict]) -> list[dict]:
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in history]
