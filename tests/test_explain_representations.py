"""Stages do not see padding or company; probes read what is there, and no more; CKA; maps."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, r2_score

from mer_lab.batches import Dataset
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.errors import MerLabError
from mer_lab.explain import representations
from mer_lab.explain.representations import Examples, cka, cka_table, facts, map2d, probe, probe_all, stages
from mer_lab.models import SYSTEMS, CMRobertaConfig, DialogueRNNConfig, System
from mer_lab.models.layers import FrameEncoder, WordEncoder
from mer_lab.prediction import embed
from mer_lab.ragged import Ragged

AUDIO, WORDS, CLASSES = 5, 11, 3
SMALL = {"width": 6, "heads": 2, "project": 7, "layers": 2, "hidden": 6, "rank": 2, "dropout": 0.0}
OTHERS = {
    "dialogue-rnn in both directions": ("dialogue-rnn", DialogueRNNConfig(bidirectional=True)),
    "cm-roberta with a causal gru": ("cm-roberta", CMRobertaConfig(context="gru", causal=True)),
}
EVERY = (*SYSTEMS, *OTHERS)
rng = np.random.default_rng


def small(name: str, stride: int = 1) -> System:
    system, config = SYSTEMS[OTHERS[name][0] if name in OTHERS else name]
    config = OTHERS[name][1] if name in OTHERS else config
    fewer = {k: v for k, v in SMALL.items() if getattr(config, k, 0)}
    torch.manual_seed(1)
    config = replace(config, **fewer, stride=stride)
    return system(FrameEncoder(AUDIO), WordEncoder(WORDS, 6), CLASSES, config).eval()


def corpus_of(rows: list[dict]) -> Corpus:
    full = [dict.fromkeys(COLUMNS, "") | {"start": np.nan, "end": np.nan, "text": "x"} | row for row in rows]
    table = pd.DataFrame(full).set_index("utterance_id", drop=False)
    return Corpus(name="made up", labels=("a", "b", "c"), table=table)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Four dialogues whose turns are not in order, and utterances of as many frames as words among others."""
    random, rows, audio, text = rng(0), [], [], []
    for dialogue, turns in enumerate((4, 1, 6, 3)):
        for turn in reversed(range(turns)):
            row = {"utterance_id": f"d{dialogue}_{turn}", "dialogue_id": f"d{dialogue}", "turn": turn}
            rows.append(row | {"speaker": f"s{turn % 2}", "split": "train", "label": "abc"[turn % 3]})
            audio.append(random.normal(size=(random.integers(1, 9), AUDIO)).astype(np.float32))
            text.append(random.integers(1, WORDS, size=(random.integers(1, 9), 1)))
    corpus = corpus_of(rows)
    return Dataset(corpus, Ragged.from_sequences(audio, corpus.ids), Ragged.from_sequences(text, corpus.ids))


def some(data: Dataset, rows) -> Dataset:
    """The utterances in these rows, in this order."""
    table = data.corpus.table.iloc[rows]
    return Dataset(replace(data.corpus, table=table), data.audio, data.text)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_order_company_and_padding_change_no_stage(name, stride, data, monkeypatch):
    model = small(name, stride)
    whole = stages(model, data)
    assert list(whole)[:2] == ["audio input", "text input"] and list(whole)[-1] == "fused"
    assert len(whole) >= 4
    assert all(v.shape[0] == len(data) and v.dtype == np.float32 for v in whole.values())
    order = rng(1).permutation(len(data))
    monkeypatch.setattr(representations, "at_once", lambda model: 2)  # dialogues, or pairs, by themselves
    for name, vectors in stages(model, some(data, order)).items():
        np.testing.assert_allclose(vectors, whole[name][order], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", EVERY)
def test_a_stride_and_a_turned_dialogue_cost_no_stage_and_add_none(name, data):
    assert list(stages(small(name, 3), data)) == list(stages(small(name), data))
    assert "cells 2" not in stages(small(name), data)  # its turns are in the order in which it reads them


@pytest.mark.parametrize("name", EVERY)
def test_the_last_stage_is_what_the_classifier_sees_and_the_first_what_encoders_give(name, data):
    model = small(name)
    found = stages(model, data)
    np.testing.assert_allclose(found["fused"], embed(model, data), atol=1e-5)
    frames = np.stack([x.mean(0) for x in (data.audio[k] for k in range(len(data)))])
    vector = model.text.embedding.weight.detach().numpy()
    words = np.stack([vector[x[:, 0]].mean(0) for x in (data.text[k] for k in range(len(data)))])
    np.testing.assert_allclose(found["audio input"], frames, atol=1e-5)
    np.testing.assert_allclose(found["text input"], words, atol=1e-5)
    assert not any(handle for m in model.modules() for handle in m._forward_hooks)


@pytest.mark.parametrize("name", EVERY)
def test_what_only_hears_does_not_read_and_the_other_way_round(name, data):
    """A stage whose mask were that of the other channel would change with the other channel's length."""
    model, order = small(name), np.roll(np.arange(len(data)), 5)
    whole = stages(model, data)
    for channel, own in (("text", ("hear", "project audio")), ("audio", ("read", "project text"))):
        both = {"audio": data.audio, "text": data.text}
        both[channel] = both[channel].exchanged(order)
        changed = stages(model, Dataset(data.corpus, **both))
        for stage, vectors in whole.items():
            if stage.startswith(own):
                np.testing.assert_allclose(changed[stage], vectors, atol=1e-5, err_msg=stage)
        assert np.abs(changed["fused"] - whole["fused"]).max() > 1e-4
        assert np.abs(changed[f"{channel} input"] - whole[f"{channel} input"]).max() > 1e-3


def test_alignment_is_averaged_over_words_even_where_frames_are_as_many(data):
    """Words of one kind each take the same sound, so the mean over words is that of any single word."""
    model = small("xu2019")
    lengths = np.array([len(data.text[k]) for k in range(len(data))])
    frames = [np.ones((9, AUDIO), np.float32)] * len(data)  # as long as the longest text may be
    frames = [f[: lengths.max()] for f in frames]
    same = Dataset(data.corpus, Ragged.from_sequences(frames, data.corpus.ids), data.text)
    kept = []
    handle = model.align.register_forward_hook(lambda module, given, output: kept.append(output[0]))
    found = stages(model, same)["align"]
    handle.remove()
    order = np.concatenate([b.index.numpy() for b in same.batches(128)])
    for row, vectors in zip(order, kept[0].detach().numpy(), strict=True):
        np.testing.assert_allclose(found[row], vectors[: lengths[row]].mean(0), atol=1e-5)


def test_an_absent_channel_is_zero_where_it_enters(data):
    found = stages(small("early"), data.without("audio"))
    assert not found["audio input"].any() and found["text input"].any()


def test_names_say_what_the_code_says(data):
    assert list(stages(small("xu2019"), data)) == [
        "audio input", "text input", "hear", "read", "align", "fuse", "fused"
    ]  # fmt: skip
    assert {"cross audio 1", "cross audio 2", "project text"} <= set(stages(small("mult"), data))
    with pytest.raises(MerLabError, match="no utterances"):
        stages(small("early"), some(data, []))


def planted(count: int = 240, width: int = 6, seed: int = 0):
    """Vectors, of which the first column decides three classes, and dialogues of six utterances."""
    x = rng(seed).normal(size=(count, width))
    y = np.array(["low", "middle", "top"])[np.digitize(x[:, 0], [-0.5, 0.5])]
    return x, y, np.arange(count) // 6


def test_a_probe_reads_what_is_there_and_nothing_from_noise():
    (x, y, d), (v, t, e) = planted(), planted(120, seed=1)
    found = probe(Examples(x, y, d), Examples(v, t, e))
    assert found.score > 0.85 and found.low <= found.score <= found.high
    assert found.chance == pytest.approx(1 / 3) and found.utterances == 120
    assert abs(found.control - 1 / 3) < 0.15 and found.selectivity == found.score - found.control
    noise = probe(Examples(rng(2).normal(size=x.shape), y, d), Examples(rng(3).normal(size=v.shape), t, e))
    assert abs(noise.score - noise.chance) < 0.12 and abs(noise.control - noise.chance) < 0.12
    assert probe(Examples(x, y, d), Examples(v, t, e)) == found


def test_a_probe_of_numbers_is_r2_and_does_not_depend_on_units():
    (x, _, d), (v, _, e) = planted(), planted(120, seed=1)
    found = probe(Examples(x, x @ np.arange(6.0), d), Examples(v, v @ np.arange(6.0), e))
    assert found.score > 0.99 and found.chance == 0 and found.control < 0.2
    scale, sums = np.array([1, 10, 0.1, 3, 5, 1e3]), (4 * (x @ np.arange(6.0)), 4 * (v @ np.arange(6.0)))
    other = probe(Examples(x * scale + 7, sums[0], d), Examples(v * scale + 7, sums[1], e))
    assert other.score == pytest.approx(found.score, abs=1e-6)
    nothing = probe(Examples(x, rng(2).normal(size=240), d), Examples(v, rng(3).normal(size=120), e))
    assert nothing.score < 0.1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_are_those_of_scikit_learn(seed):
    y, read = np.r_[0, 1, 2, rng(seed).integers(0, 3, 30)], rng(seed + 1).integers(0, 3, 33)
    assert representations._recall(y, read) == pytest.approx(balanced_accuracy_score(y, read))
    a, b = rng(seed).normal(size=(2, 30))
    assert representations._r2(a, b) == pytest.approx(r2_score(a, b))


def test_the_test_utterances_are_never_learnt():
    """Other test targets change the score, and no prediction."""
    (x, y, d), (v, t, e) = planted(), planted(120, seed=1)
    right = probe(Examples(x, y, d), Examples(v, t, e)).score
    swapped = {"low": "top", "top": "low", "middle": "middle"}
    wrong = probe(Examples(x, y, d), Examples(v, np.array([swapped[c] for c in t]), e)).score
    assert wrong < 0.5 < right


def test_within_a_set_a_dialogue_is_not_known_by_heart():
    """Vectors that say which dialogue it is help only on that dialogue, which is never on both sides."""
    d = np.repeat(np.arange(40), 6)
    y = np.array(["x", "y"])[rng(0).permutation(40) % 2][d]
    found = probe(Examples(np.eye(40)[d] + 0.01 * rng(1).normal(size=(240, 40)), y, d))
    assert found.score < 0.7
    x = np.where(y == "x", 1.0, -1.0)[:, None] + rng(2).normal(size=(240, 3))
    assert probe(Examples(x, y, d)).score > 0.85
    assert probe(Examples(x, y, d)).utterances == 240


def test_the_control_task_is_learnt_where_types_can_be_told_apart():
    """Vectors that name the sentence: the control task is solved, and the probe gets no credit for it."""
    kind = rng(0).integers(0, 12, 360)
    x, d = np.eye(12)[kind] + 0.01 * rng(1).normal(size=(360, 12)), np.arange(360) // 6
    y = np.array(["x", "y", "z"])[kind % 3]
    a, b = slice(0, 240), slice(240, None)
    known = probe(Examples(x[a], y[a], d[a], kind[a]), Examples(x[b], y[b], d[b], kind[b]))
    assert known.score > 0.95 and known.control > 0.95
    unknown = probe(Examples(x[a], y[a], d[a]), Examples(x[b], y[b], d[b]))
    assert unknown.score > 0.95 and unknown.control < 0.6


def test_the_interval_draws_dialogues():
    """Six copies of each utterance say no more than one: the interval stays as wide."""
    (x, y, d), (v, t, _) = planted(), planted(60, seed=1)
    x = x + rng(4).normal(size=x.shape)
    v = v + rng(5).normal(size=v.shape)
    one = probe(Examples(x, y, d), Examples(v, t))
    six = np.repeat(np.arange(60), 6)
    many, loose = (probe(Examples(x, y, d), Examples(v[six], t[six], e)) for e in (six, None))
    assert many.score == pytest.approx(one.score)
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.2)
    assert loose.high - loose.low < 0.6 * (one.high - one.low)


def test_mistakes_are_told():
    x, y, d = planted()
    for given_, message in (
        (Examples(x, y[:-1], d), "expected U of each"),
        (Examples(x[:, 0], y, d), "expected U of each"),
        (Examples(x, np.where(x[:, 0] > 0, x[:, 0], np.nan), d), "targets that vary"),
        (Examples(x, np.full(240, "a"), d), "targets that vary"),
        (Examples(x, y, np.arange(240) % 3), "at least 4"),
    ):
        with pytest.raises(MerLabError, match=message):
            probe(given_)


def spoken() -> dict[str, Dataset]:
    """Two splits of twelve dialogues: the pitch is the first column, and words tell the meaning."""
    parts, meta = {}, {"columns": ["pitch", "voiced", "x", "y", "z"]}
    for seed, split in enumerate(("train", "test")):
        random, rows, audio, text = rng(seed), [], [], []
        for k in range(72):
            dialogue, turn = divmod(k, 6)
            word = int(random.integers(3))
            cue, means = ("lexical", "abc"[word]) if k % 3 else ("accent", "mixed")
            row = {"utterance_id": f"{split}{k}", "dialogue_id": f"{split}{dialogue}", "turn": turn}
            row |= {"speaker": f"{split}{turn % 2}", "split": split, "label": "abc"[word], "text": str(k)}
            rows.append(row | {"cue": cue, "emotion": "abc"[word], "words_mean": means})
            pitch = random.normal() + 8 * (turn % 2)
            frames = np.zeros((5, AUDIO), np.float32)
            frames[:, 0], frames[:3, 1], frames[3:, 0] = pitch, 1, 50
            audio.append(frames)
            text.append(np.array([[2], [3 + word]]))
        corpus = corpus_of(rows)
        heard = Ragged.from_sequences(audio, corpus.ids, meta)
        parts[split] = Dataset(corpus, heard, Ragged.from_sequences(text, corpus.ids))
    return parts


def test_facts_and_what_is_read_of_them_at_the_entrance():
    data = spoken()
    known = facts(data["test"])
    assert list(known) == ["emotion", "speaker", "pitch", "word", "stressed"]
    pitch = [data["test"].audio[k][0, 0] for k in range(72)]  # the unvoiced frames, 50, do not count
    np.testing.assert_allclose(known["pitch"], pitch, rtol=1e-6)
    accent = (data["test"].corpus.table["cue"] == "accent").to_numpy()
    assert known["word"].notna().to_numpy().tolist() == (~accent).tolist()
    assert known["stressed"].notna().to_numpy().tolist() == accent.tolist()
    table = probe_all(small("early"), data).set_index(["stage", "what"])
    score, chance = table["score"], table["chance"]
    assert score["audio input", "pitch"] > 0.95 and score["text input", "pitch"] < 0.3
    assert score["audio input", "speaker"] > 0.95 and score["text input", "speaker"] < 0.75
    assert score["text input", "word"] > 0.95 and score["audio input", "word"] < 0.7
    assert score["text input", "emotion"] > 0.95 and chance["text input", "emotion"] == pytest.approx(1 / 3)
    assert table["utterances"]["fused", "word"] == 48 and table["utterances"]["fused", "stressed"] == 24
    assert (table["low"] <= table["high"]).all()
    with pytest.raises(MerLabError, match="train and test"):
        probe_all(small("early"), {"test": data["test"]})


def test_missing_labels_and_speakers_are_nothing_to_read(sines):
    known = facts(sines)
    assert list(known) == ["emotion", "speaker"]
    assert (known["emotion"].isna() == (sines.targets < 0)).all()


def orthogonal(width: int, seed: int) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(width, width)))[0]


@pytest.mark.parametrize("debiased", [True, False])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(12, 40), widths=st.tuples(*[st.integers(2, 30)] * 2))
def test_cka_does_not_see_turns_scales_and_shifts(debiased, seed, size, widths):
    x = rng(seed).normal(size=(size, widths[0])) * rng(seed + 1).uniform(0.2, 3, widths[0])
    y = rng(seed + 2).normal(size=(size, widths[1])) + x[:, :1]
    value = cka(x, y, debiased)
    turn, other = orthogonal(widths[0], seed), orthogonal(widths[1], seed)
    turned = cka(3.7 * x @ turn + 5, 0.2 * y @ other - 1, debiased)
    assert turned == pytest.approx(value, abs=1e-8)
    assert cka(x, x, debiased) == pytest.approx(1) and cka(y, x, debiased) == pytest.approx(value)
    order = rng(seed).permutation(size)
    assert cka(x[order], y[order], debiased) == pytest.approx(value, abs=1e-9)
    assert value < 1 + 1e-9 or debiased
    stretched = x * np.r_[30.0, np.ones(widths[0] - 1)]
    assert abs(cka(x, stretched, False) - 1) > 1e-3  # not a general linear map


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(5, 20))
def test_cka_is_that_of_kernels(seed, size):
    """The published form with ``(U, U)`` kernels, and the U-centred inner product of Song's estimator."""
    x, y = rng(seed).normal(size=(size, 4)) + 3, rng(seed + 1).normal(size=(size, 7))
    K, L, H = x @ x.T, y @ y.T, np.eye(size) - 1 / size
    hsic = lambda a, b: np.trace(H @ a @ H @ b)  # noqa: E731
    assert cka(x, y, False) == pytest.approx(hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)))

    def unbiased(a, b):
        a, b, n, one = a - np.diag(np.diag(a)), b - np.diag(np.diag(b)), size, np.ones(size)
        sums = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ a @ b @ one)
        return (np.trace(a @ b) + sums) / (n * (n - 3))

    expected = unbiased(K, L) / np.sqrt(unbiased(K, K) * unbiased(L, L))
    assert cka(x, y) == pytest.approx(expected, abs=1e-8)


def test_noise_has_nothing_in_common_and_only_the_debiased_value_says_so():
    values = np.array([
        [cka(rng(k).normal(size=(60, 200)), rng(k + 99).normal(size=(60, 200)), b) for b in (True, False)]
        for k in range(20)
    ])  # fmt: skip
    assert abs(values[:, 0].mean()) < 0.02 and (values[:, 1] > 0.5).all()


def test_cka_of_stages(data):
    table = cka_table(stages(small("early"), data))
    assert list(table) == list(table.index) and np.allclose(table, table.T) and np.allclose(np.diag(table), 1)
    assert np.isnan(cka(np.ones((9, 2)), rng(0).normal(size=(9, 2))))
    with pytest.raises(MerLabError, match="same utterances"):
        cka(np.ones((9, 2)), np.ones((8, 2)))


def test_a_map_keeps_groups_is_the_same_every_time_and_says_how_far_to_trust_it():
    group = np.arange(90) % 3
    x = 3 * rng(3).normal(size=(3, 30))[group] + rng(0).normal(size=(90, 30))
    flat = np.c_[rng(1).normal(size=(90, 2)), np.zeros((90, 1))]
    found = map2d({"groups": x, "flat": flat, "noise": rng(2).normal(size=(90, 40))})
    again = map2d({"groups": x, "noise": rng(2).normal(size=(90, 40))})
    assert np.array_equal(found["groups"].points, again["groups"].points)
    assert np.array_equal(found["noise"].points, again["noise"].points)
    points = found["groups"].points
    assert points.shape == (90, 2)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.diag(np.full(90, np.inf))
    assert (group[distance.argmin(1)] == group).all()
    assert found["flat"].trustworthiness > 0.95 > found["noise"].trustworthiness + 0.1
    with pytest.raises(MerLabError, match="at least 10"):
        map2d({"few": x[:9]})
