"""A grid of runs: nothing is lost and nothing done twice, whoever works at it, however often he is killed."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from mer_lab import engine
from mer_lab.checkpoints import load_tensors
from mer_lab.cli import main
from mer_lab.comparison import compare, truth_of
from mer_lab.corpora import load_corpus, save_corpus
from mer_lab.engine import run_grid, run_robustness
from mer_lab.errors import MerLabError
from mer_lab.experiments import prepare, run, run_seed, trained
from mer_lab.grid import GRIDS, find_grid, report, results
from mer_lab.prediction import predict
from mer_lab.recipes import RECIPES
from mer_lab.runs import finished, seed_folder
from mer_lab.train_config import TrainConfig

RECIPE = """
name = "{name}"
[model]
name = "{model}"
width = 8
{more}
[text]
width = 8
[audio]
{audio}
[train]
epochs = 3
batch_size = 8
batch_by = "dialogue"
"""
GRID = """
recipes = [{recipes}]
seeds = 2
control = "words"
corpora = ["{corpus}"]
"""


@pytest.fixture(scope="module")
def toml(sine_folder, tmp_path_factory) -> Path:
    """A grid of four systems with two seeds, one of them in context, and a baseline without randomness."""
    place = tmp_path_factory.mktemp("grid")
    audio = 'name = "prosody"\nhop = 0.02'
    for name, model, sound, more in (
        ("words", "bilstm", "", ""),
        ("both", "early", audio, "dropout = 0.0"),
        ("context", "cm-roberta", audio, ""),
    ):
        (place / f"{name}.toml").write_text(
            RECIPE.format(name=name, model=model, audio=sound, more=more), encoding="utf-8"
        )
    recipes = ", ".join(f'"{place / name}.toml"' for name in ("words", "both", "context"))
    path = place / "small.toml"
    path.write_text(GRID.format(recipes=f'"majority", {recipes}', corpus=sine_folder), encoding="utf-8")
    return path


FEWER = ["majority", "words", "both"]


@pytest.fixture(scope="module")
def fewer(toml) -> Path:
    """The same without the system that reads conversations, which takes longest."""
    path = toml.with_name("fewer.toml")
    text = toml.read_text(encoding="utf-8")
    path.write_text(re.sub(r', "[^"]*context.toml"', "", text), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished_folder(toml, tmp_path_factory) -> Path:
    """What one undisturbed process leaves behind."""
    folder = tmp_path_factory.mktemp("whole")
    run_grid(find_grid(toml), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def whole(toml, finished_folder) -> dict[str, list]:
    """What it makes of the grid: predictions by recipe."""
    return predictions(results(find_grid(toml), finished_folder))


def command(*arguments: str) -> int:
    """Exit status of `mer-lab`."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code)


def predictions(results) -> dict[str, list]:
    return {r.recipe.name: r.predictions for r in results}


WORKER = """
import sys
from mer_lab import engine, grid
original = engine.run_seed
def logged(recipe, seed, folder, **options):
    with open(f"{folder}/started.log", "a") as f:
        f.write(f"{recipe.name} seed {seed}\\n")
    return original(recipe, seed, folder, **options)
engine.run_seed = logged
engine.run_grid(grid.find_grid(sys.argv[1]), sys.argv[2], progress=False)
"""


def worker(toml: Path, folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(toml), str(folder)])


def started(folder: Path) -> list[str]:
    log = folder / "started.log"
    return log.read_text().split("\n")[:-1] if log.exists() else []


# ---------------------------------------------------------------- what a grid is


def test_the_grids_that_come_with_it_name_recipes_that_exist():
    for path in GRIDS.glob("*.toml"):
        grid = find_grid(path.stem)
        assert grid.name == path.stem and len(grid.recipes) > 5
        assert all(len(r.seeds) in (1, 5) for r in grid.recipes)
        for name, control in grid.control.items():  # text alone, and on the same words
            assert name != control and not RECIPES[control].audio
            if RECIPES[name].audio and RECIPES[name].text and RECIPES[name].corpus != "staged":
                assert RECIPES[name].text == RECIPES[control].text


def test_first_seeds_come_first(toml):
    grid = find_grid(toml)
    assert [f"{r.name} {s}" for r, s in grid.runs] == [
        "majority 0", "words 0", "both 0", "context 0", "words 1", "both 1", "context 1"
    ]  # fmt: skip
    assert grid.control == {"majority": "words", "both": "words", "context": "words"}


def test_several_corpora_are_told_apart_by_name(toml, sine_folder, tmp_path):
    text = toml.read_text(encoding="utf-8").replace(f'["{sine_folder}"]', f'["{sine_folder}", "staged"]')
    (tmp_path / "two.toml").write_text(text + "[train]\nepochs = 1\n", encoding="utf-8")
    grid = find_grid(tmp_path / "two.toml")
    assert {r.name for r in grid.recipes} >= {"both@staged", f"both@{Path(sine_folder).name}"}
    assert grid.control["both@staged"] == "words@staged"
    assert all(r.train.epochs == 1 for r in grid.recipes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipes = [", "not valid TOML"),
        ("seeds = 3", "recipes is missing"),
        ('recipes = ["early"]\nseed = 3', "unknown setting 'seed'"),
        ('recipes = ["early"]\nseeds = 0', "seeds is 0, expected a whole number"),
        ('recipes = ["early"]\nseeds = "5"', "seeds is '5', expected a whole number"),
        ('recipes = "early"', "recipes is 'early', expected a list of names"),
        ('recipes = ["early"]\ncorpora = "staged"', "corpora is 'staged', expected a list of names"),
        ('recipes = ["early"]\ncorpora = [5]', "corpora holds 5, expected names"),
        ('recipes = ["early"]\ncontrols = ["a"]', "controls is ['a'], expected a table"),
        ('recipes = ["early"]\n[staged]\nsize = 3', "size"),
        ('recipes = ["early"]\n[staged]\ncandidates = 9', "candidates is 9"),
        ('recipes = ["majority"]\nrobustness = ["majority"]', "majority of robustness is a baseline"),
        ('recipes = ["early", "meld-early"]\ncontrol = "early"', "no corpus, fold and monitor in common"),
        ('recipes = ["early"]\n[train]\ntarget = "score"\nmonitor = "mae"', "early predicts a score"),
        ('recipes = ["earlie"]', "there is no recipe 'earlie'"),
        ('recipes = ["early", "early"]', "'early' stands twice"),
        ('recipes = ["early"]\ncontrol = "text-bilstm"', "control 'text-bilstm' is not among the recipes"),
        ('recipes = ["early"]\n[train]\nepoch = 3', "unknown setting 'epoch'"),
        ('recipes = ["early"]\n[train]\nepochs = 0', "epochs is 0"),
    ],
)
def test_a_wrong_grid_is_one_sentence(text, message, tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    assert command("compare", str(path), "--out", str(tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert message in error and "wrong.toml" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- running it


def test_it_gives_what_the_recipes_give_one_by_one(toml, whole):
    for recipe in find_grid(toml).recipes[::3]:
        assert run(recipe, workers=1, progress=False).predictions == whole[recipe.name]


def test_the_command_writes_results_and_a_table(toml, finished_folder, tmp_path, capsys):
    """Of what is finished it trains nothing; and what is kept is a model that answers the same."""
    shutil.copytree(finished_folder, tmp_path, dirs_exist_ok=True)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json")}
    assert len(times) == 7
    assert command("compare", str(toml), "--out", str(tmp_path), "--workers", "1", "-q") == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json")} == times
    assert capsys.readouterr().out == ""
    lines = (tmp_path / "small.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["", "majority", "words", "both", "context"]
    for recipe in find_grid(toml).recipes[1:]:
        row = finished(recipe, 1, tmp_path)
        p = predict(trained(recipe, 1, tmp_path), prepare(recipe)[0]["test"])
        assert p.argmax(1).tolist() == row["test"]
        if recipe.name != "words":
            assert row["coalitions"]["both"] == row["test"] and "temperature" in row["measures"]
    with pytest.raises(MerLabError, match="majority .* holds no trained model|holds no trained model"):
        trained(find_grid(toml).recipes[0], 0, tmp_path)


def test_workers_at_one_folder_share_the_runs_however_often_one_is_killed(toml, whole, tmp_path):
    """No finished run is lost, none is repeated, and the table is that of one undisturbed process."""
    rng, done, kills = random.Random(1), {}, 0
    steady = worker(toml, tmp_path)
    for wanted in (1, 3):
        other = worker(toml, tmp_path)
        until = time.monotonic() + 60
        while len(list(tmp_path.rglob("run.json"))) < wanted and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3 * rng.random())
        other.send_signal(signal.SIGKILL)
        kills += other.wait(60) == -signal.SIGKILL
        kept = {path: path.read_bytes() for path in tmp_path.rglob("run.json")}
        assert done.items() <= kept.items()
        done = kept
    assert steady.wait(300) == 0
    assert all(path.read_bytes() == content for path, content in done.items())
    assert set(started(tmp_path)) == {engine._name(r) for r in find_grid(toml).runs}
    assert len(started(tmp_path)) <= 7 + kills  # only what was in work when it was killed began again
    assert predictions(results(find_grid(toml), tmp_path)) == whole


def test_a_killed_child_is_replaced(fewer, whole, tmp_path):
    """The system kills one of two processes; the command goes on by itself."""
    words = [sys.executable, "-m", "mer_lab", "compare", str(fewer), "--out", str(tmp_path), "--workers", "2"]
    parent = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    killed, until = False, time.monotonic() + 120
    while not killed and parent.poll() is None and time.monotonic() < until:
        busy = [p for p in psutil.Process(parent.pid).children() if "loky" in " ".join(p.cmdline())]
        locks = list(tmp_path.rglob(".lock"))
        if busy and locks and list(tmp_path.rglob("run.json")):
            busy[0].kill()
            killed = True
        time.sleep(0.02)
    assert parent.wait(300) == 0, parent.stderr.read()
    assert killed
    assert predictions(results(find_grid(fewer), tmp_path)) == {name: whole[name] for name in FEWER}


def test_dask_workers_do_the_runs(fewer, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster:
        found = run_grid(find_grid(fewer), tmp_path, scheduler=cluster.scheduler_address, progress=False)
        assert predictions(found) == {name: whole[name] for name in FEWER}
        workers = {w["pid"] for w in _pids(cluster)}
        assert len(workers) == 2 and os.getpid() not in workers


def _pids(cluster):
    from distributed import Client

    with Client(cluster) as client:
        return [{"pid": pid} for pid in client.run(os.getpid).values()]


def test_without_a_scheduler_it_says_so(toml, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(engine, "ANSWERS", 1)
    with pytest.raises(MerLabError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        run_grid(find_grid(toml), tmp_path, scheduler="tcp://127.0.0.1:9", progress=False)


def test_launched_together_it_gives_the_same_table(fewer, whole, tmp_path):
    """Two CPU processes, as `accelerate launch` starts them, share each batch; only rounding differs.

    Degraded data are tested by both together.
    """
    text = fewer.read_text(encoding="utf-8").replace("seeds = 2", 'seeds = 2\nrobustness = ["both"]')
    fewer = tmp_path / "launched.toml"
    fewer.write_text(text, encoding="utf-8")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "mer_lab", "compare", str(fewer), "--out", str(tmp_path), "-q"]  # fmt: skip
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found = predictions(results(find_grid(fewer), tmp_path))
    assert all(found[name] == whole[name] for name in ("majority", "both"))
    assert list(found) == FEWER
    assert (tmp_path / "launched-robustness.csv").read_text().count("both,clean") == 1


def test_a_run_that_fails_is_named_and_the_others_are_kept(toml, tmp_path, monkeypatch):
    """Whatever the reason: a recipe that is wrong, or a machine that is too small."""
    grid = find_grid(toml)
    broken = replace(grid.recipes[1], name="broken", model={"name": "bilstm", "widht": 8})
    large = replace(grid.recipes[1], name="large")
    once = engine.run_seed

    def run_out(recipe, *arguments, **options):
        if recipe.name == "large":
            raise MemoryError("40 GiB wanted")
        return once(recipe, *arguments, **options)

    monkeypatch.setattr(engine, "run_seed", run_out)
    with pytest.raises(MerLabError, match="4 of 5 runs failed") as told:
        run_grid(replace(grid, recipes=(broken, large, grid.recipes[0])), tmp_path, progress=False)
    assert "\n  broken seed 0: " in str(told.value) and "widht" in str(told.value)
    assert "\n  large seed 1: MemoryError: 40 GiB wanted" in str(told.value)
    assert len(list(tmp_path.rglob("run.json"))) == 1


def test_workers_that_write_elsewhere_are_noticed(toml, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "VISIBLE", 0)
    monkeypatch.setattr(engine, "attempt", lambda recipe, seed, folder: (engine._name((recipe, seed)), ""))
    with pytest.raises(MerLabError, match="seed 0 has ended and is not in .*: do all workers see it"):
        run_grid(find_grid(toml), tmp_path, progress=False)


HOLDER = """
import sys, time, filelock
with filelock.FileLock(sys.argv[1]):
    print(flush=True)
    time.sleep(3)
"""


def test_a_run_in_work_elsewhere_is_waited_for(toml, tmp_path):
    """A lock that somebody holds is respected; a lock that a dead process left is not in the way."""
    grid = find_grid(toml)
    one = replace(grid, recipes=grid.recipes[:1], control={})
    place = seed_folder(*one.runs[0], tmp_path)
    place.mkdir(parents=True)
    (place / ".lock").touch()  # left behind
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(place / ".lock")], stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert engine.attempt(*one.runs[0], tmp_path)[1] == "busy"
    begun = time.monotonic()
    assert len(run_grid(one, tmp_path, progress=False)) == 1
    assert time.monotonic() - begun > 1
    holder.wait()


def test_a_corpus_that_changed_is_noticed(toml, tmp_path, sine_folder):
    recipe = find_grid(toml).recipes[1]
    run_seed(recipe, 0, tmp_path, progress=False)
    corpus = load_corpus(sine_folder)
    fewer = corpus.with_splits(["" if u == "u35" else s for u, s in corpus.table["split"].items()])
    with pytest.raises(MerLabError, match="tested on other utterances.*choose a new folder"):
        run_seed(recipe, 0, tmp_path, prepared=prepare(recipe, fewer))
    place = seed_folder(recipe, 0, tmp_path) / "run.json"
    place.write_text('{"seed": 0}')
    with pytest.raises(MerLabError, match="not a finished run"):
        run_seed(recipe, 0, tmp_path, progress=False)
    place.unlink()
    place.mkdir()
    with pytest.raises(MerLabError, match="not a finished run"):
        run_seed(recipe, 0, tmp_path, progress=False)


def test_a_finished_grid_is_not_laid_over_another_corpus(toml, finished_folder, sine_folder, tmp_path):
    """Other utterances in the same places: the old answers are not theirs."""
    shutil.copytree(finished_folder, tmp_path / "runs")
    corpus = load_corpus(sine_folder)
    swapped = {"validation": "test", "test": "validation", "train": "train"}
    save_corpus(corpus.with_splits([swapped[s] for s in corpus.table["split"]]), tmp_path / "other")
    grid = find_grid(toml)
    other = replace(grid, recipes=tuple(replace(r, corpus=str(tmp_path / "other")) for r in grid.recipes))
    for old, new in zip(grid.recipes, other.recipes, strict=True):  # as if it had been there all along
        was, now = (seed_folder(r, 0, tmp_path / "runs").parent for r in (old, new))
        was.rename(now)
    with pytest.raises(MerLabError, match="tested on other utterances"):
        run_grid(other, tmp_path / "runs", progress=False)


def test_a_single_test_dialogue_leaves_no_other_to_take_a_channel_from(toml, sine_folder, tmp_path):
    corpus, recipe = load_corpus(sine_folder), find_grid(toml).recipes[2]
    last = corpus.table["dialogue_id"].iloc[-1]
    kept = (corpus.table["split"] != "test") | (corpus.table["dialogue_id"] == last)
    row = run_seed(recipe, 0, tmp_path, progress=False, prepared=prepare(recipe, corpus.select(kept)))
    assert row["coalitions"] == {} and row["probabilities"]


def test_results_that_cannot_stand_in_one_table_get_one_each(toml, finished_folder, tmp_path):
    found = results(find_grid(toml), finished_folder)[1:]
    other = replace(found[1], recipe=replace(found[1].recipe, train=TrainConfig(monitor="macro_f1")))
    tables = report(find_grid(toml), [found[0], other], tmp_path)
    corpus = Path(found[0].recipe.corpus).name
    assert [path.name for _, path in tables] == [f"small-{corpus}-wa.csv", f"small-{corpus}-macro_f1.csv"]
    assert all(path.exists() for _, path in tables)


def test_degraded_data_are_tested_once(toml, finished_folder, tmp_path):
    shutil.copytree(finished_folder, tmp_path, dirs_exist_ok=True)
    grid = replace(find_grid(toml), robustness=("both",))
    found = run_robustness(grid, tmp_path)
    assert set(found["system"]) == {"both"} and {"clean", "white", "missing text"} <= set(found["kind"])
    truth = results(grid, tmp_path)[2].summary("wa")[0]
    assert found.loc[found["kind"] == "clean", "estimate"].item() == pytest.approx(truth)
    [path] = tmp_path.rglob("robustness-*.csv")
    kept = path.stat().st_mtime_ns
    assert run_robustness(grid, tmp_path).equals(found) and path.stat().st_mtime_ns == kept
    assert run_robustness(replace(grid, robustness=()), tmp_path).empty
    fewer = replace(grid, recipes=tuple(replace(r, seeds=(0,)) for r in grid.recipes))
    assert not run_robustness(fewer, tmp_path).equals(found)  # other models, other curves
    text = toml.read_text(encoding="utf-8").replace("seeds = 2", 'seeds = 2\nrobustness = ["others"]')
    (tmp_path / "wrong.toml").write_text(text, encoding="utf-8")
    with pytest.raises(MerLabError, match="'others' of robustness is not among the recipes"):
        find_grid(tmp_path / "wrong.toml")


# ---------------------------------------------------------------- the sealed test


def test_nothing_is_chosen_on_the_test_labels(toml, sine_folder, tmp_path):
    """Poisoned test labels change the test scores and nothing else: same epoch, weights, temperature."""
    corpus = load_corpus(sine_folder)
    swap = {"high": "low", "low": "high", "": ""}
    test = corpus.table["split"] == "test"
    labels = corpus.table["label"].where(~test, corpus.table["label"].map(swap))
    poisoned = replace(corpus, table=corpus.table.assign(label=labels))
    for recipe in (r for r in find_grid(toml).recipes if r.name != "words"):
        rows = []
        for name, version in (("clean", corpus), ("poisoned", poisoned)):
            prepared = prepare(recipe, version)
            run_seed(recipe, 0, tmp_path / name, progress=False, prepared=prepared)
            rows.append(finished(recipe, 0, tmp_path / name))
        clean, other = rows
        assert clean["test"] == other["test"] and clean["validation"] == other["validation"]
        assert clean["probabilities"] == other["probabilities"] and clean["coalitions"] == other["coalitions"]
        assert clean["measures"].get("temperature") == other["measures"].get("temperature")
        if recipe.name == "majority":
            continue
        assert clean["log"]["best_epoch"] == other["log"]["best_epoch"]
        places = [seed_folder(recipe, 0, tmp_path / name) for name in ("clean", "poisoned")]
        kept = [load_tensors(place / "last.safetensors")[0] for place in places]
        assert all((kept[0][k] == kept[1][k]).all() for k in kept[0] if k.startswith("best."))


def test_the_table_follows_from_the_predictions(toml, finished_folder):
    grid = find_grid(toml)
    found = results(grid, finished_folder)
    truth = truth_of(found[0])
    frame = compare(found, grid.control, truth)
    known = truth.label >= 0
    for r in found:
        hits = (np.array(r.predictions) == truth.label)[:, known]
        assert frame.at[r.recipe.name, "score"] == pytest.approx(100 * hits.mean())
        if r.recipe.name in grid.control:
            control = next(c for c in found if c.recipe.name == grid.control[r.recipe.name])
            other = (np.array(control.predictions) == truth.label)[:, known]
            assert frame.at[r.recipe.name, "gain"] == pytest.approx(100 * (hits.mean() - other.mean()))
    assert json.loads(frame.to_json())  # plain numbers
