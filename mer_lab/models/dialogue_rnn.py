"""DialogueRNN: a memory for the conversation and one for each speaker. A rival of lesson 08.

Majumder, Poria, Hazarika, Mihalcea, Gelbukh, Cambria: "DialogueRNN: An Attentive RNN for Emotion Detection in
Conversations", AAAI 2019, arXiv 1811.00405, section 3. Words below say how sure a value is: [M] general
knowledge, [?] not found and our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mer_lab.batches import Batch
from mer_lab.models.bc_lstm import PooledSystem
from mer_lab.models.layers import Conversation
from mer_lab.models.output import Output


@dataclass(frozen=True)
class DialogueRNNConfig:
    """Settings of :class:`DialogueRNN`; the defaults are the preset ``dialogue-rnn``.

    Attributes:
        hidden: of the global, the party and the emotion GRU. 150, 150 and 100 [M]; one number is ours.
        bidirectional: a second cell reads the dialogue from its end, BiDialogueRNN [M]; False, the paper's
            plain form [M], never reads a later turn.
        width: of the utterance's recurrent network, per direction. Ours: the paper has fixed vectors.
        dropout: [?]
        stride: average this many neighbouring frames first. 1; more is ours, for speed.
        stagewise: the utterance's vector is learnt first, and stays fixed while the conversation is learnt
            [M]; False trains all in one piece.
    """

    hidden: int = 100
    bidirectional: bool = False
    width: int = 48
    dropout: float = 0.2
    stride: int = 1
    stagewise: bool = True


class DialogueCell(nn.Module):
    """The three states, turn by turn; q is the memory of one speaker, s the speaker of turn t.

    ``g_t = GRU_G(g_(t-1), [u_t ; q_s])``, ``alpha = softmax(u_t^T W [g_1 .. g_(t-1)])``,
    ``c_t = sum_i alpha_i g_i``, ``q_s <- GRU_P(q_s, [u_t ; c_t])``, ``e_t = GRU_E(e_(t-1), q_s)``. Who
    listens keeps their memory, as in the paper's text-only form. All start at zero.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.global_, self.party = (nn.GRUCell(width + hidden, hidden) for _ in "gp")
        self.emotion = nn.GRUCell(hidden, hidden)
        self.W = nn.Linear(width, hidden, bias=False)

    def forward(self, u: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        """One step a turn, all dialogues at once.

        Args:
            u: ``(dialogues, turns, width)``; padding comes last, so nothing real is read after it.
            speaker: ``(dialogues, turns)``, numbered from 0 in each dialogue.

        Returns:
            e ``(dialogues, turns, hidden)`` and alpha ``(dialogues, turns, turns)``; row 0 is zero.
        """
        N, T, _ = u.shape
        g = e = u.new_zeros(N, self.hidden)
        q = u.new_zeros(N, int(speaker.max()) + 1, self.hidden)  # (dialogues, speakers, hidden)
        past = u.new_zeros(N, 0, self.hidden)  # g_1 .. g_(t-1)
        who = nn.functional.one_hot(speaker).bool().unsqueeze(-1)  # (dialogues, turns, speakers, 1)
        emotions, maps = [], []
        for t in range(T):
            q_s = (q * who[:, t]).sum(1)  # (dialogues, hidden)
            alpha = torch.einsum("nh,nth->nt", self.W(u[:, t]), past).softmax(-1)  # (dialogues, t)
            c = torch.einsum("nt,nth->nh", alpha, past)  # zero in the first turn
            g = self.global_(torch.cat([u[:, t], q_s], dim=-1), g)
            q_s = self.party(torch.cat([u[:, t], c], dim=-1), q_s)
            q = torch.where(who[:, t], q_s[:, None], q)
            e = self.emotion(q_s, e)
            past = torch.cat([past, g[:, None]], dim=1)
            emotions.append(e)
            maps.append(nn.functional.pad(alpha, (0, T - t)))
        return torch.stack(emotions, dim=1), torch.stack(maps, dim=1)


class DialogueRNN(PooledSystem):
    """A GRU for the conversation, one for each speaker, one for the emotion, over pooled utterances."""

    Config = DialogueRNNConfig
    paper = "Majumder et al. 2019, DialogueRNN: An Attentive RNN for Emotion Detection in Conversations"

    def __init__(
        self, audio: nn.Module, text: nn.Module, classes: int, config: DialogueRNNConfig = DialogueRNNConfig()
    ) -> None:
        super().__init__(audio, text, classes, config)
        u, H = 2 * config.width, config.hidden
        self.cells = nn.ModuleList(DialogueCell(u, H) for _ in range(1 + config.bidirectional))
        both = H * len(self.cells)
        self.hide, self.classify = nn.Linear(both, both), nn.Linear(both, classes)

    @property
    def causal(self) -> bool:
        return not self.config.bidirectional

    def converse(self, u: Tensor, batch: Batch) -> Output:
        """Utterances ``(U, 2 width)`` to logits ``(U, classes)``, and where each turn looked."""
        conversation = Conversation.of(batch)
        u = conversation.turns(self.dropout(u))  # (dialogues, turns, 2 width)
        speaker = parties(batch.speaker[conversation.index], conversation.mask)  # (dialogues, turns)
        e, alpha = self.cells[0](u, speaker)  # (dialogues, turns, hidden), (dialogues, turns, turns)
        maps = [alpha]
        if self.config.bidirectional:
            back = reversal(conversation.mask)  # (dialogues, turns), its own inverse
            e_back, alpha = self.cells[1](take(u, back), speaker.gather(1, back))
            e = torch.cat([e, take(e_back, back)], dim=-1)
            maps.append(take(take(alpha, back).mT, back).mT)
        h = self.hide(self.dropout(conversation.utterances(e))).relu()  # (U, hidden)
        turns = torch.stack(maps, dim=1) * conversation.mask[:, None, :, None]
        return Output(self.classify(self.dropout(h)), {"turns": turns}, h)


def parties(speaker: Tensor, mask: Tensor) -> Tensor:
    """Speakers ``(dialogues, turns)`` numbered from 0 within each dialogue, in order of appearance."""
    same = (speaker[:, :, None] == speaker[:, None]) & mask[:, None]  # (dialogues, turns, turns)
    first = same.int().argmax(-1) * mask  # the turn in which each speaker is first heard
    new = (first == torch.arange(first.shape[1], device=first.device)) & mask
    return (new.cumsum(1) - 1).gather(1, first).clamp(min=0)


def reversal(mask: Tensor) -> Tensor:
    """Indices ``(dialogues, turns)`` that read each dialogue from its end and leave padding last."""
    turns = torch.arange(mask.shape[1], device=mask.device)
    length = mask.sum(1, keepdim=True)
    return torch.where(turns < length, length - 1 - turns, turns)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x (N, T, D)`` in the order of ``index (N, T)``."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))
