"""Attributions: closed forms on a linear system, promises kept on every system, and no mixing of channels."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_systems import CLASSES, made_up, small
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.corpora.corpus import Corpus
from mer_lab.errors import MerLabError
from mer_lab.explain import METHODS, Question, attribute, baseline, margin
from mer_lab.explain.attribution import REFUSED, TOLERANCE
from mer_lab.explain.methods import COMPLETE, LAYER, Inputs, segments
from mer_lab.explain.players import modality_shapley, shapley, turn_occlusion
from mer_lab.explain.units import of_spans, of_words, units_of
from mer_lab.models import SYSTEMS, Output, System
from mer_lab.models.layers import FrameEncoder, WordEncoder

WORDS = [["a", "b", "c", "d", "e", "f"][: 1 + k % 6] for k in range(14)]


@dataclass(frozen=True)
class LinearConfig:
    """No settings."""


class Linear(System):
    """Sums of frames and of words times a matrix; with a context, also those of the turn before."""

    Config = LinearConfig

    def __init__(self, audio, text, classes, config=LinearConfig(), contextual=False):
        super().__init__(audio, text, classes, config)
        self.contextual = contextual
        self.hear, self.read = nn.Linear(audio.width, classes), nn.Linear(text.width, classes)

    def forward(self, batch, need_attention=False):
        x, frames, w, words = self.encode(batch)
        u = self.hear((x * frames[..., None]).sum(1)) + self.read((w * words[..., None]).sum(1))
        if self.contextual:
            same = (batch.dialogue[:, None] == batch.dialogue) & (batch.turn[:, None] == batch.turn + 1)
            u = u + 0.5 * same.float() @ u
        return Output(u, {}, u)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """The made-up utterances under texts of as many words as they have word numbers."""
    old = made_up()
    lengths = old.text.lengths
    table = old.corpus.table.assign(text=[" ".join("abcdef"[:n]) for n in lengths])
    return Dataset(Corpus(name="made up", labels=("a", "b", "c"), table=table), old.audio, old.text)


@pytest.fixture
def linear(data) -> Linear:
    return make_linear(data)


def make_linear(data: Dataset, contextual: bool = False) -> Linear:
    torch.manual_seed(3)
    model = Linear(FrameEncoder(5).fit(data.audio), WordEncoder(11, 6), CLASSES, contextual=contextual)
    return model.eval()


def closed_form(model: Linear, question: Question) -> tuple[np.ndarray, np.ndarray]:
    """``(x - x') . w`` of every frame and word, w being the margin's weights."""
    empty, out = baseline(question), []
    for x, e, layer in zip(question.inputs, empty, (model.hear, model.read), strict=True):
        weight = torch.stack([margin(layer.weight.T, t.expand(x.shape[-1])) for t in question.target])
        out.append(torch.einsum("bntd,bd->bnt", x - e, weight).detach().numpy())
    return tuple(out)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("random", "gradient-shap")])
def test_on_a_linear_system_every_method_is_the_closed_form(method, linear, data):
    question = Question(linear, data, range(14))
    values = attribute(question, method)
    audio, text = closed_form(linear, question)
    off = dict(atol=5e-3 if method == "kernel-shap" else 1e-4)
    units = units_of(question)
    assert np.allclose(values.text, text, **off)
    if method in ("occlusion", "kernel-shap"):  # a span's value stands at its frames in equal shares
        truth = replace(values, audio=audio, text=text)
        assert np.allclose(*(np.nan_to_num(units.sums(v)[1]) for v in (values, truth)), **off)
    else:
        assert np.allclose(values.audio, audio, **off)
    assert np.allclose(values.total, values.output - values.reference, atol=1e-2)


def test_expected_gradients_of_a_linear_system_are_the_mean_over_references(linear, data):
    from mer_lab.explain.methods import references

    question = Question(linear, data, range(14))
    values = attribute(question, "gradient-shap", samples=8)
    given = Inputs(question, baseline(question), question.example)
    other = references(given, 8, 0)[1].unflatten(0, (8, 14)).mean(0)  # (14, 1, Tt, D)
    weight = torch.stack([margin(linear.read.weight.T, t.expand(6)) for t in question.target])
    expected = torch.einsum("bntd,bd->bnt", question.inputs[1] - other, weight).detach().numpy()
    assert np.allclose(values.text, expected, atol=1e-4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_default_method_keeps_its_promise_on_every_system(name, data):
    values = attribute(Question(small(name), data, [0, 4, 7, 10]))
    assert (values.error < TOLERANCE).all()
    assert (np.abs(values.total) > 0).any()
    assert np.isfinite(values.audio).all() and np.isfinite(values.text).all()


@pytest.mark.parametrize("name", ["xu2019-interacting", "cm-roberta", "hcam"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "smoothgrad"])  # its noise is drawn for all
def test_what_else_is_asked_changes_no_explanation(name, method, data):
    model = small(name)
    steps = {"steps": 16} if method == "integrated-gradients" else {}
    together = attribute(Question(model, data, [1, 7, 9, 12]), method, refuse=False, **steps)
    alone = attribute(Question(model, data, [9]), method, refuse=False, **steps)
    for a, b in ((together.own_audio[2], alone.own_audio[0]), (together.own_text[2], alone.own_text[0])):
        if method == "gradient-shap":  # the places between are drawn for all
            continue
        n = min(len(a), len(b))
        assert np.allclose(a[:n], b[:n], atol=2e-3), method
        assert not a[n:].any() and not b[n:].any()


def test_no_attribution_stands_in_padding(data):
    for method in METHODS:
        values = attribute(Question(small("cm-roberta"), data, [4, 9]), method, refuse=False)
        assert not values.audio[~values.question.masks[0].numpy()].any(), method
        assert not values.text[~values.question.masks[1].numpy()].any(), method


@pytest.mark.parametrize("name", ["early", "hcam"])
def test_feature_masks_never_mix_channels(name, data):
    question = Question(small(name), data, range(14))
    audio, text = segments(Inputs(question, baseline(question), question.example))
    for b in range(14):
        assert not set(audio[b].unique().tolist()) & set(text[b].unique().tolist())
    words = len(set(text[5, ..., 0][question.masks[1][5]].tolist()))
    assert words == int(question.masks[1][5, question.place[5]].sum()) + (question.real[5].sum() - 1)
    # a voice that does not matter must not lend its words' effect, as a shared number would make it
    model = make_linear(data)
    with torch.no_grad():
        model.hear.weight.zero_()
    values = attribute(Question(model, data, range(14)), "occlusion")
    assert np.abs(values.audio).max() < 1e-6 < np.abs(values.text).max()


def test_a_causal_system_is_explained_from_what_it_sees(data):
    model = small("cm-roberta")
    model.config = replace(model.config, causal=True)
    model.remember.causal = True
    assert model.causal
    cut = Question(model, data, [7])
    assert cut.real.sum() == 3  # the third of six turns
    model.config = replace(model.config, causal=False)
    whole = Question(model, data, [7])  # the same weights, all turns given; the attention itself looks back
    assert whole.real.sum() == 6
    assert torch.allclose(cut.ask(*cut.inputs), whole.ask(*whole.inputs), atol=1e-5)


def test_turns_and_modalities_share_the_whole(data):
    model = make_linear(data, contextual=True)
    question = Question(model, data, [7, 0])
    values = attribute(question)
    assert np.allclose(values.modalities.sum(1), values.total, atol=1e-5)
    assert np.allclose(values.turns.sum(1), values.total, atol=1e-5)
    assert values.turns[0, 1] != 0 and not values.turns[0, [0, 3, 4, 5]].any()  # it reads one turn back
    assert values.modalities[1, 2] == 0  # a first turn has nothing before it
    lost = turn_occlusion(question, baseline(question))
    assert np.allclose(lost[0], values.turns[0], atol=1e-4)  # linear: each turn's loss is its sum
    alone = attribute(Question(model, data, [7], alone=True))
    assert alone.turns.shape == (1, 1)
    held = attribute(question, others=False)
    assert not held.turns[0, [0, 1, 3, 4, 5]].any()


def test_shapley_values_add_up_and_are_exact(data):
    question = Question(make_linear(data, contextual=True), data, range(14))
    coalitions = modality_shapley(question, baseline(question))
    values = attribute(question)
    assert np.allclose(coalitions.shapley, values.modalities, atol=1e-4)
    game = np.zeros((2, 2, 2, 1))
    game[1, 1] = 1.0  # text and audio together, whoever else is there: they share it, context gets nothing
    assert np.allclose(shapley(game), [[0.5, 0.5, 0.0]])
    single = Question(small("early"), data, range(14))
    assert not modality_shapley(single, baseline(single)).shapley[:, 2].any()


def test_words_and_spans_add_up_to_their_channel(linear, data):
    data.audio.meta["hop"] = 0.05
    try:
        question = Question(linear, data, range(14))
        values, units = attribute(question), units_of(question)
        words, spans = units.sums(values)
        assert np.allclose(np.nansum(words, 1), values.own_text.sum(1), atol=1e-5)
        assert np.allclose(np.nansum(spans, 1), values.own_audio.sum(1), atol=1e-5)
        centres, sums = of_spans(values, 3)
        assert np.allclose(sums, spans[3][: len(sums)], atol=1e-6)
        real = int(data.audio.lengths[3])
        assert len(sums) == -(-real // 2) and centres[0] == pytest.approx(0.025 if real > 1 else 0.0)
        names, each = of_words(values, 3)
        assert names == data.corpus.table["text"].iloc[3].split()
        assert np.allclose(each, words[3][: len(each)])
    finally:
        data.audio.meta.pop("hop")


def test_the_margin_of_a_softmax_is_what_it_answers_to():
    logits = torch.randn(5, 4)
    target = torch.tensor([0, 1, 2, 3, 0])
    assert torch.allclose(margin(logits + 7, target), margin(logits, target), atol=1e-5)
    assert torch.allclose(margin(logits[:, :2], target % 2).abs(), (logits[:, 0] - logits[:, 1]).abs())


def test_an_explanation_that_does_not_add_up_is_refused(data):
    class Loud(Linear):
        """Divides by its own loudness, as encoders that normalise their input do: the path from silence is
        the same sound at every step."""

        def forward(self, batch, need_attention=False):
            x, frames, _, _ = self.encode(batch)
            x = x / x.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-9)
            u = self.hear((x * frames[..., None]).sum(1))
            return Output(u, {}, u)

    torch.manual_seed(0)
    model = Loud(FrameEncoder(5), WordEncoder(11, 6), CLASSES).eval()
    question = Question(model, data, [2, 5])
    with pytest.raises(MerLabError, match="adds up to .* choose another baseline"):
        attribute(question)
    values = attribute(question, refuse=False)
    assert (values.error > REFUSED).all()
    assert np.abs(values.total).max() < 1e-3 < np.abs(values.output - values.reference).min()


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda m, d: Question(m, d, []), "no utterance to explain"),
        (lambda m, d: Question(m, d, [0], [7]), "one class from 0 to 2"),
        (lambda m, d: Question(m, d, [0, 1], [0]), "one class from 0 to 2"),
        (lambda m, d: Question(m, Dataset(d.corpus, d.audio), [0]), "data of both channels"),
        (lambda m, d: attribute(Question(m, d, [0]), "lime"), "no method 'lime'"),
        (lambda m, d: attribute(Question(m, d, [0]), audio="zero"), "no audio baseline 'zero'"),
        (lambda m, d: attribute(Question(m, d, [0]), text="noise"), "no text baseline 'noise'"),
        (lambda m, d: attribute(Question(m, d, [0]), audio="noise"), "go through the extractor"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(ask, words, linear, data):
    with pytest.raises(MerLabError, match=words):
        ask(linear, data)


def test_explaining_leaves_the_system_as_it_was(data):
    model = small("krishna2021")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    logits = model(data.batch(np.arange(14))).logits
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for method in (*METHODS, LAYER):
        attribute(Question(model, data, [1, 2]), method, refuse=False)
    assert torch.equal(model(data.batch(np.arange(14))).logits, logits)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    assert all(p.grad is None for p in model.parameters())
    assert set(COMPLETE) <= {*METHODS, LAYER}
