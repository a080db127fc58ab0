"""The convolutional encoder: masks, padding, augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab.models import UnimodalStatistics
from mer_lab.models.layers import Augment, ConvEncoder
from mer_lab.ragged import Ragged

BANDS = 12
CALM = {"masks": 0, "stretch": 0.0, "shift": 0.0, "scale": 0.0, "gain": 0.0}


def frames_of(lengths, seed=0):
    """Utterances side by side, and garbage after their end, as a careless caller might leave it."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(len(lengths), max(lengths), BANDS)).astype(np.float32))
    return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def quarter(steps):
    return (steps + 3) // 4


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train = Ragged.from_sequences([rng.normal(3, 2, size=(20, BANDS)).astype(np.float32)], ["a"])
    return ConvEncoder(BANDS, (16, 24, 8), (2, 2, 1), augment=Augment()).fit(train)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 23), min_size=1, max_size=4), st.integers(0, 9), st.booleans())
def test_neither_padding_nor_the_batch_changes_an_utterance(lengths, more, centre):
    torch.manual_seed(1)
    encoder = ConvEncoder(BANDS, (16, 8), (2, 2), centre=centre, augment=Augment()).eval()
    x, mask = frames_of(lengths)
    wide = torch.cat([x, torch.full((len(x), more, BANDS), 7.0)], 1)
    h, kept = encoder(wide, torch.cat([mask, torch.zeros(len(x), more, dtype=torch.bool)], 1))
    assert h.shape[1] == kept.shape[1] == quarter(wide.shape[1])
    for k, n in enumerate(lengths):
        alone, real = encoder(x[k : k + 1, :n], torch.ones(1, n, dtype=torch.bool))
        steps = quarter(n)
        assert real.all() and kept[k].sum() == real.sum() == steps and kept[k, :steps].all()
        torch.testing.assert_close(h[k, :steps], alone[0], atol=1e-5, rtol=0)
        assert (h[k, steps:] == 0).all()


def test_a_step_sees_what_it_is_centred_on(encoder):
    """One changed frame moves the outputs around it and no others."""
    encoder = ConvEncoder(BANDS, (8,), (2,), kernel=3, centre=False).eval()
    x, mask = frames_of([20])
    y = x.clone()
    y[0, 10] += 1
    changed = (encoder(x, mask)[0] != encoder(y, mask)[0]).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [5]  # output 5 reads frames 9, 10, 11


def test_centring_takes_the_microphone_away(encoder):
    encoder.eval()
    x, mask = frames_of([9, 20])
    colour = torch.linspace(-3, 3, BANDS)
    torch.testing.assert_close(encoder(x + colour, mask)[0], encoder(x, mask)[0], atol=1e-4, rtol=0)
    encoder.centre = False
    assert (encoder(x + colour, mask)[0] - encoder(x, mask)[0]).abs().max() > 0.1


def test_gradients_reach_every_weight_and_stay_finite(encoder):
    x, mask = frames_of([1, 7, 30])
    mask[0] = False  # an utterance without a frame
    encoder(x, mask)[0].square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0, name


def test_augmentation_happens_in_training_only_and_follows_the_seed(encoder):
    x, mask = frames_of([15, 30])
    encoder.dropout.p = 0.0

    def run(seed):
        torch.manual_seed(seed)
        return encoder(x, mask)[0]

    encoder.train()
    first, again, other = run(0), run(0), run(1)
    assert torch.equal(first, again) and (first.shape != other.shape or not torch.allclose(first, other))
    encoder.eval()
    assert torch.equal(run(0), run(1))


def test_augmentation_without_any_amount_changes_nothing():
    x, mask = frames_of([1, 8, 25])
    x = x * mask[..., None]
    y, kept = Augment(**CALM).train()(x, mask)
    assert torch.equal(kept, mask)
    torch.testing.assert_close(y, x, atol=1e-4, rtol=0)
    y, kept = Augment(**CALM).train()(x[:1, :1], mask[:1, :1])  # one frame, where a step has no size
    torch.testing.assert_close(y, x[:1, :1], atol=1e-4, rtol=0)


def test_stretched_utterances_read_real_frames_alone_and_keep_their_ends():
    torch.manual_seed(0)
    lengths = [2, 40, 100] * 20
    x, mask = frames_of(lengths)
    x = torch.where(mask[..., None], torch.arange(100.0)[:, None], 1e4)  # a frame holds its own time
    y, kept = Augment(**CALM | {"stretch": 0.3}).train()(x, mask)
    n = torch.tensor(lengths)
    assert (y[kept] < 99.01).all() and (y[~kept] == 0).all()
    last = y[torch.arange(len(n)), kept.sum(1) - 1, 0]
    assert ((n - 1 - last) < 1.36).all()  # e ** 0.3 frames at most are lost
    ratio = kept.sum(1)[n == 100] / 100
    assert ratio.min() < 0.9 and ratio.max() > 1.15 and ratio.min() > 0.72 and ratio.max() < 1.36


def test_masks_hide_whole_bands_and_steps_within_their_bounds():
    torch.manual_seed(0)
    mask = torch.ones(200, 50, dtype=torch.bool)
    augment = Augment(**CALM | {"masks": 1, "bands": 4, "steps": 100, "share": 0.2}).train()
    y, _ = augment(torch.ones(200, 50, BANDS), mask)
    hidden = y < 0.5
    bands, steps = hidden.all(1), hidden.all(2)
    assert torch.equal(hidden, bands[:, None, :] | steps[:, :, None])
    assert set(bands.sum(1).tolist()) == {0, 1, 2, 3, 4} and 5 <= steps.sum(1).max() <= 10
    assert bands.any(0).all() and steps.any(0).all()  # no place is spared


def test_gain_and_shift_move_the_level_and_the_bands():
    torch.manual_seed(0)
    x, mask = torch.arange(float(BANDS)).expand(50, 6, BANDS), torch.ones(50, 6, dtype=torch.bool)
    y, _ = Augment(**CALM | {"gain": 0.5}).train()(x, mask)
    change = (y - x)[:, 0, 0]
    torch.testing.assert_close(y - x, change[:, None, None].expand_as(x), atol=1e-4, rtol=0)
    assert change.abs().max() <= 0.5 and change.std() > 0.2
    y, _ = Augment(**CALM | {"shift": 2.0}).train()(x, mask)
    assert (y[..., 2:-2] - x[..., 2:-2]).abs().max() <= 2.001
    assert y.max() <= BANDS - 1 + 1e-4 and y.min() >= -1e-4  # nothing is read beyond the edge


def test_statistics_pooling_ignores_padding_and_bears_a_single_frame(sines):
    torch.manual_seed(0)
    model = UnimodalStatistics(ConvEncoder(3, (16, 8), (2, 2), augment=Augment()), "audio", 2).eval()
    together = model(sines.batch(np.arange(8)), need_attention=True)
    assert together.attention == {} and together.embedding.shape == (8, 16)
    for k in range(8):
        alone = model(sines.batch(np.array([k]))).logits
        torch.testing.assert_close(together.logits[k : k + 1], alone, atol=1e-5, rtol=0)
    model.train()(sines.batch(np.array([0]))).logits.sum().backward()  # one step: no deviation, still a slope
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
