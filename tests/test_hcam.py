"""HCAM: its attention by hand, the contrastive loss by its formula, and stages that stay what they became."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mer_lab import training
from mer_lab.batches import Dataset
from mer_lab.checkpoints import load_tensors
from mer_lab.errors import MerLabError
from mer_lab.hierarchy import cached, embed, train_model
from mer_lab.losses import supervised_contrastive
from mer_lab.models import HCAM, HCAMConfig
from mer_lab.models.hcam import Context
from mer_lab.models.layers import Conversation, FrameEncoder, WordEncoder
from mer_lab.prediction import predict
from mer_lab.training import TrainConfig

SMALL = HCAMConfig(width=4, layers=1, heads=2, inner=6, hidden=8, reach=2)
CONFIG = TrainConfig(epochs=2, batch_size=8, lr=0.01, contrastive=0.2, batch_by="dialogue")
NAMES = ["I audio", "I text", "II audio", "II text", "III 1"]


@pytest.fixture(scope="module")
def data(sines) -> tuple[Dataset, Dataset]:
    return sines.select("train"), sines.select("validation")


def build(**changes) -> HCAM:
    return HCAM(FrameEncoder(3), WordEncoder(7, 4, drop=0.2), 2, replace(SMALL, **changes))


def train(data, folder=None, **changes):
    return train_model(lambda: build(**changes), *data, CONFIG, 0, folder, progress=False, cpu=True)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hcam")
    return train(data, folder), folder


# ---------------------------------------------------------------- attention over turns, by hand


def test_the_conversations_self_attention_is_its_sum_over_turns(data):
    torch.manual_seed(0)
    stage, batch = Context(2, SMALL).eval(), data[0].batch(np.array([4, 0, 5, 1, 2]))  # dialogues of 2 and 3
    u, conversation = torch.randn(5, 8), Conversation.of(batch)
    stage.requires_grad_(False)
    out = stage(u, conversation)
    for members in ([1, 3, 4], [0, 2]):  # the rows of each dialogue in the batch, turns in order
        alone = u[members][None]
        h = stage.gru(alone, torch.ones(1, len(members), dtype=torch.bool))[0]  # (turns, 8)
        q, k, v = (layer(h) for layer in (stage.attend.query, stage.attend.key, stage.attend.value))
        for t in range(len(members)):
            r = stage.distance.say(alone[0, t])  # a score for each distance from -2 to 2
            score = [float(q[t] @ k[s]) / math.sqrt(8) + 5 * float(r[s - t + 2]) for s in range(len(members))]
            weight = [math.exp(x) / sum(math.exp(y) for y in score) for x in score]
            seen = sum(w * v[s] for s, w in enumerate(weight))
            c = alone[0, t] + h[t] + stage.attend.out(seen)
            assert torch.allclose(out.embedding[members[t]], c, atol=1e-5)


def test_a_row_of_turns_sums_to_one_and_the_wrong_axis_does_not(data):
    torch.manual_seed(0)
    stage, conversation = Context(2, SMALL).eval(), Conversation.of(data[0].batch(np.arange(8)))
    right = stage(torch.randn(8, 8), conversation).attention["II turns"][:, 0]  # (dialogues, turns, turns)
    real = conversation.mask
    assert torch.allclose(right.sum(-1)[real], torch.ones(int(real.sum())), atol=1e-6)
    assert right.masked_select(~real[:, None].expand_as(right)).abs().max() == 0  # nobody looks at padding
    wrong = torch.randn(1, 4, 4).softmax(-2)  # over queries: public code's defect
    assert (wrong.sum(-1) - 1).abs().max() > 0.05


# ---------------------------------------------------------------- supervised contrastive loss


def by_the_formula(embedding, label, tau):
    z = [row / np.linalg.norm(row) for row in embedding]
    known = [i for i, y in enumerate(label) if y >= 0]
    anchors = []
    for i in known:
        positives = [p for p in known if p != i and label[p] == label[i]]
        if positives:
            below = sum(math.exp(z[i] @ z[a] / tau) for a in known if a != i)
            each = [math.log(math.exp(z[i] @ z[p] / tau) / below) for p in positives]
            anchors.append(-sum(each) / len(positives))
    return sum(anchors) / len(anchors) if anchors else 0.0


@pytest.mark.parametrize(
    "label",
    [[0, 1, 0, 1, 2, 1], [0, -1, 0, -1, 2, 1], [1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5], [-1] * 6],
    ids=["three classes", "unlabelled", "one class", "no positives", "no labels"],
)
def test_contrastive_loss_is_its_formula(label):
    embedding = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for tau in (0.1, 1.0):
        x = torch.tensor(embedding, requires_grad=True)
        loss = supervised_contrastive(x, torch.tensor(label), tau)
        assert math.isclose(loss.item(), by_the_formula(embedding, label, tau), rel_tol=1e-4, abs_tol=1e-6)
        loss.backward()
        assert x.grad.isfinite().all()
        assert x.grad[torch.tensor(label) < 0].abs().sum() == 0


# ---------------------------------------------------------------- stages


def stage_logits(model: HCAM, data: Dataset) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return {k: o.logits for k, o in model.stages(data.batch(np.arange(len(data)))).items()}


def test_the_cached_path_is_the_whole_system(run, data):
    """Stage by stage on cached vectors, and all stages from raw features: the same logits."""
    model, read = run[0].model, data[1]
    whole = stage_logits(model, read)
    for stage in model.parts():
        for part in stage:
            with torch.inference_mode():
                alone = part(read.batch(np.arange(len(read)))).logits
            assert torch.allclose(alone, whole[part.name.removesuffix(" 1")], atol=1e-5), part.name
        if len(stage) == 2:
            read = Dataset(read.corpus, **{p.channels[0]: cached(p, read) for p in stage})
    assert np.allclose(predict(model, data[1]), whole["III"].softmax(-1).numpy(), atol=1e-5)


def test_a_later_stage_changes_no_earlier_one(run):
    """Bit for bit what each stage's own training kept."""
    model, folder = run[0].model, run[1]
    for part in (part for stage in model.parts() for part in stage):
        state, _ = load_tensors(folder / f"stage-{part.name.replace(' ', '-')}" / "last.safetensors")
        best = {k.removeprefix("best."): v for k, v in state.items() if k.startswith("best.")}
        assert best.keys() == part.state_dict().keys()
        assert all(torch.equal(v, best[k]) for k, v in part.state_dict().items()), part.name


def test_history_tells_the_stages_apart(run):
    rows = run[0].history
    assert list(dict.fromkeys(row["stage"] for row in rows)) == NAMES
    assert all([row["epoch"] for row in rows if row["stage"] == name] == [1, 2] for name in NAMES)
    assert run[0].best_epoch in (1, 2) and run[0].seconds >= sum(row["seconds"] for row in rows)
    assert not run[0].model.training


@pytest.mark.parametrize("steps", [3, 7])
def test_a_killed_run_resumes_at_its_stage(run, data, tmp_path, monkeypatch, steps):
    epoch, count = training._epoch, []

    def mortal(*args):
        count.append(1)
        if len(count) > steps:
            raise KeyboardInterrupt
        return epoch(*args)

    monkeypatch.setattr(training, "_epoch", mortal)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path)
    assert len(list(tmp_path.iterdir())) == -(-steps // 2)
    monkeypatch.setattr(training, "_epoch", lambda *args: count.append(1) or epoch(*args))
    count.clear()
    again = train(data, tmp_path)
    assert len(count) == 10 - steps  # five parts of two epochs; none is trained twice
    expected = run[0].model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.model.state_dict().items())


def test_every_stage_refuses_the_test_split(sines, data):
    with pytest.raises(MerLabError, match="test utterances"):
        train((sines, data[1]))


def test_dialogues_do_not_leak_into_each_other(run, data):
    """Another dialogue in the batch may say what it likes."""
    model, batch = run[0].model, data[0].batch(np.arange(9))
    with torch.inference_mode():
        before = {k: o.logits for k, o in model.stages(batch).items()}
        audio = batch.audio.clone()
        audio[6:] += 3.0 * batch.audio_mask[6:, :, None]
        after = {k: o.logits for k, o in model.stages(replace(batch, audio=audio)).items()}
    for name in before:
        assert torch.equal(before[name][:6], after[name][:6]), name
    assert not torch.allclose(before["III"][6:], after["III"][6:])
    turn = batch.audio.clone()
    turn[4] += 3.0 * batch.audio_mask[4, :, None]
    with torch.inference_mode():
        heard = model.stages(replace(batch, audio=turn))
    assert torch.equal(before["I audio"][3], heard["I audio"].logits[3])  # stage I hears one utterance
    assert not torch.equal(before["II audio"][3], heard["II audio"].logits[3])  # stage II its dialogue


def test_in_one_piece_is_one_stage_and_first_classifiers_do_not_learn(data):
    run = train(data, stagewise=False)
    assert all("stage" not in row for row in run.history) and len(run.history) == 2
    frozen = {name.removesuffix(".weight") for name, p in run.model.named_parameters() if not p.requires_grad}
    assert {f"{s}.classify" for s in ("hear", "read", "hear_on", "read_on")} <= frozen and len(frozen) == 8


def test_an_ensemble_averages_probabilities(data):
    run = train(data, ensemble=2)
    assert list(dict.fromkeys(row["stage"] for row in run.history)) == [*NAMES, "III 2"]
    model, read = run.model, data[1]
    for stage in model.parts()[:2]:
        read = Dataset(read.corpus, **{p.channels[0]: cached(p, read) for p in stage})
    members = [predict(part, read) for part in model.parts()[2]]
    assert not np.allclose(*members, atol=1e-3)
    assert np.allclose(predict(model, data[1]), np.mean(members, axis=0), atol=1e-5)
    output = model(data[1].batch(np.arange(6)), need_attention=True)
    assert output.attention["III text to audio 1"].shape == (2, 4, 3, 3)  # the members' heads side by side
    assert embed(model, data[1]).shape == (len(data[1]), 16)
