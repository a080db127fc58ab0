"""The tests of explanations, tested: what is known to be right, wrong or random is judged so."""


import numpy as np
import pandas as pd
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from sklearn.metrics import average_precision_score
from test_explain import data, make_linear  # noqa: F401  (data is a fixture)
from test_systems import small

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.explain import Question, attribute, baseline, record
from mer_lab.explain.attribution import Attribution
from mer_lab.explain.faithfulness import (
    AVERAGED,
    Deleter,
    curve,
    deleter_of,
    faithfulness,
    first,
    infidelity,
    max_sensitivity,
    ranks,
)
from mer_lab.explain.judging import ASKED, choose, difference, judge, over_seeds, table
from mer_lab.explain.sanity import similarity, stability, with_random_labels, with_random_weights
from mer_lab.explain.truth import chance_precision, found, planted, right
from mer_lab.explain.units import units_of
from mer_lab.figures import ROOT, read_json
from mer_lab.models import PooledFusion
from mer_lab.models.layers import FrameEncoder, WordEncoder
from mer_lab.ragged import Ragged
from mer_lab.recipes import find_recipe
from mer_lab.statistics import mean_interval


@pytest.fixture
def question(data) -> Question:  # noqa: F811
    return Question(make_linear(data), data, range(14))


def test_deletion_goes_from_the_utterance_to_its_baseline(question):
    deleter, empty = deleter_of(question), baseline(question)
    values = deleter.units.sums(attribute(question))
    p = question.ask_probability(*question.inputs).numpy()
    nothing = question.ask_probability(*empty).numpy()
    for order in ("most", "random", "least"):
        out = curve(values, deleter, order, shares=(0.0, 0.4, 1.0))
        back = curve(values, deleter, order, shares=(0.0, 0.4, 1.0), insertion=True)
        assert np.allclose(out[:, 0], p, atol=1e-5) and np.allclose(out[:, 2], nothing, atol=1e-5)
        assert np.allclose(back[:, 0], nothing, atol=1e-5) and np.allclose(back[:, 2], p, atol=1e-5)
    words = curve(values, deleter, "most", "words", (1.0,))[:, 0]
    assert np.allclose(words, question.ask_probability(question.inputs[0], empty[1]).numpy(), atol=1e-5)
    with pytest.raises(MerLabError, match="no kind of unit 'frames'"):
        curve(values, deleter, of="frames")
    with pytest.raises(MerLabError, match="no order 'best'"):
        ranks(np.zeros((1, 2)), "best")


def test_on_a_linear_system_no_order_deletes_more_than_the_true_one(question):
    values, deleter = attribute(question), deleter_of(question)
    margins = {}
    for order in ("most", "least"):
        rank = [ranks(s, order) for s in deleter.units.sums(values)]
        counts = (deleter.units.words, deleter.units.spans)
        gone = [first(r, c, 0.4) for r, c in zip(rank, counts, strict=True)]
        margins[order] = deleter.ask(*gone, probability=False)
    for seed in range(5):
        rank = [ranks(s, "random", seed) for s in deleter.units.sums(values)]
        gone = [first(r, c, 0.4) for r, c in zip(rank, counts, strict=True)]
        drawn = deleter.ask(*gone, probability=False)
        assert (margins["most"] <= drawn + 1e-4).all() and (drawn <= margins["least"] + 1e-4).all()


def test_units_are_ranked_and_counted_by_hand():
    scores = np.array([[0.1, 0.5, -2.0, np.nan], [3.0, np.nan, np.nan, np.nan]])
    assert ranks(scores)[0].tolist() == [1, 0, 2, 3] and ranks(scores)[1, 0] == 0
    assert ranks(scores, "least")[0].tolist() == [1, 2, 0, 3]
    tied = [ranks(np.zeros((1, 4)), seed=k)[0, 0] for k in range(40)]
    assert set(tied) == {0, 1, 2, 3}  # no unit is first because it is written first
    gone = first(ranks(scores), np.array([3, 1]), 0.4)  # two of three, one of one
    assert gone.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert not first(ranks(scores), np.array([3, 1]), 0.0).any()


def test_comprehensiveness_and_sufficiency_are_means_of_the_curves(question):
    values, deleter = attribute(question), deleter_of(question)
    sums = deleter.units.sums(values)
    got = faithfulness(sums, deleter)
    p = question.ask_probability(*question.inputs).numpy()
    lost, kept = (curve(sums, deleter, "most", shares=AVERAGED, insertion=i) for i in (False, True))
    assert np.allclose(got.comprehensiveness, (p[:, None] - lost).mean(1), atol=1e-5)
    assert np.allclose(got.sufficiency, (p[:, None] - kept).mean(1), atol=1e-5)
    assert np.allclose(got.deletion, p - lost[:, AVERAGED.index(0.2)], atol=1e-5)


def test_infidelity_is_nothing_for_the_truth_and_all_for_its_opposite(question):
    deleter = deleter_of(question)
    truth = deleter.units.sums(attribute(question))
    assert np.nanmax(infidelity(truth, deleter)) < 1e-4
    assert np.nanmax(infidelity([7 * s for s in truth], deleter)) < 1e-4  # a factor is forgiven, a sign not
    assert np.nanmin(infidelity([-s for s in truth], deleter)) > 0.999
    noise = deleter.units.sums(attribute(question, "random"))
    assert 0.4 < np.nanmean(infidelity(noise, deleter, 60)) < 1
    flat = deleter_of(Question(constant(question.model), question.data, range(3)))
    assert np.isnan(infidelity([s[:3] for s in noise], flat)).all()  # nothing changes: nothing to predict


def constant(model):
    other = with_random_weights(model, 0)
    with torch.no_grad():
        other.hear.weight.zero_()
        other.read.weight.zero_()
    return other


def test_unscaled_infidelity_is_captums(question):
    """One deletion, repeated: our residual without the factor is what captum computes."""
    values, deleter = attribute(question, "gradient-x-input"), deleter_of(question)
    rng = np.random.default_rng(4)
    words, spans = units_of(question).sums(values)
    gone = [rng.random(s.shape) < 0.5 for s in (words, spans)]
    gone = [g & np.isfinite(s) for g, s in zip(gone, (words, spans), strict=True)]
    changed = deleter.ask(*gone, probability=False)
    phi = sum((np.nan_to_num(s) * g).sum(1) for s, g in zip((words, spans), gone, strict=True))
    ours = (phi - (values.output - changed)) ** 2
    keep = [np.take_along_axis(np.pad(g, ((0, 0), (0, 1))), np.where(u < 0, g.shape[1], u), 1)
            for g, u in ((gone[1], deleter.units.span), (gone[0], deleter.units.word))]  # fmt: skip
    masks = [torch.from_numpy(k)[:, None, :, None].float() for k in keep]

    def perturb(inputs, baselines):  # captum: the perturbations, and the perturbed inputs
        moved = tuple(m.repeat(len(x) // len(m), 1, 1, 1) * (x - b)
                      for m, x, b in zip(masks, inputs, baselines, strict=True))  # fmt: skip
        return moved, tuple(x - d for x, d in zip(inputs, moved, strict=True))

    empty = baseline(question)
    weights = _gradients(question)  # captum multiplies by the perturbation itself
    theirs = captum_infidelity(
        question, perturb, question.inputs, weights, empty, additional_forward_args=(question.example,),
        n_perturb_samples=1,
    )  # fmt: skip
    assert np.allclose(ours, theirs.detach().numpy(), atol=1e-4)


def _gradients(question: Question) -> tuple[torch.Tensor, ...]:
    inputs = tuple(x.clone().requires_grad_() for x in question.inputs)
    return torch.autograd.grad(question(*inputs, question.example).sum(), inputs)


def test_what_does_not_move_with_its_inputs_is_not_sensitive(question):
    for seed in (0, 1):  # the same draw again is steady, and worth nothing
        assert max_sensitivity(attribute(question, "random", seed=seed), seed=seed).max() < 1e-6
    near = max_sensitivity(attribute(question), radius=0.01)
    far = max_sensitivity(attribute(question), radius=0.5)
    assert 0 < near.mean() < far.mean()


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    model = small("hcam")
    before = {k: p.clone() for k, p in model.named_parameters()}
    other = with_random_weights(model, seed=1)
    for name, p in other.named_parameters():
        assert torch.equal(p.flatten().sort().values, before[name].flatten().sort().values), name
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    some = with_random_weights(model, share=0.25, seed=1)
    moved = [not torch.equal(p, before[k]) for k, p in some.named_parameters() if p.numel() > 4]
    assert not moved[0] and moved[-1] and 0.1 < np.mean(moved) < 0.4
    with pytest.raises(MerLabError, match="share is 2"):
        with_random_weights(model, 2)


def test_shuffled_labels_are_the_same_labels(data):  # noqa: F811
    other = with_random_labels(data, 1)
    assert sorted(other.targets) == sorted(data.targets) and (other.targets != data.targets).any()
    assert other.batch(np.arange(14)).label.tolist() == other.targets.tolist()


def test_similarity_is_spearmans_by_channel():
    words = np.array([[1.0, 2.0, 3.0, np.nan], [3.0, 1.0, 2.0, 0.0]])
    spans = np.array([[1.0, 2.0, np.nan, np.nan], [1.0, 2.0, 3.0, 4.0]])
    assert similarity((words, spans), (10 * words + 1, spans)).tolist() == [1.0, 1.0]
    assert similarity((words, spans), (-words, -spans)).tolist() == [-1.0, -1.0]
    expected = (pd.Series(words[1]).corr(pd.Series(spans[1]), method="spearman") + 1) / 2
    assert similarity((words, spans), (spans[:, ::1], spans))[1] == pytest.approx(expected)
    alike = np.ones_like(words)  # no order to agree with, in either channel
    assert np.isnan(similarity((alike, alike), (words, spans))).all()
    none = similarity((words[:, :2], spans[:, :2]), (words[:, :2], spans[:, :2]))
    assert np.isnan(none).all()  # two units have no order worth a number
    classes = [np.array([0, 0]), np.array([0, 1]), np.array([0, 1])]
    both = (words, spans)
    assert stability([both, both, (-words, -spans)], classes)[0] == pytest.approx(-1 / 3)
    assert stability([both, both], [np.array([0, 0]), np.array([1, 0])]).tolist()[1] == 1.0


def test_chance_of_average_precision_is_what_random_orders_get():
    rng = np.random.default_rng(0)
    for n, true in ((9, 1), (7, 3)):
        target = np.arange(n) < true
        drawn = [average_precision_score(target, rng.random(n)) for _ in range(1500)]
        assert chance_precision(n, true) == pytest.approx(np.mean(drawn), abs=0.03)


@pytest.fixture(scope="module")
def planted_question(staged_corpus) -> Question:
    """A system that knows nothing, on Staged utterances whose planted emotion is what is explained."""
    test = staged_corpus.select(split="test")
    rng = np.random.default_rng(0)
    seconds = (test.table["end"] - test.table["start"]).to_numpy(float)
    frames = [rng.normal(size=(max(1, round(s / 0.05)), 3)).astype(np.float32) for s in seconds]
    words = [rng.integers(2, 9, (max(1, len(t.replace(".", " .").split())), 1)) for t in test.table["text"]]
    audio = Ragged.from_sequences(frames, test.ids, {"name": "made up", "hop": 0.05})
    data = Dataset(test, audio, Ragged.from_sequences(words, test.ids))  # noqa: F811
    torch.manual_seed(0)
    model = PooledFusion(FrameEncoder(3), WordEncoder(9, 4), len(test.labels)).eval()
    rows = choose(data, 20)
    target = [test.labels.index(e) for e in test.table["emotion"].iloc[rows]]
    return Question(model, data, rows, target)


def made(question: Question, words: np.ndarray, spans: np.ndarray) -> Attribution:
    """An explanation that gives each unit the number it is told."""
    units = units_of(question)
    audio, text = (np.zeros(m.shape) for m in question.masks)
    for kept, unit, values in ((audio, units.span, spans), (text, units.word, words)):
        padded = np.pad(np.nan_to_num(values), ((0, 0), (0, 1)))
        kept[:, 0] = np.take_along_axis(padded, np.where(unit < 0, values.shape[1], unit), 1)
    zero = np.zeros(len(question))
    return Attribution("made", ("mean", "mask"), audio, text, zero, zero, question)


def test_the_planted_truth_is_found_by_whoever_knows_it(planted_question):
    question = planted_question
    units = units_of(question)
    truth = planted(question, units)
    shape = [(len(question), int(n.max())) for n in (units.words, units.spans)]
    best = [np.zeros(s) for s in shape]
    for b in range(len(question)):
        for kept, decides in zip(best, (truth.words, truth.spans), strict=True):
            if decides[b] is not None:
                kept[b, : len(decides[b])] = decides[b]
    assert right(question).all()
    knows = found(made(question, *best), units, truth)
    knows = knows[knows["of"] != "turns"]
    assert set(knows["cue"]) == {"lexical", "redundant", "incongruent", "accent"}
    assert (knows[["pointing", "precision", "auprc"]] == 1).all().all()
    wrong = found(made(question, *(-x for x in best)), units, truth)
    assert not wrong["pointing"].any()
    flat = found(made(question, *(np.ones_like(x) for x in best)), units, truth).query("of == 'words'")
    assert np.allclose(flat["pointing"], flat["chance"]) and np.allclose(flat["precision"], flat["chance"])
    rng, drawn = np.random.default_rng(0), []
    for _ in range(25):
        drawn.append(found(made(question, *(rng.random(s) for s in shape)), units, truth))
    drawn = pd.concat(drawn)
    for of in ("words", "spans"):
        part = drawn[drawn["of"] == of]
        assert part["pointing"].mean() == pytest.approx(part["chance"].mean(), abs=0.04), of
        assert part["auprc"].mean() == pytest.approx(part["auprc_chance"].mean(), abs=0.04), of


def test_the_planted_span_is_where_the_stressed_word_sounds(planted_question):
    question, truth = planted_question, planted(planted_question)
    corpus = question.data.corpus
    for b in np.flatnonzero([s is not None for s in truth.spans])[:10]:
        row = int(question.rows[b])
        assert corpus.table["cue"].iloc[row] == "accent"
        word = corpus.words[corpus.words["utterance_id"] == corpus.ids[row]].reset_index(drop=True)
        stressed = word.iloc[int(corpus.table["accent"].iloc[row])]
        at = np.flatnonzero(truth.spans[b]) * 0.1
        assert stressed["start"] - 0.15 < at.min() and at.max() < stressed["end"] + 0.1
        assert np.flatnonzero(truth.words[b]).tolist() == [int(corpus.table["accent"].iloc[row])]


def test_a_corpus_without_planted_truth_says_so(question):
    with pytest.raises(MerLabError, match="only Staged knows what decides"):
        planted(question)


def test_what_is_judged_ends_in_a_table_with_paired_differences(planted_question):
    question = planted_question
    methods = ("gradient-x-input", "random")
    judged = [
        judge(question.model, question.data, question.rows[::6], methods, seed, 4, False)
        for seed in range(2)
    ]
    rows = over_seeds(judged)
    shown = table(rows, 200)
    assert {"comprehensiveness", "random weights", "other seeds", "sensitivity"} <= set(shown["criterion"])
    assert ((shown["low"] <= shown["estimate"] + 1e-9) & (shown["estimate"] <= shown["high"] + 1e-9)).all()
    drawn = shown[(shown["method"] == "random") & (shown["criterion"] == "sensitivity")]
    assert drawn["estimate"].item() < 1e-6  # of the second seed too
    other = rows.assign(value=rows["value"] + 0.25 * (rows["method"] == "random"))
    shifted = [difference(r, "comprehensiveness", "random", methods[0], 200) for r in (rows, other)]
    assert np.allclose(np.array(shifted[1]) - np.array(shifted[0]), 0.25)
    gap = difference(rows, "infidelity", *methods, 200)
    means = shown[shown["criterion"] == "infidelity"].set_index("method")["estimate"]
    assert gap.estimate == pytest.approx(means[methods[0]] - means[methods[1]], abs=1e-9)


def test_the_interval_of_a_mean_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=(2, 30)) + 1, np.repeat(np.arange(10), 3)
    values[0, :4] = np.nan
    got = mean_interval(values, clusters, resample_seeds=False, n=1500)
    draws, plain = np.random.default_rng(1), []
    for _ in range(1500):
        kept = np.concatenate([np.flatnonzero(clusters == c) for c in draws.integers(0, 10, 10)])
        plain.append(np.mean([np.nanmean(row[kept]) for row in values]))
    assert got.estimate == pytest.approx(np.mean([np.nanmean(row) for row in values]))
    assert (got.low, got.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.05)
    wider = mean_interval(values + np.array([[0.0], [2.0]]), clusters, n=1500)
    assert wider.high - wider.low > got.high - got.low  # seeds that disagree


def test_deleting_leaves_the_context_alone(data):  # noqa: F811
    question = Question(make_linear(data, contextual=True), data, [7])
    deleter = Deleter(question, baseline(question))
    gone = [np.ones((1, int(n.max())), bool) for n in (deleter.units.words, deleter.units.spans)]
    held = baseline(question, others=False)
    assert np.allclose(deleter.ask(*gone, probability=False), question.ask(*held).numpy(), atol=1e-5)


def test_what_is_judged_is_kept_and_read_again(planted_question, tmp_path, monkeypatch):
    """A system and seed that is done is not done again; a file of something else is named."""
    question = planted_question
    one = judge(question.model, question.data, question.rows[::9], ("occlusion", "random"), 0, 0, False)
    record._write(tmp_path / "a.npz", one, {"device": "cpu"})
    again, made = record._read(tmp_path / "a.npz")
    pd.testing.assert_frame_equal(again.table, one.table, check_dtype=False, atol=1e-9)
    assert made == {"device": "cpu"} and np.array_equal(again.rows, one.rows)
    for method, sums in one.sums.items():
        assert all(np.allclose(a, b, equal_nan=True) for a, b in zip(again.sums[method], sums, strict=True))
    recipe = find_recipe("early")
    (tmp_path / "a.npz").rename(tmp_path / f"early-{recipe.hash}-v{record.VERSION}-0.npz")
    monkeypatch.setattr(record, "trained", None)  # nothing is asked of a system
    assert np.array_equal(record.judged(recipe, 0, tmp_path, tmp_path)[0].target, one.target)
    (tmp_path / f"early-{recipe.hash}-v{record.VERSION}-1.npz").write_bytes(b"half a file")
    with pytest.raises(MerLabError, match=r"early-.*-1\.npz is not what this mer_lab wrote"):
        record.judged(recipe, 1, tmp_path, tmp_path)


def test_the_record_is_of_the_recipes_as_they_stand():
    systems = read_json(ROOT / "results" / "explanations_staged.json")["systems"]
    assert set(systems) == set(record.SYSTEMS)
    for name, one in systems.items():
        assert one["recipe"] == find_recipe(name).hash, name
        assert one["seeds"] == 3
        shown = pd.DataFrame(one["table"])
        assert set(ASKED) <= set(shown["method"]) and (shown["low"] <= shown["high"]).all()
        means = shown.set_index(["method", "criterion"])["estimate"]
        for d in one["differences"]:
            a, b = (means.get((d[k], d["criterion"])) for k in "ab")
            assert d["estimate"] == pytest.approx(a - b, abs=2e-3), (name, d)
