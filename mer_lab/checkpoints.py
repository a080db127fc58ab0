"""Checkpoints as safetensors: tensors and JSON, nothing that could run code when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mer_lab.errors import MerLabError
from mer_lab.files import atomic_path


def save_tensors(path: str | Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write tensors and JSON-able ``info`` to one safetensors file, atomically.

    Raises:
        MerLabError: the disk is full.
    """
    # clones: shared memory is refused
    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={"mer_lab": json.dumps(info)})


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        MerLabError: missing, cut off or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise MerLabError(f"{path}: there is no such checkpoint.")
    try:
        with safe_open(path, framework="pt") as f:
            info = dict(json.loads((f.metadata() or {})["mer_lab"]))
            # cloned: a tensor that maps the file would break when the file is replaced
            return {k: f.get_tensor(k).clone() for k in f.keys()}, info  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, TypeError, OSError):
        raise MerLabError(
            f"{path} is not a checkpoint of mer_lab, or is cut off; delete it and train again."
        ) from None


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model but for frozen parameters: those came with it and need no second copy."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {k: v for k, v in model.state_dict().items() if k not in frozen}


def training_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a run needs to go on as if it had not stopped: weights, moments, random state."""
    state = {f"model.{k}": v for k, v in learnt(model).items()}
    for k, moments in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{k}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    state["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_training(state: dict[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put back what :func:`training_state` took.

    Raises:
        MerLabError: the weights belong to another model.
    """
    restore_weights({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}, model)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimiser."):
            _, k, moment = name.split(".")
            moments.setdefault(int(k), {})[moment] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random.cuda"])


def restore_weights(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Load what a model has learnt, all of it.

    Raises:
        MerLabError: a name or a shape does not fit the model.
    """
    own = learnt(model)
    wrong = sorted(set(own) ^ set(weights)) or [k for k in own if own[k].shape != weights[k].shape]
    if wrong:
        raise MerLabError(
            f"the checkpoint belongs to another model: {wrong[0]!r} does not fit; check the config."
        )
    model.load_state_dict(weights, strict=False)


def load_weights(folder: str | Path, model: nn.Module) -> nn.Module:
    """Put the best epoch's weights of a checkpoint folder into a model.

    Raises:
        MerLabError: no checkpoint, or one of another model.
    """
    state, _ = load_tensors(Path(folder) / "last.safetensors")
    restore_weights({k.removeprefix("best."): v for k, v in state.items() if k.startswith("best.")}, model)
    return model.eval()
