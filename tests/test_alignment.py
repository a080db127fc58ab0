"""Alignment attention against a loop, its bound, and attention held against the true time of words."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mer_lab.batches import Dataset
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.errors import MerLabError
from mer_lab.models import SYSTEMS, AlignmentAttention, AlignmentConfig
from mer_lab.models.alignment import AdditiveAlignment
from mer_lab.models.layers import AttentionPooling, BiGRU, FrameEncoder, MultiHeadAttention, WordEncoder
from mer_lab.ragged import Ragged
from mer_lab.timing import alignment_error, word_alignment

MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def states(words=4, frames=5):
    torch.manual_seed(0)
    return torch.randn(2, words, 3), torch.randn(2, frames, 2)


def test_published_score_by_hand():
    align = AdditiveAlignment(1, 1)
    with torch.no_grad():
        align.u.weight.fill_(2.0)
        align.v.weight.fill_(-1.0)
        align.v.bias.fill_(0.5)
    h, s = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    vector, alpha = align(h, s, torch.ones(1, 2, dtype=torch.bool))
    for j, (low, high) in enumerate([(-0.5, 1.5), (0.5, 2.5)]):  # 2 s - h + 0.5 at both frames
        a, b = math.exp(math.tanh(low)), math.exp(math.tanh(high))
        assert alpha[0, j].tolist() == pytest.approx([a / (a + b), b / (a + b)], abs=1e-6)
        assert vector[0, j, 0].item() == pytest.approx(b / (a + b), abs=1e-6)


@pytest.mark.parametrize("score", ["published", "interacting"])
@pytest.mark.parametrize("near", [False, True])
def test_alignment_equals_an_explicit_loop(score, near):
    h, s = states()
    align = AdditiveAlignment(3, 2, score, hidden=6)
    bias = torch.randn(2, 4, 5) if near else 0.0
    vector, alpha = align(h, s, MASK, bias)
    for u in range(2):
        real = int(MASK[u].sum())
        for j in range(4):
            scores = []
            for i in range(real):
                inside = align.u.weight @ s[u, i] + align.v.weight @ h[u, j] + align.v.bias
                extra = bias[u, j, i] if near else 0.0
                if score == "published":
                    scores.append(torch.tanh(inside[0] + extra))
                else:
                    scores.append(align.last.weight[0] @ torch.tanh(inside) + extra)
            weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            assert torch.allclose(alpha[u, j, :real], weights, atol=1e-6)
            assert alpha[u, j, real:].eq(0).all()
            assert torch.allclose(vector[u, j], (weights[:, None] * s[u, :real]).sum(0), atol=1e-6)


def test_without_tanh_every_word_gets_the_same_frames(monkeypatch):
    h, s = states()
    align = AdditiveAlignment(3, 2)
    _, alpha = align(h, s, MASK)
    assert (alpha[:, :1] - alpha).abs().max() > 1e-3
    monkeypatch.setattr("mer_lab.models.alignment.torch.tanh", lambda x: x)
    _, alpha = align(h, s, MASK)
    assert torch.allclose(alpha, alpha[:, :1].expand_as(alpha), atol=1e-6)


@pytest.mark.parametrize("near", [0.0, 30.0])
def test_the_published_score_is_bounded_and_the_interacting_one_is_not(near):
    h, s = states(words=3, frames=40)
    mask = torch.ones(2, 40, dtype=torch.bool)
    bias = near * torch.randn(2, 3, 40)
    for score, bounded in (("published", True), ("interacting", False)):
        align = AdditiveAlignment(3, 2, score)
        with torch.no_grad():
            for p in align.parameters():
                p.mul_(50)
        alpha = align(h, s, mask, bias)[1]
        best = math.e**2 / (math.e**2 + 39)  # one frame at +1, the others at -1
        assert (alpha.max() <= best + 1e-6) == bounded


def test_the_presets_are_the_papers():
    def build(name):
        system, config = SYSTEMS[name]
        return system(FrameEncoder(8), WordEncoder(9, 6), 4, config)

    xu = build("xu2019")
    assert xu.align.last is None and xu.pool is None and xu.near is None and xu.hear.width == 200
    assert build("xu2019-interacting").align.last is not None
    delta = build("xu2019-delta")
    assert isinstance(delta.align, MultiHeadAttention) and delta.align.heads == 8
    assert isinstance(delta.hear, BiGRU) and delta.project[0].out_features == 512
    assert isinstance(delta.pool, AttentionPooling) and delta.dropout.p == 0.5
    assert delta.align.query.out_features == 200


def test_an_unknown_score_is_one_sentence():
    with pytest.raises(MerLabError, match="published, interacting, dot"):
        AlignmentConfig(score="cosine")


def test_alignment_error_by_hand():
    weights = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75], [1.0, 0.0, 0.0, 0.0]])
    found = alignment_error(weights, [0.0, 0.0, 0.3], [0.1, 0.1, 0.4], hop=0.1, slack=0.05)
    assert found["centre"].tolist() == pytest.approx([0.05, 0.275, 0.0])
    assert found["error"].tolist() == pytest.approx([0, 175, 300])
    assert found["peak_error"].tolist() == pytest.approx([0, 200, 300])
    assert found["inside"].tolist() == pytest.approx([1, 0, 0])
    later = alignment_error(weights[:1], [0.0], [0.1], hop=0.1, first=0.2)
    assert later["error"].tolist() == pytest.approx([150])
    slack = alignment_error(weights[1:2], [0.0], [0.19], hop=0.1, slack=0.02)
    assert slack["inside"].tolist() == pytest.approx([0.25])


@pytest.fixture
def spoken() -> Dataset:
    rows = [
        dict.fromkeys(COLUMNS, "") | {"utterance_id": u, "dialogue_id": "d", "turn": k, "speaker": "s"}
        | {"split": "train", "label": "a", "text": text, "start": 0.0, "end": 1.0}
        for k, (u, text) in enumerate([("u0", "Good, day!"), ("u1", "Yes."), ("u2", "Not timed here.")])
    ]  # fmt: skip
    table = pd.DataFrame(rows).set_index("utterance_id", drop=False)
    words = pd.DataFrame(
        {
            "utterance_id": ["u0", "u0", "u1", "u2"], "word": ["good", "day", "yes", "not"],
            "start": [0.0, 0.2, 0.0, 0.0], "end": [0.2, 0.4, 0.3, 0.1],
        }
    )  # fmt: skip
    corpus = Corpus(name="made up", labels=("a", "b"), table=table, words=words)
    rng = np.random.default_rng(0)
    audio = [rng.normal(size=(n, 5)).astype(np.float32) for n in (21, 16, 9)]
    text = [np.array(ids)[:, None] for ids in ([2, 3, 4], [2, 3], [2, 3, 4, 5])]  # each mark is a token
    return Dataset(
        corpus,
        Ragged.from_sequences(audio, corpus.ids, {"hop": 0.02}),
        Ragged.from_sequences(text, corpus.ids),
    )


def test_words_find_their_rows_of_the_map_past_punctuation(spoken):
    torch.manual_seed(0)
    config = AlignmentConfig(score="interacting", width=4, stride=2)
    model = AlignmentAttention(FrameEncoder(5), WordEncoder(9, 4), 2, config).eval()
    found = word_alignment(model, spoken)
    assert found["word"].tolist() == ["good", "day", "yes"]  # one timed word for three spoken: left out
    assert found["place"].tolist() == [0, 1, 0]
    weights = model(spoken.batch(np.array([0])), need_attention=True).attention["alignment"][0, 0]
    time = 0.01 + 0.04 * np.arange(11)
    assert found["centre"][1] == pytest.approx(float(weights[1].detach().numpy() @ time), abs=1e-5)


def test_what_cannot_be_timed_is_one_sentence(spoken):
    model = AlignmentAttention(FrameEncoder(5), WordEncoder(9, 4), 2, AlignmentConfig(width=4))
    with pytest.raises(MerLabError, match="no attention 'cross'"):
        word_alignment(model, spoken, name="cross")
    spoken.audio.meta.clear()
    with pytest.raises(MerLabError, match="no clock"):
        word_alignment(model, spoken)
