"""The loops that training is timed against compute what our systems compute."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mer_lab.experiments import prepare
from mer_lab.files import ROOT
from mer_lab.recipes import find_recipe

sys.path.append(str(ROOT / "benchmarks"))
from training import LONG, LOOPS, assembled, assert_equal, made  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def strengthened(model):
    """Larger random weights: near zero, a layer that is left out or misplaced would hardly show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2).add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_over_utterances_gives_our_logits_on_staged_dialogues(name):
    data, build = prepare(replace(find_recipe(name), staged={"dialogues": [3, 1, 1]}))
    train = data["train"]
    model = strengthened(build())
    loop = LOOPS[name](model)
    shuffled = train.batch(np.random.default_rng(0).permutation(len(train)))
    assert len(set(shuffled.dialogue.tolist())) == 3 and not shuffled.audio_mask.all()
    assert_equal(model, loop, shuffled)
    with torch.no_grad():
        ours, theirs = model(shuffled), loop(shuffled)
        assert ours.logits.std() > 0.05  # and does not hide behind small numbers
        torch.testing.assert_close(theirs.embedding, ours.embedding, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_learns_the_same(name):
    """The gradients agree too, so that neither leaves a part of the work undone."""
    model = assembled(name).eval()
    loop, batch = LOOPS[name](model), made(5, 2, np.random.default_rng(0))
    found = []
    for one in (model, loop.eval()):
        model.zero_grad()
        torch.nn.functional.cross_entropy(one(batch).logits, batch.label).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for n, gradient in found[0].items():
        torch.testing.assert_close(found[1][n], gradient, atol=1e-5, rtol=1e-3, msg=n)
    # shared weights are counted once, so the optimiser has as much to do
    assert len(list(loop.parameters())) == len(list(model.parameters()))


def test_a_loop_with_other_equations_is_refused():
    model = strengthened(assembled("dialogue-rnn"))
    loop, batch = LOOPS["dialogue-rnn"](model), made(5, 2, np.random.default_rng(0))
    assert_equal(model, loop, batch)
    read = loop.emotions
    loop.emotions = lambda cell, said, who: read(cell, said, [0] * len(who))  # one memory for both speakers
    with pytest.raises(AssertionError, match="DialogueLoop's logits are"):
        assert_equal(model, loop, batch)


@pytest.mark.parametrize("name", LONG)
def test_made_up_dialogues_can_be_learnt_by_every_system(name):
    batch = made(4, 3, np.random.default_rng(0))
    assert batch.dialogue.bincount().tolist() == [4, 4, 4]
    assert [len(set(batch.speaker[batch.dialogue == d].tolist())) for d in range(3)] == [2, 2, 2]
    assert assembled(name)(batch).logits.shape == (12, 4)
