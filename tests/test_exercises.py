"""Exercises: solutions pass, stubs fail, each message of each check is shown to a mistake that it names."""

import ast
import importlib
import re
import traceback
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import mer_lab.exercises as package
from mer_lab.errors import MerLabError
from mer_lab.exercises import Check, Exercise, Misconception, NotYet, all_exercises
from mer_lab.exercises.stubs import TODO, make_stubs, stub_of
from mer_lab.figures import ROOT

CHECKS = Path(package.__file__).parent
EXERCISES = dict(all_exercises())
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("[0-9][0-9]_*.ipynb"))
HANDED_OUT = ROOT / "notebooks" / "exercises"
MISTAKES = sorted((Path(__file__).parent / "mistakes").glob("[a-z]*.py"))
FRAMEWORK = {"__init__", "__main__", "checking", "stubs", "grading"}


def run_cells(notebook, monkeypatch, tmp_path):
    """Execute the code cells in one namespace; for each its tags, source, and what it raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_LAB_FIGURES", str(tmp_path / "figures"))
    names, ran = {"__name__": "__main__"}, []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        raised = None
        try:
            exec(compile(cell.source, f"cell {cell.id}", "exec"), names)
        except Exception as error:
            raised = error
        ran.append((cell.metadata.get("tags", []), cell.source, raised))
    return ran


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_solutions_pass_all_their_checks(path, monkeypatch, tmp_path, capsys):
    ran = run_cells(nbformat.read(path, as_version=4), monkeypatch, tmp_path)
    assert [(source, raised) for _, source, raised in ran if raised] == []
    passed = re.findall(r"✓ (\d\d\.\d) ", capsys.readouterr().out)
    wanted = [e.number for e in EXERCISES.values() if e.number.startswith(path.stem[:2])]
    assert passed == wanted, "each check, in order"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_stubs_fail_each_check_as_not_done_and_nothing_else(path, monkeypatch, tmp_path):
    checks = 0
    for tags, source, raised in run_cells(
        nbformat.read(HANDED_OUT / path.name, as_version=4), monkeypatch, tmp_path
    ):
        if "check" in tags:
            assert isinstance(raised, NotYet), f"{source}: {raised!r}"
            checks += 1
        else:  # what shows an answer at work may be run before there is one
            assert raised is None or isinstance(raised, NotImplementedError), f"{source}: {raised!r}"
    assert checks == sum(e.number.startswith(path.stem[:2]) for e in EXERCISES.values())


def test_stubs_are_made_from_the_solutions():
    assert make_stubs(check=True) == [], "run python -m mer_lab.exercises stubs"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_a_notebook_names_its_exercises_as_they_are_registered(path):
    headings = [
        line[3:]
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if re.match(r"## \d\d\.\d ", line)
    ]
    assert headings == [e.heading for e in EXERCISES.values() if e.number.startswith(path.stem[:2])]


def test_lessons_01_to_10_have_three_or_four_graded_exercises():
    for lesson in range(1, 11):
        found = [e for e in EXERCISES.values() if e.number.startswith(f"{lesson:02d}.")]
        assert [e.number for e in found] == [f"{lesson:02d}.{k + 1}" for k in range(len(found))]
        assert len(found) in (3, 4), f"lesson {lesson:02d} has {len(found)}"
        levels = [("easy", "medium", "hard").index(e.level) for e in found]
        assert levels == sorted(levels), "from easy to hard"


def messages() -> set[tuple[str, int]]:
    """Module and first line of every check in ``mer_lab/exercises``."""
    found = set()
    for path in CHECKS.glob("*.py"):
        if path.stem in FRAMEWORK:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("check", "check.equal"):
                    found.add((path.stem, node.lineno))
    return found


def load_mistakes(path):
    spec = importlib.util.spec_from_file_location(f"mistakes_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MISTAKES


def hit(exercise: Exercise, answer) -> tuple[str, int, str]:
    """Module, line and message of the check that an answer fails."""
    with pytest.raises(Misconception) as caught:
        exercise(answer)
    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(caught.value.__traceback__)]
    path, line = [(p, n) for p, n in frames if p.parent == CHECKS and p.stem not in FRAMEWORK][-1]
    return path.stem, line, str(caught.value)


@pytest.mark.parametrize("path", MISTAKES, ids=lambda p: p.stem)
def test_each_message_is_shown_to_a_mistake_that_it_names(path, capsys):
    """A mistake is an answer and words of the message that it gets; together they make every check fail."""
    shown = set()
    for name, mistakes in load_mistakes(path).items():
        for words, answer in mistakes:
            module, line, message = hit(EXERCISES[name], answer)
            assert words in message, f"{name}: expected {words!r}, got {message!r}"
            shown.add((module, line))
    missed = sorted(check for check in messages() - shown if check[0] == path.stem)
    assert not missed, f"no mistake in tests/mistakes shows the checks at {missed}"


def test_every_module_of_checks_has_its_mistakes():
    assert {module for module, _ in messages()} == {path.stem for path in MISTAKES}


def test_no_check_was_written_twice_under_one_number():
    numbers = [e.number for e in EXERCISES.values()]
    assert len(numbers) == len(set(numbers))


# the framework itself


def toy(answer, check: Check) -> None:
    check.equal(check.run(answer, [1.0, 2.0]), [2.0, 4.0], "double each.")


TOY = Exercise("99.1", "Double", "easy", 1, toy)


def stub(x):
    raise NotImplementedError("your code here")


@pytest.mark.parametrize(
    "answer, kind, words",
    [
        (stub, NotYet, "not done yet"),
        (lambda x: x, Misconception, "99.1 Double: double each"),
        (lambda x: None, Misconception, "is there a `return`"),
        (lambda x: 1 / 0, Misconception, "ZeroDivisionError"),
        (lambda: 1, Misconception, "TypeError"),
        (lambda x: [2.0], Misconception, "shape (1,), and (2,) is expected"),
        (lambda x: "two", Misconception, "holds no numbers"),
        (lambda x: [float("nan"), 4.0], Misconception, "double each"),
        (3, Misconception, "the function itself"),
    ],
)
def test_an_answer_gets_one_sentence(answer, kind, words):
    with pytest.raises(Misconception) as caught:
        TOY(answer)
    assert type(caught.value) is kind and words in str(caught.value)


def test_a_right_answer_is_told_how_many_checks_it_passed(capsys):
    TOY(lambda x: [2 * v for v in x])
    assert capsys.readouterr().out.strip() == "✓ 99.1 Double (1 checks passed)"


def test_an_answer_that_changes_its_arguments_spoils_no_check():
    def body(answer, check):
        given = [1.0]
        check.run(answer, given)
        check(given == [1.0], "")

    Exercise("99.2", "Keep", "easy", 1, body)(lambda x: x.clear() or [0.0])


SOLVED = "def f(x):\n    ### BEGIN SOLUTION\n    y = 2 * x\n    return y\n    ### END SOLUTION"


def notebook(*cells):
    return new_notebook(cells=[new_code_cell(c) for c in cells])


def test_a_stub_has_one_line_for_each_solution_and_keeps_the_rest():
    made = notebook("import os", SOLVED, f"{SOLVED}\n\n{SOLVED}")
    made.cells.append(new_markdown_cell("Why it works.", metadata={"tags": ["solution"]}))
    assert [c.source for c in stub_of(made).cells] == [
        "import os", f"def f(x):\n    {TODO}", f"def f(x):\n    {TODO}\n\ndef f(x):\n    {TODO}",
    ]  # fmt: skip
    assert "BEGIN" in made.cells[1].source, "the solution is not changed"


@pytest.mark.parametrize(
    "source", ["x = 1", SOLVED.replace("END", "end"), SOLVED + "\n### END SOLUTION", "    ### BEGIN SOLUTION"]
)
def test_marks_that_do_not_pair_are_told(source):
    with pytest.raises(MerLabError, match="SOLUTION"):
        stub_of(notebook(source))
