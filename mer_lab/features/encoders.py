"""Pretrained encoders: where one is found, what decides its numbers, and how it is loaded.

transformers and the hub's client are imported where they are used: they take seconds, which nobody who has
the features already should pay.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError

from mer_lab.errors import MerLabError
from mer_lab.files import digest

_WEIGHTS = ("model.safetensors", "model-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin")
"""All that some older checkpoints (HuBERT, WavLM) offer. PyTorch's restricted loader reads them, which knows
tensors and refuses everything else."""
_INPUTS = ("*processor_config.json", "tokenizer*", "vocab*", "merges.txt", "*tokens*.json", "*.model")
"""What prepares sound or text for an encoder."""
_FILES = (*_WEIGHTS, "config.json", *_INPUTS)
_FETCHED = (*_FILES, "generation_config.json")
"""What is downloaded: a recogniser also needs to be told how to write, which changes no encoder's frames."""
_BAD = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    UnpicklingError,
)
"""What transformers raises over a damaged folder."""
_IDLE = ("pooler.", "masked_spec_embed")  # tensors that reach no frame here, absent from many checkpoints


def this_process() -> PartialState:
    """Device of this process, and its place among those that `accelerate launch` or torchrun started."""
    # Accelerate takes a CPU, and looks for processes that share one, only where it is told to
    return PartialState(parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def find_encoder(encoder: str | Path) -> Path:
    """The folder of an encoder: a local one, ``encoders/NAME`` in ``$MER_LAB_DATA`` or
    ``$MER_LAB_SHARED_DATA``, one in the hub's cache, or a fresh download from the hub by name.

    A folder holds what transformers' ``save_pretrained()`` writes for the model and its tokeniser.

    Raises:
        MerLabError: it is nowhere, with the three ways to get one; or it has no weights.
    """
    roots = [os.environ.get(name) for name in ("MER_LAB_DATA", "MER_LAB_SHARED_DATA")]
    places = [os.path.join(root, "encoders", encoder) for root in roots if root]
    folders = [os.path.expanduser(place) for place in (encoder, *places)]
    there = next((folder for folder in folders if os.path.isdir(folder)), None)  # no error for a wild name
    folder = Path(there) if there else _from_hub(str(encoder))
    if not (folder / "config.json").is_file():
        raise MerLabError(f"{folder}: there is no config.json; give the folder that save_pretrained() wrote.")
    if not _has(folder, (*_WEIGHTS, *_PICKLED)):
        raise MerLabError(
            f"{folder}: there is no model.safetensors; if a download was not finished, run once where the "
            "hub can be reached, else save the model again with save_pretrained()."
        )
    return folder


def _from_hub(name: str) -> Path:
    """Prefer what is cached, so that a run neither needs the network nor changes when the hub does."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    def fetch(files: tuple[str, ...], cached: bool = False) -> Path:
        return Path(
            snapshot_download(name, allow_patterns=files, ignore_patterns="*/*", local_files_only=cached)
        )

    absent = (OSError, HFValidationError, RuntimeError)  # unreachable, or not a name at all
    there = None
    try:
        there = fetch(_FILES, cached=True)
        if _has(there, (*_WEIGHTS, *_PICKLED)) and _has(there, _INPUTS):  # another program may want less
            return there
    except absent:
        pass
    try:
        found = fetch(_FETCHED)
        return found if _has(found, _WEIGHTS) else fetch((*_FETCHED, *_PICKLED))
    except absent as error:
        reason = (str(error).strip().splitlines() or ["no answer"])[0].rstrip(".")
    if there is not None:
        return there
    raise MerLabError(
        f"encoder {name!r} is not a local folder, not in the hub's cache, and could not be downloaded "
        f"({reason}); "
        "(1) run once where the hub can be reached, to download it by name, (2) give a local folder written "
        "by save_pretrained(), or (3) copy the hub's cache folder here from another machine and point "
        "HF_HOME at it."
    )


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def fingerprint(folder: Path) -> str:
    """Hash of everything that decides an encoder's numbers: weights, settings, tokeniser."""
    paths = sorted({path for pattern in (*_FILES, *_PICKLED) for path in folder.glob(pattern)})
    stats = [path.stat() for path in paths]
    hashes = [_hash(path, s.st_size, s.st_mtime_ns) for path, s in zip(paths, stats, strict=True)]
    return digest(*(f"{path.name} {h}" for path, h in zip(paths, hashes, strict=True)))


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return file_digest(f, "sha256").hexdigest()


@lru_cache(maxsize=16)
def _auto(kind: str, folder: Path, content: str):
    """What an Auto class of transformers makes of a folder; kept until its ``content`` changes."""
    import transformers

    with explained(folder):
        return getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )


def load_config(folder: Path):
    """The settings of an encoder, without its weights; kept until the folder changes.

    Raises:
        MerLabError: damaged, or of a kind that transformers does not know.
    """
    return _auto("AutoConfig", folder, fingerprint(folder))


def weights_of(folder: Path) -> int:
    """Bytes of an encoder's weights in float32, without loading them."""
    size = sum(path.stat().st_size for pattern in (*_WEIGHTS, *_PICKLED) for path in folder.glob(pattern))
    return size * (2 if "16" in str(load_config(folder).dtype) else 1)


def layers_of(config) -> int:
    """Layers of the part that listens or reads; of two halves, transformers may count the other's."""
    return getattr(config, "encoder_num_hidden_layers", None) or config.num_hidden_layers


def load_model(folder: Path):
    """A fresh float32 model of an encoder's folder, in evaluation mode; of two halves, the one that listens.

    Raises:
        MerLabError: damaged, or weights are missing.
    """
    from transformers import AutoModel

    with explained(folder):
        model, info = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, weights_only=True, dtype=torch.float32,
            use_safetensors=_has(folder, _WEIGHTS), output_loading_info=True,
        )  # fmt: skip
        listens = model.get_encoder() if model.config.is_encoder_decoder else model
    used = "encoder." if listens is not model else ""
    missing = sorted(k for k in info["missing_keys"] if k.startswith(used) and not k.startswith(_IDLE))
    if missing:  # transformers would go on with random ones
        raise MerLabError(
            f"{folder}: the weights lack {len(missing)} tensors of the encoder, first {missing[0]}; give a "
            "folder whose config.json fits its weights."
        )
    return listens.eval()


def load_tokenizer(folder: Path):
    """The tokeniser of a text encoder; kept until the folder changes.

    Raises:
        MerLabError: there is none, or it is damaged.
    """
    return _auto("AutoTokenizer", folder, fingerprint(folder))


def load_preparation(folder: Path):
    """What prepares sound for a speech encoder: its rate, and whether waves are standardised.

    Raises:
        MerLabError: there is none, or it is damaged.
    """
    return _auto("AutoFeatureExtractor", folder, fingerprint(folder))


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Silence transformers' own warnings, whose matter is checked, and say in one sentence what it raises."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except _BAD as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, UnpicklingError) or "weights_only" in str(error):
            reason = "its weights are a pickle that holds more than tensors and could run code"
        raise MerLabError(
            f"{folder}: the encoder cannot be loaded ({reason}); fetch or save it again."
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
