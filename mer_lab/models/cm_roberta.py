"""CM-RoBERTa: self- and cross-attention side by side, then the conversation. Lesson 08 builds it.

Luo, Phan, Reiss: "Cross-Modal Fusion Techniques for Utterance-Level Emotion Recognition from Text and
Speech", ICASSP 2023, arXiv 2302.02447. Words below say how sure a value is: [V] read in the published
material, [M] general knowledge, [?] not found and our choice. Published are the parts: a core unit of
parallel self- and cross-attention, mid-level fusion, residual modules, context of the conversation [V]. How
they are joined is our reading of the abstract.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.errors import MerLabError, check_choices
from mer_lab.models.layers import (
    AttentionPooling,
    BiGRU,
    BiLSTM,
    Conversation,
    MultiHeadAttention,
    place,
    relative,
)
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import average_steps

CORES = ("parallel", "self", "cross", "serial")
CONTEXTS = ("attention", "gru", "none")


@dataclass(frozen=True)
class CMRobertaConfig:
    """Settings of :class:`CMRoberta`; the defaults are the preset ``cm-roberta``.

    Attributes:
        core: "parallel" [V]; the ablations "self", "cross", and "serial", cross-attention after
            self-attention as in a Transformer's decoder.
        residual: skip connections round attention, feed-forward network, fusion and context [V that there are
            residual modules; ? where].
        layers: core units, one after the other. [?]
        width: of every vector inside. [?]
        heads: of each attention. [?]
        context: what reads the conversation: "attention" (:class:`TurnAttention`), "gru", or "none". [V that
            it is used; ? how]
        causal: no turn sees a later one; False reads the dialogue in both directions. [?]
        dropout: [?]
        clock: how steeply cross-attention falls, at first, with the distance in time between a word and a
            frame; 0 for none. Ours, see :class:`CoreUnit`.
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
    """

    core: str = "parallel"
    residual: bool = True
    layers: int = 2
    width: int = 128
    heads: int = 4
    context: str = "attention"
    causal: bool = False
    dropout: float = 0.2
    clock: float = 0.0
    stride: int = 1

    def __post_init__(self) -> None:
        check_choices(self, core=CORES, context=CONTEXTS)
        if self.width % 2 or self.width % self.heads:
            raise MerLabError(f"width is {self.width}, expected a multiple of 2 and of heads ({self.heads}).")


class CoreUnit(nn.Module):
    """Modality m looks at itself and at the other one, o, from the same X_m.

    ``S = MHA(X_m, X_m, X_m)``, ``C = MHA(X_m, X_o, X_o)``, ``Z = LN(X_m + f([S ; C]))``, then
    ``LN(Z + FFN(Z))``. Without ``residual`` the two sums lack their first term.

    Ours: with ``clock``, the scores of C lose ``slope |p - q|``, a slope a head that is learnt from there on;
    p and q are the places of query and key, as shares of the utterance. Half of the words are said when half
    of the time is over, about, so a word starts to look for its sound nearby.

    >>> unit = CoreUnit(8, heads=2)
    >>> words, frames = torch.randn(3, 4, 8), torch.randn(3, 9, 8)
    >>> z, maps = unit(words, torch.ones(3, 4).bool(), frames, torch.ones(3, 9).bool())
    >>> z.shape, {name: tuple(weights.shape) for name, weights in maps.items()}
    (torch.Size([3, 4, 8]), {'self': (3, 2, 4, 4), 'cross': (3, 2, 4, 9)})
    """

    def __init__(
        self, width: int, heads: int, core: str = "parallel", residual: bool = True, dropout: float = 0.0,
        clock: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.core, self.skip, self.slope = core, float(residual), None
        if core != "cross":
            self.self_attention = MultiHeadAttention(width, heads)
        if core != "self":
            self.cross_attention = MultiHeadAttention(width, heads)
            if clock:
                self.slope = nn.Parameter(torch.full((heads,), float(clock)))
        if core == "serial":
            self.norm0 = nn.LayerNorm(width)
        if core == "parallel":
            self.f = nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``x (U, Tm, D)``, ``other (U, To, D)`` to ``(U, Tm, D)``; maps ``(U, heads, Tm, Tm or To)``."""
        maps, parts = {}, []
        if self.core != "cross":
            s, maps["self"] = self.self_attention(x, x, mask)
            parts.append(s)
        if self.core == "serial":  # what it found in itself decides what it asks the other
            x = self.norm0(self.skip * x + self.dropout(parts.pop()))
        if self.core != "self":
            bias = None
            if self.slope is not None:
                apart = (place(mask)[:, :, None] - place(other_mask)[:, None]).abs()  # (U, Tm, To)
                bias = -self.slope[:, None, None] * apart[:, None]
            c, maps["cross"] = self.cross_attention(x, other, other_mask, bias=bias)
            parts.append(c)
        seen = self.f(torch.cat(parts, dim=-1)) if self.core == "parallel" else parts[0]  # (U, Tm, D)
        z = self.norm1(self.skip * x + self.dropout(seen))
        return self.norm2(self.skip * z + self.dropout(self.ffn(z))), maps


class Front(nn.Module):
    """Ours: a BiLSTM before the core, and past it the input itself: ``x W + BiLSTM(x)``."""

    def __init__(self, width: int, D: int) -> None:
        super().__init__()
        self.lstm, self.W = BiLSTM(width, D // 2), nn.Linear(width, D)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(U, T, width)`` to ``(U, T, D)``."""
        return self.W(x) + self.lstm(x, mask)


class TurnAttention(nn.Module):
    """Every turn looks at the turns of its dialogue; how far back is a matter of what was said.

    Self-attention with relative places, after Shaw et al. (NAACL 2018): turn t's score of turn s is
    ``q_t k_s / sqrt(d) + r_t[t - s]`` with ``r_t = R u_t + b``, so what is said scores every distance. Turns
    farther off than ``reach`` count as that far.
    """

    def __init__(self, D: int, heads: int, causal: bool, reach: int = 8) -> None:
        super().__init__()
        self.heads, self.causal, self.reach = heads, causal, reach
        self.attend = MultiHeadAttention(D, heads)
        self.lag = nn.Linear(D, heads * (2 * reach + 1))

    def forward(self, u: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``u (dialogues, turns, D)`` to the same, and weights ``(dialogues, heads, turns, turns)``."""
        turn = torch.arange(u.shape[1], device=u.device)
        lag = turn[:, None] - turn  # (turns, turns), above 0 for the past
        scores = self.lag(u).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (dialogues, heads, turns, 17)
        index = lag.clamp(-self.reach, self.reach) + self.reach
        bias = scores.gather(-1, index.expand(*scores.shape[:2], -1, -1))
        visible = mask[:, None] & mask[..., None]  # (dialogues, turns, turns)
        if self.causal:
            visible = visible & (lag >= 0)
        return self.attend(u, u, visible, bias=bias)


class CMRoberta(System):
    """Parallel self- and cross-attention in both channels, mid-level fusion, then the conversation."""

    Config = CMRobertaConfig
    contextual = True
    paper = (
        "Luo, Phan, Reiss 2023, Cross-Modal Fusion Techniques for Utterance-Level Emotion Recognition from "
        "Text and Speech"
    )

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: CMRobertaConfig = CMRobertaConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        D = config.width
        self.hear, self.read = Front(2 * audio.width, D), Front(text.width, D)

        def units() -> nn.ModuleList:
            settings = (D, config.heads, config.core, config.residual, config.dropout, config.clock)
            return nn.ModuleList(CoreUnit(*settings) for _ in range(config.layers))

        self.audio_units, self.text_units = units(), units()
        self.pool_audio, self.pool_text = AttentionPooling(D), AttentionPooling(D)
        self.fuse = nn.Sequential(nn.Linear(2 * D, 2 * D), nn.ReLU(), nn.Linear(2 * D, 2 * D))
        self.norm = nn.LayerNorm(2 * D)
        if config.context == "gru":
            self.remember = nn.GRU(2 * D, 2 * D, batch_first=True) if config.causal else BiGRU(2 * D, D)
        elif config.context == "attention":
            self.remember = TurnAttention(2 * D, config.heads, config.causal)
        self.classify = nn.Linear(2 * D, classes)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def causal(self) -> bool:
        return self.config.causal

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        x, frames = average_steps(x, frames, self.config.stride)
        a = self.hear(torch.cat([x, relative(x, frames)], dim=-1), frames)  # X_a (U, Ta, D)
        t = self.read(w, words)  # X_t (U, Tt, D)
        attention = {}
        for n, (hear, read) in enumerate(zip(self.audio_units, self.text_units, strict=True), start=1):
            (a, of_a), (t, of_t) = hear(a, frames, t, words), read(t, words, a, frames)
            attention |= {f"audio {kind} {n}": weights for kind, weights in of_a.items()}
            attention |= {f"text {kind} {n}": weights for kind, weights in of_t.items()}
        (z_a, beta_a), (z_t, beta_t) = self.pool_audio(a, frames), self.pool_text(t, words)  # (U, D) each
        attention |= {"audio pooling": beta_a[:, None, None], "text pooling": beta_t[:, None, None]}
        z, skip = torch.cat([z_a, z_t], dim=-1), float(self.config.residual)  # (U, 2 D)
        u = self.norm(skip * z + self.fuse(self.dropout(z)))  # the utterance, (U, 2 D)
        if self.config.context != "none":
            conversation = Conversation.of(batch)
            turns, mask = conversation.turns(self.dropout(u)), conversation.mask  # (dialogues, turns, 2 D)
            if self.config.context == "attention":
                h, attention["turns"] = self.remember(turns, mask)
            else:
                h = self.remember(turns)[0] if self.config.causal else self.remember(turns, mask)
            u = skip * u + conversation.utterances(h)
        return Output(self.classify(self.dropout(u)), attention if need_attention else {}, u)
