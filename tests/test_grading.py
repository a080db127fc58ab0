"""What students hand in is run with our checks, however it was bent."""

import shutil

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell

from mer_lab.errors import MerLabError
from mer_lab.exercises.grading import grade_folder, summary, with_our_checks
from mer_lab.figures import ROOT

NAME = "01_corpora.ipynb"
SOLUTION, STUB = (ROOT / "notebooks" / kind / NAME for kind in ("solutions", "exercises"))


def read(path):
    return nbformat.read(path, as_version=4)


def hand_in(folder, student, notebook):
    (folder / student).mkdir(parents=True)
    nbformat.write(notebook, folder / student / NAME)


def test_each_student_gets_what_the_checks_say(tmp_path):
    """One solved the first exercise, one wrote the verdict by hand, one handed in a picture."""
    solved, stub = read(SOLUTION), read(STUB)
    first = {c.id: c.source for c in solved.cells}
    done = 0
    for cell in stub.cells:
        if cell.cell_type == "code" and "NotImplementedError" in cell.source and not done:
            cell.source, done = first[cell.id], 1
    hand_in(tmp_path / "in", "ann", stub)
    forged = read(STUB)
    for cell in forged.cells:
        if "check" in cell.metadata.get("tags", []):
            cell.source = "print('✓ 01.1 Count the votes (6 checks passed)')"
    forged.cells.insert(1, new_code_cell("class check:\n    majority = print"))
    hand_in(tmp_path / "in", "bob", forged)
    (tmp_path / "in" / "eve").mkdir()
    (tmp_path / "in" / "eve" / NAME).write_bytes(b"\x89PNG\r\n")
    shutil.copytree(tmp_path / "in" / "ann", tmp_path / "in" / "ann2" / ".ipynb_checkpoints")
    out = tmp_path / "grades.csv"
    table = grade_folder(tmp_path / "in", out)
    numbers = sorted(table["exercise"].unique())
    assert set(table["student"]) == {"ann", "bob", "eve"}
    passed = table[table["passed"]]
    assert passed[["student", "exercise"]].to_numpy().tolist() == [["ann", "01.1"]]
    told = table.set_index(["student", "exercise"])["message"]
    assert "not done yet" in told["ann", numbers[1]] and "not done yet" in told["bob", "01.1"]
    assert "is not a notebook" in told["eve", "01.1"]
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1 + 3 * len(numbers)
    assert f"ann: 1 of {len(numbers)} exercises" in summary(table)


def test_a_check_that_was_deleted_comes_back_at_the_end():
    theirs = read(STUB)
    count = sum("check" in c.metadata.get("tags", []) for c in theirs.cells)
    theirs.cells = [c for c in theirs.cells if "check" not in c.metadata.get("tags", [])]
    made = with_our_checks(theirs, read(SOLUTION))
    assert ["import" in c.source for c in made.cells[-count:]] == [True] * count


def test_checks_in_another_order_are_told():
    theirs = read(STUB)
    theirs.cells = theirs.cells[::-1]
    with pytest.raises(MerLabError, match="another order"):
        with_our_checks(theirs, read(SOLUTION))


def test_a_cell_that_never_ends_is_stopped(tmp_path):
    stub = read(STUB)
    stub.cells = [new_code_cell("while True: pass")]
    hand_in(tmp_path, "ann", stub)
    before = set(psutil.Process().children(recursive=True))
    assert grade_folder(tmp_path, seconds=2)["message"].str.contains("longer than 2 seconds").all()
    assert set(psutil.Process().children(recursive=True)) <= before, "and its kernel does not go on"


@pytest.mark.parametrize(
    "content",
    ['{"cells": null, "nbformat": 4}', '{"cells": [null], "nbformat": 4, "metadata": {}}', "[]", "{}", "\\"],
)
def test_whatever_a_file_holds_the_others_are_graded(tmp_path, content):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / NAME).write_text(content, encoding="utf-8")
    (tmp_path / "bob" / NAME).mkdir(parents=True)
    table = grade_folder(tmp_path)
    assert set(table["student"]) == {"ann", "bob"} and not table["passed"].any()
    assert table["message"].str.contains("is not a notebook|could not be run|was not reached").all()


def test_a_mark_of_ours_in_a_cell_of_theirs_counts_for_nothing():
    theirs = read(STUB)
    theirs.cells.insert(0, new_code_cell("1", metadata={"mer_lab_check": True}))
    made = with_our_checks(theirs, read(SOLUTION))
    assert "mer_lab_check" not in made.cells[0].metadata


def test_a_folder_without_exercises_is_one_sentence(tmp_path):
    with pytest.raises(MerLabError, match="no such folder"):
        grade_folder(tmp_path / "no")
    (tmp_path / "12_mine.ipynb").write_text("{}", encoding="utf-8")
    with pytest.raises(MerLabError, match="12_mine.ipynb is no exercise"):
        grade_folder(tmp_path)
