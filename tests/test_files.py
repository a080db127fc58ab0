"""Files are whole or absent: after an exception, a kill, and on a full disk."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer_lab.corpora import load_corpus
from mer_lab.errors import MerLabError
from mer_lab.files import atomic_folder, atomic_path, cache_dir, digest, write_text

LIMIT = 40_000  # bytes a file may have where the disk is said to be full


def python(code: str, *arguments: object, limit: int | None = None) -> subprocess.CompletedProcess:
    """Run code in a process of its own, in which no file may grow beyond ``limit`` bytes."""
    head = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)\n" if limit else ""
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_text_is_written_as_utf8_without_translation(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "grün\n\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "grün\n\r\n".encode()
    assert listing(tmp_path / "new") == ["a.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    with atomic_folder(tmp_path / "c"):
        pass
    (tmp_path / "d").mkdir()
    mode = {name: (tmp_path / name).stat().st_mode for name in "abcd"}
    assert mode["a"] == mode["b"] and mode["c"] == mode["d"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    path, folder = tmp_path / "a", tmp_path / "f"
    write_text(path, "old")
    with atomic_folder(folder) as new:
        write_text(new / "x", "old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    with pytest.raises(error), atomic_folder(folder) as new:
        write_text(new / "x", "half")
        raise error
    assert path.read_text() == (folder / "x").read_text() == "old"
    assert listing(tmp_path) == ["a", "f"]


def test_the_path_does_not_change_before_the_end(tmp_path):
    path, folder = tmp_path / "a", tmp_path / "f"
    with atomic_path(path) as temporary, atomic_folder(folder) as new:
        temporary.write_text("half")
        assert not path.exists() and not folder.exists() and new.is_dir()
    assert path.read_text() == "half" and folder.is_dir()


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "f"
    for name in ("old", "new"):
        with atomic_folder(folder) as new:
            write_text(new / name, name)
    assert listing(folder) == ["new"] and listing(tmp_path) == ["f"]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    folder, moves, move = tmp_path / "f", [], os.replace
    with atomic_folder(folder) as new:
        write_text(new / "x", "old")

    def fail_second(a, b):
        moves.append(b)
        if len(moves) == 2:
            raise OSError("no")
        move(a, b)

    with pytest.raises(OSError), atomic_folder(folder) as new:
        (new / "x").write_text("new")
        monkeypatch.setattr(os, "replace", fail_second)
    assert (folder / "x").read_text() == "old" and listing(tmp_path) == ["f"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "inside", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(MerLabError, match="cannot be written .*; choose another place"):
            write_text(path, "x")
    with pytest.raises(MerLabError, match="not a directory"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "precious" and listing(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MerLabError, match="no permission"):
        write_text(tmp_path / "a", "x")
    tmp_path.chmod(0o700)


def test_another_files_error_is_not_blamed_on_the_path(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_text()


@pytest.mark.parametrize("old", [True, False], ids=["replacing", "new"])
def test_kill_in_the_middle_of_a_write(tmp_path, old):
    """kill -9 leaves the old file and folder, or none; what it drops beside them is hidden."""
    if old:
        write_text(tmp_path / "a", "old")
        write_text(tmp_path / "f" / "x", "old")
    killed = python(
        """
        import os, signal, sys
        from pathlib import Path
        from mer_lab.files import atomic_folder, atomic_path
        here = Path(sys.argv[1])
        with atomic_path(here / "a") as file, atomic_folder(here / "f") as folder:
            (folder / "x").write_text("half")
            with file.open("w") as f:
                f.write("half")
                f.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert killed.returncode == -9
    assert [n for n in listing(tmp_path) if not n.startswith(".")] == (["a", "f"] if old else [])
    if old:
        assert (tmp_path / "a").read_text() == (tmp_path / "f" / "x").read_text() == "old"
    write_text(tmp_path / "a", "new")  # and the next attempt is not disturbed
    assert (tmp_path / "a").read_text() == "new"


WRITERS = {
    "text": "write_text(path, 'x' * 100_000)",
    "ragged": "write_ragged(path, {'utterance_ids': ['a']}, [30_000], 1, [np.ones((30_000, 1))])",
    "checkpoint": "save_tensors(path, {'w': torch.ones(100_000)}, {})",
    "audio": "write_audio(path, np.zeros(100_000), 16000)",
    "corpus": "save_corpus(load_corpus(sys.argv[2]), path)",
    "staged": "staged(StagedConfig((1, 1, 1)))",  # in the cache folder
}


def test_full_disk(tmp_path, sine_corpus):
    """Each writer says in a sentence that the disk is full, and leaves neither half a file nor a temporary.

    All in one process, since loading the libraries takes longer than the test.
    """
    calls = "\n".join(f"attempt('{name}', lambda path: {call})" for name, call in WRITERS.items())
    code = f"""\
import os, sys
from pathlib import Path
import numpy as np, torch
from mer_lab.checkpoints import save_tensors
from mer_lab.corpora import load_corpus, save_corpus
from mer_lab.corpora.staged import StagedConfig, staged
from mer_lab.errors import MerLabError
from mer_lab.features import write_audio
from mer_lab.files import write_text
from mer_lab.ragged import write_ragged

os.environ["MER_LAB_CACHE"] = str(Path(sys.argv[1], "staged"))

def attempt(name, call):
    path = Path(sys.argv[1]) / name / "target"
    path.parent.mkdir()
    try:
        call(path)
    except MerLabError as error:
        print(name, error)

{calls}
"""
    done = python(code, tmp_path, sine_corpus.root, limit=LIMIT)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(said) == set(WRITERS), done.stdout + done.stderr
    for name, message in said.items():
        place = tmp_path / name / ("target" if name != "staged" else "corpora/staged-")
        assert message.startswith(str(place)) and "the disk is full; free some space" in message, message
        left = [p.name for p in (tmp_path / name).rglob("*") if p.name != "corpora" and p.suffix != ".lock"]
        assert not left, left


def test_full_disk_is_recovered_from(tmp_path, sine_corpus):
    """After the sentence the old file is still whole."""
    write_text(tmp_path / "a", "old")
    code = "import sys; from mer_lab.files import write_text; write_text(sys.argv[1], 'x' * 100_000)"
    failed = python(code, tmp_path / "a", limit=LIMIT)
    assert "MerLabError" in failed.stderr and (tmp_path / "a").read_text() == "old"
    assert load_corpus(sine_corpus.root).ids == sine_corpus.ids


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("MER_LAB_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("MER_LAB_CACHE")
    assert "mer_lab" in str(cache_dir())


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_digest_tells_lists_of_parts_apart(a, b):
    assert (digest(*a) == digest(*b)) == (a == b)
    assert digest(*a) == digest(*(x.encode() for x in a)) and len(digest(*a, length=7)) == 7


def test_what_one_process_makes_the_others_find_made(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from mer_lab.files import locked, write_text\n"
        "path = Path(sys.argv[1])\n"
        "with locked(path):\n"
        "    if not path.exists():\n"
        "        time.sleep(0.2); write_text(path, 'made'); print('made')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(p.communicate(timeout=60)[0] for p in running) == ["", "", "made\n"]
