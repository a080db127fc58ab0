"""bc-LSTM: every utterance in the company of its dialogue. A rival of lesson 08: context, no cross-attention.

Poria, Cambria, Hazarika, Majumder, Zadeh, Morency: "Context-Dependent Sentiment Analysis in User-Generated
Videos", ACL 2017. Words below say how sure a value is: [M] general knowledge, [?] not found and our choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.models.layers import AttentionPooling, BiLSTM, Conversation
from mer_lab.models.layers.pooling import Pooled
from mer_lab.models.output import Output
from mer_lab.models.system import Part, System
from mer_lab.models.unimodal import average_steps


@dataclass(frozen=True)
class BCLSTMConfig:
    """Settings of :class:`BCLSTM`; the defaults are the preset ``bc-lstm``.

    Attributes:
        hidden: of the contextual LSTM, per direction. 300 [M].
        width: of the utterance's recurrent network, per direction. Ours: the paper has fixed vectors.
        dropout: [?]
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
        stagewise: the utterance's vector is learnt first, and stays fixed while the conversation is learnt
            [M]; False trains all in one piece.
    """

    hidden: int = 300
    width: int = 48
    dropout: float = 0.2
    stride: int = 1
    stagewise: bool = True


class PooledChannel(nn.Module):
    """One vector of an utterance's voice, or of its words: BiLSTM and attention pooling."""

    def __init__(self, channel: int, config, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.width = stride, 2 * config.width
        self.lstm, self.pool = BiLSTM(channel, config.width), AttentionPooling(self.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Pooled:
        """``x (U, T, channel)`` to ``(U, 2 width)``, and the weights ``(U, T / stride)``."""
        x, mask = average_steps(x, mask, self.stride)
        return self.pool(self.lstm(self.dropout(x), mask), mask)


class PooledSystem(System):
    """Pooled channels, early fusion, then a conversation: what bc-LSTM and DialogueRNN have in common.

    A subclass adds its layers, and ``converse(u, batch) -> Output`` from the utterances' vectors ``(U, D)``.
    """

    contextual = True
    converse: Callable[[Tensor, Batch], Output]

    def __init__(self, audio: nn.Module, text: nn.Module, classes: int, config) -> None:
        super().__init__(audio, text, classes, config)
        self.hear = PooledChannel(audio.width, config, config.stride)
        self.read = PooledChannel(text.width, config)
        self.mix = nn.Linear(4 * config.width, 2 * config.width)
        self.dropout = nn.Dropout(config.dropout)

    def utterance(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``u = ReLU(W [a ; t] + b)``, ``(U, 2 width)``, early fusion (lesson 04), and the pooling's maps."""
        a, heard = self.hear(*self.encode_channel(batch, "audio"))  # (U, 2 width), (U, Ta / stride)
        t, read = self.read(*self.encode_channel(batch, "text"))
        u = self.mix(self.dropout(torch.cat([a, t], dim=-1))).relu()
        return u, {"audio pooling": heard[:, None, None], "text pooling": read[:, None, None]}

    def forward(self, batch: Batch, need_attention: bool = False) -> Output:
        u, attention = self.utterance(batch)
        out = self.converse(u, batch)
        return out._replace(attention=attention | out.attention if need_attention else {})

    def parts(self) -> list[list[Part]]:
        """What is trained at a time: utterances with a classifier of their own, then the conversation."""
        classify = nn.Linear(self.mix.out_features, self.classes)  # forgotten afterwards
        first = [self.audio, self.text, self.hear, self.read, self.mix, self.dropout]
        later = [module for module in self.children() if module not in first]

        def alone(batch: Batch) -> Output:
            u, _ = self.utterance(batch)
            return Output(classify(self.dropout(u)), {}, u)

        def together(batch: Batch) -> Output:
            with torch.no_grad():
                u, _ = self.utterance(batch)
            return self.converse(u, batch)

        both = ("audio", "text")
        return [
            [Part("I", both, False, 1.0, alone, *first, classify)],
            [Part("II", both, True, 1.0, together, *later, self.dropout)],
        ]


class BCLSTM(PooledSystem):
    """Pooled utterances and a bidirectional LSTM over the turns of the dialogue."""

    Config = BCLSTMConfig
    paper = "Poria et al. 2017, Context-Dependent Sentiment Analysis in User-Generated Videos"

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: BCLSTMConfig = BCLSTMConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        self.context = BiLSTM(2 * config.width, config.hidden)
        self.classify = nn.Linear(2 * config.hidden, classes)

    def converse(self, u: Tensor, batch: Batch) -> Output:
        """Utterances ``(U, 2 width)`` to logits ``(U, classes)``."""
        conversation = Conversation.of(batch)
        turns = conversation.turns(self.dropout(u))  # (dialogues, turns, 2 width)
        h = conversation.utterances(self.context(turns, conversation.mask))  # (U, 2 hidden)
        return Output(self.classify(self.dropout(h)), {}, h)
