"""Recipes, results and the command line: round trips, and sentences instead of tracebacks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab.cli import main
from mer_lab.corpora import save_corpus
from mer_lab.errors import MerLabError
from mer_lab.experiments import MODELS, Recipe, Result, prepare, run
from mer_lab.metrics import scores
from mer_lab.models import SYSTEMS
from mer_lab.models.baselines import BASELINES
from mer_lab.recipes import RECIPES, at_scale, find_recipe, recorded, table
from mer_lab.training import TrainConfig

TINY = TrainConfig(epochs=2, batch_size=8)
SINES = {
    "majority": Recipe("majority", {"name": "majority"}, seeds=(0,)),
    "tfidf": Recipe("tfidf", {"name": "tfidf-logreg"}, seeds=(0,)),
    "boosting": Recipe(
        "boosting", {"name": "prosody-boosting"}, audio={"name": "prosody", "hop": 0.02}, seeds=(0,)
    ),
    "text": Recipe(
        "text", {"name": "bilstm", "width": 8}, text={"name": "words", "width": 8}, train=TINY, seeds=(0, 1)
    ),
    "audio": Recipe(
        "audio", {"name": "transformer", "width": 8}, audio={"name": "logmel"}, train=TINY, seeds=(0,)
    ),
    "conv": Recipe(
        "conv",
        {"name": "pooling"},
        audio={"name": "logmel"},
        encoder={"name": "conv", "channels": [8, 8], "strides": [2, 1], "augment": {"gain": 0.1}},
        train=TINY,
        seeds=(0,),
    ),
}


@pytest.fixture(scope="module")
def folder(sine_folder):
    return sine_folder


@pytest.mark.parametrize("name", SINES)
def test_every_kind_of_model_runs_and_its_scores_follow_from_its_predictions(name, folder):
    result = run(replace(SINES[name], corpus=str(folder)), workers=1, progress=False)
    data, _ = prepare(result.recipe)
    assert result.utterances == data["test"].corpus.ids
    for predicted, row in zip(result.predictions, result.test, strict=True):
        again = scores(data["test"].targets, np.array(predicted), result.labels)
        assert {k: row[k] for k in again} == again
    assert len(result.test) == len(result.recipe.seeds)
    assert result.provenance["versions"]["torch"] and result.provenance["seconds"] >= 0


def scored(corpus, place):
    """The sine corpus with a score: what the label says, and a little of its own; none without a label."""
    value = {"high": 2.0, "low": -1.0, "": np.nan}
    score = [value[x] + 0.1 * (k % 3) for k, x in enumerate(corpus.table["label"])]
    return save_corpus(replace(corpus, table=corpus.table.assign(score=score)), place).root


def test_a_score_is_learnt_and_scored_as_a_number(sine_corpus, folder, tmp_path):
    train = TrainConfig(epochs=25, patience=25, batch_size=8, lr=1e-2, target="score", monitor="mae")
    recipe = replace(SINES["text"], corpus=str(scored(sine_corpus, tmp_path / "scored")), train=train)
    result = run(recipe, workers=1, progress=False)
    data, build = prepare(recipe)
    assert build()(data["train"].batch([0, 1])).logits.shape == (2, 1)
    truth = data["test"].scores
    known = np.isfinite(truth)
    for values, row in zip(result.predictions, result.test, strict=True):
        assert row["mae"] == pytest.approx(np.abs(np.array(values) - truth)[known].mean(), abs=1e-6)
        assert row["mae"] < 0.6 and row["correlation"] > 0.9  # always the median: 1.4
    best = result.validation[0]["best_epoch"]
    assert min(row["mae"] for row in result.validation[0]["history"]) == pytest.approx(
        result.validation[0]["history"][best - 1]["mae"]
    )
    lines = table([result]).splitlines()
    assert "MAE" in lines[0] and "WA" not in lines[0] and "±" in lines[1]
    assert Recipe.from_toml(recipe.to_toml()) == recipe and Result.load(result.save(tmp_path)) == result
    with pytest.raises(MerLabError, match="tfidf-logreg predicts labels only"):
        prepare(replace(recipe, model={"name": "tfidf-logreg"}))
    with pytest.raises(MerLabError, match="training split has a score"):
        run(replace(recipe, corpus=str(folder)), workers=1, progress=False)
    with pytest.raises(MerLabError, match="monitor is 'wa', expected one of mae, correlation"):
        TrainConfig(target="score")


def test_a_text_baseline_learns_what_the_words_say(folder):
    result = run(replace(SINES["tfidf"], corpus=str(folder)), progress=False)
    assert result.test[0]["wa"] == 1.0  # "up" and "down" decide


def test_seeds_in_processes_give_what_seeds_in_turn_give(folder):
    recipe = replace(SINES["text"], corpus=str(folder))
    assert (
        run(recipe, workers=2, progress=False).predictions
        == run(recipe, workers=1, progress=False).predictions
    )


def test_the_vocabulary_and_the_means_come_from_the_training_split_alone(sine_corpus):
    table = sine_corpus.table.copy()
    test = table["split"] == "test"
    changed = replace(sine_corpus, table=table.assign(text=table["text"].mask(test, "never heard before")))
    for corpus in (sine_corpus, changed):
        _, build = prepare(SINES["text"], corpus)
        size = build().encoder.embedding.num_embeddings
        assert size == 2 + 5  # padding, unknown; we, go, up, down, now


names = st.text("abcdefgh-", min_size=1, max_size=8)
numbers = st.one_of(st.integers(-5, 5), st.floats(-5, 5), st.booleans(), names)


@given(
    name=names,
    corpus=names,
    model=st.dictionaries(names, numbers, max_size=3),
    audio=st.dictionaries(names, numbers, max_size=3),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
    lr=st.floats(1e-6, 1),
    epochs=st.integers(1, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_recipe_survives_toml(name, corpus, model, audio, seeds, lr, epochs):
    recipe = Recipe(
        name,
        {"name": "x", **model},
        corpus=corpus,
        audio=audio,
        seeds=seeds,
        train=TrainConfig(lr=lr, epochs=epochs),
    )
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_are_whole(name):
    recipe = RECIPES[name]
    assert recipe.name == name and recipe.model["name"] in {*MODELS, *BASELINES, *SYSTEMS}
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe and again.hash == recipe.hash
    if recipe.model["name"] in SYSTEMS:  # a setting that does not exist would be told only in training
        system, config = SYSTEMS[recipe.model["name"]]
        replace(config, **{k: v for k, v in recipe.model.items() if k != "name"})
        assert not system.contextual or recipe.train.batch_by == "dialogue"


def test_the_hash_changes_with_what_changes_the_result():
    base = SINES["text"]
    others = [
        replace(base, corpus="x"),
        replace(base, scheme="x"),
        replace(base, model={**base.model, "width": 9}),
        replace(base, text={**base.text, "drop": 0.5}),
        replace(base, train=replace(TINY, lr=1e-5)),
        replace(base, staged={"seed": 1}),
    ]
    assert len({r.hash for r in (base, *others)}) == 7
    assert replace(base, name="other", seeds=(5,)).hash == base.hash


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ('name = "a"', "'model' is missing"),
        ('name = "a"\n[model]\nname = "bilstm"\n[train]\nlearning = 1', "'learning' of [train]"),
        ('name = "a"\ncorpora = "x"\n[model]\nname = "bilstm"', "'corpora'"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_told_in_a_sentence(text, needle):
    with pytest.raises(MerLabError, match="recipe.toml") as caught:
        Recipe.from_toml(text, "recipe.toml")
    assert needle in str(caught.value)


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"model": {"name": "lstm"}}, "no model 'lstm'"),
        ({"model": {"name": "bilstm", "wide": 3}}, "wide"),
        ({"audio": {"name": "mel"}, "text": {}}, "'mel'"),
        ({"audio": {"name": "prosody", "hops": 3}}, "hops"),
        ({"text": {"name": "bert"}}, "'bert'"),
        ({"audio": {"attached": "nothing"}}, "no attached features 'nothing'"),
        ({"scheme": "valence"}, "'valence'"),
        ({"corpus": "/nowhere"}, "no such folder"),
    ],
)
def test_a_wrong_setting_is_told_in_a_sentence(change, needle, folder):
    with pytest.raises(MerLabError) as caught:
        run(replace(SINES["text"], **{"corpus": str(folder), **change}), workers=1, progress=False)
    assert needle in str(caught.value) and "\n" not in str(caught.value)


def test_a_result_round_trips_and_an_edited_one_is_refused(folder, tmp_path):
    result = run(replace(SINES["majority"], corpus=str(folder)), progress=False)
    path = result.save(tmp_path)
    assert Result.load(path) == result
    spec = json.loads(path.read_text())
    spec["recipe"]["train"]["lr"] = 99.0
    path.write_text(json.dumps(spec))
    with pytest.raises(MerLabError, match="changed after the run"):
        Result.load(path)
    path.write_text("{")
    with pytest.raises(MerLabError, match="not a result"):
        Result.load(path)


def test_recorded_results_fit_their_recipes():
    for name in RECIPES:
        if (result := recorded(name)) is None:
            continue
        assert replace(result.recipe, seeds=RECIPES[name].seeds) == RECIPES[name]
        assert len(result.test) == len(result.recipe.seeds) >= min(3, len(RECIPES[name].seeds))
        assert not any(str(v).startswith("/") for v in (result.recipe.corpus, *result.recipe.text.values()))
        assert all(len(p) == len(result.utterances) for p in result.predictions)
        share = np.mean([row["wa"] for row in result.test])
        right = [np.trace(row["confusion"]) / np.sum(row["confusion"]) for row in result.test]
        assert np.isclose(share, np.mean(right))


def test_scales_change_sizes_and_nothing_else():
    class Small:
        staged, epochs, seeds = (12, 4, 4), 1, 2

    small = at_scale(RECIPES["text-bilstm"], Small)
    assert small.staged == {"dialogues": [12, 4, 4]} and small.train.epochs == 1 and small.seeds == (0, 1)
    assert (
        replace(small, staged={}, train=RECIPES["text-bilstm"].train, seeds=(0, 1, 2))
        == RECIPES["text-bilstm"]
    )


def call(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return exit.value.code or 0, out, err


def test_run_command_writes_a_result_and_goes_on_where_it_was(capsys, folder, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(SINES["text"].to_toml())
    command = ("run", recipe, "--corpus", folder, "--out", tmp_path / "runs", "--workers", 1, "--seeds", 1)
    status, out, _ = call(capsys, *command)
    assert status == 0 and "weighted F1" in out
    written = next((tmp_path / "runs").glob("*.json"))
    first = Result.load(written)
    status, out, _ = call(capsys, *command, "--quiet")
    assert (status, out) == (0, "")
    assert Result.load(written).predictions == first.predictions
    assert (
        Result.load(written).validation[0]["history"] == first.validation[0]["history"]
    )  # resumed, not trained anew


def test_the_command_line_tells_mistakes_in_one_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for arguments in (
        ("run", "no-such-recipe"),
        ("run", "text-bilstm", "--corpus", tmp_path),
        ("prepare", "meld", tmp_path, "--out", tmp_path / "x"),
        ("features", "staged", "mel"),
    ):
        status, out, err = call(capsys, *arguments)
        assert (
            status == 1
            and out == ""
            and err.startswith("mer-lab: ")
            and err.count("\n") == 1
            and "Traceback" not in err
        )
    for arguments in (
        ("run",),
        ("prepare", "nothing", "x"),
        ("features", "staged", "prosody", "--layer", "two"),
        ("run", "majority", "--seeds", "0"),
    ):
        assert call(capsys, *arguments)[0] == 2


@pytest.mark.parametrize("command", "doctor prepare add-features features audit run recipes".split())
def test_every_command_has_help_with_an_example(command, capsys):
    status, out, _ = call(capsys, command, "--help")
    assert status == 0 and f"Example: mer-lab {command}" in out


def test_recipes_are_listed_and_printed(capsys):
    _, out, _ = call(capsys, "recipes")
    assert all(name in out for name in RECIPES)
    _, out, _ = call(capsys, "recipes", "text-bilstm")
    assert Recipe.from_toml(out) == find_recipe("text-bilstm")


def test_prepare_staged_and_features_commands(capsys, folder):
    status, out, _ = call(capsys, "features", folder, "prosody", "--hop", "0.02", "--workers", "1")
    assert status == 0 and "36 utterances" in out


def test_the_table_shows_spread_only_over_several_seeds(folder):
    rows = [
        run(replace(SINES[n], corpus=str(folder)), workers=1, progress=False) for n in ("majority", "text")
    ]
    lines = table(rows).splitlines()
    assert "±" not in lines[1] and lines[2].count("±") == 4
