"""What a pretrained encoder hears or reads: its hidden vectors, frozen, as frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from mer_lab.audio import duration
from mer_lab.errors import BudgetError, MerLabError
from mer_lab.features.encoders import (
    find_encoder,
    fingerprint,
    layers_of,
    load_config,
    load_model,
    load_tokenizer,
    this_process,
    weights_of,
)
from mer_lab.features.listening import SpeechNetwork

_BATCH = 32
_CPU_SECONDS = 4.0
"""Sound in a batch on a CPU, where larger ones lose up to a fifth: they fall out of its caches."""


class _Layers:
    """What both kinds of encoder share: which of their hidden states are taken."""

    encoder: str
    layer: int | tuple[int, ...] | str

    def __post_init__(self) -> None:
        if isinstance(self.layer, list):  # TOML gives a list
            object.__setattr__(self, "layer", tuple(self.layer))

    @property
    def layers(self) -> list[int]:
        """The layers taken, counted from 0.

        Raises:
            MerLabError: the encoder has no such layer.
        """
        count = layers_of(self._config()) + 1
        if self.layer == "all":
            return list(range(count))
        asked = (self.layer,) if isinstance(self.layer, int) else self.layer
        if not asked or not all(isinstance(k, int) and -count <= k < count for k in asked):
            raise MerLabError(
                f"the layer is {self.layer}, but encoder {self.encoder} has the layers 0 to {count - 1}; "
                "choose one or several of them, -1 for the last, or 'all'."
            )
        return [k % count for k in asked]

    @property
    def names(self) -> list[str]:
        """``layer<k>_0 ... layer<k>_<D - 1>``, layer by layer."""
        width = self._config().hidden_size
        return [f"layer{k}_{d}" for k in self.layers for d in range(width)]

    def _config(self):
        return load_config(find_encoder(self.encoder))


@dataclass(frozen=True)
class PretrainedText(_Layers):
    """The hidden vectors of a text encoder (BERT, RoBERTa, DeBERTa, MiniLM, ...), one a token: ``(T, D)``.

    The encoder is frozen and computes in float32, whatever precision it was saved in. Its special tokens
    stay, so an empty text has frames too. The vectors of a text do not depend on the texts beside it.

    Args:
        encoder: see :func:`mer_lab.features.encoders.find_encoder`.
        layer: 0 is the embedding, then one a layer; negative counts from the end; several, or "all", stand
            side by side: D is the width of the encoder times their number.
        max_tokens: a longer text loses its end.
        words: one vector a word instead, the mean of its tokens': words as :func:`split_words` cuts them,
            without the special tokens.
    """

    encoder: str
    layer: int | tuple[int, ...] | str = -1
    max_tokens: int = 128
    words: bool = False

    name: ClassVar[str] = "pretrained_text"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "text"
    hop: ClassVar[None] = None  # words have no clock

    @property
    def settings(self) -> dict[str, object]:
        """What decides the numbers: the encoder by its content, not by where it lies."""
        weights = fingerprint(find_encoder(self.encoder))
        words = {"words": True} if self.words else {}
        return {"weights": weights, "layer": self.layer, "max_tokens": self.max_tokens} | words

    def tokens(self, text: str) -> list[str]:
        """The tokens that the encoder reads, special ones included ``(T,)``."""
        return load_tokenizer(find_encoder(self.encoder)).convert_ids_to_tokens(self.numbers([text])[0])

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """The same tokens as numbers, for an encoder that learns with the system."""
        tokenizer = load_tokenizer(find_encoder(self.encoder))
        config = self._config()
        positions = getattr(config, "max_position_embeddings", None) or 1 << 30
        if "roberta" in config.model_type or config.model_type == "camembert":
            positions -= config.pad_token_id + 1  # they count from behind the padding's
        room = min(tokenizer.model_max_length, positions)
        if not 2 < self.max_tokens <= room:
            raise MerLabError(f"max_tokens is {self.max_tokens}; encoder {self.encoder} takes 3 to {room}.")
        return [tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"] for text in texts]

    @property
    def weights(self) -> int:
        """Bytes that the encoder takes before it computes anything."""
        return weights_of(find_encoder(self.encoder))

    def plan(self, texts: Sequence[str], budget: float) -> list[np.ndarray]:
        """Batches of texts of similar length; they are small beside the weights.

        Raises:
            BudgetError: not even the weights fit.
        """
        if self.weights > budget:
            need, given = (f"{size / 2**20:.0f} MiB" for size in (self.weights, budget))
            raise BudgetError(f"encoder {self.encoder} needs {need} a process of {given}; raise the budget.")
        order = np.argsort([len(ids) for ids in self.numbers(texts)], kind="stable")
        return [order[k : k + 4 * _BATCH] for k in range(0, len(order), 4 * _BATCH)]

    def __call__(self, text: str) -> np.ndarray:
        return self.extract_many([text])[0]

    def extract_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Vectors of each text, float32 ``(T, D)``.

        Only texts of equal token count share a batch: padding changes what some encoders compute.

        Raises:
            MerLabError: the encoder is absent or cannot be loaded.
        """
        folder = find_encoder(self.encoder)
        encoded, layers = self.numbers(texts), self.layers
        model, device = _text_model(folder, fingerprint(folder))
        order = sorted(range(len(texts)), key=lambda k: len(encoded[k]))
        out: list[np.ndarray] = [np.empty(0)] * len(texts)
        while order:
            same = [k for k in order[:_BATCH] if len(encoded[k]) == len(encoded[order[0]])]
            order = order[len(same) :]
            ids = torch.tensor([encoded[k] for k in same], device=device)
            with torch.inference_mode():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states
            frames = torch.cat([states[k] for k in layers], dim=-1).cpu().numpy()
            for k, vectors in zip(same, frames, strict=True):
                out[k] = self._by_word(texts[k], vectors) if self.words else vectors
        return out

    def _by_word(self, text: str, vectors: np.ndarray) -> np.ndarray:
        """Mean of the tokens that overlap each word; what was cut off gets the first token's vector."""
        tokenizer = load_tokenizer(find_encoder(self.encoder))
        spans = tokenizer(
            text, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True
        )["offset_mapping"]  # fmt: skip
        spans = np.array(spans).reshape(-1, 2)  # (T, 2) characters; special tokens are empty
        rows = []
        for start, end in split_words(text):
            inside = (spans[:, 0] < end) & (spans[:, 1] > start)
            rows.append(vectors[inside].mean(0) if inside.any() else vectors[0])
        return np.stack(rows) if rows else vectors[:1]


def split_words(text: str) -> list[tuple[int, int]]:
    """First character and end of each word: what stands between white space, as aligners count words.

    >>> split_words("Oh,  no!")
    [(0, 3), (5, 8)]
    """
    return [match.span() for match in re.finditer(r"\S+", text)]


@dataclass(frozen=True)
class PretrainedSpeech(_Layers):
    """The hidden vectors of a speech encoder, ``(T, D)``: wav2vec 2.0, HuBERT, WavLM, data2vec, Whisper,
    Moonshine.

    The encoder is frozen. What shares its batch does not change an utterance's frames
    (:class:`~mer_lab.features.listening.SpeechNetwork`) but by rounding, in float32 1e-4 at most. Frame t is
    centred at ``first + t * hop`` seconds.

    Args:
        encoder: see :func:`mer_lab.features.encoders.find_encoder`.
        layer: 0 is what enters the first layer, then one a layer; negative counts from the end; several, or
            "all", stand side by side: D is the width of the encoder times their number.
        pool: "statistics" keeps one frame an utterance, mean and standard deviation over time ``(1, 2 D)``:
            enough for a probe, and hundreds of times smaller.
        precision: "float32"; "bfloat16" computes products in half the bits, which costs about 1 % of the
            features' size and makes a recent CPU two to three times as fast (`benchmarks/extraction.py`).
        window: seconds; a longer utterance is read in pieces of about equal length, none longer than this.
    """

    encoder: str
    layer: int | tuple[int, ...] | str = -1
    pool: str = ""
    precision: str = "float32"
    window: float = 30.0

    name: ClassVar[str] = "pretrained_speech"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"
    rate: ClassVar[int] = 16000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("pool", ("", "statistics")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                options = " or ".join(repr(k) for k in known)
                raise MerLabError(f"{name} is {getattr(self, name)!r}, expected {options}.")
        if not 1 <= self.window <= 30:
            raise MerLabError(f"window is {self.window} s, expected 1 to 30: encoders know no longer speech.")

    @property
    def settings(self) -> dict[str, object]:
        """What decides the numbers: the encoder by its content, not by where it lies."""
        weights = fingerprint(find_encoder(self.encoder))
        fields = ("layer", "pool", "precision", "window")
        return {"weights": weights} | {k: getattr(self, k) for k in fields}

    @property
    def names(self) -> list[str]:
        """As of its layers; with ``pool`` first the means, then the deviations."""
        names = super().names
        return [f"{s}_{n}" for s in ("mean", "std") for n in names] if self.pool else names

    @property
    def hop(self) -> float | None:
        """Seconds between frames; None where time is pooled away."""
        return None if self.pool else self._network().stride / self.rate

    @property
    def first(self) -> float:
        """Seconds from the utterance's start to the centre of its first frame."""
        return self._network().first / self.rate

    @property
    def weights(self) -> int:
        """Bytes that the encoder takes before it computes anything."""
        return self._network().size

    def plan(self, paths: Sequence[Path], budget: float) -> list[np.ndarray]:
        """Batches of utterances of similar length that take no more than ``budget`` bytes, longest first.

        Longest first: what does not fit into memory, or would be slowest, shows at once.

        Raises:
            BudgetError: not even one row fits.
        """
        network = self._network()
        room = budget - network.size
        seconds = np.array([duration(path) for path in paths])
        most = _CPU_SECONDS if network.device.type == "cpu" else np.inf
        order = np.argsort(-seconds, kind="stable")
        batches: list[np.ndarray] = []
        while len(order):
            length = min(max(seconds[order[0]], 0.1), self.window)  # every row is padded to the first's
            need = network.memory(length)
            if need > room:
                raise BudgetError(
                    f"encoder {self.encoder} needs {(network.size + need) / 2**20:.0f} MiB for {length:.1f} "
                    f"s of speech, more than the budget of {budget / 2**20:.0f} MiB a process; raise it."
                )
            rows = 1 if seconds[order[0]] > self.window else int(max(1, min(room / need, most / length)))
            batches.append(order[:rows])
            order = order[rows:]
        return batches

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return self.extract_many([wave])[0]

    def extract_many(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Vectors of each wave ``(N,)`` at 16 kHz, float32 ``(T, D)``.

        Raises:
            MerLabError: the encoder is absent or cannot be loaded.
        """
        pieces = [self._pieces(wave) for wave in waves]
        rows = [torch.from_numpy(np.ascontiguousarray(p, np.float32)) for piece in pieces for p in piece]
        # pieces of a long one go one by one
        groups = [rows] if len(rows) == len(waves) else [[row] for row in rows]
        frames = (x for group in groups for x in self._frames(group))
        joined = [torch.cat([next(frames) for _ in piece]) for piece in pieces]
        if self.pool:
            joined = [torch.cat([x.mean(0), x.std(0, correction=0)])[None] for x in joined]
        return [x.numpy() for x in joined]

    def _pieces(self, wave: np.ndarray) -> list[np.ndarray]:
        """Equal pieces of a long wave, each of which begins where the next frame does: the clock goes on."""
        network, longest = self._network(), int(self.window * self.rate)
        if len(wave) <= longest:
            return [wave]
        reach = max(network.reach, network.stride)
        frames = (len(wave) - network.reach) // network.stride + 1
        count = -(-frames // ((longest - reach) // network.stride + 1))
        step = -(-frames // count) * network.stride
        return [wave[k : k + step - network.stride + reach] for k in range(0, frames * network.stride, step)]

    def _frames(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        """Frames ``(T, D)`` of each row, all rows in one batch."""
        network = self._network()
        wave = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(network.device)  # (U, N)
        length = torch.tensor([len(r) for r in rows], device=network.device)
        half = torch.autocast(wave.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with torch.inference_mode(), half:
            states, mask = network(wave, torch.arange(wave.shape[1], device=wave.device) < length[:, None])
        taken = torch.cat([states[k].float() for k in self.layers], dim=-1).cpu()  # (U, T, D)
        return [x[: int(n)] for x, n in zip(taken, mask.sum(1), strict=True)]

    def _network(self) -> SpeechNetwork:
        folder = find_encoder(self.encoder)
        return _speech_network(folder, fingerprint(folder), self.precision)


def extractor_of(encoder: str, **settings) -> PretrainedSpeech | PretrainedText:
    """The extractor that an encoder's folder calls for: one that comes with audio settings listens."""
    speech = next(find_encoder(encoder).glob("*processor_config.json"), None)
    kind = PretrainedSpeech if speech else PretrainedText
    try:
        return kind(encoder, **settings)
    except TypeError:
        known, given = ", ".join(f.name for f in fields(kind)[1:]), ", ".join(settings)
        raise MerLabError(f"encoder {encoder} takes the settings {known}, not {given}.") from None


@lru_cache(maxsize=8)  # those of one extraction take turns
def _text_model(folder: Path, content: str):
    """Model and device; ``content`` makes a changed folder load again."""
    device = this_process().device
    return load_model(folder).to(device), device


@lru_cache(maxsize=8)
def _speech_network(folder: Path, content: str, precision: str) -> SpeechNetwork:
    network = SpeechNetwork(folder).to(this_process().device).eval()
    return network if precision == "float32" else network.halve()
