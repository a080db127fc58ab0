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
from accelerate.utils import set_seed
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
from mer_lab.errors import MerLabError, check_choices
from mer_lab.files import digest
from mer_lab.losses import supervised_contrastive
from mer_lab.metrics import METRICS
from mer_lab.models.output import Output
from mer_lab.prediction import SCORE_METRICS, at_once, evaluate


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        epochs: at most; training stops after ``patience`` epochs without a better validation score.
        batch_size: utterances in a batch.
        lr, weight_decay: of AdamW. The rate rises over the first 5 % of all steps and falls on a cosine; a
            pretrained encoder that learns along takes a share of it (``SpeechEncoder``, ``TextEncoder``).
        clip: norm that gradients are clipped to.
        class_weights: power of the inverse class frequency that weighs the loss: 0 none, 1 balanced.
        label_smoothing: of the cross-entropy.
        target: "label", classes by cross-entropy, or "score", the corpus's number by absolute error.
        monitor: validation score that chooses the epoch: "wa", "ua", "weighted_f1" or "macro_f1"; with a
            score as target "mae" or "correlation".
        batch_by: "length", or "dialogue" for systems that use context.
        precision: "no", "bf16" or "fp16", as Accelerate names them.
        contrastive: share of the supervised contrastive loss on the model's embedding; the rest is
            cross-entropy. ``temperature``: its tau.
    """

    epochs: int = 20
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 5
    class_weights: float = 0.0
    label_smoothing: float = 0.0
    monitor: str = "wa"
    batch_by: str = "length"
    precision: str = "no"
    target: str = "label"
    contrastive: float = 0.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_choices(
            self,
            target=("label", "score"),
            monitor=METRICS if self.target == "label" else SCORE_METRICS,
            batch_by=("length", "dialogue"),
            precision=("no", "bf16", "fp16"),
        )
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise MerLabError(f"{name} is {value!r}, expected a whole number of at least 1.")
        shares = ("class_weights", "label_smoothing", "contrastive", "temperature")
        for name in ("lr", "weight_decay", "clip", *shares):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < np.inf:
                raise MerLabError(f"{name} is {value!r}, expected a number of at least 0.")
        if self.contrastive > 1 or self.temperature == 0:
            raise MerLabError("contrastive is a share of the loss, 0 to 1, and its temperature is above 0.")


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
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision)
    except ValueError as error:  # a device that cannot compute in it
        raise MerLabError(f"precision {config.precision!r} is not to be had: {error}") from None
    set_seed(seed)
    model = build()
    if getattr(model, "contextual", False) and config.batch_by != "dialogue":
        raise MerLabError(f'{type(model).__name__} uses context: set batch_by = "dialogue" in its training.')
    loss_of = _loss(train, config, accelerator.device)
    key = _key(config, seed, model, train, validation)
    optimiser = torch.optim.AdamW(_groups(model, config.lr), lr=config.lr, weight_decay=config.weight_decay)
    model, optimiser = accelerator.prepare(model, optimiser)
    bare = accelerator.unwrap_model(model)
    steps = -(-len(train.plan(config.batch_size, config.batch_by)) // accelerator.num_processes)
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
    known = train.targets >= 0 if config.target == "label" else np.isfinite(train.scores)
    plan = [index for index in plan if known[index].any()]
    # every process takes its share of the same plan; the last round is filled up: all take as many steps
    world, rank = accelerator.num_processes, accelerator.process_index
    shares = range(rank, -(-len(plan) // world) * world, world)
    for index in (plan[k % len(plan)] for k in shares):
        batch = train.batch(index).to(accelerator.device)
        step = time.perf_counter()
        loss = loss_of(model(batch), batch)
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
        total, count = total + value * len(batch), count + len(batch)
    seconds = time.perf_counter() - began
    loss = total / max(count, 1)
    return {"epoch": epoch, "train_loss": loss, "seconds": seconds, "in_steps": busy / seconds}


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
