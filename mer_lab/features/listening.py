"""Speech encoders of several families as one function, in which no utterance hears its neighbours."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mer_lab.errors import MerLabError
from mer_lab.features.encoders import layers_of, load_model, load_preparation

warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # WavLM's own business
TOLERANCE = 1e-4
"""Relative difference that a batch may make to a frame, in float32."""


class SpeechNetwork(nn.Module):
    """A pretrained speech encoder: waves ``(U, N)`` in, every hidden state ``(U, T, D)`` and a mask out.

    Utterances of different lengths must be padded to share a batch, and padding leaks in three places:

    - *normalisation over time*, the group norm that wav2vec2-base and Moonshine have behind their first
      convolution: its mean and deviation are taken over the real steps only;
    - *positional convolutions*, which reach from the padding into the end of the speech: what they see of
      the padding is zero, as it is beyond the end of an utterance by itself;
    - *attention*, where padding is masked. Many checkpoints (those with a group norm) were trained without a
      mask. By itself an utterance has no padding, gets no mask, and is computed as in training; in a batch
      the mask restores just that.

    So the numbers are those of each utterance by itself. That is measured when the network is loaded, and a
    kind of encoder for which it does not hold gets its utterances one by one (``batches`` is False).
    Whisper's encoder always reads 30 s, the rest silence, as in training; its frames are cut to the length.

    LayerDrop and SpecAugment, which the checkpoints' settings may ask for in training, are off.

    Attributes:
        stride, first: samples from frame to frame, and to the centre of the first.
        batches: whether utterances of different lengths may share a batch.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.net = load_model(folder)
        self.prepare = load_preparation(folder)
        config = self.net.config
        config.layerdrop, config.apply_spec_augment = 0.0, False
        if (rate := getattr(self.prepare, "sampling_rate", None)) != 16000:
            raise MerLabError(
                f"{folder}: the encoder hears {rate} Hz; mer_lab gives 16000 Hz, so "
                "choose one that was trained on that."
            )
        self.width, self.layers = config.hidden_size, layers_of(config)
        self.kind = config.model_type
        convolutions = [m for m in self.net.modules() if isinstance(m, nn.Conv1d)]
        # those of the front end take whole windows, those for the position keep the length
        self._front = [(m.kernel_size[0], m.stride[0]) for m in convolutions if m.padding == (0,)]
        if self.kind == "whisper":
            self.stride, self.reach = self.prepare.hop_length * 2, 1
        else:
            self.stride = self.reach = 1
            for kernel, stride in self._front:
                self.reach += (kernel - 1) * self.stride
                self.stride *= stride
            for module in self.net.modules():
                if isinstance(module, nn.GroupNorm):
                    module.register_forward_hook(self._normalise_real)
                elif isinstance(module, nn.Conv1d) and module.padding != (0,):
                    module.register_forward_pre_hook(self._silence_padding)
        self.first = (self.reach - 1) / 2
        self._steps: list[Tensor] | None = None  # real steps after each convolution, where any is padding
        self.batches = True
        self.batches = self.kind == "whisper" or self._is_alone(folder)

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def forward(self, wave: Tensor, mask: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Waves ``(U, N)`` and their mask ``(U, N)``, True = real, at 16 kHz.

        Returns:
            The ``layers + 1`` hidden states ``(U, T, D)``, the first what enters the first layer; and their
            mask ``(U, T)``. An utterance shorter than one frame's reach is read with silence behind it.
        """
        if not self.batches and len(wave) > 1:
            return self._one_by_one(wave, mask)
        length = mask.sum(1)  # (U,)
        if self.kind == "whisper":
            return self._whisper(wave, length)
        if getattr(self.prepare, "do_normalize", False):
            wave = _standardise(wave, mask)
        wave = wave * mask
        short = self.reach - wave.shape[1]
        if short > 0:
            wave = nn.functional.pad(wave, (0, short))
        length = length.clamp(min=self.reach)
        padded = bool((length < wave.shape[1]).any())  # perhaps by too little for a frame more
        steps, total = [], wave.shape[1]
        for kernel, stride in self._front:
            length = torch.div(length - kernel, stride, rounding_mode="floor") + 1
            total = (total - kernel) // stride + 1
            steps.append(length)
        real = torch.arange(total, device=wave.device) < length[:, None]  # (U, T)
        self._steps = steps if padded else None
        states = self.net(wave, attention_mask=self._attention(wave, real), output_hidden_states=True)
        return tuple(states.hidden_states), real

    def _one_by_one(self, wave: Tensor, mask: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = [self(x[real][None], real[real][None]) for x, real in zip(wave, mask, strict=True)]
        states = zip(*([x[0] for x in states] for states, _ in rows), strict=True)  # layer by layer
        whole = [[real[0] for _, real in rows], *states]
        real, *padded = (nn.utils.rnn.pad_sequence(list(x), batch_first=True) for x in whole)
        return tuple(padded), real

    def _attention(self, wave: Tensor, real: Tensor) -> Tensor | None:
        """A mask over samples from which the model itself derives exactly the real frames."""
        if bool(real.all()):
            return None
        # Moonshine looks at the first sample of every stride, the others count samples
        samples = (real.sum(1) - 1) * self.stride + (1 if self.kind == "moonshine" else self.reach)
        return (torch.arange(wave.shape[1], device=wave.device) < samples[:, None]).long()

    def _normalise_real(self, module: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Group norm over the real steps of ``(U, C, T)``."""
        if self._steps is None:
            return output
        x = inputs[0].float().unflatten(1, (module.num_groups, -1))  # (U, G, C / G, T)
        real = (torch.arange(x.shape[-1], device=x.device) < self._steps[0][:, None])[:, None, None]
        count = real.sum(-1, keepdim=True) * x.shape[2]
        mean = (x * real).sum((2, 3), keepdim=True) / count
        variance = ((x - mean).square() * real).sum((2, 3), keepdim=True) / count
        x = ((x - mean) * (variance + module.eps).rsqrt()).flatten(1, 2)
        return (x * module.weight[:, None] + module.bias[:, None]).to(output.dtype)

    def _silence_padding(self, module: nn.Conv1d, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._steps is None:
            return None
        x = inputs[0]  # (U, D, T)
        return (x * (torch.arange(x.shape[-1], device=x.device) < self._steps[-1][:, None])[:, None],)

    def _whisper(self, wave: Tensor, length: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        if wave.shape[1] > 30 * 16000:
            raise MerLabError(f"Whisper reads 30 s; {wave.shape[1] / 16000:.1f} s were given: cut them.")
        clips = [x[:n].cpu().numpy() for x, n in zip(wave.detach(), length.tolist(), strict=True)]
        mel = self.prepare(clips, sampling_rate=16000, return_tensors="pt").input_features
        states = self.net(mel.to(wave.device), output_hidden_states=True).hidden_states  # (U, 1500, D)
        frames = torch.div(length - 1, self.stride, rounding_mode="floor") + 1
        real = torch.arange(int(frames.max()), device=wave.device) < frames[:, None]
        return tuple(x[:, : real.shape[1]] for x in states), real

    def halve(self) -> SpeechNetwork:
        """Keep the weights of products in bfloat16, as autocast would make them anew in every batch."""
        for module in self.net.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)) and not is_parametrized(module):
                module.to(torch.bfloat16)
        return self

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(p.numel() * p.element_size() for p in self.net.parameters())

    def memory(self, seconds: float) -> float:
        """Bytes that one row of a batch takes at most while it is computed, in float32.

        Waves, five copies of the widest convolution's output, all hidden states, and the attention weights
        of a layer (not all kinds of attention hold them): an upper bound, checked by measurement in
        `benchmarks/extraction.py`.
        """
        if self.kind == "whisper":
            seconds = 30.0
        samples, config = seconds * 16000, self.net.config
        widths = getattr(config, "conv_dim", None) or [2 * self.width]
        first = self._front[0][1] if self.kind != "whisper" else self.stride
        frames = samples / self.stride
        inner = getattr(config, "intermediate_size", None) or 4 * self.width
        convolutions = 5 * max(widths) * samples / first
        layers = (self.layers + 1) * self.width * frames + 2 * inner * frames
        return 4 * (2 * samples + convolutions + layers + 3 * config.num_attention_heads * frames**2)

    @torch.no_grad()
    def _is_alone(self, folder: Path) -> bool:
        """Whether three clips of noise get the same frames together and one by one."""
        training, generator = self.net.training, torch.Generator().manual_seed(0)
        self.eval()
        lengths = torch.tensor([9600, 6000, 7777])
        wave = 0.1 * torch.randn(3, 9600, generator=generator)
        together, mask = self(wave, torch.arange(9600) < lengths[:, None])
        self.train(training)
        if len(together) != self.layers + 1 or together[0].shape[1] != mask.shape[1]:
            raise MerLabError(
                f"{folder}: mer_lab does not know the frames of a {self.kind} encoder; known are wav2vec2, "
                "hubert, wavlm, data2vec-audio, whisper and moonshine."
            )
        for k, n in enumerate(lengths.tolist()):
            states, real = self(wave[k : k + 1, :n], torch.ones(1, n, dtype=torch.bool))
            if int(real.sum()) != int(mask[k].sum()):
                return False
            for a, b in zip(together, states, strict=True):
                if (a[k, : b.shape[1]] - b[0]).abs().max() > TOLERANCE * b.abs().max():
                    return False
        return True


def _standardise(wave: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of each row's real samples."""
    count = mask.sum(1, keepdim=True)
    mean = (wave * mask).sum(1, keepdim=True) / count
    variance = ((wave - mean).square() * mask).sum(1, keepdim=True) / count
    return (wave - mean) / (variance + 1e-7).sqrt()
