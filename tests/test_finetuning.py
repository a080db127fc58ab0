"""Pretrained encoders that learn: which layers, how fast, with which neighbours, and in whole recipes."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from test_extraction import in_fork, needs_fork, status
from test_listening import noise, save_encoder
from test_pretrained import corpus_of, save_bert
from test_training import weights, without_clock
from torch import nn

from mer_lab import training
from mer_lab.batches import Dataset
from mer_lab.checkpoints import load_tensors, load_weights
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, Result, open_corpus, prepare, run
from mer_lab.features import Waveform
from mer_lab.features.listening import SpeechNetwork
from mer_lab.features.pretrained import PretrainedText
from mer_lab.features.store import FeatureStore
from mer_lab.files import ROOT, digest
from mer_lab.inputs import build_encoder
from mer_lab.models import UnimodalPooling, UnimodalStatistics
from mer_lab.models.layers import FrameEncoder, LayerMix, SpeechEncoder, TextEncoder
from mer_lab.prediction import predict
from mer_lab.ragged import Ragged
from mer_lab.training import TrainConfig, fit

LAYERS = {  # what a family calls its layers
    "wav2vec2": "encoder.layers",
    "wav2vec2-layer": "encoder.layers",
    "wavlm": "encoder.layers",
    "data2vec": "encoder.layers",
    "moonshine": "layers",
    "whisper": "layers",
    "bert": "encoder.layer",
}
CONFIG = TrainConfig(epochs=1, batch_size=8, lr=0.01)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], str]:
    """Folder of the encoder of a family."""
    root = tmp_path_factory.mktemp("finetuning")
    return cache(
        lambda name: str(save_bert(root / name) if name == "bert" else save_encoder(name, root / name))
    )


@pytest.fixture(scope="session")
def spoken(sine_corpus, tmp_path_factory) -> Dataset:
    return Dataset(
        sine_corpus, FeatureStore(tmp_path_factory.mktemp("waves")).get(sine_corpus, Waveform(), 1)
    )


@pytest.fixture(scope="session")
def written(sine_corpus, tiny) -> Dataset:
    numbers = PretrainedText(tiny("bert")).numbers(sine_corpus.table["text"].tolist())
    sequences = [np.array(n, np.int64)[:, None] for n in numbers]
    return Dataset(sine_corpus, text=Ragged.from_sequences(sequences, sine_corpus.ids, {"name": "tokens"}))


@pytest.fixture
def data(request, spoken, written) -> Callable[[str], tuple[Dataset, Dataset]]:
    return lambda name: tuple(
        (written if name == "bert" else spoken).select(split) for split in ("train", "validation")
    )


def system(folder: str, name: str = "wav2vec2", **settings) -> nn.Module:
    if name == "bert":
        return UnimodalPooling(TextEncoder(folder, **settings), "text", 2, width=8)
    return UnimodalStatistics(SpeechEncoder(folder, **settings), "audio", 2)


def train(build, data, config: TrainConfig = CONFIG, folder: Path | None = None) -> training.Run:
    return fit(build, *data, config, 0, folder, progress=False, cpu=True)


def encoder_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.encoder.net.named_parameters()}


def below(names, name: str, layers) -> set[str]:
    """Those of the parameters that belong to the layers."""
    return {n for n in names if any(n.startswith(f"{LAYERS[name]}.{k}.") for k in layers)}


# ---------------------------------------------------------------- which layers learn, and how fast


@pytest.mark.parametrize(
    ("name", "layer", "train_layers", "learn"),
    [
        ("wav2vec2", -1, 2, [1, 2]),
        ("wav2vec2", "mix", 3, [0, 1, 2]),
        ("wav2vec2", 2, 1, [1]),
        ("wavlm", -1, 3, [0, 1, 2]),
        ("data2vec", 1, 1, [0]),
        ("moonshine", -1, 1, [1]),
        ("whisper", "mix", 1, [1]),
        ("bert", -1, 2, [1, 2]),
        ("bert", "mix", 0, []),
    ],
)
def test_what_is_asked_learns_and_nothing_else(name, layer, train_layers, learn, tiny, data):
    """Every parameter that is to learn gets a gradient; after an epoch those have changed, and no others."""
    model = system(tiny(name), name, layer=layer, train_layers=train_layers, rate=1.0)
    first = encoder_of(model)
    few = 3 if name == "whisper" else 10  # Whisper makes 30 s of each
    train_data, validation = (
        Dataset(part.corpus.select(part.corpus.ids[:few]), part.audio, part.text) for part in data(name)
    )
    logits = model.train()(train_data.batch(np.arange(3))).logits
    logits.logsumexp(1).sum().backward()
    for key, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key
        assert p.grad is None or torch.isfinite(p.grad).all()
        if p.requires_grad and p.ndim > 1:
            assert p.grad.abs().max() > 0, key
    expected = below(first, name, learn)
    assert bool(expected) == bool(learn)
    assert {k for k, p in model.encoder.net.named_parameters() if p.requires_grad} == expected
    done = train(
        lambda: system(tiny(name), name, layer=layer, train_layers=train_layers, rate=1.0),
        (train_data, validation),
    )
    last = encoder_of(done.model)
    assert {k for k in first if not torch.equal(first[k], last[k])} == expected


def test_learning_rates_fall_with_depth(tiny):
    for layer, top in (("mix", 3), (-1, 3), (2, 2)):
        model = system(tiny("wav2vec2"), train_layers=2, layer=layer, rate=0.1, decay=0.5)
        groups = training._groups(model, 0.01)
        rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
        named = dict(model.named_parameters())
        assert len(rate_of) == sum(len(group["params"]) for group in groups)
        assert set(rate_of) == {id(p) for p in named.values() if p.requires_grad}
        for key in below(encoder_of(model), "wav2vec2", [top - 1]):
            assert rate_of[id(named[f"encoder.net.{key}"])] == pytest.approx(0.01 * 0.1)
        for key in below(encoder_of(model), "wav2vec2", [top - 2]):
            assert rate_of[id(named[f"encoder.net.{key}"])] == pytest.approx(0.01 * 0.1 * 0.5)
        others = [k for k, p in named.items() if p.requires_grad and not k.startswith("encoder.net")]
        assert ("encoder.score" in others) == (layer == "mix")
        assert {rate_of[id(named[k])] for k in others} == {0.01}


def test_frozen_layers_have_no_dropout(tiny, spoken):
    batch = spoken.batch(np.arange(4))
    still, learning = (system(tiny("wav2vec2"), train_layers=k).train() for k in (0, 1))
    for model, alike in ((still, True), (learning, False)):
        a, b = (model.encoder(*batch.channel("audio"))[0] for _ in range(2))
        assert torch.equal(a, b) == alike
    layers = learning.encoder.net.get_submodule(LAYERS["wav2vec2"])
    inside = set(layers[2].modules())
    assert all(m.training == (m in inside) for m in learning.encoder.net.modules())
    assert not any(m.training for m in learning.eval().modules())


def test_layers_that_are_not_there(tiny):
    for settings, sentence in (
        ({"layer": 4}, "the layer is 4; the encoder has 0 to 3, or 'mix'"),
        ({"layer": "all"}, "the layer is 'all'"),
        ({"train_layers": 4}, "train_layers is 4; 3 layers lead to layer -1"),
        ({"train_layers": 2, "layer": 1}, "train_layers is 2; 1 layers lead to layer 1"),
        ({"train_layers": -1}, "train_layers is -1"),
    ):
        with pytest.raises(MerLabError, match=sentence):
            SpeechEncoder(tiny("wav2vec2"), **settings)


@pytest.mark.parametrize("name", ["wav2vec2", "moonshine", "bert"])
def test_checkpointing_computes_twice_and_changes_no_gradient(name, tiny, data):
    batch = data(name)[0].batch(np.arange(5))
    gradients, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = system(tiny(name), name, train_layers=1, checkpointing=checkpointing).train()
        layers = model.encoder.net.get_submodule(LAYERS[name])
        for k, layer in enumerate(layers):
            inside = next(m for m in layer.modules() if isinstance(m, nn.Linear))
            inside.register_forward_hook(lambda *seen, k=k: calls.append((k, seen[2].requires_grad)))
        torch.manual_seed(1)  # the same dropout
        model(batch).logits.square().sum().backward()
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.requires_grad})
    last = len(layers) - 1
    assert sorted(calls) == [(k, False) for k in range(last) for _ in range(2)] + [(last, True)] * 3
    for key, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], plain, atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_holds_what_was_learnt_and_resumes_to_the_last_bit(tiny, data, tmp_path, monkeypatch):
    config, splits = replace(CONFIG, epochs=3, patience=3), data("wav2vec2")

    def build() -> nn.Module:
        return system(tiny("wav2vec2"), train_layers=1, layer="mix", rate=0.5)

    straight = train(build, splits, config)
    validate, calls = training._validate, []

    def dies(*arguments):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(training, "_validate", dies)
    with pytest.raises(KeyboardInterrupt):
        train(build, splits, config, tmp_path)
    resumed = train(build, splits, config, tmp_path)
    assert weights(resumed.model) == weights(straight.model)
    assert without_clock(resumed.history) == without_clock(straight.history)
    state, _ = load_tensors(tmp_path / "last.safetensors")
    kept = {k.removeprefix("model.encoder.net.") for k in state if k.startswith("model.encoder.net.")}
    assert kept == below(encoder_of(straight.model), "wav2vec2", [2])
    assert weights(load_weights(tmp_path, build())) == weights(straight.model)


@needs_fork
def test_two_processes_learn_the_same(tiny, data, tmp_path, monkeypatch):
    """What no gradient reaches is frozen, or the processes would wait for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    splits = data("wav2vec2")

    def work() -> None:
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        build = lambda: system(tiny("wav2vec2"), train_layers=1, layer=2, checkpointing=True)  # noqa: E731
        done = train(build, splits)
        content = digest(*weights(done.model).values())
        (tmp_path / os.environ["RANK"]).write_text(f"{torch.distributed.get_world_size()} {content}")

    together = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS="1")
    pids = [in_fork(work, RANK=str(k), LOCAL_RANK=str(k), **together) for k in range(2)]
    assert [status(pid) for pid in pids] == [0, 0]
    first, second = ((tmp_path / str(k)).read_text() for k in range(2))
    assert first == second and first.startswith("2 ")


# ---------------------------------------------------------------- neighbours


def alone_and_together(model: nn.Module, data: Dataset, rows: list[int]) -> float:
    """Largest difference of a logit, relative to the largest logit."""
    model.eval()
    with torch.no_grad():
        together = model(data.batch(rows)).logits
        alone = torch.cat([model(data.batch([k])).logits for k in rows])
    return float((together - alone).abs().max() / alone.abs().max())


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "bert"])
def test_logits_do_not_depend_on_the_batch(name, tiny):
    lengths = [1100, 16080, 300, 16399]
    waves = [noise(n, loud)[:, None] for n, loud in zip(lengths, (0.1, 1, 0.01, 0.1), strict=True)]
    corpus = corpus_of(["x"] * 4)
    data = Dataset(corpus, Ragged.from_sequences(waves, corpus.ids, {"name": "waveform"}))
    for layer in (1, "mix"):
        model = system(tiny(name), name, layer=layer)
        assert alone_and_together(model, data, [0, 1, 2, 3]) < 1e-4


def test_nor_where_an_encoder_mixes_what_is_beside_it(tiny, spoken, monkeypatch):
    monkeypatch.setattr(SpeechNetwork, "_normalise_real", lambda *_: None)
    model = system(tiny("wav2vec2"), train_layers=1)
    assert alone_and_together(model, spoken, list(range(8))) < 1e-4
    model.train()(spoken.batch(np.arange(8))).logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_logits_of_text_do_not_depend_on_the_batch(tiny, written):
    assert alone_and_together(system(tiny("bert"), "bert", layer="mix"), written, list(range(8))) < 1e-4


def test_vectors_are_those_of_the_frozen_encoder(tiny, written, sine_corpus):
    """The same encoder in both roles, frozen here and learning there, hears and reads the same."""
    vectors, mask = TextEncoder(tiny("bert"), layer=2).eval()(*written.batch([0, 3, 2]).channel("text"))
    for k, x, real in zip((0, 3, 2), vectors, mask, strict=True):
        frozen = PretrainedText(tiny("bert"), 2)(sine_corpus.table["text"].iloc[k])
        np.testing.assert_allclose(x[real].detach(), frozen, atol=1e-4)
        assert not x[~real].any()


# ---------------------------------------------------------------- a learned choice among frozen layers


def test_layer_mix_by_hand():
    rng = np.random.default_rng(0)
    frames = [(rng.normal(size=(n, 12)) * np.arange(1, 13) + 5).astype(np.float32) for n in (7, 4)]
    train_data = Ragged.from_sequences(frames, ["a", "b"])
    mix = LayerMix(12, layers=3).fit(train_data)
    assert mix.width == 4 and torch.allclose(mix.weights, torch.full((3,), 1 / 3))
    mix.score.data = torch.tensor([0.3, -1.0, 2.0])
    torch.testing.assert_close(mix.weights.sum(), torch.tensor(1.0))
    x, mask = (torch.from_numpy(a) for a in train_data.padded(np.array([0, 1])))
    found, same = mix(x, mask)
    everything = np.concatenate(frames)
    standard = [(f - everything.mean(0)) / everything.std(0) for f in frames]
    w = np.exp([0.3, -1.0, 2.0]) / np.exp([0.3, -1.0, 2.0]).sum()
    for k, s in enumerate(standard):
        by_hand = w[0] * s[:, :4] + w[1] * s[:, 4:8] + w[2] * s[:, 8:]
        np.testing.assert_allclose(found[k, : len(s)].detach(), by_hand, atol=1e-5)
    assert torch.equal(same, mask) and not found[1, 4:].any()
    found.square().sum().backward()
    assert mix.score.grad.abs().min() > 0
    with pytest.raises(MerLabError, match="width 12 are not 5 layers side by side"):
        LayerMix(12, layers=5)


def test_it_finds_the_layer_that_knows(sine_corpus):
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(36, 5, 12)).astype(np.float32)
    frames[:, :, 4:8] += 2 * sine_corpus.targets[:, None, None]  # the second of three
    data = Dataset(sine_corpus, Ragged.from_sequences(list(frames), sine_corpus.ids))

    def build() -> nn.Module:
        mix = LayerMix(12, layers=3).fit(data.select("train").audio)
        return UnimodalStatistics(mix, "audio", 2, dropout=0.0)

    splits = data.select("train"), data.select("validation")
    done = train(build, splits, replace(CONFIG, epochs=15, patience=15, lr=0.05))
    assert int(done.model.encoder.weights.argmax()) == 1


# ---------------------------------------------------------------- recipes


@pytest.fixture(scope="module")
def corpus(sine_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        yield str(sine_folder)


def recipe(name: str, corpus: str, tiny, **changes) -> Recipe:
    listens = {"name": "pretrained", "encoder": tiny("wav2vec2"), "train_layers": 1, "rate": 0.1}
    reads = {"name": "pretrained", "encoder": tiny("bert"), "train_layers": 2, "layer": "mix"}
    parts = {
        "waveform": dict(audio={"name": "waveform"}, encoder=listens),
        "tokens": dict(text={"name": "tokens", "encoder": tiny("bert")}, encoder=reads),
        "mix": dict(
            audio={"name": "pretrained", "encoder": tiny("wav2vec2"), "layer": "all"},
            encoder={"name": "mix", "layers": 4},
        ),
        "words": dict(text={"name": "pretrained", "encoder": tiny("bert"), "words": True}),
        "layers": dict(
            audio={"name": "pretrained", "encoder": tiny("moonshine"), "layer": [0, 2], "pool": "statistics"}
        ),
    }
    model = {"name": "statistics" if "audio" in parts[name] else "pooling"}
    return Recipe(name, model, corpus=corpus, seeds=(0,), **parts[name] | {"train": CONFIG} | changes)


@pytest.mark.parametrize("name", ["waveform", "tokens", "mix", "words", "layers"])
def test_recipes_run_from_end_to_end(name, corpus, tiny):
    wanted = recipe(name, corpus, tiny)
    again = Recipe.from_toml(wanted.to_toml())
    assert again == wanted and again.hash == wanted.hash
    result = run(again, progress=False)
    data, _ = prepare(again)
    assert result.utterances == data["test"].corpus.ids and len(result.predictions[0]) == 6


@pytest.mark.parametrize("name", ["waveform", "tokens"])
def test_half_precision_on_the_cpu(name, corpus, tiny):
    half = recipe(name, corpus, tiny, train=replace(CONFIG, precision="bf16"))
    data, build = prepare(half)
    done = train(build, (data["train"], data["validation"]), half.train)
    assert np.isfinite(done.history[0]["train_loss"])
    assert np.isfinite(predict(done.model, data["validation"])).all()
    assert all(p.dtype == torch.float32 for p in done.model.parameters())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"audio": {"name": "logmel"}}, "'pretrained' cannot read the features 'logmel'"),
        ({"audio": {"name": "waveform"}, "encoder": {"name": "mixed"}}, "there is no encoder 'mixed'"),
        ({"audio": {}, "text": {"name": "tokens", "encoder": "BERT"}, "encoder": {}}, "cannot read the"),
        ({"audio": {}, "text": {"name": "tokens", "encoder": "BERT"}}, "made for the same encoder"),
        ({"audio": {}, "text": {"name": "tokens", "encoders": "BERT"}}, "text features tokens: .*encoders"),
        ({"audio": {}, "text": {"name": "pretrained"}}, "text features pretrained: .*encoder"),
        ({"encoder": {"name": "pretrained", "layer": 1}}, "a setting of the model or encoder"),
        ({"encoder": {"name": "mix", "layers": 3}}, "width 1 are not 3 layers"),
    ],
)
def test_what_does_not_fit_together_is_told(change, sentence, corpus, tiny):
    change = {k: {a: tiny("bert") if b == "BERT" else b for a, b in v.items()} for k, v in change.items()}
    wrong = replace(recipe("waveform", corpus, tiny), **change)
    with pytest.raises(MerLabError, match=sentence) as error:
        _, build = prepare(wrong)
        build()
    assert "\n" not in str(error.value)


def test_frames_without_a_name_are_standardised():
    frames = Ragged.from_sequences([np.ones((2, 3), np.float32)], ["a"])
    assert isinstance(build_encoder({}, "audio", frames), FrameEncoder)


def test_a_fold_is_one_group_for_the_test_and_the_next_for_validation(corpus, tiny):
    whole: Corpus = open_corpus(recipe("words", corpus, tiny))
    for fold, following in (("0", "1"), ("1", "2"), ("2", "0")):
        folded = open_corpus(recipe("words", corpus, tiny, fold=f"mood={fold}"))
        split, mood = folded.table["split"], folded.table["mood"].astype(str)
        assert folded.ids == whole.ids
        assert ((split == "test") == (mood == fold)).all()
        assert ((split == "validation") == (mood == following)).all()
    result = run(recipe("words", corpus, tiny, fold="mood=2"), progress=False)
    assert len(result.utterances) == 12
    for fold, sentence in (
        ("mood=7", "no fold 'mood=7'; choose one of mood=0, mood=1, mood=2"),
        ("mood", "no fold 'mood'; choose"),
        ("weather=1", "no column 'weather'"),
    ):
        with pytest.raises(MerLabError, match=sentence) as error:
            open_corpus(recipe("words", corpus, tiny, fold=fold))
        assert "\n" not in str(error.value)


def test_the_fold_is_part_of_a_recipe_and_recorded_hashes_stand(corpus, tiny):
    plain, folded = (recipe("words", corpus, tiny, fold=fold) for fold in ("", "mood=1"))
    assert plain.hash != folded.hash and "fold" not in plain.to_toml()
    assert Recipe.from_toml(folded.to_toml()) == folded
    recorded = list((ROOT / "results").glob("meld-majority-*.json"))
    assert recorded and all(Result.load(path).recipe.fold == "" for path in recorded)
