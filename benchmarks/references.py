"""Three systems as a plain loop: what `benchmarks/training.py` holds ours against.

Each utterance is cut to its own length and goes through the layers alone, with nothing padded and nothing
masked; a conversation is put together turn by turn, one dialogue after the other. The equations are those of
`mer_lab/models`, written once more; the weights are a system's own, so that both give the same logits. Only
what the Staged recipes `hcam`, `krishna2021` and `dialogue-rnn` make use of is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d

from mer_lab.batches import Batch
from mer_lab.models import HCAM, CrossModalAttention, DialogueRNN, Output
from mer_lab.models.bc_lstm import PooledChannel
from mer_lab.models.dialogue_rnn import DialogueCell
from mer_lab.models.hcam import Block, CoAttention, Context, Utterance
from mer_lab.models.layers import AttentionPooling, BiLSTM, FrameEncoder, MultiHeadAttention, WordEncoder


def alone(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Each utterance's frames ``(1, Ta, Da)`` and words ``(1, Tt, Dt)``, as long as they are."""
    frames, words = batch.audio_mask.sum(1).tolist(), batch.text_mask.sum(1).tolist()
    for k in range(len(batch)):
        yield batch.audio[k : k + 1, : frames[k]], batch.text[k : k + 1, : words[k]]


def dialogues(batch: Batch) -> list[list[int]]:
    """Rows of the batch, dialogue by dialogue, each in the order of its turns."""
    found: dict[int, list[int]] = {}
    for k in batch.turn.argsort(stable=True).tolist():
        found.setdefault(int(batch.dialogue[k]), []).append(k)
    return list(found.values())


def in_order(pieces: list[Tensor], rows: list[list[int]]) -> Tensor:
    """What was made dialogue by dialogue, ``(turns, D)`` each, in the order of the batch: ``(U, D)``."""
    return torch.cat(pieces)[torch.tensor([k for dialogue in rows for k in dialogue]).argsort()]


def encode(encoder: FrameEncoder | WordEncoder, x: Tensor) -> Tensor:
    """Standardised frames, or embedded words, of one utterance: ``(1, T, D)``."""
    if isinstance(encoder, FrameEncoder):
        return torch.nan_to_num((x - encoder.mean) / encoder.std, nan=0.0)
    index = x[..., 0]
    if encoder.training and encoder.drop:
        index = torch.where(torch.rand(index.shape) < encoder.drop, 1, index)
    return encoder.embedding(index)


def slower(x: Tensor, stride: int) -> Tensor:
    """The mean of every ``stride`` neighbouring steps: ``(1, T, D)`` to ``(1, ceil(T / stride), D)``."""
    return x if stride == 1 else avg_pool1d(x.mT, stride, ceil_mode=True).mT


def both_ways(ours: BiLSTM) -> nn.RNNBase:
    """torch's own bidirectional network, which needs no mask for a single sequence, on our weights."""
    first, layers = ours.forwards[0], len(ours.forwards)
    theirs = type(first)(
        first.input_size, first.hidden_size, layers, batch_first=True, bidirectional=True,
        dropout=ours.dropout.p if layers > 1 else 0.0,
    )  # fmt: skip
    for k, (ahead, back) in enumerate(zip(ours.forwards, ours.backwards, strict=True)):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(theirs, f"{name}_l{k}", getattr(ahead, f"{name}_l0"))
            setattr(theirs, f"{name}_l{k}_reverse", getattr(back, f"{name}_l0"))
    return theirs


def pool(layer: AttentionPooling, h: Tensor) -> Tensor:
    """``(1, T, D)`` to ``(1, D)``."""
    return (layer.v(torch.tanh(layer.W(h))).softmax(1) * h).sum(1)


def attend(layer: MultiHeadAttention, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """``query (1, Tq, D)``, ``key (1, Tk, D)``, ``bias`` that broadcasts to ``(1, heads, Tq, Tk)``."""
    q, k, v = (
        project(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # (1, heads, T, d)
        for project, x in ((layer.query, query), (layer.key, key), (layer.value, key))
    )
    weights = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1)
    return layer.out((layer.dropout(weights) @ v).transpose(1, 2).flatten(2))


class HCAMLoop(nn.Module):
    """:class:`HCAM` in one piece: utterance by utterance, then dialogue by dialogue."""

    def __init__(self, model: HCAM) -> None:
        super().__init__()
        self.model = model
        stages = {"hear": model.hear, "read": model.read, "hear_on": model.hear_on, "read_on": model.read_on}
        self.gru = nn.ModuleDict({name: both_ways(stage.gru) for name, stage in stages.items()})

    def forward(self, batch: Batch) -> Output:
        m = self.model
        heard, said = [], []
        for x, w in alone(batch):
            heard.append(self.utterance(m.hear, self.gru["hear"], encode(m.audio, x)))
            said.append(self.utterance(m.read, self.gru["read"], encode(m.text, w)))
        logits, embedding, rows = [], [], dialogues(batch)
        for turns in rows:
            a = self.context(m.hear_on, self.gru["hear_on"], torch.stack([heard[k] for k in turns], dim=1))
            t = self.context(m.read_on, self.gru["read_on"], torch.stack([said[k] for k in turns], dim=1))
            z = self.fusion(m.fuse[0], a, t)[0]  # (turns, hidden)
            embedding.append(z)
            logits.append(m.fuse[0].classify(m.fuse[0].dropout(z)))
        return Output(in_order(logits, rows), {}, in_order(embedding, rows))

    def utterance(self, stage: Utterance, gru: nn.GRU, x: Tensor) -> Tensor:
        """Stage I: ``(1, T, D)`` to ``(1, 2 width)``."""
        return pool(stage.pool, gru(stage.dropout(slower(x, stage.stride)))[0])

    def context(self, stage: Context, gru: nn.GRU, turns: Tensor) -> Tensor:
        """Stage II: ``(1, turns, 2 width)`` to the same."""
        h = gru(stage.dropout(turns))[0]
        seen = attend(stage.attend, h, h, stage.distance(turns))
        return turns + stage.dropout(h + stage.dropout(seen))

    def fusion(self, stage: CoAttention, a: Tensor, t: Tensor) -> Tensor:
        """Stage III: two times ``(1, turns, 2 width)`` to ``(1, turns, hidden)``."""
        a, t = (project(stage.dropout(x)) for project, x in zip(stage.project, (a, t), strict=True))
        for listen, read in stage.blocks:
            a, t = self.block(listen, a, t), self.block(read, t, a)
        return stage.join(stage.dropout(stage.norm(torch.cat([t, a], dim=-1)))).relu()

    def block(self, b: Block, x: Tensor, other: Tensor) -> Tensor:
        """``x``, ``other (1, turns, hidden)``."""
        x = b.norm1(x + b.dropout(attend(b.cross, x, other, b.distance[0](x))))
        return b.norm2(x + b.dropout(attend(b.self, x, x, b.distance[1](x))))


class CrossModalLoop(nn.Module):
    """:class:`CrossModalAttention`, both directions with nearness and statistics: utterance by utterance."""

    def __init__(self, model: CrossModalAttention) -> None:
        super().__init__()
        self.model = model
        self.lstm = nn.ModuleDict({name: both_ways(layer) for name, layer in model.recurrent.items()})

    def forward(self, batch: Batch) -> Output:
        m = self.model
        each = [self.utterance(encode(m.audio, x), encode(m.text, w)) for x, w in alone(batch)]
        embedding = torch.cat(each)  # (U, 4 width)
        return Output(m.classify(m.dropout(embedding)), {}, embedding)

    def utterance(self, x: Tensor, w: Tensor) -> Tensor:
        """``(1, Ta, Da)`` and ``(1, Tt, Dt)`` to ``(1, 4 width)``."""
        x = slower(x, self.model.config.stride)
        away = x - x.mean(1, keepdim=True)
        x = torch.cat([x, away / (away.square().mean(1, keepdim=True) + 0.01).sqrt()], dim=-1)
        a, t = self.prepare("audio", x), self.prepare("text", w)
        return torch.cat([self.ask("audio", a, t), self.ask("text", t, a)], dim=-1)

    def prepare(self, channel: str, x: Tensor) -> Tensor:
        """``(1, T, D)`` to ``(1, T, width)``."""
        h = self.model.project[channel](self.model.dropout(x).mT).mT
        return self.lstm[channel](h)[0]

    def ask(self, channel: str, query: Tensor, key: Tensor) -> Tensor:
        """Mean and deviation of what a channel hears of the other one: ``(1, 2 width)``."""
        places = [(torch.arange(n) + 0.5) / n for n in (query.shape[1], key.shape[1])]
        apart = (places[0][:, None] - places[1]).abs()  # (Tq, Tk)
        z = attend(self.model.attend[channel], query, key, -self.model.near[channel].log_slope.exp() * apart)
        return torch.cat([z.mean(1), (z.var(1, correction=0) + 1e-5).sqrt()], dim=-1)


class DialogueLoop(nn.Module):
    """:class:`DialogueRNN` step by step: one dialogue, one turn at a time."""

    def __init__(self, model: DialogueRNN) -> None:
        super().__init__()
        self.model = model
        self.lstm = nn.ModuleDict({name: both_ways(getattr(model, name).lstm) for name in ("hear", "read")})

    def forward(self, batch: Batch) -> Output:
        m, u = self.model, []
        for x, w in alone(batch):
            a = self.channel(m.hear, self.lstm["hear"], encode(m.audio, x))
            t = self.channel(m.read, self.lstm["read"], encode(m.text, w))
            u.append(m.mix(m.dropout(torch.cat([a, t], dim=-1))).relu())  # (1, 2 width)
        return self.converse(u, batch)

    def channel(self, layer: PooledChannel, lstm: nn.LSTM, x: Tensor) -> Tensor:
        """``(1, T, D)`` to ``(1, 2 width)``."""
        return pool(layer.pool, lstm(layer.dropout(slower(x, layer.stride)))[0])

    def converse(self, u: list[Tensor], batch: Batch) -> Output:
        """Utterances, ``(1, 2 width)`` each, to logits ``(U, classes)``."""
        m, speaker = self.model, batch.speaker.tolist()
        logits, embedding, rows = [], [], dialogues(batch)
        for turns in rows:
            said, who = [m.dropout(u[k]) for k in turns], [speaker[k] for k in turns]
            e = self.emotions(m.cells[0], said, who)
            if len(m.cells) > 1:
                back = self.emotions(m.cells[1], said[::-1], who[::-1])[::-1]
                e = [torch.cat(pair, dim=-1) for pair in zip(e, back, strict=True)]
            for state in e:
                h = m.hide(m.dropout(state)).relu()
                embedding.append(h)
                logits.append(m.classify(m.dropout(h)))
        return Output(in_order(logits, rows), {}, in_order(embedding, rows))

    def emotions(self, cell: DialogueCell, said: list[Tensor], who: list[int]) -> list[Tensor]:
        """The emotion state after each turn, ``(1, hidden)``."""
        g = e = start = said[0].new_zeros(1, cell.hidden)
        party: dict[int, Tensor] = {}
        past: list[Tensor] = []
        emotions = []
        for u, speaker in zip(said, who, strict=True):
            q, c = party.get(speaker, start), start
            if past:
                memory = torch.cat(past)  # (t, hidden)
                c = (cell.W(u) @ memory.T).softmax(-1) @ memory
            g = cell.global_(torch.cat([u, q], dim=-1), g)
            party[speaker] = cell.party(torch.cat([u, c], dim=-1), q)
            e = cell.emotion(party[speaker], e)
            past.append(g)
            emotions.append(e)
        return emotions
