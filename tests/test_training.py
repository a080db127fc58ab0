"""Training: bit-exact resume, the sealed test, early stopping, seeds, and checkpoints nobody can trust."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mer_lab import training
from mer_lab.batches import Dataset
from mer_lab.checkpoints import load_tensors, load_weights, save_tensors
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.losses import supervised_contrastive
from mer_lab.models import System, UnimodalBiLSTM
from mer_lab.models.layers import FrameEncoder
from mer_lab.models.output import Output
from mer_lab.prediction import predict
from mer_lab.ragged import Ragged
from mer_lab.training import TrainConfig, class_weights, fit

CONFIG = TrainConfig(epochs=6, batch_size=8, lr=0.01, patience=6)


def toy(noise: float = 2.0, seed: int = 0) -> Dataset:
    """Sixty utterances in dialogues of five, three classes, every tenth without a label; no test split."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, 60)
    length = rng.integers(1, 12, 60)
    sequences = [
        (np.eye(3)[y] + noise * rng.normal(size=(n, 3))).astype("f4")
        for y, n in zip(target, length, strict=True)
    ]
    label = np.array(["a", "b", "c"], object)[target]
    label[::10] = ""
    empty = {c: "" for c in ("speaker", "text", "audio")}
    table = pd.DataFrame(
        {
            "dialogue_id": [f"d{k // 5}" for k in range(60)],
            "turn": [k % 5 for k in range(60)],
            "split": ["train"] * 40 + ["validation"] * 20,
            "label": label,
            "start": np.nan,
            "end": np.nan,
            **empty,
        },
        index=[f"u{k}" for k in range(60)],
    )
    corpus = Corpus("toy", ("a", "b", "c"), table)
    return Dataset(corpus, audio=Ragged.from_sequences(sequences, corpus.ids, {"name": "toy"}))


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    whole = toy()
    return whole.select("train"), whole.select("validation")


def build(width: int = 6, stride: int = 1) -> nn.Module:
    """With dropout, so that a resume must restore the random state."""
    return UnimodalBiLSTM(FrameEncoder(3), "audio", 3, width, dropout=0.3, stride=stride)


def weights(model: nn.Module) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items()}


def train(data, config: TrainConfig = CONFIG, seed: int = 0, folder: Path | None = None, build=build):
    return fit(build, *data, config, seed, folder, progress=False, cpu=True)


def without_clock(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "in_steps")} for row in history]


# ---------------------------------------------------------------- the same run, whatever happens to it


def test_same_seed_same_weights(data):
    first, second, other = train(data), train(data), train(data, seed=1)
    assert weights(first.model) == weights(second.model)
    assert without_clock(first.history) == without_clock(second.history)
    assert weights(first.model) != weights(other.model)


def test_the_seed_decides_the_first_weights_too(data):
    """Also where the process has drawn random numbers before."""
    first: list[dict] = []

    def spy() -> nn.Module:
        model = build()
        first.append(weights(model))
        return model

    for seed in (0, 0, 1):
        torch.rand(17)
        train(data, replace(CONFIG, epochs=1), seed, build=spy)
    assert first[0] == first[1] != first[2]


def test_a_folder_changes_nothing(data, tmp_path):
    assert weights(train(data, folder=tmp_path).model) == weights(train(data).model)


KILLED = """
import os, signal, sys
from test_training import CONFIG, replace, toy, train, training
whole = toy()
calls = []
def die_in_epoch_four(name):
    original = getattr(training, name)
    def wrapped(*arguments, **options):
        calls.append(name)
        if calls.count(name) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(training, name, wrapped)
die_in_epoch_four(sys.argv[2])
train((whole.select("train"), whole.select("validation")), folder=sys.argv[1])
"""


def python(code: str, *arguments: object, launch: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    env["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums depend on it
    command = [sys.executable, *launch, *(("-c", code) if not launch else (code,)), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_kill_and_resume_to_the_last_bit(data, tmp_path):
    """kill -9 after the steps of epoch 4, before it was saved."""
    killed = python(KILLED, tmp_path, "_validate")
    assert killed.returncode == -9, killed.stderr
    assert len(load_tensors(tmp_path / "last.safetensors")[1]["history"]) == 3
    resumed, straight = train(data, folder=tmp_path), train(data)
    assert weights(resumed.model) == weights(straight.model)
    assert without_clock(resumed.history) == without_clock(straight.history)
    assert resumed.best_epoch == straight.best_epoch


@pytest.mark.parametrize("where", ["_epoch", "_validate", "save_file"])
@pytest.mark.parametrize("by", ["length", "dialogue"])
def test_interrupt_and_resume_to_the_last_bit(data, tmp_path, monkeypatch, where, by):
    """Ctrl-C between, in and after the steps, and in the middle of saving; several times over."""
    config = replace(CONFIG, batch_by=by, class_weights=0.5, label_smoothing=0.1)
    straight = train(data, config)
    module = training if where.startswith("_") else sys.modules["mer_lab.checkpoints"]
    original, calls = getattr(module, where), []

    def interrupted(*arguments, **options):
        calls.append(where)
        result = original(*arguments, **options)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, where, interrupted)
    for _ in range(8):
        torch.rand(5)
        try:
            resumed = train(data, config, folder=tmp_path)
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) > config.epochs
    assert weights(resumed.model) == weights(straight.model)
    assert without_clock(resumed.history) == without_clock(straight.history)
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_finished_run_is_not_trained_again(data, tmp_path, monkeypatch):
    first = train(data, folder=tmp_path)
    monkeypatch.setattr(training, "_epoch", None)
    again = train(data, folder=tmp_path)
    assert weights(again.model) == weights(first.model) and again.best_epoch == first.best_epoch
    assert again.seconds >= first.seconds > 0
    assert weights(load_weights(tmp_path, build())) == weights(first.model)


def relabelled(data: Dataset) -> Dataset:
    return Dataset(data.corpus.relabel({"a": "b", "b": "a"}, ["a", "b", "c"]), data.audio)


OTHERS = {
    "settings": lambda d: {"config": replace(CONFIG, lr=0.02)},
    "seed": lambda d: {"seed": 1},
    "width": lambda d: {"build": lambda: build(7)},
    "stride": lambda d: {"build": lambda: build(stride=2)},  # which the weights do not show
    "fewer utterances": lambda d: {"data": (d[0].select("train"), d[0])},
    "labels": lambda d: {"data": (relabelled(d[0]), relabelled(d[1]))},
    "features": lambda d: {"data": (toy(noise=1).select("train"), d[1])},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_run_is_refused(data, tmp_path, name):
    config = replace(CONFIG, epochs=1)
    train(data, config, folder=tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    options = {"data": data, "config": config, "folder": tmp_path} | OTHERS[name](data)
    with pytest.raises(MerLabError, match="another run .*choose a new folder"):
        train(**options)
    assert (tmp_path / "last.safetensors").read_bytes() == before


RANKS = """
import json, os, sys
from mer_lab.files import digest
from test_training import PLAIN, TOGETHER, build, toy, train, weights
whole = toy()
data = whole.select("train"), whole.select("validation")
rank = os.environ["RANK"]
done = train(data, folder=sys.argv[1])
steps = {name: train(data, config, build=PLAIN).history for name, config in TOGETHER.items()}
with open(f"{sys.argv[1]}-{rank}", "w") as f:  # two processes that print may share a line
    json.dump([done.best_epoch, digest(*weights(done.model).values()), steps], f)
"""
ONE_STEP = replace(CONFIG, epochs=1, batch_size=100, class_weights=0.7, label_smoothing=0.1)
TOGETHER = {
    "one step": ONE_STEP,
    "dialogues": replace(ONE_STEP, batch_by="dialogue"),
    "a dialogue too few": replace(ONE_STEP, batch_by="dialogue", batch_size=1),  # one process has no work
    "epochs": replace(CONFIG, epochs=3),
}


def PLAIN() -> nn.Module:
    """Without dropout, which several processes draw otherwise than one."""
    return UnimodalBiLSTM(FrameEncoder(3), "audio", 3, 6, dropout=0.0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> tuple[Path, list]:
    """What two processes, launched together, each made of the same runs."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(RANKS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = python(str(script), folder / "run", launch=launch)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, [json.loads((folder / f"run-{rank}").read_text()) for rank in (0, 1)]


def test_two_processes_end_with_the_same_weights(ranks):
    folder, (first, second) = ranks
    assert first[:2] == second[:2]
    assert len(load_tensors(folder / "run" / "last.safetensors")[1]["history"]) == CONFIG.epochs


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_step_as_one_would(ranks, data, name):
    """The same batches, the same mean over each: only the rounding differs."""
    alone = train(data, TOGETHER[name], build=PLAIN).history
    for rank in ranks[1]:
        for one, both in zip(alone, rank[2][name], strict=True):
            for loss in ("train_loss", "validation_loss"):  # the second has seen the steps
                assert both[loss] == pytest.approx(one[loss], abs=1e-5)


# ---------------------------------------------------------------- modality dropout


class Spy(System):
    """Answers from one learnt number and notes which channels were absent."""

    Config = None

    def __init__(self, seen: list):
        super().__init__(FrameEncoder(3), FrameEncoder(3), 3, None)
        self.scale, self.seen = nn.Linear(1, 3), seen

    def forward(self, batch, need_attention=False):
        if self.training:
            self.seen.append(batch.absent)
        return Output(self.scale(torch.ones(len(batch), 1)), {}, torch.ones(len(batch), 1))


def test_modality_dropout_takes_its_share_of_each_channel_and_never_both(data):
    both = [Dataset(d.corpus, d.audio, d.audio) for d in data]
    seen: list = []
    config = replace(CONFIG, epochs=40, patience=40, modality_dropout=0.3)
    fit(lambda: Spy(seen), *both, config, progress=False, cpu=True)
    absent = torch.cat(seen)
    assert absent.shape == (40 * 40, 2) and not absent.all(1).any()
    assert absent.float().mean(0).tolist() == pytest.approx([0.3, 0.3], abs=0.04)
    again: list = []
    fit(lambda: Spy(again), *both, config, progress=False, cpu=True)
    assert torch.equal(torch.cat(again), absent)
    none: list = []
    fit(lambda: Spy(none), *both, replace(config, modality_dropout=0.0), progress=False, cpu=True)
    assert set(none) == {None}


def test_modality_dropout_needs_two_channels(data):
    with pytest.raises(MerLabError, match="UnimodalBiLSTM does not read two channels"):
        train(data, replace(CONFIG, modality_dropout=0.1))
    with pytest.raises(MerLabError, match="modality_dropout is 0.6, expected 0 to 0.5"):
        replace(CONFIG, modality_dropout=0.6)


# ---------------------------------------------------------------- what is learnt


def test_it_learns_and_keeps_the_best_epoch():
    easy = toy(noise=0.4)
    part = easy.select("train"), easy.select("validation")
    for monitor in ("wa", "macro_f1"):
        config = TrainConfig(epochs=15, batch_size=8, lr=0.02, patience=3, monitor=monitor)
        run = train(part, config)
        values = [row[monitor] for row in run.history]
        assert max(values) > 0.8
        assert run.best_epoch == 1 + int(np.argmax(values))  # the first of equals
        assert len(values) == min(15, run.best_epoch + 3)
        known = part[1].targets >= 0
        right = predict(run.model, part[1]).argmax(1)[known] == part[1].targets[known]
        assert right.mean() == pytest.approx(run.history[run.best_epoch - 1]["wa"])
        assert not run.model.training
        assert all(0 < row["in_steps"] <= 1 and row["seconds"] > 0 for row in run.history)


def test_predictions_are_in_the_corpus_order(data):
    model = train(data, replace(CONFIG, epochs=1)).model
    p = predict(model, data[0], batch_size=7)
    assert p.shape == (40, 3) and np.allclose(p.sum(1), 1, atol=1e-5)
    for k in range(40):
        logits = model(data[0].batch(np.array([k]))).logits
        np.testing.assert_allclose(p[k], logits.softmax(-1)[0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(predict(model, data[0], 9, "dialogue"), p, atol=1e-5)


def test_class_weights():
    targets = np.array([0, 0, 0, 1, -1])
    assert class_weights(targets, 3).tolist() == pytest.approx([2 / 3, 2, 0])
    assert class_weights(targets, 3, 0).tolist() == pytest.approx([1, 1, 0])
    root = class_weights(targets, 2, 0.5)
    assert root[1] / root[0] == pytest.approx(3**0.5)
    assert root[targets[:4]].mean() == pytest.approx(1)


def test_weights_enter_the_loss(data):
    """The loss of a batch is the weighted mean over its labelled utterances."""
    loss = training._loss(data[0], replace(CONFIG, class_weights=1.0), torch.device("cpu"))
    batch = data[0].batch(np.arange(20))
    logits = torch.randn(20, 3)
    w, y = class_weights(data[0].targets, 3), batch.label.numpy()
    known = y >= 0
    nll = -logits.log_softmax(-1).numpy()[known, y[known]]
    expected = (w[y[known]] * nll).sum() / w[y[known]].sum()
    out = Output(logits, {}, torch.randn(20, 4))
    assert float(loss(out, batch)) == pytest.approx(expected, rel=1e-5)
    config = replace(CONFIG, class_weights=1.0, contrastive=0.25, temperature=0.5)
    both = training._loss(data[0], config, torch.device("cpu"))
    contrast = supervised_contrastive(out.embedding, batch.label, 0.5)
    assert float(both(out, batch)) == pytest.approx(0.75 * expected + 0.25 * float(contrast), rel=1e-5)


def test_unlabelled_utterances_teach_nothing(data):
    """What they sound like changes no weight, if each stays as long as it was."""
    config = replace(CONFIG, epochs=2)
    frames = np.array(data[0].audio.frames)
    for k in np.flatnonzero(data[0].targets < 0):
        start = data[0].audio.starts(k)
        frames[start : start + data[0].audio.lengths[k]] = 9.0
    own = data[0].audio
    changed = Ragged.from_sequences([frames[own.starts(k) :][: own.lengths[k]] for k in range(40)], own.ids)
    other = Dataset(data[0].corpus, changed)
    a, b = train(data, config), train((other, data[1]), config)
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-5)


def test_a_batch_without_a_label_is_passed_over(data):
    few = data[0].corpus.table["label"].where(data[0].corpus.table["dialogue_id"] == "d3", "")
    sparse = Dataset(replace(data[0].corpus, table=data[0].corpus.table.assign(label=few)), data[0].audio)
    run = train((sparse, data[1]), replace(CONFIG, batch_by="dialogue", batch_size=5, epochs=2))
    assert all(np.isfinite(row["train_loss"]) for row in run.history)
    assert all(torch.isfinite(v).all() for v in run.model.state_dict().values())


def test_precision_and_device_may_change_within_a_process(data):
    for precision in ("bf16", "no", "bf16"):
        run = train(data, replace(CONFIG, epochs=1, precision=precision))
        assert np.isfinite(run.history[0]["train_loss"])


# ---------------------------------------------------------------- mistakes


def test_the_test_split_is_sealed(data):
    corpus = data[1].corpus
    split = corpus.table["split"].where(corpus.table.index != "u45", "test")
    leaky = Dataset(corpus.with_splits(split), data[1].audio)
    for pair in ((data[0], leaky), (leaky, data[1])):
        with pytest.raises(MerLabError, match="1 test utterances .*'u45'.* were given to fit"):
            train(pair)


def test_nothing_to_learn_from(data):
    bare = Dataset(data[0].corpus.relabel(dict.fromkeys("abc"), "abc"), data[0].audio)
    with pytest.raises(MerLabError, match="no utterance of toy's training split has a label"):
        train((bare, data[1]))
    with pytest.raises(MerLabError, match="no utterance has a label"):
        train((data[0], Dataset(data[1].corpus.relabel(dict.fromkeys("abc"), "abc"), data[1].audio)))


def test_a_diverged_loss(data):
    with pytest.raises(MerLabError, match=r"the loss became (nan|inf) in epoch 1; lower the learning rate"):
        train(data, replace(CONFIG, lr=1e30))


@pytest.mark.parametrize(
    "setting",
    [{"monitor": "accuracy"}, {"batch_by": "turn"}, {"precision": "fp8"}, {"epochs": 0}, {"batch_size": 2.5},
     {"patience": -1}, {"lr": -1.0}, {"lr": float("nan")}, {"lr": "1e-3"}, {"class_weights": None}],
)  # fmt: skip
def test_settings_that_cannot_be(setting):
    (name,) = setting
    with pytest.raises(MerLabError, match=f"^{name} is .*, expected"):
        TrainConfig(**setting)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoints_that_are_none(data, tmp_path):
    run = tmp_path / "run"
    config = replace(CONFIG, epochs=1)
    train(data, config, folder=run)
    path = run / "last.safetensors"
    whole = path.read_bytes()
    bomb = tmp_path / "exploded"
    torch.save(Bomb(bomb), tmp_path / "zip")
    save_file({"w": torch.ones(2)}, tmp_path / "other")
    save_file({"w": torch.ones(2)}, tmp_path / "list", metadata={"mer_lab": "[1]"})
    hostile = {
        "empty": b"",
        "cut in the header": whole[:50],
        "cut in the numbers": whole[:-1],
        "longer": whole + b"\0",
        "pickle": pickle.dumps(Bomb(bomb)),
        **{name: (tmp_path / name).read_bytes() for name in ("zip", "other", "list")},
    }
    for name, content in hostile.items():
        path.write_bytes(content)
        for call in (lambda: train(data, config, folder=run), lambda: load_weights(run, build())):
            with pytest.raises(MerLabError, match="not a checkpoint of mer_lab, or is cut off; delete it"):
                call()
        assert not bomb.exists(), name
    path.write_bytes(whole)
    with pytest.raises(MerLabError, match="belongs to another model"):
        load_weights(run, build(7))
    with pytest.raises(MerLabError, match="there is no such checkpoint"):
        load_weights(tmp_path / "nowhere", build())


def test_tensors_round_trip(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "a": shared,
        "b": shared.T,
        "c": shared[1],
        "d": torch.tensor(3),
        "e": torch.ones(2).bfloat16(),
    }
    save_tensors(tmp_path / "t", tensors, {"ä": [1, None]})
    again, info = load_tensors(tmp_path / "t")
    assert info == {"ä": [1, None]} and all(torch.equal(again[k], v) for k, v in tensors.items())
    save_tensors(tmp_path / "t", {"a": torch.zeros(100)}, {})  # what was read does not hang on the file
    assert torch.equal(again["a"], shared)
