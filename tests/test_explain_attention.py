"""Attention as an explanation: rollout, what each system's maps give, and maps that are replaced."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_systems import AUDIO, CLASSES, SMALL, WORDS, made_up, small

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.explain.attention import attention_relevance, maps_of, rollout
from mer_lab.explain.question import Question
from mer_lab.explain.replacement import replaced, without_attention
from mer_lab.models import SYSTEMS, System
from mer_lab.models.layers import ConvEncoder, Conversation, FrameEncoder, WordEncoder
from mer_lab.ragged import Ragged

ROWS = np.array([9, 4, 1, 13])  # the last but one turn of six, a dialogue of one turn, and two more
STRIDED = [name for name, (_, config) in SYSTEMS.items() if hasattr(config, "stride")]


def sharp(name: str, times: float = 6, **change) -> System:
    """A small system whose attention is far from uniform."""
    system, config = SYSTEMS[name]
    fewer = {k: v for k, v in SMALL.items() if getattr(config, k, 0)}
    torch.manual_seed(1)
    model = system(FrameEncoder(AUDIO), WordEncoder(WORDS, 6), CLASSES, replace(config, **fewer | change))
    with torch.no_grad():
        for part, p in model.named_parameters():
            if any(key in part for key in ("query", "key", "pool", "align", ".W.")) and p.dim() > 1:
                p.mul_(times)
    return model.eval()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made_up()


def sizes(question: Question, b: int) -> tuple[int, int]:
    """Frames and words of the utterance that is asked about."""
    place = int(question.place[b])
    return tuple(int(mask[b, place].sum()) for mask in question.masks)


def maps_in(model: System, data: Dataset, rows) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(data.batch(np.atleast_1d(rows)), need_attention=True).attention


def random_maps(layers: int, mask: torch.Tensor, heads: int = 2) -> list[torch.Tensor]:
    """As layers give them: keys are masked and queries are not."""
    T = mask.shape[1]
    draw = (torch.rand(len(mask), heads, T, T) * mask[:, None, None] for _ in range(layers))
    return [x / x.sum(-1, keepdim=True) for x in draw]


def test_rollout_by_hand():
    low = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]])  # mean [[1, 0], [.5, .5]]
    high = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]).expand(1, 2, 2, 2)
    assert torch.allclose(rollout([low, high]), torch.tensor([[[0.625, 0.375], [0.625, 0.375]]]))
    assert torch.allclose(rollout([low, high], skip=0.0), torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]))
    assert torch.equal(rollout([low, high], skip=1.0), torch.eye(2)[None])


@settings(max_examples=15, deadline=None)
@given(skip=st.floats(0, 1), layers=st.integers(1, 4), length=st.integers(1, 6))
def test_looking_at_oneself_is_to_stay_oneself(skip, layers, length):
    own = torch.eye(length).expand(2, 3, length, length)
    assert torch.allclose(rollout([own] * layers, skip), torch.eye(length).expand(2, -1, -1), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), layers=st.integers(1, 3), told=st.booleans())
def test_rollout_does_not_see_padding(seed, layers, told):
    torch.manual_seed(seed)
    mask = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    maps = random_maps(layers, mask)
    rolled = rollout(maps, mask=mask if told else None)
    assert torch.allclose(rolled.sum(-1), mask.float(), atol=1e-6)
    for u, length in enumerate((6, 4, 1)):
        alone = rollout([m[u : u + 1, :, :length, :length] for m in maps])
        assert torch.allclose(rolled[u, :length, :length], alone[0], atol=1e-6)


def test_a_step_that_looks_nowhere_stays_itself():
    assert torch.equal(rollout([torch.zeros(1, 2, 3, 3)], mask=torch.ones(1, 3).bool()), torch.eye(3)[None])


def test_what_rollout_refuses():
    square = torch.eye(3).expand(1, 1, 3, 3)
    for maps in ([], [square[0]], [square[:, :, :2]], [square, square[..., :2, :2]]):
        with pytest.raises(MerLabError, match="same T"):
            rollout(maps)
    with pytest.raises(MerLabError, match=r"skip is 1\.5"):
        rollout([square], skip=1.5)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("stride", [1, 3])
def test_each_channel_sums_to_one_without_padding_or_company(name, stride, data):
    if stride > 1 and name not in STRIDED:
        pytest.skip("reads every frame")
    model = sharp(name, **({"stride": stride} if name in STRIDED else {}))
    question = Question(model, data, ROWS)
    given_ = attention_relevance(question)
    assert given_.method == "attention" and not given_.complete
    assert np.isfinite(given_.output).all() and np.isfinite(given_.reference).all()
    for values, mask in zip((given_.audio, given_.text), question.masks, strict=True):
        assert values.shape == tuple(mask.shape) and (values >= 0).all()
        assert (values[~mask.numpy()] == 0).all()
        assert np.allclose(values.sum((1, 2)), 1, atol=1e-5)
    for b, row in enumerate(ROWS):
        alone = attention_relevance(Question(model, data, [row]))
        for many, one in ((given_.audio, alone.audio), (given_.text, alone.text)):
            assert np.allclose(many[b, : one.shape[1], : one.shape[2]], one[0], atol=1e-5)


@pytest.mark.parametrize("name", ["early", "xu2019-delta", "bc-lstm", "hcam"])
def test_averaged_frames_share_their_step_equally(name, data):
    given_ = attention_relevance(Question(sharp(name, stride=3), data, [8], alone=True))
    frames = given_.own_audio[0]
    assert len(frames) > 3 and frames.std() > 0
    for start in range(0, len(frames), 3):
        assert np.ptp(frames[start : start + 3]) < 1e-6


def test_a_last_step_of_fewer_frames_keeps_its_weight(data):
    model = sharp("early", stride=3)
    rows = [row for row in range(14) if len(data.audio[row]) % 3 and len(data.audio[row]) > 3]
    given_ = attention_relevance(Question(model, data, rows))
    for b, row in enumerate(rows):
        frames = given_.own_audio[b, : len(data.audio[row])]
        steps = np.add.reduceat(frames, np.arange(0, len(frames), 3))
        assert np.allclose(steps, maps_in(model, data, row)["audio pooling"][0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["early", "cm-roberta"])
def test_behind_an_encoder_that_shortens_frames_keep_their_places(name, data):
    system, config = SYSTEMS[name]
    encoder = ConvEncoder(AUDIO, (6, 6), (2, 2), dropout=0.0)
    torch.manual_seed(1)
    model = system(encoder, WordEncoder(WORDS, 6), CLASSES, replace(config, stride=1, width=8)).eval()
    question = Question(model, data, ROWS)
    given_ = attention_relevance(question)
    assert given_.audio.shape == tuple(question.masks[0].shape)
    assert np.allclose(given_.audio.sum((1, 2)), 1, atol=1e-5)
    frames = given_.own_audio[0][: sizes(question, 0)[0]]
    steps = maps_of(question, 0)["audio pooling"].shape[1]
    assert len(np.unique(frames.round(6))) == steps == -(-len(frames) // 4)


@pytest.mark.parametrize("channel", ["audio", "text"])
def test_an_absent_channel_gets_all_of_it_in_its_only_step(channel, data):
    question = Question(sharp("krishna2021"), data.without(channel), ROWS)
    given_ = attention_relevance(question)
    for values in (given_.audio, given_.text):
        assert np.allclose(values.sum((1, 2)), 1, atol=1e-5)
    absent = given_.own_audio if channel == "audio" else given_.own_text
    real = question.masks[0 if channel == "audio" else 1].numpy()[:, 0]
    assert np.allclose(absent, real / real.sum(1, keepdims=True), atol=1e-5)


def test_pooling_and_alignment_are_multiplied(data):
    early = maps_in(sharp("early", stride=1), data, 9)
    given_ = attention_relevance(Question(sharp("early", stride=1), data, [9]))
    assert np.allclose(given_.own_audio[0], early["audio pooling"][0, 0, 0], atol=1e-6)
    assert np.allclose(given_.own_text[0], early["text pooling"][0, 0, 0], atol=1e-6)

    maps = maps_in(sharp("xu2019-delta"), data, 9)
    given_ = attention_relevance(Question(sharp("xu2019-delta"), data, [9]))
    pooled = maps["pooling"][0, 0, 0]
    assert np.allclose(given_.own_text[0], pooled, atol=1e-6)
    assert np.allclose(given_.own_audio[0], pooled @ maps["alignment"][0].mean(0), atol=1e-6)

    maps = maps_in(sharp("xu2019"), data, 9)  # the maximum over words has no map: all words alike
    given_ = attention_relevance(Question(sharp("xu2019"), data, [9]))
    assert np.ptp(given_.own_text[0]) < 1e-6
    assert np.allclose(given_.own_audio[0], maps["alignment"][0, 0].mean(0), atol=1e-6)


def test_krishna_gives_a_channel_what_the_other_asks_of_it(data):
    for directions in ("both", "audio", "text"):
        model = sharp("krishna2021", directions=directions)
        maps, given_ = maps_in(model, data, 9), attention_relevance(Question(model, data, [9]))
        for own, query in ((given_.own_audio[0], "text"), (given_.own_text[0], "audio")):
            name = f"{query} to {'audio' if query == 'text' else 'text'}"
            asked = maps[name][0].mean((0, 1)).numpy() if name in maps else np.full(len(own), 1 / len(own))
            assert np.allclose(own, asked, atol=1e-6), (directions, name)
    nobody = attention_relevance(Question(sharp("krishna2021", attention=False), data, [9]))
    assert np.ptp(nobody.own_audio[0]) == np.ptp(nobody.own_text[0]) == 0


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_mult_by_hand(pool, data):
    model = sharp("mult", pool=pool, layers=2, self_layers=1)
    maps = {k: m[0].mean(0).double().numpy() for k, m in maps_in(model, data, 9).items()}
    given_ = attention_relevance(Question(model, data, [9]))
    found = {"audio": 0.0, "text": 0.0}
    for c, other in (("audio", "text"), ("text", "audio")):
        T = len(maps[f"{c} to itself 1"])
        top = np.eye(T)[-1] if pool == "last" else np.full(T, 1 / T)
        row = top @ (0.5 * np.eye(T) + 0.5 * maps[f"{c} to itself 1"])
        found[c] = found[c] + 0.25 * row
        found[other] = found[other] + 0.5 * row @ maps[f"{c} to {other} 2"]
        found[other] = found[other] + 0.25 * row @ maps[f"{c} to {other} 1"]
    assert np.allclose(given_.own_audio[0], found["audio"] / found["audio"].sum(), atol=1e-5)
    assert np.allclose(given_.own_text[0], found["text"] / found["text"].sum(), atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("core", ["parallel", "self", "cross", "serial"])
def test_cores_of_cm_roberta_by_hand(core, residual, data):
    model = sharp("cm-roberta", core=core, residual=residual, layers=1, context="none")
    maps = {k: m[0].mean(0).double().numpy() for k, m in maps_in(model, data, 9).items()}
    given_ = attention_relevance(Question(model, data, [9], alone=True))
    found, skip = {"audio": 0.0, "text": 0.0}, 0.5 * residual
    for c, other in (("audio", "text"), ("text", "audio")):
        top, eye = maps[f"{c} pooling"][0], np.eye(maps[f"{c} pooling"].shape[1])
        own, cross = maps.get(f"{c} self 1"), maps.get(f"{c} cross 1")
        if core == "parallel":
            mine, theirs = skip * eye + (1 - skip) / 2 * own, (1 - skip) / 2 * cross
        elif core == "self":
            mine, theirs = skip * eye + (1 - skip) * own, None
        elif core == "cross":
            mine, theirs = skip * eye, (1 - skip) * cross
        else:
            mine, theirs = skip * (skip * eye + (1 - skip) * own), (1 - skip) * cross
        found[c] = found[c] + top @ mine
        found[other] = found[other] + (0.0 if theirs is None else top @ theirs)
    assert np.allclose(given_.own_audio[0], found["audio"] / found["audio"].sum(), atol=1e-5)
    assert np.allclose(given_.own_text[0], found["text"] / found["text"].sum(), atol=1e-5)


def test_turns_get_the_asked_turns_row(data):
    rows = [5, 6, 7, 8, 9, 10]
    for name, skip in (("cm-roberta", 0.5), ("dialogue-rnn", 0.5)):
        model = sharp(name)
        shares = attention_relevance(Question(model, data, [8])).audio.sum(2)[0]
        row = maps_in(model, data, rows)["turns"][0].mean(0)[3].numpy()
        expected = (1 - skip) * row[: len(shares)] + skip * np.eye(len(shares))[3]
        assert np.allclose(shares, expected, atol=1e-5), name
    first = attention_relevance(Question(sharp("dialogue-rnn"), data, [5]))  # which has no past to look at
    assert np.allclose(first.turns[0, 0], 2, atol=1e-5)
    alone = attention_relevance(Question(sharp("bc-lstm"), data, [8])).turns[0]  # no map of turns
    assert np.allclose(alone, 2 * np.eye(6)[3], atol=1e-5)


def test_stages_of_hcam_by_hand(data):
    model = sharp("hcam", blocks=2)
    given_ = attention_relevance(Question(model, data, [8]))
    maps = {k: m[0].mean(0).numpy() for k, m in maps_in(model, data, [5, 6, 7, 8, 9, 10]).items()}

    def half(name):
        return 0.5 * np.eye(6) + 0.5 * maps[name]

    a = t = np.eye(6)[3]
    for k in (2, 1):
        a, t = a @ half(f"III audio to audio {k}"), t @ half(f"III text to text {k}")
        a, t = (
            0.5 * a + 0.5 * t @ maps[f"III text to audio {k}"],
            0.5 * t + 0.5 * a @ maps[f"III audio to text {k}"],
        )
    assert np.allclose(given_.audio.sum(2)[0], a @ half("II turns, audio"), atol=1e-5)
    assert np.allclose(given_.text.sum(2)[0], t @ half("II turns, text"), atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_maps_to_draw_have_real_steps_only(name, data):
    model = sharp(name, **({"stride": 2} if name in STRIDED else {}))
    question = Question(model, data, ROWS)
    stride = 2 if name in STRIDED else 1
    for b in range(len(ROWS)):
        frames, words = sizes(question, b)
        turns = int(question.real[b].sum())
        known = {-(-frames // stride), words, turns, 1}
        maps = maps_of(question, b)
        assert set(maps) == set(maps_in(model, data, ROWS))
        for key, drawn in maps.items():
            assert set(drawn.shape) <= known, key
            total = drawn.sum(1)
            past = name == "dialogue-rnn" and key == "turns"  # the first turn has no past to look at
            assert np.allclose(total[1:] if past else total, 1, atol=1e-5), key
            if "turns" in key or key.startswith("III"):
                assert drawn.shape == (turns, turns)
            elif "pooling" in key:
                length = -(-frames // stride) if "audio" in key else words
                assert drawn.shape == (1, length), key
    with pytest.raises(MerLabError, match="no utterance 4"):
        maps_of(question, 4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_uniform_is_uniform_over_real_keys(name, data):
    model, batch = sharp(name, times=2), data.batch(np.arange(14))  # no weight is as small as 0
    before = model(batch, need_attention=True)
    with replaced(model, "uniform"):
        other = model(batch, need_attention=True)
    for key, weights in other.attention.items():
        real = before.attention[key] > 0
        if key == "turns" and name == "dialogue-rnn":  # of every dialogue's turns those that are over
            mask = Conversation.of(batch).mask
            real = torch.ones(weights.shape).tril(-1).bool() & mask[:, None, :, None]
        count = real.sum(-1, keepdim=True)
        assert torch.allclose(weights, real / count.clamp(min=1), atol=1e-6), key
    assert not torch.allclose(other.logits, before.logits, atol=1e-6)
    after = model(batch, need_attention=True)
    assert torch.equal(after.logits, before.logits)
    assert all(torch.equal(after.attention[key], m) for key, m in before.attention.items())


@pytest.mark.parametrize("name", ["early", "xu2019", "krishna2021", "dialogue-rnn", "hcam"])
def test_shuffled_rows_keep_their_weights_among_real_keys(name, data):
    model, batch = sharp(name), data.batch(np.arange(14))
    before = model(batch, need_attention=True).attention
    with replaced(model, "shuffled", "within", seed=3):
        other = model(batch, need_attention=True).attention
    key = next(iter(before))  # lowest of all: what it reads has not changed
    own, drawn = before[key], other[key]
    assert torch.allclose(own.sort(-1)[0], drawn.sort(-1)[0], atol=1e-6)
    assert torch.equal(own > 0, drawn > 0)
    assert (own - drawn).abs().max() > 0.01
    with replaced(model, "shuffled", "within", seed=3):
        assert torch.equal(model(batch, need_attention=True).attention[key], drawn)
    with replaced(model, "shuffled", "within", seed=4):
        assert not torch.equal(model(batch, need_attention=True).attention[key], drawn)


@pytest.mark.parametrize("name", ["hcam", "dialogue-rnn", "cm-roberta"])
def test_maps_across_turns_are_told_from_those_within(name, data):
    model, batch = sharp(name), data.batch(np.arange(14))
    before = model(batch, need_attention=True).attention
    with replaced(model, maps="across"):
        other = model(batch, need_attention=True).attention
    for key, weights in before.items():
        across = "turns" in key or key.startswith("III")
        assert torch.equal(weights, other[key]) is not across, key


def test_after_an_error_all_is_as_before(data):
    model, batch = sharp("cm-roberta"), data.batch(np.arange(14))
    before = model(batch).logits
    with pytest.raises(ZeroDivisionError), replaced(model), replaced(model, "shuffled"):
        assert not torch.allclose(model(batch).logits, before, atol=1e-6)
        raise ZeroDivisionError
    broken = replace(batch, text=batch.text[..., :0])
    with pytest.raises(IndexError), replaced(model):
        model(broken)
    assert torch.equal(model(batch).logits, before)
    assert not any("forward" in module.__dict__ for module in model.modules())
    with replaced(sharp("cm-roberta")):  # another system's attention
        assert torch.equal(model(batch).logits, before)


@pytest.mark.parametrize("how", ["uniform", "shuffled"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_where_there_is_no_choice_nothing_changes(name, how, data):
    """One frame, one word, one turn."""
    single = {
        channel: Ragged.from_sequences([x[k][:1] for k in range(len(x))], data.corpus.ids)
        for channel, x in (("audio", data.audio), ("text", data.text))
    }
    model, batch = small(name), Dataset(data.corpus, **single).batch(np.array([0, 4, 9, 11]))
    before = model(batch).logits
    with replaced(model, how):
        assert torch.equal(model(batch).logits, before)


def test_the_trial_tells_moved_maps_from_uniform_ones(data):
    model = sharp("early")
    table = without_attention(model, data, seeds=2).set_index(["maps", "how"])
    assert list(table.index) == [("within", "uniform"), ("within", "shuffled")]
    assert (table["moved"] > 0.05).all() and (table["distance"] > 0).all()
    assert table["unchanged"].between(0, 1).all()
    with torch.no_grad():
        for pool in (model.pool_audio, model.pool_text):
            pool.v.weight.zero_()  # all steps score the same
    table = without_attention(model, data, seeds=2)
    assert np.allclose(table["moved"], 0, atol=1e-6) and np.allclose(table["distance"], 0, atol=1e-6)
    assert (table["unchanged"] == 1).all() and (table["accuracy"] == table["replaced"]).all()
    with torch.no_grad():
        logits = model(data.batch(np.arange(14))).logits
    assert np.allclose(table["accuracy"], np.mean(logits.argmax(1).numpy() == data.targets))


def test_how_far_maps_move_by_hand(data):
    """From uniform ones, utterance by utterance: rows with a choice, in the mean over maps of one kind."""
    model = sharp("dialogue-rnn")
    table = without_attention(model, data, seeds=1, by="utterance_id")
    table = table[table["how"] == "uniform"].set_index(["maps", "utterance_id"])["moved"]
    maps = maps_in(model, data, [5, 6, 7, 8, 9, 10])

    def far(row):
        row = row.numpy()
        return np.abs(row - 1 / len(row)).sum() / 2 if len(row) > 1 else np.nan

    for turn in range(6):
        sound, words = (len(x[5 + turn]) for x in (data.audio, data.text))
        steps = -(-sound // model.config.stride)
        heard, read = maps["audio pooling"][turn, 0, 0, :steps], maps["text pooling"][turn, 0, 0, :words]
        pooled = [far(heard), far(read)]
        within = np.nanmean(pooled) if max(steps, words) > 1 else np.nan
        across = far(maps["turns"][0, 0, turn, :turn])
        uid = f"d2_{turn}"
        assert np.isclose(table["within", uid], within, atol=1e-5, equal_nan=True)
        assert np.isclose(table["across", uid], across, atol=1e-5, equal_nan=True)


def test_maps_that_nothing_listens_to_explain_nothing(data):
    """They move far and no decision changes: the classifier reads the same from whatever was pooled."""
    model = sharp("early")
    with torch.no_grad():
        model.fuse.classify.weight.zero_()
    table = without_attention(model, data, seeds=1)
    assert (table["moved"] > 0.05).all()
    assert (table["unchanged"] == 1).all() and (table["distance"] == 0).all()


def test_the_trial_by_a_column_is_the_trial_of_its_parts(data):
    model = sharp("cm-roberta")
    whole, apart = without_attention(model, data, 1), without_attention(model, data, 1, by="speaker")
    assert len(apart) == 2 * len(whole) == 12
    assert set(apart["speaker"]) == {"s0", "s1"}
    share = {s: (data.corpus.table["speaker"] == s).mean() for s in ("s0", "s1")}
    for (maps, how), part in apart.groupby(["maps", "how"]):
        row = whole[(whole["maps"] == maps) & (whole["how"] == how)].iloc[0]
        for column in ("accuracy", "replaced", "unchanged", "distance"):
            assert np.isclose((part[column] * part["speaker"].map(share)).sum(), row[column], atol=1e-6)
    with pytest.raises(MerLabError, match="no column 'cue'"):
        without_attention(model, data, by="cue")


def test_kinds_of_maps_in_the_trial(data):
    def kinds(name):
        return list(dict.fromkeys(without_attention(small(name), data, seeds=1)["maps"]))

    assert kinds("cm-roberta") == ["within", "across", "all"]
    assert kinds("bc-lstm") == ["within"]


def test_what_cannot_be_replaced(data):
    with pytest.raises(MerLabError, match="'zero'; choose one of uniform"), replaced(small("early"), "zero"):
        pass
    with pytest.raises(MerLabError, match="'turns'; choose"), replaced(small("early"), maps="turns"):
        pass
    with pytest.raises(MerLabError, match="maps: across"), replaced(small("early"), maps="across"):
        pass
    with pytest.raises(MerLabError, match="no attention that could"):
        without_attention(sharp("krishna2021", attention=False), data)
