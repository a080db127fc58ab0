"""Feature-wise modulation: what was said turns the knobs of how the voice is heard.

Perez, Strub, de Vries, Dumoulin, Courville: "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI
2018. There a question modulates an image; here the words modulate the voice. The sizes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mer_lab.batches import Batch
from mer_lab.models.layers import AttentionPooling, BiLSTM
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import average_steps


@dataclass(frozen=True)
class ModulationConfig:
    """Settings of :class:`Modulation`.

    Attributes:
        width: of each recurrent network, per direction.
        dropout: on what enters them, and on the modulated vector.
        stride: average this many neighbouring frames first, for speed.
    """

    width: int = 32
    dropout: float = 0.2
    stride: int = 4


class Modulation(System):
    """Two pooled channels; that of the words scales and shifts the other, ``(1 + gamma(t)) a + beta(t)``."""

    Config = ModulationConfig
    paper = "Perez et al. 2018, FiLM: Visual Reasoning with a General Conditioning Layer"

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: ModulationConfig = ModulationConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        D = 2 * config.width
        self.hear, self.read = BiLSTM(audio.width, config.width), BiLSTM(text.width, config.width)
        self.pool_audio, self.pool_text = AttentionPooling(D), AttentionPooling(D)
        self.gamma, self.beta = nn.Linear(D, D), nn.Linear(D, D)
        self.classify = nn.Sequential(nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(D, classes))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        x, frames = average_steps(x, frames, self.config.stride)
        a, heard = self.pool_audio(self.hear(self.dropout(x), frames), frames)  # (U, D), (U, Ta)
        t, read = self.pool_text(self.read(self.dropout(w), words), words)  # (U, D), (U, Tt)
        z = (1 + self.gamma(t)) * a + self.beta(t)  # (U, D)
        attention = {"audio pooling": heard[:, None, None], "text pooling": read[:, None, None]}
        return Output(self.classify(z), attention if need_attention else {}, torch.cat([a, t, z], dim=-1))
