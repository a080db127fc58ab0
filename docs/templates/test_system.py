"""Modulation: what the words do to the voice. The contract of every system is tested by test_systems.py."""

from dataclasses import replace

import pytest
import torch
from test_systems import made_up, small

from mer_lab.batches import Batch
from mer_lab.models import System


@pytest.fixture(scope="module")
def model() -> System:
    return small("modulation")


def test_words_scale_the_voice_and_do_not_only_add_to_it(model):
    """Of a sum, what another voice changes is the same whatever the words; here it is not."""
    batch = made_up().batch(range(14))
    louder, other = batch.audio + 1, batch.text.roll(1, 0)
    rolled = {"text": other, "text_mask": batch.text_mask.roll(1, 0)}
    change = [
        modulated(model, replace(batch, audio=louder, **words)) - modulated(model, replace(batch, **words))
        for words in ({}, rolled)
    ]
    assert not torch.allclose(*change, atol=1e-4)


def modulated(model: System, batch: Batch) -> torch.Tensor:
    """The vector ``(U, D)`` that the classifier reads: the last of the three in the embedding."""
    return model(batch).embedding.chunk(3, dim=-1)[2]


def test_without_modulation_it_is_the_voice_alone(model):
    """gamma and beta at zero leave the pooled voice, so words change no logit."""
    for knob in (model.gamma, model.beta):
        torch.nn.init.zeros_(knob.weight), torch.nn.init.zeros_(knob.bias)
    data = made_up()
    spoken, silent = data.batch(range(14)), data.without("text").batch(range(14))
    torch.testing.assert_close(model(spoken).logits, model(silent).logits, atol=1e-5, rtol=0)


def test_it_is_saved_and_loaded(tmp_path):
    model, batch = small("modulation"), made_up().batch(range(14))
    model.save_pretrained(tmp_path / "model")
    again = System.from_pretrained(tmp_path / "model")
    assert type(again).__name__ == "Modulation" and again.config == model.config
    torch.testing.assert_close(again(batch).logits, model(batch).logits)
