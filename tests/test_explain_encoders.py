"""Explanations through pretrained encoders: waves, word vectors, layers; eager, sdpa; what silence does."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_listening import save_encoder
from test_pretrained import save_bert

from mer_lab.batches import Dataset
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.explain import Question, attribute, baseline, margin
from mer_lab.explain.attribution import REFUSED
from mer_lab.explain.baselines import noise_like
from mer_lab.explain.faithfulness import deleter_of, max_sensitivity
from mer_lab.explain.methods import LAYER
from mer_lab.explain.units import of_words, units_of, words_of
from mer_lab.features import Prosody, Waveform
from mer_lab.features.pretrained import PretrainedText
from mer_lab.features.store import FeatureStore
from mer_lab.models import CrossModalAttention, CrossModalConfig, PooledFusion, System
from mer_lab.models.layers import FrameEncoder, Projection, SpeechEncoder, TextEncoder
from mer_lab.ragged import Ragged

SMALL = CrossModalConfig(width=8, heads=2, dropout=0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return cache(lambda n: str(save_bert(root / n) if n == "bert" else save_encoder(n, root / n)))


def spoken(corpus: Corpus, text: str, folder: Path) -> Dataset:
    """Waves and token numbers of eight utterances, cut to half a second."""
    few = corpus.select(split="train")
    few = Corpus(name=few.name, labels=few.labels, table=few.table.iloc[:8], root=few.root)
    waves = FeatureStore(folder).get(few, Waveform(), 1)
    cut = Ragged.from_sequences([waves[k][:8000] for k in range(8)], few.ids, waves.meta)
    numbers = PretrainedText(text).numbers(few.table["text"].tolist())
    tokens = [np.array(n, np.int64)[:, None] for n in numbers]
    return Dataset(few, cut, Ragged.from_sequences(tokens, few.ids, {"name": "tokens", "encoder": text}))


@pytest.fixture(scope="module")
def data(sine_corpus, tiny, tmp_path_factory) -> Dataset:
    return spoken(sine_corpus, tiny("bert"), tmp_path_factory.mktemp("waves"))


def system(speech: str, text: str, seed: int = 0) -> System:
    torch.manual_seed(seed)
    model = CrossModalAttention(SpeechEncoder(speech), TextEncoder(text), 2, SMALL)
    return model.eval()


def test_a_wave_and_word_vectors_are_explained_together(data, tiny):
    model = system(tiny("wav2vec2"), tiny("bert"))
    question = Question(model, data, [1, 3])
    with torch.no_grad():
        straight = model(data.batch(np.array([1, 3]))).logits
    assert torch.allclose(question.answers(*question.inputs, question.example), straight, atol=1e-4)
    assert question.hop == 1 / 16000
    values = attribute(question, audio="noise", refuse=False)
    assert values.audio.shape[-1] == question.inputs[0].shape[2]  # one number a sample
    assert np.abs(values.own_text).max() > 0 and np.abs(values.own_audio).max() > 0
    assert np.median(values.error) < REFUSED


def test_silence_is_no_baseline_for_an_encoder_that_normalises_loudness(data, tiny):
    """wav2vec 2.0's preparation divides by the wave's deviation: on the path from silence it hears the same
    sound from the first thousandth on, so no step has a gradient along it, and the sum misses the change."""
    model = system(tiny("wav2vec2-layer"), tiny("bert"))
    assert model.audio._listen[0].prepare.do_normalize
    question = Question(model, data, [1, 3, 6])
    silent, noisy = (attribute(question, audio=a, refuse=False, steps=32) for a in ("silence", "noise"))
    words = question.inputs[1]
    quiet = baseline(question, audio="silence")[0]
    heard = (question.ask(question.inputs[0], words) - question.ask(quiet, words)).abs().numpy()
    assert heard.max() > 0.05  # the voice matters
    assert np.median(silent.error) > REFUSED > np.median(noisy.error)
    with pytest.raises(MerLabError, match="choose another baseline"):
        attribute(question, audio="silence", steps=32)


def test_eager_and_sdpa_attention_are_explained_alike(data, tiny):
    found = []
    for kind in ("sdpa", "eager"):
        model = system(tiny("wav2vec2"), tiny("bert"))
        for encoder in (model.audio, model.text):
            encoder.net.set_attn_implementation(kind)
            assert encoder.net.config._attn_implementation == kind
        found.append(attribute(Question(model, data, [1, 3]), audio="noise", refuse=False, steps=16))
    assert np.allclose(found[0].text, found[1].text, atol=1e-3 * np.abs(found[0].text).max())
    assert np.allclose(found[0].audio, found[1].audio, atol=1e-3 * np.abs(found[0].audio).max())


def test_layer_gradients_are_an_integral_behind_the_encoders(sines):
    """By hand: the path runs from what the encoders make of the baseline to what they make of the input."""
    torch.manual_seed(0)
    model = PooledFusion(Projection(3, 6, dropout=0.0).fit(sines.audio), FrameEncoder(1), 2).eval()
    words = Ragged.from_sequences(
        [sines.text[k].astype(np.float32) for k in range(len(sines))], sines.corpus.ids, {"name": "vectors"}
    )
    data = Dataset(sines.corpus, sines.audio, words)
    question = Question(model, data, [2, 5])
    values = attribute(question, LAYER, text="zero", steps=64)
    empty = baseline(question, text="zero")
    behind, start = question.behind_encoders(empty)
    alphas, weights = np.polynomial.legendre.leggauss(64)
    grads = [torch.zeros_like(x) for x in behind.inputs]
    for alpha, weight in zip((alphas + 1) / 2, weights / 2, strict=True):
        x = [(s + float(alpha) * (e - s)).requires_grad_() for s, e in zip(start, behind.inputs, strict=True)]
        for kept, g in zip(grads, torch.autograd.grad(behind(*x, behind.example).sum(), x), strict=True):
            kept += float(weight) * g
    by_hand = [(g * (e - s)).sum(-1) for g, e, s in zip(grads, behind.inputs, start, strict=True)]
    assert np.allclose(values.audio, by_hand[0].numpy(), atol=1e-5)
    assert np.allclose(values.text, by_hand[1].numpy(), atol=1e-5)


def test_behind_the_encoder_there_are_its_frames(data, tiny):
    question = Question(system(tiny("wav2vec2"), tiny("bert")), data, [1, 3])
    values = attribute(question, LAYER, audio="noise", refuse=False)
    encoder = question.model.audio
    assert values.question.hop == encoder._listen[0].stride / 16000
    frames = encoder(question.inputs[0][:, 0], question.masks[0][:, 0])[0]
    assert values.audio.shape[2] == frames.shape[1]
    assert np.median(values.error) < REFUSED


def test_subwords_belong_to_their_word_and_marks_to_none(data, tiny):
    found = words_of("We go up-up, now!", data)
    assert found.words[:2] == ["We", "go"] and "now" in found.words
    assert all(any(c.isalnum() for c in word) for word in found.words)
    used = [p for places in found.tokens for p in places]
    assert len(used) == len(set(used)) and 0 not in used  # [CLS] is nobody's
    question = Question(system(tiny("wav2vec2"), tiny("bert")), data, [1])
    values = attribute(question, "gradient-x-input")
    names, sums = of_words(values, 0)
    assert " ".join(names).lower() == data.corpus.table["text"].iloc[1]
    assert np.allclose(sums, units_of(question).sums(values)[0][0], atol=1e-6)


def test_noise_is_as_loud_as_the_voice_and_the_same_every_time(data):
    wave = data.audio[3][:, 0]
    noise = noise_like(wave, "a")
    assert np.sqrt((noise**2).mean()) == pytest.approx(np.sqrt((wave**2).mean()), rel=1e-5)
    assert np.array_equal(noise, noise_like(wave, "a")) and not np.array_equal(noise, noise_like(wave, "b"))


def test_noise_and_silence_go_through_the_extractor_of_the_features(sine_corpus, sines, tmp_path):
    few = sine_corpus.select(split="test")
    extractor = Prosody(hop=0.02)
    audio = FeatureStore(tmp_path).get(few, extractor, 1)
    data = Dataset(few, audio, sines.text)
    torch.manual_seed(0)
    from mer_lab.models.layers import WordEncoder

    model = PooledFusion(FrameEncoder(audio.width).fit(audio), WordEncoder(9, 4), 2).eval()
    question = Question(model, data, [0, 2])
    for kind in ("noise", "silence"):
        empty = baseline(question, kind, extractor=extractor)[0]
        frames = model.audio
        energy = empty[0, 0, question.masks[0][0, 0], 3] * frames.std[3] + frames.mean[3]  # dB
        assert (energy < -75).all() if kind == "silence" else (energy > -40).all()
    with pytest.raises(MerLabError, match="go through the extractor"):
        attribute(question, audio="silence")


def test_a_real_speech_encoder_is_explained_at_its_wave(sine_corpus, shared_data, tmp_path, monkeypatch):
    """Moonshine and MiniLM as they are: the sum of a quarter of a million samples is the change."""
    monkeypatch.setenv("MER_LAB_SHARED_DATA", str(shared_data))
    data = spoken(sine_corpus, "minilm-l6-v2", tmp_path)
    model = system("moonshine-tiny-en", "minilm-l6-v2")
    for kind in ("sdpa", "eager"):
        model.text.net.set_attn_implementation(kind)
        values = attribute(Question(model, data, [3]), audio="noise", refuse=False, steps=64)
        assert np.isfinite(values.audio).all() and values.own_audio.any()
    layer = attribute(Question(model, data, [3]), LAYER, audio="noise", refuse=False, steps=64)
    assert layer.error[0] < REFUSED


def test_whispers_mel_has_no_gradient_and_that_is_said(data, tiny):
    question = Question(system(tiny("whisper"), tiny("bert")), data, [1])
    with pytest.raises(MerLabError, match="layer-integrated-gradients"):
        attribute(question)
    assert np.isfinite(attribute(question, LAYER, refuse=False).audio).all()


def test_the_margin_is_asked_of_the_class_that_is_named(data, tiny):
    model = system(tiny("wav2vec2"), tiny("bert"))
    both = [Question(model, data, [1], [k]) for k in (0, 1)]
    a, b = (attribute(q, "gradient-x-input") for q in both)
    assert np.allclose(a.text, -b.text, atol=1e-6)  # of two classes one's gain is the other's loss
    assert torch.allclose(margin(torch.tensor([[2.0, 1.0]]), torch.tensor([1])), torch.tensor([-1.0]))


def test_a_text_that_was_cut_names_only_what_was_read(sine_corpus, data, tiny):
    """``[CLS] w w w w [SEP]`` of a longer text: the special token at the end is no fifth word."""
    text = "we go now we go now"
    whole = words_of(text, data)
    cut = words_of(text, data, 6)
    assert len(whole.words) == 6 and cut.words == whole.words[:4] and cut.tokens == whole.tokens[:4]
    assert words_of(text, data, 8) == whole  # nothing was cut


def test_a_layer_can_be_asked_again(data, tiny):
    """Sensitivity and deletion behind the encoders stay behind them, at the encoded baseline."""
    question = Question(system(tiny("wav2vec2"), tiny("bert")), data, [1, 3])
    values = attribute(question, LAYER, refuse=False, steps=16)
    assert values.baseline == ("noise", "mask")
    again = attribute(values.question, LAYER, refuse=False, steps=16)
    assert np.allclose(again.audio, values.audio, atol=1e-6)
    assert (max_sensitivity(values, draws=1, steps=16) > 0).all()
    deleter = deleter_of(values.question)
    gone = [np.ones((2, int(n.max())), bool) for n in (deleter.units.words, deleter.units.spans)]
    nothing = deleter.ask(gone[0] & False, gone[1] & False, probability=False)
    assert np.allclose(nothing, values.output, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(deleter.empty, values.question.empty, strict=True))


def test_few_copies_at_once_go_through_a_pretrained_network(data, tiny, sines):
    from test_systems import made_up, small

    pretrained = Question(system(tiny("wav2vec2"), tiny("bert")), data, [1, 3])
    own = Question(small("early"), made_up(), [1, 3])
    assert pretrained.at_once <= 8 < own.at_once


def test_the_mean_of_a_wave_is_refused_by_its_name(data, tiny):
    question = Question(system(tiny("wav2vec2"), tiny("bert")), data, [1])
    with pytest.raises(MerLabError, match="mean of waves is silence"):
        attribute(question, audio="mean")
