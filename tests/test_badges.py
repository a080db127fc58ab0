"""A fork writes its address into every lesson, and no lesson has to be run again for it."""

import shutil

import nbformat
import pytest

from mer_lab import lessons
from mer_lab.badges import TAG, with_badges, write_badges
from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT

ADDRESS = "https://github.com/ann/mer_lab"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in sorted((ROOT / "notebooks").glob("0[0-1]_*.ipynb")):
        shutil.copy(path, tmp_path / "notebooks")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def hosted(path):
    cells = nbformat.read(path, as_version=4).cells
    return [c for c in cells if TAG in c.metadata.get("tags", [])]


def test_an_address_changes_what_is_hosted_and_nothing_that_was_run(root):
    path = root / "notebooks" / "01_corpora.ipynb"
    before = nbformat.read(path, as_version=4)
    assert len(write_badges(ADDRESS + ".git/", root)) == 3
    after = nbformat.read(path, as_version=4)
    assert lessons.source_sha256(after) == lessons.source_sha256(before)
    assert list(lessons._check_order(after)) == []
    shown, fetch = hosted(path)
    assert "colab.research.google.com/github/ann/mer_lab/blob/HEAD/notebooks/01_corpora.ipynb" in shown.source
    assert "labpath=notebooks%2F01_corpora.ipynb" in shown.source
    assert f'address = "{ADDRESS}"' in fetch.source
    assert "gh/ann/mer_lab/HEAD" in (root / "README.md").read_text(encoding="utf-8")
    assert write_badges(ADDRESS, root) == [], "once is enough"
    write_badges("", root)
    assert nbformat.read(path, as_version=4) == before
    assert (root / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()


def test_the_cell_fetches_on_colab_only(root, monkeypatch):
    write_badges(ADDRESS, root)
    source = hosted(root / "notebooks" / "00_start_here.ipynb")[1].source
    ran = []
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    exec(source, {})
    assert ran == []
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    monkeypatch.setattr("sys.path", [])
    monkeypatch.chdir(root)
    exec(source, {})
    assert ran[0][:2] == ["git", "clone"] and ADDRESS in ran[0]
    (root / "mer_lab").mkdir()
    exec(source, {})
    assert [command[0] for command in ran].count("git") == 1, "once is enough: Colab may have restarted"
    assert ran[1][1:4] == ["-m", "pip", "install"] and "mer_lab/constraints.txt" in ran[1]


def test_every_lesson_has_the_cell(root):
    for path in lessons.lesson_paths(ROOT / "notebooks"):
        notebook = nbformat.read(path, as_version=4)
        assert notebook == with_badges(nbformat.read(path, as_version=4), "", path.name), path.name


@pytest.mark.parametrize("address", ["github.com/ann/m", "http://github.com/a/b", ADDRESS + "\"; x", "x"])
def test_what_is_no_address_is_refused(root, address):
    with pytest.raises(MerLabError, match="no repository's address"):
        write_badges(address, root)
