"""Lessons are built, renewed and checked: each check fires on a made-up notebook; the committed pass."""

import json
import re
import shutil
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mer_lab import execution, lessons
from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT, read_json, read_manifest, write_manifest

GOOD = """
# 02 Features. What is left of a voice?

A softmax: $a_t = e^{s_t} / \\sum_u e^{s_u}$. 
[Exercises](exercises/02_features.ipynb), [broken](03_broken.ipynb).
---
import os, sys
import matplotlib.pyplot as plt
from mer_lab import course
lesson = course.setup("02_features")
---
fig, axes = plt.subplots()
axes.plot([1, lesson.scale.epochs])
course.show(fig, "rise", alt="A line rising from one to the number of epochs.")
---
course.claim("one is less than two", 1 < 2)
open("scratch.txt", "w").close()
print(os.path.abspath("scratch.txt"), course.ROOT)
print("100%|####| 3/3 [00:01<00:00, 2.9it/s]", file=sys.stderr)
from tqdm.auto import tqdm
list(tqdm(range(3), disable=False))
"""
BROKEN = """
# Broken
---
from mer_lab.errors import MerLabError
print("so far so good")
---
raise MerLabError("utterances.csv, line 3: no such label.")
"""


def write(path, text, **metadata):
    """A notebook from cells parted by lines of ---; those that begin with # and a blank are prose."""
    cells = [part.strip() for part in text.split("---\n")]
    make = [new_markdown_cell(c) if c.startswith("# ") else new_code_cell(c) for c in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=make, metadata=metadata), path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small course: one lesson that runs, one that fails, and a figure that the lesson no longer draws."""
    root = tmp_path_factory.mktemp("course")
    write(root / "notebooks/02_features.ipynb", GOOD)
    write(root / "notebooks/03_broken.ipynb", BROKEN)
    write(root / "notebooks/draft.ipynb", BROKEN)
    write(root / "notebooks/exercises/02_features.ipynb", BROKEN)
    (root / "figures").mkdir()
    (root / "figures/02_old.png").write_bytes(b"")
    stale = {"file": "02_old.png", "lesson": "02_features", "cell": 2}
    write_manifest(root / "figures", [stale, {"file": "01_kept.png", "lesson": "01_corpora", "cell": 2}])
    return root


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    before = sorted(root.rglob("*"))
    runs = lessons.build(out, "cpu", notebooks=root / "notebooks", jobs=2)
    assert not [p for p in psutil.Process().children(recursive=True) if "ipykernel" in " ".join(p.cmdline())]
    assert sorted(root.rglob("*")) == before, "a build leaves the tree as it was"
    return out, runs


@pytest.fixture(scope="module")
def refreshed(root):
    return root, lessons.refresh("cpu", root=root)


def test_a_failing_lesson_says_where_and_the_others_run(built):
    out, runs = built
    assert [run.error for run in runs] == [
        "",
        'cell 3 (raise MerLabError("utterances.csv, line 3: no such label."))'
        " failed: utterances.csv, line 3: no such label.",
    ]
    assert (out / "02_features.html").exists() and (out / "03_broken.html").exists()
    assert not (out / "draft.html").exists()


def test_pages_fetch_nothing_from_the_network(built):
    out, _ = built
    for page in out.glob("*.html"):
        for address in re.findall(
            r"<(?:script|link|img|iframe|audio)\b[^>]*?(?:src|href)=\"([^\"]*)", page.read_text()
        ):
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            if not address.startswith("data:"):
                assert (out / address.partition("?")[0]).exists(), f"{page.name} needs {address}"
        assert not re.search(r"import\(|@import|url\(['\"]?(https?:)?//", page.read_text())


def test_pages_carry_title_alt_text_and_navigation(built):
    page = (built[0] / "02_features.html").read_text()
    assert "<title>02 Features</title>" in page and 'lang="en"' in page
    assert 'alt="A line rising from one to the number of epochs."' in page
    assert 'href="index.html"' in page and 'href="03_broken.html"' in page


def test_one_at_a_time_means_one_at_a_time(monkeypatch, tmp_path):
    """Or the seconds of a lesson would be those of two."""
    busy = []

    def slow(path, scale, figures, environment):
        busy.append(path)
        time.sleep(0.05)
        return execution.Ran(path, None, scale, 0.0, "")

    monkeypatch.setattr(execution, "execute", slow)
    paths = [tmp_path / f"0{k}_x.ipynb" for k in range(3)]
    for k, _ in enumerate(execution.execute_all(paths, "smoke", tmp_path), 1):
        time.sleep(0.1)
        assert len(busy) == k
    busy.clear()
    runs = execution.execute_all(paths * 20, "smoke", tmp_path, jobs=2)
    next(runs)
    runs.close()
    assert len(busy) < 10, "nothing new begins after an interrupt"


def test_what_a_lesson_links_to_comes_along(built):
    out, _ = built
    page = (out / "02_features.html").read_text(encoding="utf-8")
    assert 'href="files/exercises/02_features.ipynb"' in page and 'href="03_broken.ipynb"' in page
    assert (out / "files/exercises/02_features.ipynb").is_file() and (out / "03_broken.ipynb").is_file()


def test_index_tells_question_figure_claims_and_failure(built):
    out, _ = built
    page = (out / "index.html").read_text()
    assert "What is left of a voice?" in page and "1 of 1 claims hold" in page
    assert 'src="figures/02_rise.png"' in page and (out / "figures/02_rise.png").exists()
    assert "Stopped: cell 3" in page and "at cpu scale" in page


def test_a_later_build_of_one_lesson_keeps_the_others_in_the_index(built, root):
    out, _ = built
    copy = out.parent / "again"
    shutil.copytree(out, copy, dirs_exist_ok=True)
    lessons.build(copy, "smoke", only="02", notebooks=root / "notebooks")
    page = (copy / "index.html").read_text()
    assert "Broken" in page and "1 claim, not checked" in page


def test_outputs_lose_what_belongs_to_one_machine(built):
    notebook = nbformat.read(built[0] / "02_features.ipynb", as_version=4)
    printed = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    assert printed[1:] == ["./scratch.txt .\n"], "paths shortened, the progress bar gone"
    assert list(lessons._check_outputs(notebook)) == []


def test_refresh_stamps_and_times_what_ran_and_leaves_what_failed(refreshed):
    root, runs = refreshed
    good, broken = (
        nbformat.read(root / f"notebooks/{n}.ipynb", as_version=4) for n in ("02_features", "03_broken")
    )
    assert good.metadata.mer_lab.scale == "cpu"
    assert good.metadata.mer_lab.source_sha256 == lessons.source_sha256(good)
    assert "mer_lab" not in broken.metadata and broken.cells[1].execution_count is None
    seconds = read_json(root / "results/lesson_seconds.json")
    assert set(seconds) == {"cpu", "smoke"} and list(seconds["cpu"]) == ["02_features"]
    assert [row["file"] for row in read_manifest(root / "figures")] == ["01_kept.png", "02_rise.png"]
    assert (root / "figures/02_rise.png").exists() and not (root / "figures/02_old.png").exists()
    assert any(run.error for run in runs)


def test_refresh_wants_a_scale_at_which_claims_are_checked(root):
    with pytest.raises(MerLabError, match="not smoke"):
        lessons.refresh("smoke", root=root)


def test_a_folder_without_lessons_is_one_sentence(tmp_path):
    with pytest.raises(MerLabError, match="no lesson"):
        lessons.build(tmp_path / "out", notebooks=tmp_path)


def test_a_refreshed_lesson_passes_the_check(refreshed):
    root, _ = refreshed
    assert [problem for problem in lessons.check(root) if problem.startswith("02_features")] == []


def edit_source(notebook, root):
    notebook.cells[1].source += "\n"


def edit_tags(notebook, root):
    notebook.cells[1].metadata.tags = ["gpu"]


def swap_cells(notebook, root):
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 2, 1


def run_cell_again(notebook, root):
    notebook.cells[1].execution_count = 9


def leave_one_out(notebook, root):
    notebook.cells[2].execution_count = None


def output(*arguments, **content):
    def change(notebook, root):
        notebook.cells[2].outputs.append(new_output(*arguments, **content))

    return change


def drop_alt(notebook, root):
    [shown] = notebook.cells[2].outputs
    shown.metadata["image/png"].pop("alt")


def lose_figure(notebook, root):
    (root / "figures/02_rise.png").unlink()


def never_run(notebook, root):
    del notebook.metadata["mer_lab"]


@pytest.mark.parametrize(
    "change, problem",
    [
        (edit_source, "was edited after its outputs"),
        (edit_tags, "was edited after its outputs"),
        (never_run, "never been run"),
        (swap_cells, "out of order"),
        (run_cell_again, "out of order"),
        (leave_one_out, "was not executed"),
        (drop_alt, "without alt text"),
        (lose_figure, "is not in figures/"),
        (output("stream", name="stderr", text="UserWarning: careful"), "shows stderr output"),
        (output("stream", name="stdout", text="saved in /home/ann/run"), "absolute path: /home/ann/run"),
        (output("stream", name="stdout", text=r"saved in C:\Users\ann"), r"absolute path: C:\Users\ann"),
        (
            output("display_data", data={"text/html": "<a href='/Users/ann/x'>x</a>"}),
            "absolute path: /Users/ann/x",
        ),
        (output("display_data", data={"image/svg+xml": "<svg/>"}), "without alt text"),
        (output("display_data", data={"text/html": '<img src="x.png" alt="">'}), "without alt text"),
        (output("display_data", data={"text/plain": "extracting:  40%|##  | 2/5"}), "shows a progress bar"),
        (output("error", ename="ValueError", evalue="no", traceback=[]), "shows an error"),
    ],
)
def test_each_check_fires(refreshed, tmp_path, change, problem):
    root = tmp_path / "course"
    shutil.copytree(refreshed[0], root)
    path = root / "notebooks/02_features.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook, root)
    nbformat.write(notebook, path)
    found = [text for text in lessons.check(root) if text.startswith("02_features")]
    assert len(found) == 1 and problem in found[0], found


@pytest.mark.parametrize(
    "text",
    [
        "figures/02_rise.png",
        "audio and/or text",
        "see https://example.org/home/x",
        "</data>",
        "./tmp/x",
        "24/7",
    ]
    + ['<audio src="data:audio/mpeg;base64,AA/home/tmp/x+/opt/a"></audio>'],
)
def test_what_is_no_absolute_path_passes(text):
    cell = new_code_cell("1", outputs=[new_output("display_data", data={"text/html": text})])
    assert list(lessons._check_outputs(new_notebook(cells=[cell]))) == []


def test_outputs_do_not_count_as_source():
    bare, full = new_notebook(cells=[new_code_cell("1 + 1")]), new_notebook(cells=[new_code_cell("1 + 1")])
    full.cells[0].outputs = [new_output("stream", name="stdout", text="2")]
    full.cells[0].execution_count = 1
    assert lessons.source_sha256(bare) == lessons.source_sha256(full)
    full.cells.append(new_markdown_cell(""))
    assert lessons.source_sha256(bare) != lessons.source_sha256(full)


def test_command_line_gives_status_one_for_a_failure(monkeypatch, root, tmp_path, capsys):
    monkeypatch.setattr(lessons, "lesson_paths", lambda *_: [root / "notebooks/03_broken.ipynb"])
    assert lessons.main(["build", "--scale", "smoke", "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "course.json").read_text())["lessons"][0]["scale"] == "smoke"
    assert "03_broken: cell 3" in capsys.readouterr().err
    assert lessons.main(["refresh", "--scale", "smoke"]) == 1
    assert capsys.readouterr().err.startswith("mer_lab: ")


def test_committed_lessons_are_in_order():
    if not list((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        pytest.skip("no lessons beside the package")
    assert lessons.check() == []
