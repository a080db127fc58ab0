"""A convolutional encoder of spectral frames, and the augmentation that lets it learn from few speakers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from mer_lab.models.layers.encoders import FrameEncoder
from mer_lab.ragged import Ragged


class Augment(nn.Module):
    """Change log-mel frames as another speaker or another take might; in training mode only.

    Masking of bands and of steps follows SpecAugment (Park et al., Interspeech 2019), also with its bound on
    the share of steps that one mask hides. Instead of its time warping, ours stretches the whole utterance,
    moves and scales the mel axis (a vocal tract of another length; Jaitly & Hinton 2013 warp the frequency
    axis for the same reason) and, for frames that keep their level, shifts it (a microphone further away).
    All amounts are drawn anew, uniformly, for each utterance.

    Args:
        masks: how many masks of each kind.
        bands, steps: of one mask, at most.
        share: of an utterance's steps that one mask hides, at most.
        stretch: of time, as natural logarithm: 0.1 makes the utterance up to 10 % longer or shorter.
        shift: of the mel axis, in bands. ``scale``: of the mel axis, as natural logarithm.
        gain: added to all frames, in their own unit (after :class:`FrameEncoder`: standard deviations).
    """

    def __init__(
        self, masks: int = 1, bands: int = 8, steps: int = 20, share: float = 0.2, stretch: float = 0.1,
        shift: float = 1.0, scale: float = 0.05, gain: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.masks, self.bands, self.steps, self.share = masks, bands, steps, share
        self.stretch, self.shift, self.scale, self.gain = stretch, shift, scale, gain

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, D)`` to ``(U, T', D)``, zeros where masked; evaluation mode returns what came in."""
        if not self.training:
            return x, mask
        utterances, frames, bands = x.shape

        def draw(low: float, high: float) -> Tensor:
            return torch.empty(utterances, 1, device=x.device).uniform_(low, high)

        tempo = draw(-self.stretch, self.stretch).exp()
        length = ((mask.sum(1, keepdim=True) - 1) * tempo).floor().long() + 1  # steps read real frames
        t = torch.arange(int(length.max()), device=x.device)
        band = torch.arange(bands, device=x.device)
        # where each new value is read, in grid_sample's units: -1 the first frame or band, 1 the last
        row = 2 * (t / tempo) / max(frames - 1, 1) - 1
        column = 2 * (band + draw(-self.shift, self.shift)) / max(bands - 1, 1) - 1
        column = column * draw(-self.scale, self.scale).exp()
        grid = torch.stack(torch.broadcast_tensors(column[:, None], row[..., None]), dim=-1)  # (U, T', D, 2)
        x = grid_sample(x[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
        x = x + draw(-self.gain, self.gain)[..., None]

        mask = t < length  # (U, T')
        keep = mask[..., None].expand_as(x)
        most = (length * self.share).clamp(max=self.steps).floor()
        for _ in range(self.masks):
            keep = keep & ~_span(band, bands, min(self.bands, bands), draw)[:, None, :]
            keep = keep & ~_span(t, length, most, draw)[..., None]
        return x * keep, mask


def _span(index: Tensor, count: Tensor | int, most: Tensor | int, draw: Callable[..., Tensor]) -> Tensor:
    """Where each utterance's mask of 0 to ``most`` of its first ``count`` places is: ``(U, len(index))``."""
    size = (draw(0, 1) * (most + 1)).floor()
    start = (draw(0, 1) * (count - size + 1)).floor()
    return (index >= start) & (index < start + size)


class ConvEncoder(nn.Module):
    """Convolutions over time, with augmentation before them; shortens the sequence.

    Frames are standardised by the training set; then each utterance's own mean frame is taken away, which
    takes the speaker's average spectrum, the microphone and the loudness with it (``centre``). A block is a
    convolution, layer norm over the channels of one step, and ReLU. No norm looks across steps or
    utterances, so neither padding nor the rest of the batch changes an output.

    Args:
        bands: columns of a frame.
        channels: of each block; the last is the ``width``.
        strides: of each block; ``(2, 2, 1)`` leaves a quarter of the steps, ``T' = ceil(ceil(T / 2) / 2)``.
        kernel: steps that a convolution sees; odd, so that it is centred on its own step.
        augment: what happens to the frames in training; nothing by default.
    """

    def __init__(
        self, bands: int, channels: tuple[int, ...] = (128, 128, 128), strides: tuple[int, ...] = (2, 2, 1),
        kernel: int = 5, dropout: float = 0.1, centre: bool = True, augment: Augment | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = {"bands": bands, "channels": list(channels), "strides": list(strides)}
        self.settings |= {"kernel": kernel, "dropout": dropout, "centre": centre}  # made anew, it only reads
        self.width, self.centre, self.strides = channels[-1], centre, tuple(strides)
        self.frames = FrameEncoder(bands)
        self.augment = augment
        shapes = zip([bands, *channels], channels, strides, strict=False)
        self.convolutions = nn.ModuleList(nn.Conv1d(a, b, kernel, s, kernel // 2) for a, b, s in shapes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in channels)
        self.dropout = nn.Dropout(dropout)

    def fit(self, train: Ragged) -> ConvEncoder:
        """Take the frames' mean and deviation from the training utterances."""
        self.frames.fit(train)
        return self

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(U, T, bands)`` to ``(U, T', width)``, and the mask ``(U, T')``."""
        x, mask = self.frames(x, mask)
        if self.centre:
            x = x - x.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
            x = x * mask[..., None]
        if self.augment is not None:
            x, mask = self.augment(x, mask)
        for convolve, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            mask = mask[:, ::stride]  # output k is centred on step stride * k
            x = norm(convolve(x.transpose(1, 2)).transpose(1, 2)).relu()
            x = self.dropout(x) * mask[..., None]  # zeros again, as the convolution pads the edges with
        return x, mask
