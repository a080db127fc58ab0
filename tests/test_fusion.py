"""Fusion: the gate by hand, the low-rank product against its tensor, and what addition cannot do."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.emap import emap, project
from mer_lab.errors import MerLabError
from mer_lab.models import FusionConfig, PooledFusion
from mer_lab.models.fusion import DecisionFusion, EarlyFusion, GatedFusion, LowRankFusion
from mer_lab.models.layers import FrameEncoder, WordEncoder
from mer_lab.models.output import Output
from mer_lab.ragged import Ragged


def corpus_of(labels: list[str]) -> Corpus:
    row = dict.fromkeys(COLUMNS, "") | {"dialogue_id": "d", "speaker": "s", "split": "train", "text": "x"}
    rows = [row | {"utterance_id": f"u{k}", "turn": k, "label": x} for k, x in enumerate(labels)]
    table = pd.DataFrame(rows).assign(start=np.nan, end=np.nan).set_index("utterance_id", drop=False)
    return Corpus(name="made up", labels=("a", "b"), table=table)


@pytest.fixture(scope="module")
def signs() -> Dataset:
    """Forty utterances: a sign heard, a sign read, and class b where the two differ (XOR)."""
    rng = np.random.default_rng(0)
    heard, read = np.tile([-1, -1, 1, 1], 10), np.tile([-1, 1, -1, 1], 10)
    corpus = corpus_of(np.where(heard == read, "a", "b").tolist())
    audio = [np.full((rng.integers(1, 6), 1), x, np.float32) for x in heard]
    text = [np.full((rng.integers(1, 4), 1), 1 + (x > 0)) for x in read]
    return Dataset(corpus, Ragged.from_sequences(audio, corpus.ids), Ragged.from_sequences(text, corpus.ids))


def small(fusion: str, **settings) -> PooledFusion:
    torch.manual_seed(3)
    config = FusionConfig(fusion, width=3, hidden=5, dropout=0.0, stride=1, **settings)
    return PooledFusion(FrameEncoder(1), WordEncoder(3, 4), 2, config).eval()


class Product(nn.Module):
    """Interacts and does nothing else: class b where the two signs differ."""

    def __init__(self, contextual: bool = False) -> None:
        super().__init__()
        self.contextual, self.one = contextual, nn.Parameter(torch.ones(()))

    def forward(self, batch, need_attention=False):
        product = batch.audio[:, 0, 0] * (2.0 * batch.text[:, 0, 0] - 3.0) * self.one
        logits = torch.stack([product, -product], -1)
        return Output(logits, {}, logits)


class Bare(nn.Module):
    """The same model without ``pairs``: every pair is read anew."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch, need_attention=False):
        return self.model(batch, need_attention)


def test_the_gate_by_hand():
    unit = GatedFusion(1, 2, SimpleNamespace(hidden=1, dropout=0.0))
    with torch.no_grad():
        unit.W_a.weight.fill_(2.0), unit.W_t.weight.fill_(-1.0)
        unit.W_z.weight.copy_(torch.tensor([[1.0, 3.0]]))
    fused = unit(torch.tensor([[0.5]]), torch.tensor([[0.25]]))
    z = 1 / (1 + np.exp(-(1.0 * 0.5 + 3.0 * 0.25)))
    assert fused.gate.item() == pytest.approx(z)
    assert fused.vector.item() == pytest.approx(z * np.tanh(1.0) + (1 - z) * np.tanh(-0.25))


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_is_the_tensor_that_its_factors_span(rank):
    torch.manual_seed(0)
    layer = LowRankFusion(4, 2, SimpleNamespace(hidden=5, rank=rank, dropout=0.0))
    a, t = torch.randn(6, 4), torch.randn(6, 4)
    W = torch.einsum("rdh,reh->deh", layer.W_a, layer.W_t)  # (Da + 1, Dt + 1, hidden)
    outer = torch.einsum("ud,ue->ude", *(torch.cat([x, torch.ones(6, 1)], -1) for x in (a, t)))
    assert torch.allclose(layer(a, t).vector, torch.einsum("ude,deh->uh", outer, W), atol=1e-5)


def test_at_full_rank_it_is_any_tensor():
    torch.manual_seed(0)
    layer = LowRankFusion(3, 2, SimpleNamespace(hidden=5, rank=4, dropout=0.0))
    W = torch.randn(4, 4, 5)  # a tensor that owes nothing to any factors
    with torch.no_grad():
        layer.W_a.copy_(torch.eye(4)[:, :, None].expand(4, 4, 5))  # factor r picks number r of [a; 1]
        layer.W_t.copy_(W)  # W_t^r = W[r]
    a, t = torch.randn(6, 3), torch.randn(6, 3)
    outer = torch.einsum("ud,ue->ude", *(torch.cat([x, torch.ones(6, 1)], -1) for x in (a, t)))
    assert torch.allclose(layer(a, t).vector, torch.einsum("ude,deh->uh", outer, W), atol=1e-5)


def interaction(f, a, t) -> float:
    """f(t1,a1) - f(t1,a2) - f(t2,a1) + f(t2,a2), zero for every additive function."""
    return (f(a[:1], t[:1]) - f(a[1:], t[:1]) - f(a[:1], t[1:]) + f(a[1:], t[1:])).abs().max().item()


def test_decision_fusion_adds_and_the_others_interact():
    torch.manual_seed(0)
    a, t = 2 * torch.randn(2, 4), 2 * torch.randn(2, 4)
    config = SimpleNamespace(hidden=5, rank=2, dropout=0.0)
    for rule in ("product", "learned", "mean"):
        layer = DecisionFusion(4, 3, SimpleNamespace(fusion=rule, dropout=0.0)).eval()
        if rule == "learned":
            nn.init.normal_(layer.weights)
        space = torch.exp if rule == "mean" else lambda x: x  # a mean adds probabilities
        assert interaction(lambda a, t, f=layer, s=space: s(f(a, t).logits), a, t) < 1e-5, rule
    for kind in (EarlyFusion, GatedFusion, LowRankFusion):
        layer = kind(4, 3, config).eval()
        assert interaction(lambda a, t, f=layer: f(a, t).logits, a, t) > 1e-3, kind


def test_decision_rules_by_hand():
    a, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    answers = {}
    for rule in ("mean", "product", "learned"):
        layer = DecisionFusion(2, 2, SimpleNamespace(fusion=rule, dropout=0.0)).eval()
        with torch.no_grad():
            for part in (layer.hears, layer.reads):
                part.weight.copy_(torch.eye(2)), part.bias.zero_()
            if rule == "learned":
                layer.weights.copy_(torch.tensor([[2.0, 2.0], [0.0, 0.0]]))
        answers[rule] = layer(a, t).logits.softmax(-1)[0, 0].item()
    p = np.e / (np.e + 1)  # what the voice gives class 0; the words give it a half
    assert answers["mean"] == pytest.approx((p + 0.5) / 2)
    assert answers["product"] == pytest.approx(p)
    assert answers["learned"] == pytest.approx(p**2 / (p**2 + (1 - p) ** 2))


def test_in_training_one_channel_answers_for_each_utterance():
    torch.manual_seed(0)
    layer = DecisionFusion(4, 3, SimpleNamespace(fusion="product", dropout=0.0)).train()
    a, t = torch.randn(200, 4), torch.randn(200, 4)
    said, alone = layer(a, t).logits, layer.decisions(a, t)
    by = [(said == p).all(1) for p in alone]
    assert (by[0] ^ by[1]).all() and 60 < by[0].sum() < 140


def test_an_unknown_fusion_is_one_sentence():
    with pytest.raises(MerLabError, match="fusion is 'late'"):
        FusionConfig("late")


def test_the_projection_by_hand():
    f = np.array([[4.0, 1.0], [2.0, 7.0]])[..., None]  # text i, audio j
    mean = 14 / 4  # text 0: its row and its column's mean
    assert project(f).ravel().tolist() == [2.5 + 3 - mean, 4.5 + 4 - mean]


def test_emap_of_an_additive_model_is_the_model(signs):
    for fusion, of in (("learned", "logits"), ("product", "logits"), ("mean", "probabilities")):
        result = emap(small(fusion), signs, of=of)
        assert np.allclose(project(result.pairs), np.einsum("iic->ic", result.pairs), atol=1e-6), fusion
        assert (result.own == result.projected).all() and result.gap == 0


def test_emap_takes_an_interacting_model_to_chance(signs):
    result = emap(Product(), signs, progress=False)
    assert result.accuracy == 1.0
    assert np.ptp(project(result.pairs)) < 1e-6  # every sign meets as many of either: nothing is left
    assert result.projected_accuracy == 0.5 == result.gap


@pytest.mark.parametrize("fusion", ["early", "mean"])
def test_pairs_read_once_are_the_pairs_read_again(signs, fusion):
    model = small(fusion)
    once = emap(model, signs, n=7, seed=1)
    again = emap(Bare(model), signs, n=7, seed=1, progress=False)
    assert np.allclose(once.pairs, again.pairs, atol=1e-5)
    assert len(once.index) == 7 and (once.index == again.index).all()
    alone = model(signs.batch(once.index)).logits.detach().numpy()
    assert np.allclose(np.einsum("iic->ic", once.pairs), alone, atol=1e-5)


def test_emap_says_in_one_sentence_what_it_cannot_do(signs):
    with pytest.raises(MerLabError, match="reads whole dialogues"):
        emap(Product(contextual=True), signs)
    with pytest.raises(MerLabError, match="at least one utterance"):
        emap(Product(), signs, n=0)
    with pytest.raises(MerLabError, match="without text"):
        emap(Product(), Dataset(signs.corpus, signs.audio))
    with pytest.raises(MerLabError, match="'logits' or 'probabilities'"):
        emap(Product(), signs, of="odds")
