"""Hierarchical co-attention: utterances, then conversations, then both channels. Lesson 07 builds it.

Dutta, Ganapathy: "HCAM - Hierarchical Cross Attention Model for Multi-modal Emotion Recognition", 2023,
arXiv 2304.06910. Words below say how sure a value is: [V] read in the published material, [C-lineage] in code
of the same authors before (2021) or after (2026), [?] not found and our choice. Published are the stages and
the two losses [V]; how each stage is made inside is our reading of the code around it. Freezing is published
for the authors' next system, and in the code of the one before [C-lineage].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.models.layers import AttentionPooling, BiGRU, Conversation, MultiHeadAttention
from mer_lab.models.output import Output
from mer_lab.models.system import Part, System
from mer_lab.models.unimodal import average_steps


@dataclass(frozen=True)
class HCAMConfig:
    """Settings of :class:`HCAM`; the defaults are the preset ``hcam``.

    Attributes:
        width: of every GRU, per direction. 100 [C-lineage, 2021].
        layers: of the conversation's GRU. 2 [C-lineage, 2021].
        heads, inner: of the co-attention, and the width of its heads together. 3 and 120 [C-lineage, 2026].
        reach: turns that are told apart by their distance; see :class:`Distances`, ours.
        blocks: of the co-attention, one upon the other. 4 [C-lineage, 2026]; 1 is ours.
        hidden: of the co-attention's residual stream and of the classifier. 1024 [C-lineage, 2026]; 256 is
            ours.
        dropout: of the utterance and conversation stages. 0.2 [C-lineage, 2021].
        block_dropout: of the co-attention. 0.5 [C-lineage, 2026].
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
        ensemble: co-attention networks whose probabilities are averaged. That a test-time ensemble helps is
            [V]; what it consists of is [?].
        context_rate, fusion_rate: share of the learning rate that the second and the third stage take. In
            [C-lineage, 2021] the third takes a tenth of the second's; 1 is ours.
        stagewise: train a stage, freeze it, train the next [C-lineage]; False trains all in one piece, on the
            last stage's loss alone.
    """

    width: int = 100
    layers: int = 2
    heads: int = 3
    inner: int = 120
    reach: int = 8
    blocks: int = 1
    hidden: int = 256
    dropout: float = 0.2
    block_dropout: float = 0.5
    stride: int = 1
    ensemble: int = 1
    context_rate: float = 1.0
    fusion_rate: float = 1.0
    stagewise: bool = True


class Utterance(nn.Module):
    """Stage I, one channel: BiGRU and self-attention pooling turn an utterance into a vector."""

    def __init__(self, width: int, classes: int, config: HCAMConfig, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.gru = BiGRU(width, config.width)
        self.pool = AttentionPooling(2 * config.width)
        self.classify = nn.Linear(2 * config.width, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Output:
        """``x (U, T, D)``, ``mask (U, T)``."""
        x, mask = average_steps(x, mask, self.stride)  # (U, T / stride, D)
        h = self.gru(self.dropout(x), mask)  # (U, T / stride, 2 width)
        u, alpha = self.pool(h, mask)  # (U, 2 width), (U, T / stride)
        return Output(self.classify(self.dropout(u)), {"I pooling": alpha[:, None, None]}, u)


class Distances(nn.Module):
    """Each turn says, from what it is, how far back or ahead it looks (after Shaw et al. 2018; ours).

    What it says counts ``PACE`` times: "two back" is to be learnt before the conversations are, by heart.
    """

    PACE = 5.0

    def __init__(self, width: int, heads: int, reach: int) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.say = nn.Linear(width, heads * (2 * reach + 1))

    def forward(self, x: Tensor) -> Tensor:
        """``x (dialogues, turns, width)`` to what is added to scores, ``(dialogues, heads, turns, turns)``.

        All distances beyond the reach share one number.
        """
        k = torch.arange(x.shape[1], device=x.device)
        apart = (k - k[:, None]).clamp(-self.reach, self.reach) + self.reach  # (turns, turns)
        said = self.PACE * self.say(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return said.gather(-1, apart.expand(*said.shape[:2], -1, -1))


class Context(nn.Module):
    """Stage II, one channel: a BiGRU reads the conversation, and every turn looks at all of its turns.

    What they find is added to the utterance's vector, so that it stays readable for stage III; no layer norm,
    which would make it many times as large as the vector. Ours.
    """

    def __init__(self, classes: int, config: HCAMConfig) -> None:
        super().__init__()
        both = 2 * config.width
        self.gru = BiGRU(both, config.width, config.layers, config.dropout)
        self.distance = Distances(both, 1, config.reach)
        self.attend = MultiHeadAttention(both)
        self.classify = nn.Linear(both, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, u: Tensor, conversation: Conversation) -> Output:
        """``u (U, 2 width)``, utterances of the conversations in any order."""
        turns, mask = conversation.turns(u), conversation.mask  # (dialogues, turns, 2 width)
        h = self.gru(self.dropout(turns), mask)  # (dialogues, turns, 2 width)
        seen, weights = self.attend(h, h, mask, bias=self.distance(turns))
        c = u + conversation.utterances(self.dropout(h + self.dropout(seen)))  # (U, 2 width)
        return Output(self.classify(self.dropout(c)), {"II turns": weights}, c)


class Block(nn.Module):
    """One channel's half of co-attention [C-lineage, 2026]: look at the other channel, then at oneself."""

    def __init__(self, config: HCAMConfig) -> None:
        super().__init__()
        self.distance = nn.ModuleList(Distances(config.hidden, config.heads, config.reach) for _ in "cs")
        self.cross = MultiHeadAttention(config.hidden, config.heads, inner=config.inner)
        self.self = MultiHeadAttention(config.hidden, config.heads, inner=config.inner)
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)
        self.dropout = nn.Dropout(config.block_dropout)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x``, ``other (dialogues, turns, hidden)``; the attention ends in the linear layer."""
        seen, across = self.cross(x, other, mask, bias=self.distance[0](x))
        x = self.norm1(x + self.dropout(seen))
        seen, within = self.self(x, x, mask, bias=self.distance[1](x))
        return self.norm2(x + self.dropout(seen)), across, within


class CoAttention(nn.Module):
    """Stage III: words ask the voices of the conversation, voices ask its words."""

    def __init__(self, classes: int, config: HCAMConfig) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(2 * config.width, config.hidden) for _ in "at")
        self.blocks = nn.ModuleList(nn.ModuleList(Block(config) for _ in "at") for _ in range(config.blocks))
        self.norm = nn.LayerNorm(2 * config.hidden)
        self.join = nn.Linear(2 * config.hidden, config.hidden)
        self.classify = nn.Linear(config.hidden, classes)
        self.dropout = nn.Dropout(config.block_dropout)

    def forward(self, audio: Tensor, text: Tensor, conversation: Conversation) -> Output:
        """``audio``, ``text (U, 2 width)``."""
        a, t = (
            project(self.dropout(conversation.turns(x)))  # (dialogues, turns, hidden)
            for project, x in zip(self.project, (audio, text), strict=True)
        )
        attention = {}
        for k, (listen, read) in enumerate(self.blocks):
            (a, a_to_t, a_to_a), (t, t_to_a, t_to_t) = (
                listen(a, t, conversation.mask), read(t, a, conversation.mask)
            )  # fmt: skip
            names = ("audio to text", "audio to audio", "text to audio", "text to text")
            maps = zip(names, (a_to_t, a_to_a, t_to_a, t_to_t), strict=True)
            attention |= {f"III {name} {k + 1}": weights for name, weights in maps}
        both = conversation.utterances(self.norm(torch.cat([t, a], dim=-1)))  # (U, 2 hidden)
        z = self.join(self.dropout(both)).relu()  # (U, hidden)
        return Output(self.classify(self.dropout(z)), attention, z)


class HCAM(System):
    """Utterance vectors of each channel, their context in the conversation, co-attention of both."""

    Config = HCAMConfig
    contextual = True
    paper = "Dutta and Ganapathy 2023, HCAM: Hierarchical Cross Attention Model for Emotion Recognition"

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: HCAMConfig = HCAMConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        self.hear = Utterance(audio.width, classes, config, config.stride)
        self.read = Utterance(text.width, classes, config)
        self.hear_on, self.read_on = (Context(classes, config) for _ in "at")
        self.fuse = nn.ModuleList(CoAttention(classes, config) for _ in range(config.ensemble))
        for stage in (self.hear, self.read, self.hear_on, self.read_on):
            stage.classify.requires_grad_(config.stagewise)  # in one piece nothing would teach them

    def stages(self, batch: Batch) -> dict[str, Output]:
        """What every stage answers: ``"I audio"``, ``"I text"``, ``"II audio"``, ``"II text"``, ``"III"``."""
        x, frames, w, words = self.encode(batch)  # (U, Ta, Da), (U, Ta), (U, Tt, Dt), (U, Tt)
        conversation = Conversation.of(batch)
        heard, said = self.hear(x, frames), self.read(w, words)
        heard_on = self.hear_on(heard.embedding, conversation)
        said_on = self.read_on(said.embedding, conversation)
        fused = [fuse(heard_on.embedding, said_on.embedding, conversation) for fuse in self.fuse]
        return {
            "I audio": heard, "I text": said, "II audio": heard_on, "II text": said_on, "III": ensemble(fused)
        }  # fmt: skip

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        stages = self.stages(batch)
        last, attention = stages.pop("III"), {}
        if need_attention:
            for name, output in stages.items():
                channel = name.split()[1]
                attention |= {f"{key}, {channel}": weights for key, weights in output.attention.items()}
            attention |= last.attention
        return last._replace(attention=attention)

    def parts(self) -> list[list[Part]]:
        """The stages in the order of training; a later one reads the vectors of the one before."""

        def vector(batch: Batch, channel: str) -> Tensor:
            return batch.channel(channel)[0][:, 0]  # (U, 1, D) to (U, D)

        def utterance(channel: str, encoder: nn.Module, stage: Utterance) -> Part:
            def answer(batch: Batch) -> Output:
                return stage(*encoder(*batch.channel(channel)))

            return Part(f"I {channel}", (channel,), False, 1.0, answer, encoder, stage)

        def context(channel: str, stage: Context) -> Part:
            def answer(batch: Batch) -> Output:
                return stage(vector(batch, channel), Conversation.of(batch))

            return Part(f"II {channel}", (channel,), True, self.config.context_rate, answer, stage)

        def fusion(k: int, stage: CoAttention) -> Part:
            def answer(batch: Batch) -> Output:
                return stage(vector(batch, "audio"), vector(batch, "text"), Conversation.of(batch))

            return Part(f"III {k + 1}", ("audio", "text"), True, self.config.fusion_rate, answer, stage)

        return [
            [utterance("audio", self.audio, self.hear), utterance("text", self.text, self.read)],
            [context("audio", self.hear_on), context("text", self.read_on)],
            [fusion(k, stage) for k, stage in enumerate(self.fuse)],
        ]


def ensemble(members: list[Output]) -> Output:
    """The mean of the members' probabilities, as logarithm; with one output (a score), of their values.

    Attention maps stand side by side as heads, embeddings one after the other.
    """
    if len(members) == 1:
        return members[0]
    logits = torch.stack([m.logits for m in members])  # (members, U, classes)
    mean = logits.softmax(-1).mean(0).log() if logits.shape[-1] > 1 else logits.mean(0)
    maps = {key: torch.cat([m.attention[key] for m in members], dim=1) for key in members[0].attention}
    return Output(mean, maps, torch.cat([m.embedding for m in members], dim=-1))
