"""The published table: every number follows from the recorded predictions, computed here another way."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from mer_lab.comparison import as_text, compare, on_front, truth_of
from mer_lab.corpora.meld import prepare_meld
from mer_lab.cost import costs, peak_memory
from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT
from mer_lab.grid import GRIDS, find_grid
from mer_lab.publish import plain, publish, published, summary, with_table
from mer_lab.recipes import recorded

STAGED = find_grid("staged")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return summary(STAGED)


@pytest.fixture(scope="module")
def staged() -> dict:
    return {recipe.name: recorded(recipe.name) for recipe in STAGED.recipes}


def weighted_f1(truth, predicted):
    return f1_score(truth, predicted, average="weighted", zero_division=0)


def check(frame: pd.DataFrame, results: dict, truth, control: dict) -> None:
    """Scores, gains, what each channel is worth and calibration, by sklearn and by hand."""
    known = truth.label >= 0
    label = truth.label[known]
    score = {"wa": accuracy_score, "weighted_f1": weighted_f1}[frame["metric"].iloc[0]]
    mean = {}
    for name, result in results.items():
        row = frame.loc[name]
        each = [100 * score(label, np.array(p)[known]) for p in result.predictions]
        mean[name] = np.mean(each)
        assert row["score"] == pytest.approx(mean[name], abs=1e-4) and row["seeds"] == len(each)
        if len(each) > 1:
            assert row["spread"] == pytest.approx(np.std(each, ddof=1), abs=1e-4)
        assert row["low"] < row["score"] < row["high"] or name.endswith("majority")
    for name, against in control.items():
        a, b = (np.array(results[n].predictions[0])[known] == label for n in (name, against))
        alone = int((a & ~b).sum()), int((b & ~a).sum())
        exact = binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
        assert frame.at[name, "mcnemar"] == pytest.approx(exact, abs=1e-5)
        assert frame.at[name, "gain"] == pytest.approx(mean[name] - mean[against], abs=1e-4)
        assert frame.at[name, "control"] == against
        assert frame.at[name, "gain_low"] <= frame.at[name, "gain"] <= frame.at[name, "gain_high"]
    for name, result in results.items():
        if result.coalitions:
            v = {
                k: np.mean([100 * score(label, np.array(c[k])[known]) for c in result.coalitions])
                for k in ("none", "text", "audio", "both", "additive")
            }
            text, audio = frame.loc[name, ["value_text", "value_audio"]]
            assert text + audio == pytest.approx(v["both"] - v["none"], abs=1e-4)
            assert text - audio == pytest.approx(v["text"] - v["audio"], abs=1e-4)
            assert frame.at[name, "emap_gap"] == pytest.approx(v["both"] - v["additive"], abs=1e-4)
            assert v["both"] == pytest.approx(mean[name])
        errors = {"ece": [], "ece_tempered": []}
        for p, measures in zip(result.proba(), result.measures, strict=True):
            tempered = softmax(np.log(np.maximum(p, 1e-12)) / measures["temperature"], axis=-1)
            for column, q in (("ece", p), ("ece_tempered", tempered)):
                sure, right = q[known].max(1), q[known].argmax(1) == label
                bins = np.minimum((sure * 15).astype(int), 14)
                errors[column].append(
                    sum(abs((right - sure)[bins == b].sum()) for b in range(15)) / len(label)
                )
        for column, values in errors.items():
            assert frame.at[name, column] == pytest.approx(100 * np.mean(values), abs=0.15), name
        learnt = [row["learnt"] for row in result.validation if "learnt" in row]
        assert not learnt or frame.at[name, "learnt"] == np.median(learnt)
        for column in ("seconds_epoch", "peak_mib", "utterances_per_second"):
            values = [m[column] for m in result.measures if m.get(column) is not None]
            assert not values or frame.at[name, column] == pytest.approx(np.median(values))


def test_every_number_of_the_table_follows_from_the_predictions(table, staged):
    assert list(table.index) == list(staged)
    check(table, staged, truth_of(staged["early"]), STAGED.control)
    assert plain(published(STAGED)[1]) == {  # intervals and p values too: the draw is fixed
        name: {k: pytest.approx(v, abs=1e-5, nan_ok=True) for k, v in row.items()}
        for name, row in plain(table).items()
    }


def test_meld_too(shared_data, tmp_path):
    """The labels are not ours to hand on, so this needs MELD's tables."""
    corpus, _ = prepare_meld(shared_data / "meld", tmp_path / "meld", clips=False)
    grid = find_grid("meld")
    results = {recipe.name: recorded(recipe.name) for recipe in grid.recipes}
    first = results["meld-early"]
    truth = truth_of(replace(first, recipe=replace(first.recipe, corpus=str(corpus.root))))
    check(summary(grid), results, truth, grid.control)
    again = compare(list(results.values()), grid.control, truth)
    columns = ["low", "high", "gain_low", "gain_high", "p", "p_holm", "mcnemar_holm", "needed"]
    kept = summary(grid)[columns].astype(float)
    np.testing.assert_allclose(again[columns].astype(float), kept, rtol=1e-4, atol=1e-5)


def test_an_interval_by_a_loop(table, staged):
    """Dialogues drawn together for both systems, seeds for each on its own, one fewer than there are."""
    truth, rng = truth_of(staged["early"]), np.random.default_rng(5)
    members = [np.flatnonzero(truth.dialogue == d) for d in dict.fromkeys(truth.dialogue)]
    hits = [np.array(staged[n].predictions) == truth.label for n in ("early", "text-bilstm")]
    gains = []
    for _ in range(1500):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        a, b = (h[rng.integers(0, len(h), len(h) - 1)][:, rows].mean() for h in hits)
        gains.append(100 * (a - b))
    low, high = np.percentile(gains, [2.5, 97.5])
    row = table.loc["early"]
    assert (row["gain_low"], row["gain_high"]) == pytest.approx((low, high), abs=0.6)
    fixed = [100 * (hits[0][:, r].mean() - hits[1][:, r].mean()) for r in _resampled(members, rng, 1500)]
    wanted = len(truth.label) * (2.8016 * np.std(fixed)) ** 2
    assert row["needed"] == pytest.approx(wanted, rel=0.15)


def _resampled(members, rng, n):
    for _ in range(n):
        yield np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])


def test_what_does_not_apply_is_blank_and_the_least_p_is_a_bound(table):
    lines = as_text(table).splitlines()
    text = next(line for line in lines if line.startswith("text-bilstm "))
    assert "nan" not in "".join(lines) and "+" not in text
    assert "\N{LESS-THAN OR EQUAL TO} 0.00" in next(line for line in lines if line.startswith("cm-roberta "))
    renamed = table.rename(index={"early": "dominance"})
    assert any(line.startswith("dominance ") for line in as_text(renamed).splitlines())


def test_holm_is_over_the_whole_table(table):
    tested = table["p"].notna()
    assert (table.loc[tested, "p_holm"] >= table.loc[tested, "p"]).all()
    smallest = table.loc[tested, "p"].min()
    assert table.loc[tested, "p_holm"].min() == pytest.approx(min(1, smallest * tested.sum()))


def test_the_readme_shows_what_is_recorded(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in sorted(GRIDS.glob("*.toml")):
        if (ROOT / "results" / f"comparison_{path.stem}.json").exists():
            shown = as_text(summary(find_grid(path.stem)), markdown=True)
            assert shown in text, "run `make publish`"
    copy = tmp_path / "README.md"
    copy.write_text(text.replace("| cm-roberta |", "| cm-roberta, the winner |"), encoding="utf-8")
    folder = tmp_path / "results"
    folder.mkdir()
    for file in (ROOT / "results").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    said = publish(folder, copy)
    assert copy.read_text(encoding="utf-8") == text  # what somebody typed is gone
    assert any(line.startswith("staged: 20 systems") for line in said)


def test_a_part_of_a_grid_is_not_published(tmp_path):
    """Fewer seeds than the others, or a recipe that nobody ran."""
    for recipe in STAGED.recipes[:2]:
        recorded(recipe.name).save(tmp_path)
    with pytest.raises(MerLabError, match="does not hold text-bilstm as grid staged has it, with 5 seed"):
        published(STAGED, tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("no table")
    with pytest.raises(MerLabError, match="run `mer-lab compare staged`"):
        publish(tmp_path, readme)
    assert readme.read_text() == "no table"
    (tmp_path / "empty").mkdir()
    assert publish(tmp_path / "empty", readme) == []


def test_a_table_goes_between_its_marks():
    text = "a\n<!-- table x -->\nold\n<!-- end x -->\nb"
    assert with_table(text, "x", "new") == "a\n<!-- table x -->\n\nnew\n\n<!-- end x -->\nb"
    with pytest.raises(MerLabError, match="README needs one line '<!-- table y -->'"):
        with_table(text, "y", "new")


def test_only_what_was_tested_on_the_same_is_compared(staged):
    early = staged["early"]
    other = replace(early, utterances=early.utterances[::-1])
    with pytest.raises(MerLabError, match="no test set and score in common"):
        compare([early, other], {}, truth_of(early))


def test_the_front_by_hand():
    cost = pd.Series({"a": 1, "b": 2, "c": 2, "d": 3, "e": 1})
    score = pd.Series({"a": 5, "b": 7, "c": 6, "d": 7, "e": 5})
    assert on_front(cost, score).to_dict() == {"a": True, "b": True, "c": False, "d": False, "e": True}


def test_memory_at_the_peak_is_that_of_the_block():
    with peak_memory() as idle:
        pass
    with peak_memory() as used:
        np.ones(40 * 2**17).sum()  # 40 MiB
    if idle["peak_mib"] is None:
        pytest.skip("this system does not tell")
    assert idle["peak_mib"] < 5
    assert 38 < used["peak_mib"] < 50


def test_costs_are_counted(sine_corpus):
    from mer_lab.experiments import Recipe, prepare

    recipe = Recipe("text", {"name": "bilstm", "width": 8}, text={"name": "words", "width": 8})
    data, build = prepare(recipe, sine_corpus)
    history = [{"stage": s, "seconds": x} for s, x in (("I", 1.0), ("I", 3.0), ("II", 0.5))]
    found = costs(model := build(), data["test"], history, {"peak_mib": 1.5})
    assert found["seconds_epoch"] == 2.5 and found["peak_mib"] == 1.5
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["utterances_per_second"] > 0 and json.dumps(found)
