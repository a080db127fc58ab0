"""Layers against PyTorch's own, and the contract that every system keeps.

A new system gets all the tests of the contract by one line in SYSTEMS.
"""

import doctest
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mer_lab import models
from mer_lab.batches import Batch
from mer_lab.models import Output, UnimodalBiLSTM, UnimodalPooling, UnimodalTransformer
from mer_lab.models.layers import (
    AttentionPooling,
    BiLSTM,
    FrameEncoder,
    Projection,
    TransformerEncoder,
    WordEncoder,
)
from mer_lab.models.layers.pooling import masked_softmax
from mer_lab.models.layers.sequence import positions
from mer_lab.models.unimodal import average_steps
from mer_lab.ragged import Ragged


@dataclass(frozen=True)
class System:
    """How to build a system of two classes, and which channel the keys of its maps come from."""

    build: Callable[[], nn.Module]
    keys: str
    stride: int = 1


def frames() -> nn.Module:
    return FrameEncoder(3)


def words() -> nn.Module:
    return WordEncoder(8, 6)


SYSTEMS: dict[str, System] = {
    "BiLSTM, audio": System(lambda: UnimodalBiLSTM(frames(), "audio", 2, 8, layers=2), "audio"),
    "BiLSTM, text": System(lambda: UnimodalBiLSTM(words(), "text", 2, 8), "text"),
    "BiLSTM, stride": System(lambda: UnimodalBiLSTM(frames(), "audio", 2, 8, stride=4), "audio", 4),
    "Transformer, audio": System(lambda: UnimodalTransformer(frames(), "audio", 2, 8), "audio"),
    "Transformer, text": System(lambda: UnimodalTransformer(words(), "text", 2, 8), "text"),
    "Transformer, stride": System(lambda: UnimodalTransformer(frames(), "audio", 2, 8, stride=3), "audio", 3),
    "pooling, audio": System(lambda: UnimodalPooling(frames(), "audio", 2, 8), "audio"),
    "pooling, text": System(lambda: UnimodalPooling(words(), "text", 2, 8), "text"),
}  # fmt: skip


@pytest.fixture(params=SYSTEMS)
def system(request) -> System:
    return SYSTEMS[request.param]


@pytest.fixture
def model(system) -> nn.Module:
    torch.manual_seed(0)
    return system.build().eval()


@pytest.fixture
def batch(sines) -> Batch:
    return sines.batch(np.arange(8))


def padded(batch: Batch, steps: int, junk: float = 0.0) -> Batch:
    """The same batch with more padding in both channels."""
    wide = {}
    for name in ("audio", "text"):
        x, mask = batch.channel(name)
        tail = torch.full((x.shape[0], steps, x.shape[2]), junk).to(x.dtype)
        wide |= {name: torch.cat([x, tail], 1), f"{name}_mask": nn.functional.pad(mask, (0, steps))}
    return replace(batch, **wide)


# ---------------------------------------------------------------- the contract of every system


def test_output(model, batch):
    out = model(batch)
    assert isinstance(out, Output) and out.logits.shape == (8, 2) and out.attention == {}
    assert out.embedding.shape[0] == 8 and out.embedding.ndim == 2


def test_attention_rows_sum_to_one_over_real_keys(model, system, batch):
    mask = batch.channel(system.keys)[1]
    _, keys = average_steps(torch.zeros(*mask.shape, 1), mask, system.stride)
    maps = model(batch, need_attention=True).attention
    assert maps
    for name, weights in maps.items():
        U, _, _, K = weights.shape
        assert (U, K) == tuple(keys.shape), name
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]), atol=1e-5, rtol=0)
        assert not weights.masked_select(~keys[:, None, None, :].expand_as(weights)).any()


def test_asking_for_attention_changes_nothing(model, batch):
    plain, asked = model(batch), model(batch, need_attention=True)
    assert torch.equal(plain.logits, asked.logits) and torch.equal(plain.embedding, asked.embedding)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_padding_changes_nothing(model, batch, steps):
    torch.testing.assert_close(model(padded(batch, steps)).logits, model(batch).logits, atol=1e-5, rtol=0)


def test_what_stands_in_the_padding_is_not_read(model, batch):
    a, b = model(padded(batch, 5)).logits, model(padded(batch, 5, junk=7.0)).logits
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_the_other_utterances_of_a_batch_change_nothing(model, sines):
    whole = model(sines.batch(np.arange(36))).logits
    order = np.random.default_rng(0).permutation(36)
    for part in np.split(order, [1, 5, 12]):
        torch.testing.assert_close(model(sines.batch(part)).logits, whole[part], atol=1e-5, rtol=0)


def test_an_utterance_without_a_real_step_is_no_nan(model, system, batch):
    name = f"{system.keys}_mask"
    mask = getattr(batch, name).clone()
    mask[3] = False
    out = model(replace(batch, **{name: mask}), need_attention=True)
    assert all(torch.isfinite(x).all() for x in (out.logits, out.embedding, *out.attention.values()))
    others = torch.arange(8) != 3
    torch.testing.assert_close(out.logits[others], model(batch).logits[others], atol=1e-5, rtol=0)
    out.logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_gradients_reach_every_parameter(model, batch):
    nn.functional.cross_entropy(model.train()(batch).logits, batch.label, ignore_index=-1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_it_learns(model, sines):
    data = sines.select("train")
    batch = data.batch(np.flatnonzero(data.targets >= 0))
    optimiser = torch.optim.Adam(model.train().parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch).logits, batch.label).backward()
        optimiser.step()
    assert (model.eval()(batch).logits.argmax(1) == batch.label).float().mean() > 0.9


def test_it_takes_another_precision(model, batch):
    """Nothing in the graph is made with a type of its own (a device is the same matter)."""
    doubled = replace(batch, audio=batch.audio.double())
    assert model.double()(doubled).logits.dtype == torch.float64


# ---------------------------------------------------------------- layers

MASK = torch.arange(7) < torch.tensor([7, 4, 1, 6])[:, None]  # (4, 7)


def test_bilstm_is_the_packed_bidirectional_lstm():
    torch.manual_seed(0)
    ours, theirs = BiLSTM(3, 5, layers=2), nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True)
    for k in range(2):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            ahead, back = (getattr(part[k], f"{kind}_l0") for part in (ours.forwards, ours.backwards))
            getattr(theirs, f"{kind}_l{k}").data.copy_(ahead)
            getattr(theirs, f"{kind}_l{k}_reverse").data.copy_(back)
    x = torch.randn(4, 7, 3)
    packed = nn.utils.rnn.pack_padded_sequence(x, MASK.sum(1), batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True, total_length=7)
    torch.testing.assert_close(ours(x, MASK), expected, atol=1e-6, rtol=1e-5)


def reference(layer: nn.Module, width: int, heads: int) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the same weights."""
    theirs = nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    pairs = {
        theirs.self_attn.in_proj_weight: layer.qkv.weight,
        theirs.self_attn.in_proj_bias: layer.qkv.bias,
        theirs.self_attn.out_proj.weight: layer.out.weight,
        theirs.self_attn.out_proj.bias: layer.out.bias,
    }
    modules = {
        theirs.linear1: layer.ffn[0],
        theirs.linear2: layer.ffn[2],
        theirs.norm1: layer.norm1,
        theirs.norm2: layer.norm2,
    }
    for a, b in modules.items():
        pairs |= {a.weight: b.weight, a.bias: b.bias}
    for a, b in pairs.items():
        a.data.copy_(b.data)
    return theirs


def test_transformer_layer_is_pytorchs():
    torch.manual_seed(0)
    layer = TransformerEncoder(3, 8, layers=1, heads=2, dropout=0.0).layers[0]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)  # norms and biases too
    theirs = reference(layer, 8, 2)
    h = torch.randn(4, 7, 8)
    ours, weights = layer(h, MASK)
    expected = theirs(h, src_key_padding_mask=~MASK)
    torch.testing.assert_close(ours[MASK], expected[MASK], atol=1e-5, rtol=1e-5)
    x = theirs.norm1(h)
    _, maps = theirs.self_attn(x, x, x, key_padding_mask=~MASK, average_attn_weights=False)
    torch.testing.assert_close(weights, maps, atol=1e-6, rtol=1e-5)


def test_transformer_encoder_is_its_parts():
    torch.manual_seed(0)
    encoder = TransformerEncoder(3, 8, layers=2, heads=2).eval()
    x = torch.randn(4, 7, 3)
    h = encoder.project(x) + positions(7, 8, x.device, x.dtype)
    for layer in encoder.layers:
        h = layer(h, MASK)[0]
    out, maps = encoder(x, MASK)
    torch.testing.assert_close(out, encoder.norm(h) * MASK[..., None])
    assert len(maps) == 2


@pytest.mark.parametrize("width", [6, 7])
def test_positions(width):
    table = positions(5, width, torch.device("cpu"), torch.float64)
    for t in range(5):
        for i in range(width):
            angle = t / 10000 ** (2 * (i // 2) / width)
            assert table[t, i].item() == pytest.approx((math.cos if i % 2 else math.sin)(angle))


def test_attention_pooling_by_hand():
    torch.manual_seed(0)
    pool, h = AttentionPooling(3, 4), torch.randn(4, 7, 3)
    vector, weights = pool(h, MASK)
    W, b, v = (p.detach().numpy() for p in (pool.W.weight, pool.W.bias, pool.v.weight[0]))
    for u in range(4):
        real = h[u, MASK[u]].numpy()
        score = np.array([v @ np.tanh(W @ x + b) for x in real])
        alpha = np.exp(score) / np.exp(score).sum()
        np.testing.assert_allclose(weights[u, MASK[u]].detach().numpy(), alpha, rtol=1e-5)
        np.testing.assert_allclose(vector[u].detach().numpy(), alpha @ real, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masked_softmax(dtype):
    score = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [-1e4, -2e4, 0.0]], dtype=dtype)
    mask = torch.tensor([[True, False, True], [False] * 3, [True, True, False]])
    out = masked_softmax(score, mask).double()
    e = math.e
    expected = torch.tensor([[1 / (1 + e**2), 0, e**2 / (1 + e**2)], [0, 0, 0], [1, 0, 0]]).double()
    torch.testing.assert_close(out, expected, atol=1e-2 if dtype.itemsize == 2 else 1e-6, rtol=0)
    columns = masked_softmax(score.T, mask.T, dim=0).double()
    torch.testing.assert_close(columns.T, out, atol=1e-2 if dtype.itemsize == 2 else 1e-6, rtol=0)


def test_a_projection_is_standardised_frames_through_one_layer():
    rng, mask = np.random.default_rng(0), torch.tensor([[True, True], [True, False]])
    frames = Ragged.from_sequences([rng.normal(5, 3, size=(4, 3)).astype(np.float32)], ["a"])
    encoder = Projection(3, width=2, dropout=0.5).fit(frames).eval()
    x = torch.randn(2, 2, 3)
    out, kept = encoder(x, mask)
    z = (x[0] - torch.from_numpy(frames.frames.mean(0))) / torch.from_numpy(frames.frames.std(0))
    expected = (z @ encoder.project.weight.T + encoder.project.bias).clamp(min=0)
    assert torch.allclose(out[0], expected, atol=1e-5)
    assert torch.equal(kept, mask) and not out[1, 1].any()  # a bias must not fill the padding
    assert not torch.equal(encoder.train()(x, mask)[0], out)  # its dropout acts, in training alone


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 9])
def test_average_steps(stride):
    torch.manual_seed(0)
    x = torch.randn(4, 7, 2)
    out, mask = average_steps(x, MASK, stride)
    assert out.shape[1] == mask.shape[1] == -(-7 // stride)
    for u in range(4):
        real = x[u, MASK[u]]
        means = [part.mean(0) for part in real.split(stride)]
        assert mask[u].sum() == len(means)
        torch.testing.assert_close(out[u, mask[u]], torch.stack(means))
        assert stride == 1 or not out[u, ~mask[u]].any()


def encode(encoder: nn.Module, x: list, mask: Tensor | None = None) -> Tensor:
    x = torch.tensor(x)
    return encoder(x, torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask)[0]


def test_frame_encoder():
    nan = float("nan")
    sequences = [np.array([[1.0, 5.0, nan], [3.0, 5.0, nan]]), np.array([[5.0, 5.0, nan], [nan, 5.0, nan]])]
    train = Ragged.from_sequences(sequences, ["a", "b"])
    encoder = FrameEncoder(3).fit(train)
    assert encoder.mean.tolist() == [3.0, 5.0, 0.0]
    assert encoder.std.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0, 1.0])  # a constant stays as it is
    out = encode(encoder, [[[3.0, 6.0, nan], [nan, float("inf"), 2.0]]])
    assert out.tolist() == [[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]]  # what is missing becomes the mean
    out = encode(encoder, [[[9.0, 9.0, 9.0], [nan, 9.0, 9.0]]], torch.tensor([[True, False]]))
    assert not out[0, 1].any()
    assert set(encoder.state_dict()) == {"mean", "std"} and not list(encoder.parameters())


def test_frame_encoder_sees_the_training_view_only(sines):
    part = sines.select("train").audio
    own = np.concatenate([part[k] for k in range(len(part))])
    encoder = FrameEncoder(3).fit(part)
    np.testing.assert_allclose(encoder.mean, own.mean(0), rtol=1e-5)
    np.testing.assert_allclose(encoder.std, own.std(0), rtol=1e-5)


def test_word_encoder():
    torch.manual_seed(0)
    vectors = np.arange(12.0).reshape(4, 3)
    encoder = WordEncoder(4, 3, vectors, drop=0.5).eval()
    index, mask = torch.tensor([[[2], [3], [0]]]), torch.tensor([[True, True, False]])
    assert encoder(index, mask)[0].tolist() == [[[6.0, 7.0, 8.0], [9.0, 10.0, 11.0], [0.0, 0.0, 0.0]]]
    encoder.train()
    many = encoder(index.expand(2000, 3, 1), mask.expand(2000, 3))[0]
    unknown = (many == torch.tensor([3.0, 4.0, 5.0])).all(-1)
    assert 0.45 < unknown[:, :2].float().mean() < 0.55 and not unknown[:, 2].any()


@pytest.mark.parametrize("name", ["encoders", "pooling", "sequence"])
def test_examples_in_the_documentation(name):
    module = importlib.import_module(f"{models.__name__}.layers.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch, "np": np})
    assert result.attempted and not result.failed
