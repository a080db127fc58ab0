"""Systems that use the conversation: DialogueRNN's cell, CM-RoBERTa's core, the past, the speakers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mer_lab.batches import Batch, Dataset
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.errors import MerLabError
from mer_lab.models import SYSTEMS, CMRobertaConfig, System
from mer_lab.models.cm_roberta import CoreUnit, TurnAttention, place, relative
from mer_lab.models.dialogue_rnn import DialogueCell, parties
from mer_lab.models.layers import FrameEncoder, MultiHeadAttention, WordEncoder
from mer_lab.ragged import Ragged

SMALL = {"width": 8, "heads": 2, "hidden": 6, "layers": 2, "dropout": 0.0}
PAST = {"dialogue-rnn": {}, "cm-roberta": {"causal": True}}
BOTH = {"dialogue-rnn": {"bidirectional": True}, "cm-roberta": {"causal": False}, "bc-lstm": {}}
GRU = {"context": "gru"}


def make(name: str, **settings) -> System:
    system, config = SYSTEMS[name]
    fewer = {k: v for k, v in SMALL.items() if hasattr(config, k)}
    torch.manual_seed(2)
    model = system(FrameEncoder(5), WordEncoder(11, 6), 3, replace(config, **fewer, **settings))
    return model.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    """A dialogue of six turns by three speakers, and one of three by two."""
    rng = np.random.default_rng(0)
    rows, audio, text = [], [], []
    for dialogue, speakers in (("a", "xyxzyx"), ("b", "vwv")):
        for turn, speaker in enumerate(speakers):
            row = dict.fromkeys(COLUMNS, "") | {"utterance_id": f"{dialogue}{turn}", "dialogue_id": dialogue}
            row |= {"turn": turn, "speaker": speaker, "split": "train", "label": "k", "text": "x"}
            rows.append(row | {"start": np.nan, "end": np.nan})
            audio.append(rng.normal(size=(rng.integers(2, 9), 5)).astype(np.float32))
            text.append(rng.integers(1, 11, size=(rng.integers(2, 6), 1)))
    corpus = Corpus("made up", ("k", "l", "m"), pd.DataFrame(rows).set_index("utterance_id", drop=False))
    data = Dataset(corpus, Ragged.from_sequences(audio, corpus.ids), Ragged.from_sequences(text, corpus.ids))
    return data.batch(np.arange(9))


def changed(model: System, batch: Batch, turn: int) -> list[int]:
    """Utterances whose logits change when another sentence is said in that turn."""
    text = batch.text.clone()
    text[turn] = (text[turn] + 3) % 11 * batch.text_mask[turn].unsqueeze(-1)
    with torch.no_grad():
        gap = (model(batch).logits - model(replace(batch, text=text)).logits).abs().amax(1)
    return (gap > 1e-7).nonzero().flatten().tolist()


def gru(cell: nn.GRUCell, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Cho et al.'s gates in NumPy, in PyTorch's order: reset, update, new."""
    w, v, b, c = (p.detach().numpy() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh))
    (r, z, n), (s, y, m) = np.split(w @ x + b, 3), np.split(v @ h + c, 3)
    r, z = 1 / (1 + np.exp(-(r + s))), 1 / (1 + np.exp(-(z + y)))
    return (1 - z) * np.tanh(n + r * m) + z * h


def test_dialogue_cell_is_the_papers_loop_over_turns_and_speakers():
    torch.manual_seed(0)
    cell = DialogueCell(4, 5)
    u, speakers = torch.randn(2, 6, 4), [[0, 1, 0, 2, 1, 0], [0, 0, 1, 1, 0, 1]]
    e, alpha = cell(u, torch.tensor(speakers))
    W = cell.W.weight.detach().numpy()
    for d, order in enumerate(speakers):
        g, emotion = [], np.zeros(5)
        q = {s: np.zeros(5) for s in order}
        for t, s in enumerate(order):
            x, c = u[d, t].numpy(), np.zeros(5)
            if g:
                score = np.array([(W @ x) @ past for past in g])
                weights = np.exp(score) / np.exp(score).sum()
                c = sum(w * past for w, past in zip(weights, g, strict=True))
                np.testing.assert_allclose(alpha[d, t, :t].detach(), weights, atol=1e-6)
            g.append(gru(cell.global_, np.concatenate([x, q[s]]), g[-1] if g else np.zeros(5)))
            q[s] = gru(cell.party, np.concatenate([x, c]), q[s])
            emotion = gru(cell.emotion, q[s], emotion)
            np.testing.assert_allclose(e[d, t].detach(), emotion, atol=1e-6)
    assert alpha[:, 0].eq(0).all() and alpha.triu().eq(0).all()  # no turn attends to itself or a later one


def test_speakers_are_numbered_within_their_dialogue():
    speaker = torch.tensor([[7, 3, 7, 9, 3], [4, 7, 4, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    assert parties(speaker, mask).tolist() == [[0, 1, 0, 2, 1], [0, 1, 0, 0, 0]]


def test_speakers_have_memories_of_their_own(batch):
    model = make("dialogue-rnn")
    with torch.no_grad():
        plain = model(batch).logits
        renamed = model(replace(batch, speaker=9 - batch.speaker)).logits  # other names, the same people
        one = model(replace(batch, speaker=torch.zeros_like(batch.speaker))).logits
    assert torch.allclose(plain, renamed, atol=1e-6)
    assert torch.equal(plain[0], one[0]) and not torch.allclose(plain[1:6], one[1:6], atol=1e-4)


@pytest.mark.parametrize("name, settings", [*PAST.items(), ("cm-roberta", PAST["cm-roberta"] | GRU)])
def test_a_causal_system_reads_no_later_turn_and_every_earlier_one(name, settings, batch):
    model = make(name, **settings)
    assert changed(model, batch, 2) == [2, 3, 4, 5]
    assert changed(model, batch, 6) == [6, 7, 8]  # the other dialogue


@pytest.mark.parametrize("name, settings", [*BOTH.items(), ("cm-roberta", BOTH["cm-roberta"] | GRU)])
def test_a_bidirectional_system_reads_the_whole_dialogue_and_no_other(name, settings, batch):
    assert changed(make(name, **settings), batch, 2) == [0, 1, 2, 3, 4, 5]


def test_without_context_no_turn_reads_another(batch):
    assert changed(make("cm-roberta", context="none"), batch, 2) == [2]


def test_maps_over_turns_stand_in_the_order_of_the_dialogue(batch):
    shown = make("dialogue-rnn", bidirectional=True)(batch, need_attention=True).attention["turns"]
    assert shown.shape == (2, 2, 6, 6)
    assert shown[:, 0].triu().eq(0).all() and shown[:, 1].tril().eq(0).all()  # the past, and the future
    assert shown[0, 1].sum(-1).tolist() == pytest.approx([1, 1, 1, 1, 1, 0])
    assert shown[1, :, :, 3:].eq(0).all() and shown[1, :, 3:].eq(0).all()  # the second has three turns
    causal = make("cm-roberta", causal=True)(batch, need_attention=True).attention["turns"]
    assert causal.triu(1).eq(0).all() and causal[1, :, 3:].eq(0).all()


def test_turn_attention_can_look_two_turns_back_whatever_is_said():
    torch.manual_seed(0)
    attend = TurnAttention(8, 2, causal=True)
    attend.lag.weight.data.zero_()
    attend.lag.bias.data = torch.zeros(2, 17)
    attend.lag.bias.data[:, 8 + 2] = 50.0  # lag 0 stands in the middle, the past above it
    attend.lag.bias.data = attend.lag.bias.data.flatten()
    _, weights = attend(torch.randn(1, 12, 8), torch.ones(1, 12, dtype=torch.bool))
    assert weights[0].diagonal(-2, 1, 2).gt(0.99).all()


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(3)
    mask, other = torch.ones(2, 4, dtype=torch.bool), torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    return torch.randn(2, 4, 8), mask, torch.randn(2, 7, 8), other


def reference(attend: MultiHeadAttention, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor, bias=0.0):
    """What PyTorch's own attention makes of the same weights; ``bias (U, heads, Tq, Tk)`` on the scores."""
    theirs = nn.MultiheadAttention(8, attend.heads, batch_first=True)
    inner = [attend.query, attend.key, attend.value]
    theirs.in_proj_weight.data = torch.cat([x.weight for x in inner]).detach()
    theirs.in_proj_bias.data = torch.cat([x.bias for x in inner]).detach()
    theirs.out_proj.load_state_dict(attend.out.state_dict())
    added = torch.where(mask[:, None, None], 0.0, -torch.inf) + torch.as_tensor(bias)
    return theirs(q, k, k, attn_mask=added.expand(len(q), attend.heads, q.shape[1], -1).flatten(0, 1))[0]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("core", ["parallel", "self", "cross", "serial"])
def test_core_unit_is_its_equations(core, residual, pair):
    x, mask, o, other = pair
    unit = CoreUnit(8, 2, core, residual, clock=30.0 * residual).eval()
    keep = 1 if residual else 0
    bias = torch.zeros(2, 2, 4, 7)
    for u, length in enumerate((7, 5)):  # the words are four in both
        for j in range(4):
            for i in range(length):
                bias[u, :, j, i] = -30 * residual * abs((j + 0.5) / 4 - (i + 0.5) / length)
    if core == "serial":
        y = unit.norm0(keep * x + reference(unit.self_attention, x, x, mask))
        z = unit.norm1(keep * y + reference(unit.cross_attention, y, o, other, bias))
    else:
        s = reference(unit.self_attention, x, x, mask) if core != "cross" else None
        c = reference(unit.cross_attention, x, o, other, bias) if core != "self" else None
        both = unit.f(torch.cat([s, c], -1)) if core == "parallel" else s if c is None else c
        z = unit.norm1(keep * x + both)
    z = unit.norm2(keep * z + unit.ffn(z))
    assert torch.allclose(unit(x, mask, o, other)[0], z, atol=1e-6)


def test_ablations_remove_what_they_say_and_nothing_else():
    names = {
        core: set(dict(make("cm-roberta", core=core, clock=20.0).named_parameters()))
        for core in ("parallel", "self", "cross", "serial")
    }
    whole = names["parallel"]

    def of(part: str) -> set[str]:
        return {n for n in whole if f".{part}." in f"{n}."}

    across = of("cross_attention") | of("slope")
    assert whole - names["self"] == across | of("f") and names["self"] < whole
    assert whole - names["cross"] == of("self_attention") | of("f") and names["cross"] < whole
    assert whole - names["serial"] == of("f")
    assert all(".norm0." in n for n in names["serial"] - whole)
    assert set(dict(make("cm-roberta", residual=False, clock=20.0).named_parameters())) == whole
    alone = set(dict(make("cm-roberta", context="none", clock=20.0).named_parameters()))
    assert alone < whole and all(n.startswith("remember.") for n in whole - alone)


def test_self_attention_alone_never_carries_sound_to_words(batch):
    frames = replace(batch, audio=batch.audio + 1)

    def gap(core: str) -> float:
        model = make("cm-roberta", core=core, context="none")
        with torch.no_grad():
            a, b = (model(x, need_attention=True).attention["text pooling"] for x in (batch, frames))
        return float((a - b).abs().max())

    assert gap("self") == 0 and gap("cross") > 1e-6 and gap("parallel") > 1e-6


def test_words_and_frames_share_one_clock():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert place(mask)[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert place(mask)[1, :2].tolist() == [0.25, 0.75]
    assert torch.allclose(place(torch.ones(1, 12).bool())[0, 1::3], place(mask)[0])  # three frames a word


def test_relative_frames_forget_the_speaker_and_keep_the_sentence():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 6, 3) * 10, torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    once = relative(x, mask)
    assert torch.allclose(relative(x * 3 + 5, mask), once, atol=0.02)
    assert torch.allclose(once[1, :4], relative(x[1:, :4], mask[1:, :4])[0], atol=1e-5)
    assert once[1, 4:].eq(0).all() and torch.allclose(once[0].mean(0), torch.zeros(3), atol=1e-5)


def test_a_wrong_setting_is_one_sentence():
    with pytest.raises(MerLabError, match="core is 'both', expected one of parallel"):
        CMRobertaConfig(core="both")
    with pytest.raises(MerLabError, match="multiple of 2 and of heads"):
        CMRobertaConfig(width=30, heads=4)
