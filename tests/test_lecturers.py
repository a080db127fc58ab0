"""Pages for lecturers are followed to the letter: commands run, edits fit, numbers are counted.

The how-to pages are followed in a copy of the checkout, with the blocks that stand in the pages themselves:
``python`` is run, each line of ``sh`` is run, ``diff`` is applied. So a page cannot rot.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
import test_systems
from packaging.specifiers import SpecifierSet
from test_audio import tone

from mer_lab import lessons
from mer_lab.audio import write_audio
from mer_lab.corpora import staged as package
from mer_lab.figures import ROOT, read_json, read_manifest

DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_BLOCK = re.compile(r"^( *)```(python|sh|diff)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and content of the page's blocks that are meant to be followed, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        (kind, re.sub(f"^{indent}", "", body, flags=re.MULTILINE))
        for indent, kind, body in _BLOCK.findall(text)
    ]


def apply(diff: str, root: Path) -> None:
    """Do what a diff block says: under ``--- FILE`` hunks of one or more lines, parted by ``---``."""
    head, *rest = diff.splitlines()
    path = root / head.removeprefix("--- ")
    text = path.read_text(encoding="utf-8")
    for hunk in "\n".join(rest).split("\n---\n"):
        lines = [line or " " for line in hunk.splitlines()]
        before = "\n".join(line[1:] for line in lines if line[0] in " -") + "\n"
        after = "\n".join(line[1:] for line in lines if line[0] in " +") + "\n"
        assert text.count(before) == 1, f"{path.name} has {text.count(before)} places for:\n{before}"
        text = text.replace(before, after)
    path.write_text(text, encoding="utf-8")


DRIVER = """
import json, runpy, shlex, sys

def command(line):
    head, *words = shlex.split(line)
    if head == "mer-lab":
        words = ["-m", "mer_lab", *words]
    module = words[0] == "-m"
    sys.argv = words[module:]
    try:
        (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{line} ended with status {end.code}"

sys.path.insert(0, "tests")
for kind, body in json.load(sys.stdin):
    if kind == "python":
        exec(compile(body, "<page>", "exec"), {"__name__": "__main__"})
    else:
        for line in filter(str.strip, body.splitlines()):
            command(line)
    print("\\f", end="", flush=True)
"""


class Checkout:
    """A copy of what a page works on. What runs in it imports the copy, not the package under test."""

    def __init__(self, root: Path, *parts: str) -> None:
        self.root = root
        for part in ("mer_lab", "docs/templates", *parts):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUTF8": "1", "TQDM_DISABLE": "1"}
        self.environment |= {
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in ("MER_LAB_SCALE", "MER_LAB_FIGURES", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            self.environment.pop(name, None)

    def follow(self, steps: list[tuple[str, str]]) -> list[str]:
        """Do the steps, all in one process of Python in the copy; what each printed.

        Raises:
            AssertionError: one of them failed; with what was said.
        """
        where = ("python", "import mer_lab.files; print(mer_lab.files.ROOT)")
        done = subprocess.run(
            [sys.executable, "-c", DRIVER], cwd=self.root, env=self.environment, capture_output=True,
            text=True, encoding="utf-8", input=json.dumps([where, *steps]),
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        root, *said = done.stdout.split("\f")[:-1]
        assert Path(root.strip()).samefile(self.root) and len(said) == len(steps)
        return said


# ---------------------------------------------------------------- add a lesson


def test_add_a_lesson(tmp_path):
    checkout = Checkout(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results").mkdir()
    said = checkout.follow(blocks("add_a_lesson.md"))
    assert "12_tempo" in said[1] and "smoke" in said[1] and "FAILED" not in said[1]
    assert "The committed lessons are in order." in said[2] and lessons.check(tmp_path) == []
    notebook = nbformat.read(tmp_path / "notebooks/12_tempo.ipynb", as_version=4)
    assert notebook.metadata.mer_lab.scale == "cpu"
    marks = [o.get("metadata", {}).get("mer_lab", {}) for c in notebook.cells for o in c.get("outputs", [])]
    assert [mark["claim"] for mark in marks if "claim" in mark] == [True]
    assert [row["lesson"] for row in read_manifest(tmp_path / "figures")] == ["12_tempo"]
    assert (tmp_path / "figures/12_tempo.png").is_file()
    notebook.cells[1].source += "\n"  # the page says that an edit after the refresh is not forgiven
    nbformat.write(notebook, tmp_path / "notebooks/12_tempo.ipynb")
    assert len(lessons.check(tmp_path)) == 1


def test_the_template_of_a_lesson_has_no_output_and_no_name_left():
    text = (DOCS / "templates/lesson.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in notebook.cells)
    assert text.count("NN_topic") == 1 and text.count("NN Topic") == 1
    assert (
        notebook.cells[0].source.startswith("# NN Topic. ")
        and "?" in notebook.cells[0].source.splitlines()[0]
    )


# ---------------------------------------------------------------- add a system


def test_add_a_system(tmp_path):
    checkout = Checkout(tmp_path, "tests", "results")
    checkout.environment["MER_LAB_CACHE"] = str(tmp_path / "cache")
    before = json.loads((tmp_path / "tests/revisions.json").read_text(encoding="utf-8"))
    copies, (kind, edit), *steps = blocks("add_a_system.md")
    assert (kind, [kind for kind, _ in steps]) == ("diff", ["sh", "sh", "python"])
    for line in copies[1].splitlines():
        if found := re.match(r"shutil.copy\(\"(.+)\", \"(.+)\"\)", line):
            shutil.copy(tmp_path / found[1], tmp_path / found[2])
    apply(edit, tmp_path)
    said = checkout.follow(steps)
    passed = [int(n) for n in re.findall(r"(\d+) passed", said[0])]
    assert len(passed) == 2 and passed[0] >= 3 and passed[1] >= 5, said[0]
    after = json.loads((tmp_path / "tests/revisions.json").read_text(encoding="utf-8"))
    assert after.keys() - before.keys() == {"modulation"} and after.keys() > before.keys()
    [place] = (tmp_path / "runs").glob("modulation-first-*/seed-0")
    card = (place / "model/README.md").read_text(encoding="utf-8")
    assert (place / "model/model.safetensors").is_file() and "FiLM" in card and "modulation-first" in card
    assert "modulation-first" in said[1] and "width=16" in said[2]


def test_the_contract_rejects_a_system_that_forgets_its_masks(monkeypatch):
    """What the page promises to be tested is tested: a mean over padding does not pass."""
    text = (DOCS / "templates/system.py").read_text(encoding="utf-8")
    pooled = "a, heard = self.pool_audio(self.hear(self.dropout(x), frames), frames)"
    for name, broken in (
        ("modulation", text),
        ("unmasked", text.replace(pooled, f"{pooled}; a = a + x.mean()")),
    ):
        module = types.ModuleType(f"template_{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look
        exec(compile(broken, name, "exec"), vars(module))
        monkeypatch.setitem(test_systems.SYSTEMS, name, (module.Modulation, module.ModulationConfig()))
    test_systems.test_padding_changes_no_logit("modulation", test_systems.made_up())
    with pytest.raises(AssertionError):
        test_systems.test_padding_changes_no_logit("unmasked", test_systems.made_up())


# ---------------------------------------------------------------- add a corpus


def record(folder: Path) -> None:
    """The recordings that the template's table names: a tone each, higher where somebody is happy."""
    rows = (DOCS / "templates/clips.csv").read_text(encoding="utf-8").splitlines()[1:]
    for k, row in enumerate(rows):
        name, emotion = row.split(",")[0], row.split(",")[4]
        pitch = {"angry": 220, "happy": 330, "sad": 110}[emotion] + 5 * k
        write_audio(folder / name, tone(16000, 0.5 + 0.05 * k, pitch), 16000)


@pytest.fixture(scope="module")
def corpus_page(tmp_path_factory):
    """The page followed, on recordings of which one more is damaged and one is named otherwise."""
    root = tmp_path_factory.mktemp("corpus")
    checkout = Checkout(root)
    checkout.environment["MER_LAB_CACHE"] = str(root / "cache")
    record(root / "recordings")
    damaged = "from pathlib import Path; Path('recordings/kai_sad_01.wav').write_bytes(b'RIFF')"
    misnamed = "import shutil; shutil.copy('recordings/ann_angry_01.wav', 'recordings/notes.wav')"
    steps = blocks("add_a_corpus.md")
    [edit] = [body for kind, body in steps if kind == "diff"]
    apply(edit, root)
    followed = [step for step in steps if step[0] != "diff"]
    split = next(k for k, step in enumerate(followed) if "importer.py" in step[1])
    between = [("python", f"{damaged}\n{misnamed}")]
    return checkout, checkout.follow(followed[:split] + between + followed[split:])


def test_add_a_corpus_from_a_table(corpus_page):
    from mer_lab.corpora import load_corpus

    checkout, said = corpus_page
    corpus = load_corpus(checkout.root / "corpora/mine")
    assert len(corpus) == 20 and corpus.labels == ("angry", "happy", "sad")
    assert set(corpus.table["split"]) == {"train", "validation", "test"}
    assert corpus.table.loc[corpus.table["dialogue_id"] == "c1", "turn"].tolist() == [1, 2, 3, 4]
    for column in ("speaker", "dialogue_id"):
        sides = corpus.table.groupby(column)["split"].nunique()
        assert (sides == 1).all()
    assert (checkout.root / "audit/audit.csv").is_file()
    [result] = (checkout.root / "runs").glob("first-run-*.json")
    assert json.loads(result.read_text(encoding="utf-8"))["labels"] == ["angry", "happy", "sad"]


def test_add_a_corpus_with_an_importer(corpus_page):
    from mer_lab.corpora import load_corpus

    checkout, said = corpus_page
    corpus = load_corpus(checkout.root / "corpora/named")
    assert len(corpus) == 20 and corpus.labels == ("angry", "happy", "sad")
    assert (corpus.table.groupby("speaker")["split"].nunique() == 1).all()
    left_out = (checkout.root / "corpora/named/quarantine.csv").read_text(encoding="utf-8")
    assert "kai_sad_01" in left_out and "notes" in left_out and "2 files left out" in said[-1]
    assert np.isfinite(corpus.table["end"]).all()


# ---------------------------------------------------------------- data statement


def counted(corpus) -> tuple[list[str], list[str]]:
    """Phrases and rows of tables that the data statement must have, with the numbers of the corpus."""
    from mer_lab.corpora.corpus import SPLITS
    from mer_lab.corpora.staged import CUES, LABELS, process, script, speech

    t, sizes = corpus.table, corpus.words.groupby("utterance_id").size()
    seconds, turns = t["end"] - t["start"], t.groupby("dialogue_id").size()
    votes = t["evaluators"].str.split(";")
    light, deep = len(package._LIGHT), len(package._DEEP)
    assert len({len(words) for words in script.LEXICON.values()}) == 1 and len(LABELS) == 4
    assert len({len(scene) for scene in script.SCENES}) == 1
    phrases = [
        f"{len(t):,} utterances in {len(turns)} dialogues of {turns.min()} to {turns.max()} turns",
        f"{seconds.sum() / 60:.0f} minutes of sound, {len(corpus.words):,} words of text",
        f"{len(script.FRAMES)} sentence frames",
        f"{len(script.SCENES)} scenes of {len(script.SCENES[0])} nouns",
        f"{len(package._EMOTIONAL)} emotional adjectives ({len(script.LEXICON['sad'])} for each of 4 labels)",
        f"{len(script.OPEN)} adjectives without emotion, and {len(script.BACKCHANNELS)} backchannels",
        f"{corpus.words['word'].nunique()} different words in all",
        f"{light + deep} synthetic voices: variants of espeak-ng, {light} light and {deep} deep",
        f"errs with probability {process.EVALUATOR_ERROR:g}, independently",
        f"agree on {votes.map(lambda v: len(set(v)) == 1).mean():.0%}".replace("%", " %"),
        f"{100 * (t['label'] != t['emotion']).mean():.1f} % of the labels differ",
        f"has {sizes.min()} to {sizes.max()} words (mean {sizes.mean():.1f})",
        f"lasts {seconds.min():.1f} to {seconds.max():.1f} s (mean {seconds.mean():.1f} s)",
        f"{speech.RATE // 1000} kHz, mono, 16 bit",
        "Bender & Friedman",
    ]
    rows = []
    for split in SPLITS:
        own = t[t["split"] == split]
        minutes = f"{seconds[own.index].sum() / 60:.0f}"
        cells = [own["dialogue_id"].nunique(), f"{len(own):,}", own["speaker"].nunique(), minutes]
        rows.append(f"| {split} | {' | '.join(map(str, cells))} |")
    for column, values in (("cue", CUES), ("label", LABELS)):
        for value in values:
            cells = [((t["split"] == split) & (t[column] == value)).sum() for split in SPLITS]
            rows.append(f"| {value} | {' | '.join(map(str, cells))} |")
    return phrases, rows


def test_every_number_of_the_data_statement_is_counted(staged_corpus):
    """Each phrase is there, and no number stands in the page that no phrase or row accounts for."""
    page = (DOCS / "data_statement.md").read_text(encoding="utf-8")
    flat = " ".join(page.split())
    phrases, rows = counted(staged_corpus)
    for phrase in phrases:
        assert phrase in flat, f"the corpus says: {phrase}"
    for row in rows:
        assert row.removesuffix(" |") in page, f"the corpus says: {row}"
    known = set(
        re.findall(r"\d[\d,.]*", " ".join([*phrases, *rows, "TACL 2018", "Juslin & Laukka (2003)", "GPL-3"]))
    )
    unknown = {n.rstrip(".,") for n in re.findall(r"\d[\d,.]*", flat)} - {n.rstrip(".,") for n in known}
    assert not unknown, f"nothing accounts for {sorted(unknown)}"


def test_claims_of_the_data_statement_about_the_splits(staged_corpus):
    table = staged_corpus.table
    for column in ("speaker", "scene", "frame"):
        used = table[table[column].astype(str) != ""]
        assert (used.groupby(column)["split"].nunique() == 1).all(), column
    sound = soundfile.info(str(staged_corpus.audio_path(staged_corpus.ids[0])))
    assert (sound.samplerate, sound.channels, sound.subtype) == (16000, 1, "PCM_16")


# ---------------------------------------------------------------- syllabus, grading, project


def lesson_rows() -> dict[str, list[str]]:
    """Lesson → cells of its row in the syllabus: what it needs, minutes of reading, minutes of exercises."""
    page = (DOCS / "syllabus.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d\d) [^|]*\(\.\./notebooks/(\S+)\.ipynb\) \|(.*)\|$", page, re.MULTILINE)
    assert all(number == name[:2] for number, name, _ in rows)
    return {name: [cell.strip() for cell in rest.split("|")] for _, name, rest in rows}


def numbers_in(text: str) -> set[str]:
    """Lessons that a text names, as in "03 (masks), 05 to 07"."""
    found = set(re.findall(r"\b\d\d\b", text))
    for low, high in re.findall(r"\b(\d\d) to (\d\d)\b", text):
        found |= {f"{n:02d}" for n in range(int(low), int(high) + 1)}
    return found


def test_the_syllabus_knows_every_lesson_and_what_it_needs():
    rows = lesson_rows()
    paths = lessons.lesson_paths(ROOT / "notebooks")
    assert list(rows) == [path.stem for path in paths]
    for path in paths:
        opening = " ".join(nbformat.read(path, as_version=4).cells[0].source.split())
        needed = re.search(r"You need (lessons? .*?)[.;]", opening)
        assert numbers_in(rows[path.stem][0]) == (numbers_in(needed[1]) if needed else set()), path.stem


def test_hours_of_the_syllabus_are_those_of_the_lessons():
    """Reading as the page reckons it, to ten minutes; exercises to the minute; running within three."""
    from mer_lab.exercises import all_exercises

    minutes: dict[str, int] = {}
    for _, exercise in all_exercises():
        minutes[exercise.number[:2]] = minutes.get(exercise.number[:2], 0) + exercise.minutes
    seconds = read_json(ROOT / "results/lesson_seconds.json")["cpu"]
    for name, (_, reading, exercises) in lesson_rows().items():
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        words = sum(len(c.source.split()) for c in cells if c.cell_type == "markdown")
        code = sum(
            bool(line.strip()) for c in cells if c.cell_type == "code" for line in c.source.splitlines()
        )
        figures = sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
        assert abs(int(reading.removesuffix(" min")) - (words / 100 + code / 15 + 2 * figures)) <= 10, name
        assert exercises == (f"{minutes[name[:2]]} min" if name[:2] in minutes else ""), name
        assert name not in seconds or seconds[name]["seconds"] < 180, name


def test_sections_and_exercises_that_the_plans_name_exist():
    from mer_lab.exercises import all_exercises

    page = (DOCS / "syllabus.md").read_text(encoding="utf-8")
    heads = set()
    for path in lessons.lesson_paths(ROOT / "notebooks"):
        for cell in nbformat.read(path, as_version=4).cells:
            heads |= set(re.findall(r"^#+ (.*?)(?::.*)?$", cell.source, re.MULTILINE))
    for named in re.findall(r"(?:to|from|sections) \"([^\"]+)\"", page):
        assert any(head.startswith(named) for head in heads), named
    known = {exercise.number for _, exercise in all_exercises()}
    named = set(re.findall(r"\b\d\d\.\d\b", page))
    assert named and named <= known


def test_goals_are_stated_for_every_lesson_in_verbs():
    page = (DOCS / "syllabus.md").read_text(encoding="utf-8")
    goals = dict(re.findall(r"^- \*\*(\d\d)\*\* ((?:.|\n  )*)", page, re.MULTILINE))
    assert list(goals) == [name[:2] for name in lesson_rows()]
    for number, text in goals.items():
        assert not re.match(r"(Know|Understand|Learn|Be )", text) and text.rstrip().endswith("."), number


def test_the_rubric_adds_up():
    page = (DOCS / "project.md").read_text(encoding="utf-8")
    rubric = page[page.index("| criterion |") :].split("\n\n")[0].splitlines()
    assert len(rubric) - 2 == 8 and "40 points in all" in page and 8 * 5 == 40
    assert all(line.count("|") == rubric[0].count("|") for line in rubric)


def test_what_grading_says_of_the_commands_is_so():
    from typer.testing import CliRunner

    from mer_lab.exercises import all_exercises
    from mer_lab.exercises.__main__ import app
    from mer_lab.exercises.grading import _COLUMNS
    from mer_lab.exercises.stubs import stub_of

    page = " ".join((DOCS / "grading.md").read_text(encoding="utf-8").split())
    counts: dict[str, int] = {}
    for _, exercise in all_exercises():
        counts[exercise.number[:2]] = counts.get(exercise.number[:2], 0) + 1
    assert "Forty exercises, four to a lesson from 01 to 10" in page
    assert counts == {f"{n:02d}": 4 for n in range(1, 11)}
    said = {name: CliRunner().invoke(app, [name, "--help"]).output for name in ("grade", "stubs", "list")}
    for command, option in (("grade", "--out"), ("grade", "--seconds"), ("stubs", "--check")):
        assert option in page and option in said[command]
    assert "(120)" in page and "120" in said["grade"]
    assert _COLUMNS == ["student", "notebook", "exercise", "title", "passed", "message"]
    assert "student, notebook, exercise, title, whether it passed, and what the check said" in page
    marks = "x = 1\n### BEGIN SOLUTION\ny = 2\n### END SOLUTION"
    stub = stub_of(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(marks)]))
    assert "y = 2" not in stub.cells[0].source
    assert "### BEGIN SOLUTION" in page and "### END SOLUTION" in page


def test_another_seed_gives_another_corpus_as_grading_says():
    from mer_lab.recipes import RECIPES
    from mer_lab.records import Recipe

    [block] = re.findall(r"```toml\n(.*?)```", (DOCS / "grading.md").read_text(encoding="utf-8"), re.DOTALL)
    spec = tomllib.loads(block)
    recipe = Recipe.from_toml(RECIPES["text-bilstm"].to_toml() + "\n" + block)
    assert recipe.staged == spec["staged"] and recipe.hash != RECIPES["text-bilstm"].hash


# ---------------------------------------------------------------- installation


def test_the_dev_container_is_valid_and_installs_what_pip_does():
    spec = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert spec["image"].endswith("python:3.11-bookworm") and spec["forwardPorts"] == [8888]
    command = shlex.split(spec["postCreateCommand"].split("&&")[0])
    assert command[:4] == ["python", "-m", "pip", "install"]
    assert command[4:] == ["-e", ".[course,test]", "-c", "constraints.txt"]
    extras = re.search(r"\[(.*)\]", command[5])[1].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_binder_installs_the_checkout_at_the_pinned_versions():
    lines = (ROOT / "binder/requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert lines == ["-c ../constraints.txt", "-e .[course]"]
    assert (ROOT / "binder" / "../constraints.txt").is_file()
    version = (ROOT / "binder/runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_commands_of_the_installation_exist():
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake (\w+)", " ".join(re.findall(r"`[^`]+`|```.*?```", page, re.DOTALL))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for extras in re.findall(r"\"\.\[([\w,]+)\]\"", page):
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    for name in re.findall(r"`\.?\.?/?([\w./-]+\.(?:txt|yml|toml))`", page):
        assert (ROOT / name).is_file(), name
    assert "yes" in page and all(minor in page for minor in ("3.11", "3.12", "3.13"))


@pytest.mark.parametrize(
    "path", ["CONTRIBUTING.md", "CHANGELOG.md", *sorted(p.name for p in DOCS.glob("*.md"))]
)
def test_links_lead_somewhere(path):
    place = ROOT / path if (ROOT / path).is_file() else DOCS / path
    text = place.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (place.parent / target).exists(), f"{path} links {target}"
    assert not re.search(r"/(?:home|root|Users|work)/\w", text)
