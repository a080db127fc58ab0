"""What every system keeps: padding, order and company change no logit; rows sum to 1; gradients flow."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab.batches import Dataset
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.errors import MerLabError
from mer_lab.models import SYSTEMS, PooledFusion, System
from mer_lab.models.layers import FrameEncoder, WordEncoder
from mer_lab.ragged import Ragged

AUDIO, WORDS, CLASSES = 5, 11, 3
SMALL = {"width": 6, "heads": 2, "project": 7, "layers": 2, "hidden": 6, "rank": 2, "dropout": 0.0}


def small(name: str) -> System:
    """The system of a preset, with few dimensions and without dropout."""
    system, config = SYSTEMS[name]
    fewer = {k: v for k, v in SMALL.items() if getattr(config, k, 0)}
    torch.manual_seed(1)
    model = system(FrameEncoder(AUDIO), WordEncoder(WORDS, 6), CLASSES, replace(config, **fewer))
    return model.eval()


def made_up() -> Dataset:
    rng = np.random.default_rng(0)
    rows, audio, text = [], [], []
    for dialogue, turns in enumerate((4, 1, 6, 3)):
        for turn in range(turns):
            uid = f"d{dialogue}_{turn}"
            row = dict.fromkeys(COLUMNS, "") | {"utterance_id": uid, "dialogue_id": f"d{dialogue}"}
            row |= {"turn": turn, "speaker": f"s{turn % 2}", "split": "train", "label": "abc"[turn % 3]}
            rows.append(row | {"text": "x", "start": np.nan, "end": np.nan})
            audio.append(rng.normal(size=(rng.integers(1, 9), AUDIO)).astype(np.float32))
            text.append(rng.integers(1, WORDS, size=(rng.integers(1, 6), 1)))
    table = pd.DataFrame(rows).set_index("utterance_id", drop=False)
    corpus = Corpus(name="made up", labels=("a", "b", "c"), table=table)
    return Dataset(corpus, Ragged.from_sequences(audio, corpus.ids), Ragged.from_sequences(text, corpus.ids))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made_up()


def logits(model: System, data: Dataset, index) -> torch.Tensor:
    with torch.no_grad():
        return model(data.batch(np.array(index))).logits


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(14)))
def test_order_and_company_change_no_logit(name, data, order):
    model = small(name)
    whole = logits(model, data, range(14))
    assert torch.allclose(logits(model, data, order), whole[list(order)], atol=1e-5)
    dialogue = [4] if order[0] % 2 else [5, 6, 7, 8, 9, 10]  # alone, without what padded them
    assert torch.allclose(logits(model, data, dialogue), whole[dialogue], atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_padding_changes_no_logit(name, data):
    model, batch = small(name), data.batch(np.arange(14))
    whole = model(batch).logits
    for channel in ("audio", "text"):
        x, mask = batch.channel(channel)
        junk = torch.full_like(x[:, :3], 2 if channel == "text" else 7)
        longer = torch.cat([mask, torch.zeros_like(mask[:, :3])], 1)
        padded = {channel: torch.cat([x, junk], 1), f"{channel}_mask": longer}
        assert torch.allclose(model(replace(batch, **padded)).logits, whole, atol=1e-5), channel


@pytest.mark.parametrize("name", SYSTEMS)
def test_attention_rows_sum_to_one_over_real_keys_and_cost_no_logit(name, data):
    model, batch = small(name), data.batch(np.arange(14))
    plain, shown = model(batch), model(batch, need_attention=True)
    assert torch.equal(plain.logits, shown.logits)
    assert plain.attention == {}
    assert shown.embedding.shape[0] == 14
    for key, weights in shown.attention.items():
        assert weights.dim() == 4, key
        total = weights.sum(-1)
        assert ((total - 1).abs().lt(1e-5) | total.eq(0)).all(), key  # 0: a query that is padding
        assert total.eq(0).float().mean() < 0.9, key


@pytest.mark.parametrize("channel", ["audio", "text"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_of_an_absent_channel_nothing_is_left(name, channel, data):
    """What an absent channel would have said changes no logit; the other one still does."""
    model, other = small(name), "text" if channel == "audio" else "audio"
    without = logits(model, data.without(channel), range(14))
    order = np.roll(np.arange(14), 3)
    for swapped, matters in ((channel, False), (other, True)):
        channels = {"audio": data.audio, "text": data.text}
        channels[swapped] = channels[swapped].exchanged(order)
        changed = Dataset(data.corpus, **channels).without(channel)
        same = torch.allclose(logits(model, changed, range(14)), without, atol=1e-6)
        assert same is not matters, swapped
    assert not torch.allclose(without, logits(model, data, range(14)), atol=1e-4)


def test_absence_is_kept_by_a_split_and_told_by_name(data):
    assert data.without("audio").select("train").batch([3]).absent.tolist() == [[True, False]]
    assert data.without("audio").without("text").batch([3]).absent.tolist() == [[True, True]]
    assert data.batch([3]).absent is None
    with pytest.raises(MerLabError, match="no channel 'video'"):
        data.without("video")


@pytest.mark.parametrize("name", [n for n in SYSTEMS if hasattr(SYSTEMS[n][1], "stride")])
def test_a_stride_averages_frames_and_never_words(name, data):
    """Of utterances of one frame a stride leaves all as it is, however many words they have."""
    first = [sequence[:1] for sequence in data.audio]
    one = Dataset(data.corpus, Ragged.from_sequences(first, data.corpus.ids), data.text)
    model = small(name)
    system, config = type(model), replace(model.config, stride=4)
    strided = system(model.audio, model.text, CLASSES, config).eval()
    strided.load_state_dict(model.state_dict())
    assert torch.allclose(logits(strided, one, range(14)), logits(model, one, range(14)), atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_reach_every_parameter(name, data):
    model = small(name).train()
    batch = data.batch(np.arange(14))
    # a system of stages teaches each by its own classifier: the last one's loss would leave the others out
    outputs = model.stages(batch).values() if hasattr(model, "stages") else [model(batch)]
    sum(o.logits.square().sum() + o.embedding.square().sum() for o in outputs).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_saved_system_answers_the_same(name, data, tmp_path):
    model = small(name)
    model.about = {"labels": ["a", "b", "c"], "recipe": "name = 'x'\n", "validation": {"wa": 0.5}}
    model.save_pretrained(tmp_path / "saved")
    again = System.from_pretrained(tmp_path / "saved")
    assert type(again) is type(model) and again.config == model.config and again.about == model.about
    assert torch.equal(logits(again, data, range(14)), logits(model, data, range(14)))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "wa 0.500" in card and type(model).__name__ in card and "{{" not in card


def test_a_folder_without_a_system_is_one_sentence(tmp_path):
    with pytest.raises(MerLabError, match="neither a folder"):
        System.from_pretrained(tmp_path / "nothing" / "here")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MerLabError, match="describes no system"):
        System.from_pretrained(tmp_path)
    small("xu2019").save_pretrained(tmp_path)
    with pytest.raises(MerLabError, match="holds AlignmentAttention, not PooledFusion"):
        PooledFusion.from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(MerLabError, match="cut off"):
        System.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(MerLabError, match="no such checkpoint"):
        System.from_pretrained(tmp_path)


def test_a_card_is_renewed_with_its_system(tmp_path):
    model = small("xu2019")
    model.save_pretrained(tmp_path)
    assert "is not recorded" in (tmp_path / "README.md").read_text()
    model.about = {"labels": ["a"], "recipe": "", "validation": {"wa": 0.25}}
    model.save_pretrained(tmp_path)
    assert "wa 0.250" in (tmp_path / "README.md").read_text()
