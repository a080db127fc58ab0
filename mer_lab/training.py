"""Training: one loop for every system, through Accelerate, that can be killed and goes on where it was."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from mer_lab.batches import Batch, Dataset
from mer_lab.checkpoints import (
    learnt,
    load_tensors,
    restore_training,
    restore_weights,
    save_tensors,
    training_state,
)
from mer_lab.errors import MerLabError
from mer_lab.files import digest
from mer_lab.losses import supervised_contrastive
from mer_lab.metrics import METRICS
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.prediction import SCORE_METRICS, at_once, evaluate
from mer_lab.train_config import TrainConfig


@dataclass
class Run:
    """A trained model: the weights of its best epoch, and how it got there.

    Attributes:
        history: a row an epoch: losses, validation scores, seconds, and the share of them in the steps.
        best_epoch: the epoch that validation chose, counted from 1.
    """

    model: nn.Module
    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0


def fit(
    build: Callable[[], nn.Module],
    train: Dataset,
    validation: Dataset,
    config: TrainConfig | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    cpu: bool = False,
) -> Run:
    """Train a model and keep its best epoch on the validation set.

    Args:
        build: makes the model; it is called after seeding, so that a seed also decides the first weights.
        train, validation: never the test split, which only :func:`predict` reads.
        folder: checkpoints go there after every epoch. Called again with the same folder, a killed run goes
            on after its last whole epoch and, on the CPU, ends with the same weights to the last bit.
        cpu: stay on the CPU even where there is an accelerator.

    Raises:
        MerLabError: a test utterance among the data, no labels, a folder of another run, a diverged loss, a
            precision that the device does not have.
    """
    config = config or TrainConfig()
    for data in (train, validation):
        _refuse_test(data)
    # Accelerate keeps a process's first precision and device for good; another run may want others
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # a batch, or a stage, may leave some weights alone
    several = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision, kwargs_handlers=several)
    except ValueError as error:  # a device that cannot compute in it
        raise MerLabError(f"precision {config.precision!r} is not to be had: {error}") from None
    set_seed(seed)
    model = build()
    if getattr(model, "contextual", False) and config.batch_by != "dialogue":
        raise MerLabError(f'{type(model).__name__} uses context: set batch_by = "dialogue" in its training.')
    if config.modality_dropout and not isinstance(model, System):
        raise MerLabError(
            f"{type(model).__name__} does not read two channels: set modality_dropout = 0 in its training."
        )
    loss_of = _loss(train, config, accelerator.device)
    key = _key(config, seed, model, train, validation)
    optimiser = torch.optim.AdamW(_groups(model, config.lr), lr=config.lr, weight_decay=config.weight_decay)
    model, optimiser = accelerator.prepare(model, optimiser)
    bare = accelerator.unwrap_model(model)
    steps = len(train.plan(config.batch_size, config.batch_by))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warmup_cosine(config.epochs * steps))
    run = Run(bare)
    best: dict[str, Tensor] = {}
    if folder is not None:
        best = _resume(Path(folder), key, run, optimiser, schedule, accelerator)
    start = time.perf_counter() - run.seconds
    quiet = {} if progress else {"disable": True}  # given, it would overrule TQDM_DISABLE
    with tqdm(total=config.epochs, initial=len(run.history), unit="epoch", leave=False, **quiet) as bar:
        while len(run.history) < config.epochs and len(run.history) - run.best_epoch < config.patience:
            epoch = len(run.history) + 1
            row = _epoch(accelerator, model, optimiser, schedule, loss_of, train, config, seed, epoch)
            row |= _validate(bare, validation, loss_of, config, accelerator.device)
            if accelerator.num_processes > 1:  # the last digit may differ, the choice must not
                row = broadcast_object_list([row])[0]
            run.history.append(row)
            if _merit(row, config) > max((_merit(r, config) for r in run.history[:-1]), default=-np.inf):
                run.best_epoch, best = epoch, copy.deepcopy(learnt(bare))
            run.seconds = time.perf_counter() - start
            if folder is not None and accelerator.is_main_process:
                _save(Path(folder), key, run, best, optimiser, schedule)
            bar.update()
            bar.set_postfix(loss=f"{row['train_loss']:.3f}", **{config.monitor: f"{row[config.monitor]:.3f}"})
    restore_weights(best, bare)
    bare.eval()
    accelerator.free_memory()
    return run


def _epoch(accelerator, model, optimiser, schedule, loss_of, train, config, seed, epoch) -> dict:
    model.train()
    began, busy = time.perf_counter(), 0.0
    total, count = 0.0, 0
    plan = train.plan(config.batch_size, config.batch_by, np.random.default_rng([seed, epoch]))
    draw = np.random.default_rng([seed, epoch, 1])
    weight = _weight(train, config)
    plan = [index for index in plan if weight[index].any()]
    world, rank = accelerator.num_processes, accelerator.process_index
    if world > 1:
        torch.manual_seed(seed + 1000 * epoch + 100_000_000 * rank)  # what one drops the other need not
    for index in plan:
        absent = _absent(draw, len(index), config.modality_dropout)
        own = _share(train, index, config.batch_by, world, rank)
        # every process adds its part of the batch's mean: together they step as one would alone
        size = len(index)
        factor = world * weight[index[own]].sum() / weight[index].sum()
        if factor == 0:  # it has nothing to add, and the others wait for it
            own = np.arange(len(index))
        index = index[own]
        batch = train.batch(index).to(accelerator.device)
        if absent is not None:
            batch.absent = torch.from_numpy(absent[own]).to(accelerator.device)
        step = time.perf_counter()
        loss = loss_of(model(batch), batch)
        loss = loss if world == 1 else loss * factor
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        optimiser.zero_grad()
        value = float(loss.detach())
        busy += time.perf_counter() - step
        schedule.step()
        if not np.isfinite(value):
            raise MerLabError(
                f"the loss became {value} in epoch {epoch}; lower the learning rate ({config.lr}) or look "
                "for features that are not finite."
            )
        total, count = total + value * size, count + size
    seconds = time.perf_counter() - began
    loss = float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "mean")) / max(count, 1)
    return {"epoch": epoch, "train_loss": loss, "seconds": seconds, "in_steps": busy / seconds}


def _weight(train: Dataset, config: TrainConfig) -> np.ndarray:
    """What each utterance weighs in the loss ``(U,)``; 0 where there is nothing to learn."""
    if config.target == "score":
        return np.isfinite(train.scores).astype(float)
    known = train.targets >= 0
    return class_weights(train.targets, len(train.corpus.labels), config.class_weights)[train.targets] * known


def _share(train: Dataset, index: np.ndarray, by: str, world: int, rank: int) -> np.ndarray:
    """Which of a batch's rows a process reads ``(own,)``: as many dialogues, or utterances, as the others."""
    of = train.dialogue[index] if by == "dialogue" else index
    return np.flatnonzero(np.isin(of, np.array_split(np.unique(of), world)[rank]))


def _absent(draw: np.random.Generator, size: int, share: float) -> np.ndarray | None:
    """Who loses which channel in a batch ``(U, 2)``."""
    if not share:
        return None
    fate = draw.random(size)
    return np.stack([fate < share, fate >= 1 - share], axis=1)


def _validate(model, validation: Dataset, loss_of, config: TrainConfig, device) -> dict:
    """Every process scores the whole set: cheap, and all of them choose the same epoch."""
    model.eval()
    classes = config.target == "label"
    prediction = np.zeros(len(validation), np.int64 if classes else np.float32)
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in validation.batches(at_once(model), config.batch_by):
            batch = batch.to(device)
            output = model(batch)
            logits = output.logits.float()
            labelled = int((batch.label >= 0 if classes else batch.score.isfinite()).sum())
            if labelled:
                total, count = total + float(loss_of(output, batch)) * labelled, count + labelled
            guess = logits.argmax(-1) if classes else logits[:, 0]
            prediction[batch.index.cpu().numpy()] = guess.cpu().numpy()
    names = METRICS if classes else SCORE_METRICS
    result = evaluate(validation, prediction, config.target)
    return {"validation_loss": total / max(count, 1), **{name: result[name] for name in names}}


def _merit(row: dict, config: TrainConfig) -> float:
    """What an epoch is chosen by: the larger the better."""
    value = -row["mae"] if config.monitor == "mae" else row[config.monitor]
    return value if np.isfinite(value) else -1e9  # a constant prediction has no correlation


def class_weights(targets: np.ndarray, classes: int, power: float = 1.0) -> np.ndarray:
    """Weights ``(classes,)`` that grow with ``(1 / frequency) ** power``; their mean over utterances is 1.

    A class that the data lack gets weight 0.
    """
    count = np.bincount(targets[targets >= 0], minlength=classes)
    weight = np.where(count > 0, 1.0 / np.maximum(count, 1), 0.0) ** power * (count > 0)
    return weight * count.sum() / (weight * count).sum()


def _loss(train: Dataset, config: TrainConfig, device) -> Callable[[Output, Batch], Tensor]:
    if config.target == "score":
        if not np.isfinite(train.scores).any():
            raise MerLabError(f"no utterance of {train.corpus.name}'s training split has a score.")

        def distance(out: Output, batch: Batch) -> Tensor:
            return (out.logits[:, 0].float() - batch.score)[batch.score.isfinite()].abs().mean()

        return distance
    targets, classes = train.targets, len(train.corpus.labels)
    if not (targets >= 0).any():
        raise MerLabError(f"no utterance of {train.corpus.name}'s training split has a label.")
    weight = torch.tensor(class_weights(targets, classes, config.class_weights)).to(device, torch.float32)
    cross_entropy = nn.CrossEntropyLoss(weight, ignore_index=-1, label_smoothing=config.label_smoothing)

    def loss_of(out: Output, batch: Batch) -> Tensor:
        loss = cross_entropy(out.logits.float(), batch.label)
        if config.contrastive:
            contrast = supervised_contrastive(out.embedding, batch.label, config.temperature)
            loss = (1 - config.contrastive) * loss + config.contrastive * contrast
        return loss

    return loss_of


def _groups(model: nn.Module, lr: float) -> list[dict]:
    """Parameters that learn, by learning rate: ``lr`` times what a module's ``learning_rates()`` says."""
    share: dict[nn.Parameter, float] = {}
    for module in model.modules():
        if hasattr(module, "learning_rates"):
            share |= dict(module.learning_rates())
    groups: dict[float, list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            groups.setdefault(share.get(p, 1.0), []).append(p)
    return [{"params": parameters, "lr": lr * factor} for factor, parameters in groups.items()]


def _refuse_test(data: Dataset) -> None:
    sealed = data.corpus.table["split"] == "test"
    if sealed.any():
        raise MerLabError(
            f"{int(sealed.sum())} test utterances (first {data.corpus.table.index[sealed][0]!r}) were given "
            "to fit; it takes train and validation only, and the test split is read once, by evaluate."
        )


def _warmup_cosine(total: int) -> Callable[[int], float]:
    warm = max(1, total // 20)
    return lambda k: min(1.0, (k + 1) / warm) * 0.5 * (1 + np.cos(np.pi * min(1.0, k / max(1, total))))


def _key(config: TrainConfig, seed: int, model: nn.Module, *data: Dataset) -> str:
    """What a checkpoint belongs to: settings, architecture, first weights, utterances, labels, features."""
    plain = (bool, int, float, str, tuple)  # what a module's repr may not show, such as a stride
    parts: list[bytes | str] = [json.dumps(asdict(config), sort_keys=True), str(seed), repr(model)]
    for module in model.modules():
        parts.append(repr(sorted((k, v) for k, v in vars(module).items() if isinstance(v, plain))))
    for weight in model.state_dict().values():
        parts.append(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for part in data:
        parts += [*part.corpus.ids, *part.corpus.labels, part.targets.tobytes()]
        for ragged in (part.audio, part.text):
            if ragged is not None:
                described = json.dumps(ragged.meta, sort_keys=True, default=str)
                parts += [described, ragged.lengths.tobytes(), ragged[0].tobytes()]
    return digest(*parts)


def _save(folder: Path, key: str, run: Run, best: dict[str, Tensor], optimiser, schedule) -> None:
    # one file holds both: two could belong to different epochs after a kill
    state = training_state(run.model, optimiser) | {f"best.{k}": v for k, v in best.items()}
    info = {"key": key, "history": run.history, "best_epoch": run.best_epoch, "seconds": run.seconds}
    save_tensors(folder / "last.safetensors", state, info | {"step": schedule.last_epoch})


def _resume(folder: Path, key: str, run: Run, optimiser, schedule, accelerator) -> dict[str, Tensor]:
    path = folder / "last.safetensors"
    if not path.exists():
        return {}
    state, info = load_tensors(path)
    if info.get("key") != key:
        raise MerLabError(
            f"{path} belongs to another run (other config, seed, model or data); choose a new folder."
        )
    best = {k.removeprefix("best."): v for k, v in state.items() if k.startswith("best.")}
    restore_training(state, run.model, optimiser)
    schedule.last_epoch = info["step"]
    for group, base in zip(optimiser.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * schedule.lr_lambdas[0](info["step"])
    run.history, run.best_epoch, run.seconds = info["history"], info["best_epoch"], info["seconds"]
    return best
