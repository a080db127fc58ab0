"""Pretrained encoders that learn with the system behind them, and a learned choice among frozen layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mer_lab.errors import MerLabError
from mer_lab.features.encoders import find_encoder, layers_of, load_model, load_tokenizer
from mer_lab.features.listening import SpeechNetwork
from mer_lab.models.layers.encoders import FrameEncoder
from mer_lab.ragged import Ragged


class LayerMix(nn.Module):
    """Learned weighted sum of the layers of a frozen encoder, whose vectors stand side by side.

    The weights are a softmax, one a layer for all frames (the scalar mix of ELMo, Peters et al. 2018, and of
    SUPERB's probes); the columns are standardised first, since layers differ in scale.

    Args:
        width: of the frames, ``layers * D``.
        layers: how many stand side by side.

    >>> mix = LayerMix(6, layers=3)
    >>> mix(torch.ones(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))[0].shape
    torch.Size([2, 5, 2])
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        if layers < 1 or width % layers:
            raise MerLabError(f"frames of width {width} are not {layers} layers side by side.")
        self.width, self.settings = width // layers, {"width": width, "layers": layers}
        self.standardise = FrameEncoder(width)
        self.score = nn.Parameter(torch.zeros(layers))

    @property
    def weights(self) -> Tensor:
        """Weight of each layer ``(layers,)``; they sum to 1."""
        return self.score.softmax(0)

    def fit(self, train: Ragged) -> LayerMix:
        """Take the columns' means and deviations from the training utterances' frames."""
        self.standardise.fit(train)
        return self

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, layers * D)`` to ``(U, T, D)``; the mask stays as it is."""
        x, mask = self.standardise(x, mask)
        return torch.einsum("utld,l->utd", x.unflatten(-1, (len(self.score), -1)), self.weights), mask


class _FineTuned(nn.Module):
    """What a speech and a text encoder share when they learn: which layers do, and how fast.

    Args:
        net: the encoder, all of it frozen but for the layers that learn.
        train_layers: how many of the last layers learn, up to the one that is taken. What lies below them
            stays as it is, dropout included, and so does the front end (convolutions, word vectors).
        layer: the hidden state that is taken, -1 the last; or "mix", a learned weighted sum of all.
        rate: learning rate of the last layer, as a share of the system's.
        decay: each layer below learns this much slower than the one above it (ULMFiT's discriminative
            rates, Howard & Ruder 2018).
        checkpointing: compute activations again in the backward pass instead of keeping them: about a third
            slower, in a fraction of the memory.
    """

    def __init__(
        self, net: nn.Module, train_layers: int = 0, layer: int | str = -1, rate: float = 0.02,
        decay: float = 0.9, checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = net
        count = layers_of(net.config)
        if layer != "mix" and not (isinstance(layer, int) and -count - 1 <= layer <= count):
            raise MerLabError(f"the layer is {layer!r}; the encoder has 0 to {count}, or 'mix'.")
        self.layer = layer if layer == "mix" else layer % (count + 1)
        self.width = net.config.hidden_size
        self.score = nn.Parameter(torch.zeros(count + 1)) if layer == "mix" else None
        top = count if layer == "mix" else self.layer  # layers above what is taken get no gradient
        if not 0 <= train_layers <= top:
            raise MerLabError(f"train_layers is {train_layers}; {top} layers lead to layer {layer!r}.")
        stacks = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
        if not stacks:
            kind = net.config.model_type
            raise MerLabError(f"the layers of a {kind} encoder are one; they cannot learn apart.")
        stack = max(stacks, key=lambda m: sum(p.numel() for p in m.parameters()))
        self.learning = list(range(top - train_layers, top))
        self.rate, self.decay = rate, decay  # a checkpoint belongs to them
        self.rates = {k: rate * decay ** (top - 1 - k) for k in self.learning}
        net.requires_grad_(False)
        for k in self.learning:
            stack[k].requires_grad_(True)
            if checkpointing:  # transformers' own switch also sends gradients through the frozen layers
                stack[k].forward = partial(checkpoint, stack[k].forward, use_reentrant=False)
        self._stack = [stack]  # in a list: it is the network's own, and not to be counted twice

    def learning_rates(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Each parameter that learns at a rate of its own, and that rate as a share of the system's."""
        for k, rate in self.rates.items():
            yield from ((p, rate) for p in self._stack[0][k].parameters())

    def train(self, mode: bool = True) -> _FineTuned:
        """Frozen layers stay in evaluation mode: their dropout would be noise that nothing learns from."""
        super().train(mode)
        self.net.eval()
        for k in self.learning:
            self._stack[0][k].train(mode)
        return self

    def _take(self, states: tuple[Tensor, ...], mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.score is None:
            x = states[self.layer]
        else:
            x = torch.einsum("lutd,l->utd", torch.stack(states), self.score.softmax(0))
        return x * mask.unsqueeze(-1), mask


class SpeechEncoder(_FineTuned):
    """A pretrained speech encoder that learns with the system: waves ``(U, N, 1)`` in, frames out.

    Args:
        encoder: see :func:`mer_lab.features.encoders.find_encoder`.
        settings: ``train_layers``, ``layer``, ``rate``, ``decay``, ``checkpointing``, as above.
    """

    def __init__(self, encoder: str, **settings) -> None:
        listen = SpeechNetwork(find_encoder(encoder))
        super().__init__(listen.net, **settings)
        self.settings = {"encoder": encoder, **settings}
        self._listen = [listen]  # its network is already ours

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, N, 1)`` and ``(U, N)`` at 16 kHz to ``(U, T, width)`` and ``(U, T)``."""
        return self._take(*self._listen[0](x[..., 0], mask))


class TextEncoder(_FineTuned):
    """A pretrained text encoder that learns with the system: token numbers ``(U, T, 1)`` in, vectors out.

    Arguments as of :class:`SpeechEncoder`.
    """

    def __init__(self, encoder: str, **settings) -> None:
        super().__init__(load_model(find_encoder(encoder)), **settings)
        self.settings = {"encoder": encoder, **settings}

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, 1)`` int64 and ``(U, T)`` to ``(U, T, width)``; the mask stays as it is."""
        out = self.net(input_ids=x[..., 0], attention_mask=mask.long(), output_hidden_states=True)
        return self._take(out.hidden_states, mask)

    def from_vectors(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The same from word vectors ``(U, T, D)``, places not yet added: there a gradient can be taken."""
        out = self.net(inputs_embeds=x, attention_mask=mask.long(), output_hidden_states=True)
        return self._take(out.hidden_states, mask)

    @property
    def mask_token(self) -> int:
        """Number of the token that stands for a hidden one; of padding where the encoder has none."""
        tokenizer = load_tokenizer(find_encoder(self.settings["encoder"]))
        return next(k for k in (tokenizer.mask_token_id, tokenizer.pad_token_id, 0) if k is not None)
