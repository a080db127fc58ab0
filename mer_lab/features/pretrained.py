"""What a pretrained encoder hears or reads: its hidden vectors, frozen, as frames.

transformers and the hub's client are imported where they are used: they take seconds, which nobody who has
the features already should pay.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError

from mer_lab.errors import MerLabError
from mer_lab.files import digest

_WEIGHTS = ("model.safetensors", "model-*.safetensors")
_FILES = (*_WEIGHTS, "*.json", "*.txt", "*.model")  # weights, settings and every kind of tokeniser
_BATCH = 32
_BAD = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
)
"""What transformers raises over a damaged folder."""


@dataclass(frozen=True)
class PretrainedText:
    """The hidden vectors of a text encoder (BERT, RoBERTa, DeBERTa, MiniLM, ...), one a token: ``(T, D)``.

    The encoder is frozen and computes in float32, whatever precision it was saved in. Its special tokens
    stay, so an empty text has frames too. The vectors of a text do not depend on the texts beside it.

    Args:
        encoder: see :func:`find_encoder`.
        layer: 0 is the embedding, then one a layer; negative counts from the end. Several stand side by
            side: D is the width of the encoder times their number.
        max_tokens: a longer text loses its end.
    """

    encoder: str
    layer: int | tuple[int, ...] = -1
    max_tokens: int = 128

    name: ClassVar[str] = "pretrained_text"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "text"
    hop: ClassVar[None] = None  # words have no clock

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int):  # TOML gives a list
            object.__setattr__(self, "layer", tuple(self.layer))

    @property
    def layers(self) -> list[int]:
        """The layers taken, counted from 0.

        Raises:
            MerLabError: the encoder has no such layer.
        """
        count = self._config().num_hidden_layers + 1
        asked = (self.layer,) if isinstance(self.layer, int) else self.layer
        if not asked or not all(-count <= k < count for k in asked):
            raise MerLabError(
                f"the layer is {self.layer}, but encoder {self.encoder} has the layers 0 to {count - 1}; "
                "choose one or several of them, or -1 for the last."
            )
        return [k % count for k in asked]

    @property
    def names(self) -> list[str]:
        """``layer<k>_0 ... layer<k>_<D - 1>``, layer by layer."""
        width = self._config().hidden_size
        return [f"layer{k}_{d}" for k in self.layers for d in range(width)]

    @property
    def settings(self) -> dict[str, object]:
        """What decides the numbers: the encoder by its content, not by where it lies."""
        weights = fingerprint(find_encoder(self.encoder))
        return {"weights": weights, "layer": self.layer, "max_tokens": self.max_tokens}

    def tokens(self, text: str) -> list[str]:
        """The tokens whose vectors :meth:`__call__` returns, special ones included ``(T,)``."""
        tokenizer, _ = self._loaded()
        return tokenizer.convert_ids_to_tokens(self._encode([text])[0])

    def __call__(self, text: str) -> np.ndarray:
        return self.extract_many([text])[0]

    def extract_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Vectors of each text, float32 ``(T, D)``.

        Only texts of equal token count share a batch: padding changes what some encoders compute.

        Raises:
            MerLabError: the encoder is absent or cannot be loaded.
        """
        _, model = self._loaded()
        encoded, layers = self._encode(texts), self.layers
        order = sorted(range(len(texts)), key=lambda k: len(encoded[k]))
        out: list[np.ndarray] = [np.empty(0)] * len(texts)
        while order:
            same = [k for k in order[:_BATCH] if len(encoded[k]) == len(encoded[order[0]])]
            order = order[len(same) :]
            ids = torch.tensor([encoded[k] for k in same])
            with torch.inference_mode():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states
            frames = torch.cat([states[k] for k in layers], dim=-1).numpy()
            for k, vectors in zip(same, frames, strict=True):
                out[k] = vectors
        return out

    def _config(self):
        folder = find_encoder(self.encoder)
        return _load_config(folder, fingerprint(folder))

    def _loaded(self):
        folder = find_encoder(self.encoder)
        return _load(folder, fingerprint(folder))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer, model = self._loaded()
        positions = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        room = min(tokenizer.model_max_length, positions)
        if not 2 < self.max_tokens <= room:
            raise MerLabError(f"max_tokens is {self.max_tokens}; encoder {self.encoder} takes 3 to {room}.")
        return [tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"] for text in texts]


def find_encoder(encoder: str | Path) -> Path:
    """The folder of an encoder: a local one, ``encoders/NAME`` in ``$MER_LAB_DATA`` or
    ``$MER_LAB_SHARED_DATA``, one in the hub's cache, or a fresh download from the hub by name.

    A folder holds what transformers' ``save_pretrained()`` writes for the model and its tokeniser.

    Raises:
        MerLabError: it is nowhere, with the three ways to get one; or it has no safetensors weights.
    """
    roots = [os.environ.get(name) for name in ("MER_LAB_DATA", "MER_LAB_SHARED_DATA")]
    places = [Path(encoder), *(Path(root) / "encoders" / encoder for root in roots if root)]
    folder = next((place for p in places if (place := p.expanduser()).is_dir()), None)
    folder = folder or _from_hub(str(encoder))
    if not (folder / "config.json").is_file():
        raise MerLabError(f"{folder}: there is no config.json; give the folder that save_pretrained() wrote.")
    if not _has_weights(folder):
        raise MerLabError(
            f"{folder}: there is no model.safetensors: either a download was not finished, then run once "
            "where the hub can be reached, or the weights are a pickle, which mer_lab does not load, then "
            "save them again with save_pretrained()."
        )
    return folder


def _from_hub(name: str) -> Path:
    """Prefer what is cached, so that a run neither needs the network nor changes when the hub does."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    for cached in (True, False):
        try:
            found = snapshot_download(
                name, allow_patterns=_FILES, ignore_patterns="*/*", local_files_only=cached
            )
        except (OSError, HFValidationError, RuntimeError):  # absent, unreachable, or not a name at all
            continue
        if not cached or _has_weights(Path(found)):
            return Path(found)
    raise MerLabError(
        f"encoder {name!r} is not a local folder, not in the hub's cache, and could not be downloaded; "
        "(1) run once where the hub can be reached, to download it by name, (2) give a local folder written "
        "by save_pretrained(), or (3) copy the hub's cache folder here from another machine and point "
        "HF_HOME at it."
    )


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)


def fingerprint(folder: Path) -> str:
    """Hash of everything that decides an encoder's numbers: weights, settings, tokeniser."""
    paths = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
    stats = [path.stat() for path in paths]
    hashes = [_hash(path, s.st_size, s.st_mtime_ns) for path, s in zip(paths, stats, strict=True)]
    return digest(*(f"{path.name} {h}" for path, h in zip(paths, hashes, strict=True)))


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return file_digest(f, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _load_config(folder: Path, content: str):
    """``content`` makes a changed folder load again."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _BAD as error:
        raise _unloadable(folder, error) from error


@lru_cache(maxsize=1)
def _load(folder: Path, content: str):
    """Tokeniser and model; ``content`` as above."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it would warn of is checked below, and told in one sentence
    try:
        local = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        model, info = AutoModel.from_pretrained(
            folder, **local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except _BAD as error:
        raise _unloadable(folder, error) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))  # no frame sees it
    if missing:
        raise MerLabError(
            f"{folder}: the weights lack {len(missing)} tensors of the encoder, first {missing[0]}; give a "
            "folder whose config.json fits its weights."
        )
    return tokenizer, model.eval()


def _unloadable(folder: Path, error: Exception) -> MerLabError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return MerLabError(f"{folder}: the encoder cannot be loaded ({reason}); fetch or save it again.")
