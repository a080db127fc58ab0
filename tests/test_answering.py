"""A conversation of recordings gets the answers of its corpus; fine-tuning goes on where a system stood."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mer_lab.answering import answer, load_systems
from mer_lab.calibration import temper
from mer_lab.cli import main
from mer_lab.conformal import fit_threshold
from mer_lab.conversation import Turn, read_conversation
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, open_corpus, prepare, run
from mer_lab.explain.turns import conversation_page, explained_turns
from mer_lab.features import write_audio
from mer_lab.files import write_text
from mer_lab.finetuning import finetuning, with_new_labels
from mer_lab.models import System
from mer_lab.prediction import predict
from mer_lab.training import TrainConfig

SMALL = {"width": 6, "heads": 2, "layers": 1}
PITCH = {"name": "prosody", "hop": 0.05}


@pytest.fixture(scope="module")
def trained(sine_folder, tmp_path_factory):
    """Two seeds of CM-RoBERTa on the sine corpus: recipe, folder of the run, test data."""
    recipe = Recipe(
        "tiny", {"name": "cm-roberta"} | SMALL, corpus=str(sine_folder), audio=PITCH,
        text={"name": "words", "width": 6}, seeds=(0, 1),
        train=TrainConfig(epochs=2, batch_by="dialogue", lr=0.01),
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs")
    run(recipe, out, workers=1, progress=False)
    return recipe, out / f"{recipe.name}-{recipe.hash}", prepare(recipe)[0]


def turns_of(data, dialogue):
    table, corpus = data.corpus.table, data.corpus
    rows = table[table["dialogue_id"] == dialogue]
    return [Turn(corpus.audio_path(u), row["text"], row["speaker"]) for u, row in rows.iterrows()]


def first_dialogue(data):
    return turns_of(data["test"], data["test"].corpus.table["dialogue_id"].iloc[-1])


def test_a_conversation_is_answered_as_in_its_corpus(trained):
    _, folder, data = trained
    systems = load_systems(folder)
    test = data["test"]
    dialogue = test.corpus.table["dialogue_id"].iloc[-1]
    found = answer(systems, turns_of(test, dialogue))
    rows = (test.corpus.table["dialogue_id"] == dialogue).to_numpy()
    for system, p in zip(systems, found.seeds, strict=True):
        expected = temper(predict(system, test)[rows], system.about["confidence"]["temperature"])
        assert np.allclose(p, expected, atol=1e-5)
    table = found.table()
    assert (table["low"] <= table["probability"]).all() and (table["probability"] <= table["high"]).all()
    assert all(d in s.split(", ") for d, s in zip(table["decision"], table["not_ruled_out"], strict=True))


def test_the_saved_threshold_is_that_of_validation(trained):
    _, folder, data = trained
    for system in load_systems(folder):
        trust = system.about["confidence"]
        p = temper(predict(system, data["validation"]), trust["temperature"])
        assert trust["threshold"] == pytest.approx(fit_threshold(p, data["validation"].targets), abs=1e-5)


def test_the_page_says_what_the_table_says_and_escapes_what_was_said(trained):
    _, folder, data = trained
    turns = first_dialogue(data)
    turns[0] = turns[0]._replace(text="<script>alert(1)</script> we go", speaker="<b>Ann")
    found = answer(load_systems(folder), turns)
    page = conversation_page(found)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "<b>Ann" not in page
    for decision in found.table()["decision"]:
        assert f">{decision} (" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "no network"
    fragment = conversation_page(found, page=False, explain=False)
    assert "<html" not in fragment and "Why" not in fragment


def test_a_turn_whose_numbers_do_not_add_up_is_not_shown(trained, monkeypatch):
    _, folder, data = trained
    found = answer(load_systems(folder)[:1], first_dialogue(data))
    assert any(item is not None for item in explained_turns(found))
    monkeypatch.setattr("mer_lab.explain.turns.REFUSED", -1.0)
    assert explained_turns(found) == [None] * 3
    assert "do not add up" in conversation_page(found)


def test_the_command_line_takes_a_conversation_or_one_recording(trained, tmp_path, capsys):
    _, folder, data = trained
    turns = first_dialogue(data)
    lines = ["audio,text,speaker", *(f"{t.audio},{t.text},{t.speaker}" for t in turns)]
    write_text(tmp_path / "talk.csv", "\n".join(lines) + "\n")
    assert read_conversation(tmp_path / "talk.csv") == turns
    out, page = tmp_path / "answers.csv", tmp_path / "page.html"
    with pytest.raises(SystemExit) as status:
        main(["predict", str(folder), str(tmp_path / "talk.csv"), "--out", str(out), "--page", str(page)])
    assert status.value.code == 0 and "not_ruled_out" in capsys.readouterr().out
    assert len(out.read_text(encoding="utf-8").splitlines()) == 4
    assert "Turn 3" in page.read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as status:
        main(["predict", str(folder / "seed-0" / "model"), str(turns[0].audio), "--text", turns[0].text])
    said = capsys.readouterr().out
    assert status.value.code == 0 and "low" not in said.splitlines()[0]


@pytest.mark.parametrize(
    "content, problem",
    [
        ("audio,speaker\nx.wav,A\n", "lacks the column text"),
        ("audio,text\n", "holds no turn"),
        ("audio,text\nno.wav,we go\n", "no such audio file"),
        ("audio,text\nlong.wav,we go\n", "121 s long"),
        ("audio,text\nfine.wav,\n", "its text is empty"),
        ("audio,text\nfine.wav,we go, and stop\n", "more fields than the header"),
        ("audio,text\nquiet.wav,we\n", "is silent"),
    ],
)
def test_a_bad_conversation_is_one_sentence_and_writes_nothing(trained, tmp_path, capsys, content, problem):
    for name, wave in (
        ("fine", 0.1 * np.ones(16000)), ("quiet", np.zeros(16000)), ("long", 0.1 * np.ones(121 * 16000))
    ):  # fmt: skip
        write_audio(tmp_path / f"{name}.wav", wave, 16000)
    write_text(tmp_path / "talk.csv", content)
    with pytest.raises(SystemExit) as status:
        main(["predict", str(trained[1]), str(tmp_path / "talk.csv"), "--out", str(tmp_path / "answers.csv")])
    said = capsys.readouterr()
    assert status.value.code == 1 and problem in said.err and len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "answers.csv").exists()


def test_what_cannot_answer_is_told(trained, tmp_path):
    with pytest.raises(MerLabError, match="neither a saved system"):
        load_systems(tmp_path)
    systems = load_systems(trained[1])
    systems[1].about["labels"] = ["up", "down"]
    with pytest.raises(MerLabError, match="different labels"):
        answer(systems, [("a.wav", "we")])
    with pytest.raises(MerLabError, match="no turn"):
        answer(systems[:1], [])


def test_a_system_saved_without_its_calibration_rules_nothing_out(trained):
    _, folder, data = trained
    systems = load_systems(folder)
    turns = first_dialogue(data)
    for system in systems:
        del system.about["confidence"]
    found = answer(systems, turns)
    assert found.sets is None and "not_ruled_out" not in found.table()
    assert "without its calibration" in conversation_page(found, explain=False)


def test_fine_tuning_goes_on_from_the_saved_weights(trained, tmp_path):
    recipe, folder, data = trained
    place = folder / "seed-0" / "model"
    chosen = finetuning(place, recipe.corpus, epochs=1)
    assert chosen.train.lr == pytest.approx(recipe.train.lr / 3) and chosen.hash != recipe.hash
    assert Recipe.from_toml(chosen.to_toml()) == chosen
    parts, build = prepare(chosen)
    before = System.from_pretrained(place)
    assert np.allclose(predict(build(), parts["test"]), predict(before, data["test"]), atol=1e-6)
    result = run(replace(chosen, seeds=(0,)), tmp_path, workers=1, progress=False)
    after = System.from_pretrained(tmp_path / f"{chosen.name}-{chosen.hash}/seed-0/model")
    assert not np.allclose(predict(after, data["test"]), predict(before, data["test"]), atol=1e-4)
    assert after.text.settings["vocabulary"] == before.text.settings["vocabulary"]
    assert len(result.test) == 1 and after.about["recipe"] == replace(chosen, seeds=(0,)).to_toml()


def test_labels_that_are_known_keep_their_rows_whatever_their_order(trained, tmp_path):
    recipe, folder, data = trained
    place = folder / "seed-0" / "model"
    corpus = open_corpus(recipe)
    turned = replace(corpus, labels=corpus.labels[::-1])
    parts, build = prepare(finetuning(place, recipe.corpus), turned)
    assert parts["test"].corpus.labels == corpus.labels
    assert np.array_equal(parts["test"].targets, data["test"].targets)
    one = corpus.relabel({"low": None})
    assert prepare(finetuning(place, recipe.corpus), one)[0]["train"].corpus.labels == corpus.labels


def test_other_labels_begin_with_a_new_last_layer_and_nothing_else_new(trained):
    recipe, folder, _ = trained
    model = System.from_pretrained(folder / "seed-0" / "model")
    torch.manual_seed(1)
    wider = with_new_labels(model, 3)
    old, new = model.state_dict(), wider.state_dict()
    changed = {k for k in new if new[k].shape != old[k].shape}
    assert changed and all(new[k].shape[0] == 3 for k in changed)
    assert all(torch.equal(new[k], old[k]) for k in new if k not in changed)
    same = with_new_labels(model, 2).state_dict()
    kept = {k for k in same if torch.equal(same[k], old[k])}
    assert set(same) - kept, "two other labels are not the two it knew"
    corpus = open_corpus(recipe).relabel({"high": "shrill", "low": "deep"})
    _, build = prepare(finetuning(folder / "seed-0" / "model", recipe.corpus), corpus)
    assert build().about["labels"] == ["shrill", "deep"]


def test_what_the_mean_decides_is_never_ruled_out(trained, monkeypatch):
    _, folder, data = trained
    systems = load_systems(folder)
    given = iter([np.array([[0.45, 0.55]] * 3), np.array([[0.9, 0.1]] * 3)])
    for system in systems:
        system.about["confidence"] |= {"temperature": 1.0, "threshold": 0.0}
    monkeypatch.setattr("mer_lab.answering.predict", lambda *_: next(given))
    found = answer(systems, first_dialogue(data))
    assert found.sets.tolist() == [[True, True]] * 3
    systems[1].about["confidence"]["threshold"] = systems[0].about["confidence"]["threshold"] = 0.0
    given = iter([np.array([[0.45, 0.55, 0.0]] * 3), np.array([[0.45, 0.0, 0.55]] * 3)])
    monkeypatch.setattr("mer_lab.answering.predict", lambda *_: next(given))
    assert answer(systems, first_dialogue(data)).sets.all(), "it decides on what neither seed leads with"


def test_a_seed_that_has_not_ended_does_not_answer(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained[1], folder)
    (folder / "seed-1" / "run.json").unlink()
    assert len(load_systems(folder)) == 1
    (folder / "seed-0" / "run.json").unlink()
    with pytest.raises(MerLabError, match="a seed of a run that has ended"):
        load_systems(folder)


def test_a_recipe_goes_on_with_the_weights_and_features_that_it_names(trained, tmp_path):
    recipe, folder, _ = trained
    place = tmp_path / "model"
    shutil.copytree(folder / "seed-0" / "model", place)
    chosen = finetuning(place, recipe.corpus)
    moved = tmp_path / "elsewhere"
    shutil.copytree(place, moved)
    assert finetuning(moved, recipe.corpus).hash == chosen.hash, "the weights count, not where they lie"
    with pytest.raises(MerLabError, match="another audio than"):
        prepare(replace(chosen, audio={"name": "mfcc"}))
    shutil.copy(folder / "seed-1" / "model" / "model.safetensors", place)
    assert finetuning(place, recipe.corpus).hash != chosen.hash
    with pytest.raises(MerLabError, match="before a change of"):
        prepare(chosen)


def test_finetune_from_the_command_line(trained, tmp_path, capsys):
    recipe, folder, _ = trained
    with pytest.raises(SystemExit) as status:
        main(["finetune", str(folder / "seed-0" / "model"), recipe.corpus, "--epochs", "1", "--seeds", "1",
              "--out", str(tmp_path)])  # fmt: skip
    assert status.value.code == 0
    place = capsys.readouterr().out.strip().splitlines()[-1]
    assert len(load_systems(place)) == 1
    with pytest.raises(MerLabError, match="does not exist"):
        finetuning(folder / "seed-0" / "model", recipe.corpus, epoch=3)
