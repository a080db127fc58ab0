"""A trained system as a function that can be explained: of frames and word vectors, to one number.

Everything in :mod:`mer_lab.explain` asks a :class:`Question`: some utterances, each in its conversation, and
the class to be explained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.batches import Batch, Dataset
from mer_lab.errors import MerLabError
from mer_lab.models import System
from mer_lab.models.layers import FrameEncoder, TextEncoder, WordEncoder
from mer_lab.prediction import at_once

CHANNELS = ("audio", "text")
AT_ONCE = 1536
"""Utterances in a forward pass of a small system."""


class Question(nn.Module):
    """Why does a system give these utterances these classes?

    An example is an utterance in its conversation: B examples of at most N turns, N being 1 for a system that
    reads single utterances. What the system reads are numbers on which a gradient can be taken: standardised
    frames (in deviations of the training set), or the wave itself for an encoder that hears waves; word
    vectors, of a pretrained encoder those that it starts from. What it answers is the *margin* of the class
    that is explained: its logit less the mean of the others, which does not change when a constant is added
    to all logits, as a softmax does not.

    Args:
        model: in evaluation mode from here on.
        data: both channels.
        rows: ``(B,)``, of the utterances in ``data``.
        target: ``(B,)`` class indices; what the system itself decides on, by default.
        alone: whether a system that reads conversations gets the utterance without its own.

    Attributes:
        inputs: audio ``(B, N, Ta, Da)`` and text ``(B, N, Tt, Dt)``, zeros in padding.
        masks: ``(B, N, Ta)`` and ``(B, N, Tt)``, True = real.
        turns: ``(B, N)`` row in ``data`` of each turn, -1 in padding.
        place: ``(B,)`` which of the turns is asked about.
        target: ``(B,)``.
        hop, first: seconds between audio steps (0 without a clock), and the centre of the first.

    Raises:
        MerLabError: a channel is missing, there are no rows, or the model gives a single number (a score).
    """

    def __init__(
        self, model: System, data: Dataset, rows: Sequence[int] | np.ndarray,
        target: Sequence[int] | np.ndarray | None = None, alone: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        rows = np.asarray(rows, np.int64).reshape(-1)
        if not len(rows):
            raise MerLabError("there is no utterance to explain.")
        if rows.min() < 0 or rows.max() >= len(data):
            raise MerLabError(f"the data have the rows 0 to {len(data) - 1}, and others were asked for.")
        if data.audio is None or data.text is None:
            raise MerLabError("an explanation needs data of both channels, audio and text.")
        if model.classes < 2:
            raise MerLabError("this system gives a score and no class; explanations are of classes.")
        self.data, self.rows, self.classes = data, rows, model.classes
        self._asked = [model]  # in a list: its weights are already ours
        together = [np.array([row]) for row in rows]
        if model.contextual and not alone:
            together = [conversation(data, row, model.causal) for row in rows]
        width = max(map(len, together))
        self.turns = np.stack([np.pad(t, (0, width - len(t)), constant_values=-1) for t in together])
        place = [int(np.flatnonzero(t == r)[0]) for t, r in zip(together, rows, strict=True)]
        entrances = {name: _entrance(getattr(model.eval(), name)) for name in CHANNELS}
        device = next(model.parameters()).device
        padded = np.where(self.turns < 0, rows[:, None], self.turns)  # padding widens no batch
        batch = data.batch(padded.reshape(-1)).to(device)
        self.real = torch.from_numpy(self.turns >= 0).to(device)  # (B, N)
        inputs, masks = [], []
        with torch.no_grad():
            for name in CHANNELS:
                x, mask = batch.channel(name)
                x = entrances[name].read(x, mask) * mask.unsqueeze(-1)
                inputs.append(x.unflatten(0, self.real.shape) * self.real[..., None, None])
                masks.append(mask.unflatten(0, self.real.shape) & self.real[..., None])
        self.inputs, self.masks = tuple(inputs), tuple(masks)
        self._speaker = batch.speaker.unflatten(0, self.real.shape)
        self._absent = None if batch.absent is None else batch.absent.unflatten(0, self.real.shape)
        self.system, self.place = _behind(model, entrances), torch.tensor(place, device=device)
        self.example = torch.arange(len(rows), device=device)
        self.entrances, self.passed, self.empty = entrances, False, None
        self.hop, self.first = _clock(data)
        if target is None:
            target = self.logits(*self.inputs, self.example).argmax(-1)
        self.target = torch.as_tensor(np.asarray(torch.as_tensor(target).cpu()), device=device).long()
        known = (self.target >= 0) & (self.target < self.classes)
        if self.target.shape != (len(rows),) or not bool(known.all()):
            raise MerLabError(f"expected one class from 0 to {self.classes - 1} for each utterance.")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def model(self) -> System:
        """The system that is asked, as it was given."""
        return self._asked[0]

    @property
    def differentiable(self) -> bool:
        """Whether the answer has a gradient at the audio's inputs."""
        listen = getattr(self.entrances["audio"].encoder, "_listen", None)
        return self.passed or listen is None or listen[0].kind != "whisper"

    @property
    def own(self) -> Tensor:
        """``(B, N)``, True = the turn that is asked about."""
        return torch.arange(self.real.shape[1], device=self.real.device) == self.place[:, None]

    def forward(self, audio: Tensor, text: Tensor, example: Tensor) -> Tensor:
        """Margins ``(B',)`` of examples ``(B',)``, each with inputs of its own, as of :attr:`inputs`."""
        values = margin(self.logits(audio, text, example), self.target[example])
        # captum wants every input in the graph; a system may leave a channel out
        return values + 0.0 * (audio.flatten(1).sum(1) + text.flatten(1).sum(1))

    def logits(self, audio: Tensor, text: Tensor, example: Tensor, part: str = "logits") -> Tensor:
        """``(B', classes)``; or another part of the system's output, such as ``"embedding"``."""
        batch, asked = self.batch(audio, text, example)
        with without_cudnn():
            return getattr(self.system(batch), part)[asked]

    def batch(self, audio: Tensor, text: Tensor, example: Tensor) -> tuple[Batch, Tensor]:
        """What the system behind the inputs reads ``(U,)``, and which of it is asked about ``(B',)``."""
        real = self.real[example]  # (B', N)
        dialogue = torch.arange(len(example), device=real.device)[:, None].expand_as(real)
        turn = torch.arange(real.shape[1], device=real.device).expand_as(real)
        numbers = torch.full_like(turn, -1)
        absent = None if self._absent is None else self._absent[example][real]
        batch = Batch(
            audio=audio[real], audio_mask=self.masks[0][example][real],
            text=text[real], text_mask=self.masks[1][example][real],
            dialogue=dialogue[real], turn=turn[real], speaker=self._speaker[example][real],
            label=numbers[real], score=numbers[real].float(), index=numbers[real], absent=absent,
        )  # fmt: skip
        place = torch.full(real.shape, -1, device=real.device)
        place[real] = torch.arange(int(real.sum()), device=real.device)
        return batch, place.gather(1, self.place[example][:, None])[:, 0]

    def behind_encoders(self, empty: tuple[Tensor, Tensor]) -> tuple[Question, tuple[Tensor, Tensor]]:
        """The same question about the vectors that the encoders give, and the baseline's vectors."""
        behind = copy.copy(self)
        sides: list[list[Tensor]] = [[], []]
        masks = []
        with torch.no_grad():
            for k, name in enumerate(CHANNELS):
                for side, given in zip(sides, (self.inputs[k], empty[k]), strict=True):
                    x, mask = self.entrances[name](given[self.real], self.masks[k][self.real])
                    full = x.new_zeros(*self.real.shape, *x.shape[1:])
                    full[self.real] = x
                    side.append(full)
                whole = mask.new_zeros(*self.real.shape, mask.shape[1])
                whole[self.real] = mask
                masks.append(whole)
        behind.inputs, behind.masks, behind.passed = tuple(sides[0]), tuple(masks), True
        behind.empty = tuple(sides[1])  # what deletion and a second question put in place
        behind.system = _behind(self.system, {name: _Passing() for name in CHANNELS})
        if self.hop:
            behind.hop, behind.first = _clock_behind(self.entrances["audio"].encoder, self.hop, self.first)
        return behind, behind.empty

    def with_inputs(self, inputs: tuple[Tensor, Tensor]) -> Question:
        """The same question, the same classes, about other inputs of the same shapes."""
        other = copy.copy(self)
        other.inputs = inputs
        return other

    @property
    def at_once(self) -> int:
        """Examples in a forward pass: far fewer where a pretrained network reads them."""
        utterances = at_once(self.model)
        return max(1, (AT_ONCE if utterances >= 128 else utterances) // self.real.shape[1])

    def ask(self, audio: Tensor, text: Tensor, example: Tensor | None = None) -> Tensor:
        """Margins ``(B',)`` without gradients."""
        example = self.example if example is None else example
        return margin(self.answers(audio, text, example), self.target[example])

    def ask_probability(self, audio: Tensor, text: Tensor, example: Tensor | None = None) -> Tensor:
        """Probabilities ``(B',)`` of the explained classes, without gradients."""
        example = self.example if example is None else example
        return self.answers(audio, text, example).softmax(-1).gather(1, self.target[example][:, None])[:, 0]

    def answers(self, audio: Tensor, text: Tensor, example: Tensor) -> Tensor:
        """Logits ``(B', classes)`` without gradients."""
        size = self.at_once
        with torch.inference_mode():
            parts = zip(audio.split(size), text.split(size), example.split(size), strict=True)
            return torch.cat([self.logits(*part) for part in parts])


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """The target's logit less the mean of the others: ``(B, classes)``, ``(B,)`` to ``(B,)``.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([1.5000])
    """
    own = logits.gather(1, target[:, None])[:, 0]
    return own - (logits.sum(1) - own) / (logits.shape[1] - 1)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """cuDNN's recurrent networks give no gradient in evaluation mode; PyTorch's own do."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


class _Entrance(nn.Module):
    """Where an encoder's inputs become numbers with a gradient: frames, standardised by the training set."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.frames = next((m for m in encoder.modules() if isinstance(m, FrameEncoder)), None)

    def read(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(U, T, D)`` as a batch holds it to what is explained ``(U, T, D')``."""
        return x.float() if self.frames is None else self.frames(x, mask)[0]

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """From there on: what the encoder gives."""
        x = x if self.frames is None else x * self.frames.std + self.frames.mean
        return self.encoder(x, mask)


class _Words(_Entrance):
    def read(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder.embedding(x[..., 0])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x, mask


class _Tokens(_Entrance):
    def read(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder.net.get_input_embeddings()(x[..., 0])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.from_vectors(x, mask)


class _Passing(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x, mask


def _clock(data: Dataset) -> tuple[float, float]:
    """Seconds between audio steps, 0 where the features have no clock, and the centre of the first."""
    return data.audio.meta.get("hop") or 0.0, data.audio.meta.get("first") or 0.0


def _clock_behind(encoder: nn.Module, hop: float, first: float) -> tuple[float, float]:
    """The clock of what an encoder gives: a speech encoder and strided convolutions slow it down."""
    if (listen := getattr(encoder, "_listen", None)) is not None:
        return listen[0].stride / 16000, listen[0].first / 16000
    return hop * int(np.prod(getattr(encoder, "strides", (1,)))), first


def _entrance(encoder: nn.Module) -> _Entrance:
    kinds = {WordEncoder: _Words, TextEncoder: _Tokens}
    return kinds.get(type(encoder), _Entrance)(encoder)


def _behind(model: System, entrances: dict[str, _Entrance]) -> System:
    """The same system, weights shared, that reads what the entrances give."""
    behind = copy.copy(model)
    behind.__dict__["_modules"] = {**model._modules, **entrances}
    return behind


def conversation(data: Dataset, row: int, causal: bool) -> np.ndarray:
    """Rows of the utterance's dialogue in order; up to itself where the system sees no later turn."""
    rows = np.flatnonzero(data.dialogue == data.dialogue[row])
    rows = rows[np.argsort(data.turn[rows], kind="stable")]
    return rows[: int(np.flatnonzero(rows == row)[0]) + 1] if causal else rows
