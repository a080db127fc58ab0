"""Cross-modal attention and MulT: against torch, against loops, over every kind of encoder."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_listening import save_encoder
from test_pretrained import save_bert
from torch import nn

from mer_lab.batches import Batch, Dataset
from mer_lab.errors import MerLabError
from mer_lab.features import Waveform
from mer_lab.features.pretrained import PretrainedText
from mer_lab.features.store import FeatureStore
from mer_lab.models import CrossModalAttention, CrossModalConfig, MulT, MulTConfig, System
from mer_lab.models.layers import (
    FrameEncoder,
    LayerMix,
    MultiHeadAttention,
    Nearness,
    Projection,
    SpeechEncoder,
    StatisticsPooling,
    TextEncoder,
    WordEncoder,
    positions,
    relative,
)
from mer_lab.models.mult import CrossmodalLayer
from mer_lab.ragged import Ragged

SMALL = CrossModalConfig(width=8, heads=2, dropout=0.0)


def torch_reference(ours: MultiHeadAttention, key_width: int) -> nn.MultiheadAttention:
    width = ours.out.out_features
    reference = nn.MultiheadAttention(width, ours.heads, kdim=key_width, vdim=key_width, batch_first=True)
    with torch.no_grad():
        if reference.in_proj_weight is None:
            for name in ("query", "key", "value"):
                getattr(reference, f"{name[0]}_proj_weight").copy_(getattr(ours, name).weight)
        else:
            weights = [getattr(ours, name).weight for name in ("query", "key", "value")]
            reference.in_proj_weight.copy_(torch.cat(weights))
        reference.in_proj_bias.copy_(torch.cat([getattr(ours, n).bias for n in ("query", "key", "value")]))
    reference.out_proj.load_state_dict(ours.out.state_dict())
    return reference


@pytest.mark.parametrize("key_width", (8, 5))
def test_attention_is_that_of_torch(key_width):
    torch.manual_seed(0)
    ours = MultiHeadAttention(8, heads=2, key_width=key_width)
    nn.init.normal_(ours.key.bias)
    query, key, value = torch.randn(3, 4, 8), torch.randn(3, 6, key_width), torch.randn(3, 6, key_width)
    mask = torch.arange(6) < torch.tensor([[6], [2], [0]])  # the last utterance is all padding
    vector, weights = ours(query, key, mask, value)
    expected = torch_reference(ours, key_width)(
        query, key, value, key_padding_mask=~mask, average_attn_weights=False
    )
    assert torch.allclose(vector[:2], expected[0][:2], atol=1e-6)
    assert torch.allclose(weights[:2], expected[1][:2], atol=1e-6)
    assert expected[1][2].isnan().all()
    assert weights[2].eq(0).all() and torch.equal(vector[2], ours.out.bias.expand(4, -1))


def test_statistics_skip_padding():
    x = torch.tensor([[[1.0, 4.0], [5.0, 4.0], [99.0, -99.0]]])
    pooled = StatisticsPooling()(x, torch.tensor([[True, True, False]]))
    assert torch.allclose(pooled, torch.tensor([[3.0, 4.0, 2.0, 0.0]]), atol=4e-3)


def made_up_batch(seed: int = 0) -> Batch:
    """Three utterances of 7 columns a frame and word indices below 9, padded."""
    rng = torch.Generator().manual_seed(seed)
    frames, words = (torch.arange(n) < torch.tensor(lengths) for n, lengths in (
        (6, [[6], [3], [5]]), (4, [[2], [4], [1]])
    ))  # fmt: skip
    audio = torch.randn(3, 6, 7, generator=rng) * frames[..., None]
    text = torch.randint(2, 9, (3, 4, 1), generator=rng) * words[..., None]
    zeros = torch.zeros(3, dtype=torch.long)
    return Batch(audio, frames, text, words, zeros, zeros, zeros, zeros, zeros.float(), torch.arange(3))


def build(system: type[System], config, seed: int = 0) -> System:
    torch.manual_seed(seed)
    return system(FrameEncoder(7), WordEncoder(9, 6), 3, config).eval()


def one_query(attend: MultiHeadAttention, q, keys: list, scale: float):
    """A query's answer, a head at a time, from the formula."""
    heads = []
    d = len(q) // attend.heads
    for k in range(attend.heads):
        part = slice(k * d, (k + 1) * d)
        score = [scale * (attend.query(q)[part] @ attend.key(x)[part]).item() for x in keys]
        alpha = [math.exp(s) / sum(math.exp(t) for t in score) for s in score]
        heads.append(sum(a * attend.value(x)[part] for a, x in zip(alpha, keys, strict=True)))
    return attend.out(torch.cat(heads))


@torch.no_grad()
def test_both_directions_are_the_equations():
    model, batch = build(CrossModalAttention, SMALL), made_up_batch()
    logits = model(batch).logits
    for u in range(3):
        linear = {c: (p.weight[..., 0], p.bias) for c, p in model.project.items()}
        A = [linear["audio"][0] @ x + linear["audio"][1] for x in batch.audio[u][batch.audio_mask[u]]]
        words = model.text.embedding(batch.text[u, :, 0])[batch.text_mask[u]]
        T = [linear["text"][0] @ x + linear["text"][1] for x in words]
        cma_a = torch.stack([one_query(model.attend["audio"], a, T, 1 / 2) for a in A])  # 1 / sqrt(8 / 2)
        cma_t = torch.stack([one_query(model.attend["text"], t, A, 1 / 2) for t in T])
        pooled = [f for x in (cma_a, cma_t) for f in (x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt())]
        assert torch.allclose(model.classify(torch.cat(pooled)), logits[u], atol=1e-5)


def shuffled(batch: Batch) -> Batch:
    """The real frames of each utterance in another order."""
    audio = batch.audio.clone()
    for u, count in enumerate(batch.audio_mask.sum(1).tolist()):
        audio[u, :count] = audio[u, :count].flip(0).roll(1, 0)
    return replace(batch, audio=audio)


@pytest.mark.parametrize("attention", (True, False))
def test_without_positions_the_order_of_frames_is_unseen(attention):
    batch, config = made_up_batch(), replace(SMALL, attention=attention)
    blind = build(CrossModalAttention, config)
    assert torch.allclose(blind(batch).logits, blind(shuffled(batch)).logits, atol=1e-5)


@pytest.mark.parametrize("change", (
    {"positions": "sinusoidal"}, {"positions": "nearness"}, {"recurrent": 1}, {"kernel": 3},
), ids=str)  # fmt: skip
def test_whatever_knows_the_order_sees_it(change):
    batch, model = made_up_batch(), build(CrossModalAttention, replace(SMALL, **change))
    assert not torch.allclose(model(batch).logits, model(shuffled(batch)).logits, atol=1e-4)


@pytest.mark.parametrize("directions,maps", (
    ("both", {"audio to text": (3, 2, 6, 4), "text to audio": (3, 2, 4, 6)}),
    ("audio", {"audio to text": (3, 2, 6, 4)}),
    ("text", {"text to audio": (3, 2, 4, 6)}),
))  # fmt: skip
def test_directions_and_statistics_that_are_kept(directions, maps):
    for statistics, size in (("mean+std", 16), ("mean", 8)):
        config = replace(SMALL, directions=directions, statistics=statistics)
        out = build(CrossModalAttention, config)(made_up_batch(), need_attention=True)
        assert {name: tuple(weights.shape) for name, weights in out.attention.items()} == maps
        assert out.embedding.shape == (3, size * len(maps))


def test_a_direction_without_attention_reads_one_channel():
    model, batch = (
        build(CrossModalAttention, replace(SMALL, directions="text", attention=False)),
        made_up_batch(),
    )
    assert set(model.project) == {"text"} and model(batch, need_attention=True).attention == {}
    assert torch.equal(model(batch).logits, model(shuffled(batch)).logits)


def test_nearness_is_a_distance_in_shares_of_the_utterance():
    words, frames = torch.tensor([[True, True, False]]), torch.tensor([[True] * 4 + [False]])
    bias = Nearness(2, slope=8.0)(words, frames)
    expected = (
        -8 * torch.tensor([[1, 1, 3, 5], [5, 3, 1, 1]]) / 8
    )  # words at 1/4, 3/4; frames at 1/8, 3/8, ...
    assert torch.allclose(bias[0, :, :2, :4], expected.expand(2, -1, -1))


ALL_OF_OURS = {"relative": True, "stride": 2, "kernel": 3, "dropout": 0.0, "width": 8, "heads": 2}


@pytest.mark.parametrize(
    "system,config",
    (
        (CrossModalAttention, CrossModalConfig(positions="nearness", recurrent=1, **ALL_OF_OURS)),
        (CrossModalAttention, CrossModalConfig(positions="sinusoidal", directions="text", **ALL_OF_OURS)),
        (MulT, MulTConfig(nearness=True, pool="mean", **ALL_OF_OURS)),
    ),
)
def test_an_utterance_answers_alone_as_in_company(system, config):
    model, batch = build(system, config), made_up_batch()
    together = model(batch).logits
    for u, (frames, words) in enumerate(((6, 2), (3, 4), (5, 1))):
        rows = {k: None if v is None else v[u : u + 1] for k, v in vars(batch).items()}
        rows |= {k: rows[k][:, :frames] for k in ("audio", "audio_mask")}
        rows |= {k: rows[k][:, :words] for k in ("text", "text_mask")}
        assert torch.allclose(model(Batch(**rows)).logits[0], together[u], atol=1e-5)


def test_relative_frames_have_no_level_of_their_own():
    x, mask = torch.randn(2, 6, 3) * 5 + 40, torch.arange(6) < torch.tensor([[6], [4]])
    z = relative(x, mask)
    assert torch.allclose(z, relative(3 * x + 7, mask), atol=2e-3) and z[1, 4:].eq(0).all()
    assert torch.allclose(z[1, :4].mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(z[1, :4].std(0, correction=0), torch.ones(3), atol=2e-3)


def test_unknown_settings_are_one_sentence():
    for change, message in (
        ({"directions": "left"}, "expected one of both, audio, text"),
        ({"heads": 3}, "cannot be shared by 3 heads"),
        ({"kernel": 2}, "must be odd"),
    ):
        with pytest.raises(MerLabError, match=message):
            replace(SMALL, **change)
    for change, message in (
        ({"pool": "max"}, "last, mean"), ({"heads": 3}, "3 heads"), ({"kernel": 4}, "odd"),
    ):  # fmt: skip
        with pytest.raises(MerLabError, match=message):
            MulTConfig(**change)


@torch.no_grad()
def test_a_layer_of_mult_is_its_equations():
    torch.manual_seed(0)
    layer = CrossmodalLayer(8, heads=2).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    z, y, mask = torch.randn(2, 4, 8), torch.randn(2, 6, 8), torch.arange(6) < torch.tensor([[6], [4]])

    def norm(x, by):
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, False, keepdim=True) + 1e-5
        ).sqrt() * by.weight + by.bias

    queries, source = norm(z, layer.norm1), norm(y, layer.norm1)
    taken = torch_reference(layer.attend, 8)(queries, source, source, key_padding_mask=~mask)[0]
    z1 = z + taken
    inner, outer = layer.ffn[0], layer.ffn[2]
    expected = z1 + outer(inner(norm(z1, layer.norm2)).clamp(min=0))
    assert inner.out_features == 32
    assert torch.allclose(layer(z, y, mask)[0], expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ("last", "mean"))
def test_mult_keeps_the_source_low_level(pool):
    config = MulTConfig(width=8, heads=2, layers=2, self_layers=1, kernel=1, pool=pool)
    model, batch = build(MulT, config), made_up_batch()
    logits = model(batch).logits
    for u in range(3):  # alone and unpadded, from the layers
        x, w = batch.audio[u][batch.audio_mask[u]], model.text.embedding(batch.text[u][batch.text_mask[u], 0])
        low = {}
        for channel, v in (("audio", x), ("text", w)):
            z = math.sqrt(8) * (v @ model.project[channel].weight[..., 0].T)
            low[channel] = (z + positions(len(z), 8, z.device, z.dtype))[None]
        pooled = []
        for channel, other in (("audio", "text"), ("text", "audio")):
            z = low[channel]
            for layer in model.cross[channel]:
                z = layer(z, low[other], torch.ones(1, low[other].shape[1]).bool())[0]
            z = math.sqrt(8) * model.between[channel](z) + positions(z.shape[1], 8, z.device, z.dtype)
            for layer in model.itself[channel]:
                z = layer(z, z, torch.ones(1, z.shape[1]).bool())[0]
            z = model.norm[channel](z)[0]
            pooled.append(z[-1] if pool == "last" else z.mean(0))
        c = torch.cat(pooled)
        assert torch.allclose(model.classify(c + model.mlp(c)), logits[u], atol=1e-5)


@pytest.fixture(scope="module")
def corpus_features(sine_corpus, tmp_path_factory):
    """Data and two encoders of each kind that may stand before a system."""
    root = tmp_path_factory.mktemp("encoders")
    speech, text = str(save_encoder("wav2vec2", root / "speech")), str(save_bert(root / "bert"))
    ids, rng = sine_corpus.ids, np.random.default_rng(0)
    cached = [
        Ragged.from_sequences(
            [rng.normal(size=(n, 6)).astype(np.float32) for n in rng.integers(1, 9, len(ids))], ids
        )
        for _ in range(2)
    ]
    waves = FeatureStore(root / "waves").get(sine_corpus, Waveform(), 1)
    tokens = PretrainedText(text).numbers(sine_corpus.table["text"].tolist())
    tokens = Ragged.from_sequences([np.array(n, np.int64)[:, None] for n in tokens], ids, {"name": "tokens"})
    learns = {"train_layers": 1, "rate": 0.1}
    return {
        "frozen": (*cached, lambda: (FrameEncoder(6).fit(cached[0]), FrameEncoder(6).fit(cached[1]))),
        "mix": (*cached, lambda: (LayerMix(6, 2).fit(cached[0]), LayerMix(6, 3).fit(cached[1]))),
        "project": (*cached, lambda: (Projection(6, 3).fit(cached[0]), Projection(6, 4).fit(cached[1]))),
        "tuned": (waves, tokens, lambda: (SpeechEncoder(speech, **learns), TextEncoder(text, **learns))),
    }


@pytest.mark.parametrize("system,config", (
    (CrossModalAttention, SMALL), (MulT, MulTConfig(width=8, heads=2, layers=1, self_layers=1, dropout=0.0)),
))  # fmt: skip
@pytest.mark.parametrize("kind", ("frozen", "mix", "project", "tuned"))
def test_encoders_are_interchangeable(kind, system, config, sine_corpus, corpus_features, tmp_path):
    audio, text, encoders = corpus_features[kind]
    torch.manual_seed(0)
    model = system(*encoders(), 2, config).train()
    batch = Dataset(sine_corpus, audio, text).batch(np.arange(5))
    model(batch).logits.square().sum().backward()
    learns = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    of_encoders = [name for name, _ in learns if name.startswith(("audio.", "text."))]
    assert bool(of_encoders) == (kind != "frozen")
    assert not [name for name, p in learns if p.grad is None or not p.grad.abs().sum() > 0]
    with torch.no_grad():
        for _, p in learns:
            p.add_(0.1 * torch.randn(p.shape))
    model.eval().save_pretrained(tmp_path / "saved")
    again = System.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(batch).logits, model(batch).logits)
