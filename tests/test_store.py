"""The feature store: the same bytes whatever happened on the way, and errors that name a file."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from mer_lab.corpora import Corpus, load_corpus
from mer_lab.errors import MerLabError
from mer_lab.features import store
from mer_lab.features.store import FeatureStore, attached
from mer_lab.ragged import write_ragged


@dataclass(frozen=True)
class Loud:
    """A quick extractor that writes down each call and, where the test says so, dies in the middle."""

    hop: float = 0.01
    rate: int = 16000
    scale: float = 1.0

    name: ClassVar[str] = "loud"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "audio"
    names: ClassVar[list[str]] = ["peak", "mean"]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        log = os.environ.get("LOUD_LOG")
        if log:
            with open(log, "a") as f:
                f.write(f"{len(wave)}\n")
            calls = len(Path(log).read_text().splitlines())
            how, _, when = os.environ.get("LOUD_STOP", "").partition(":")
            if when and calls == int(when):
                os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGINT)
        blocks = np.array_split(wave, 1 + len(wave) // round(self.hop * self.rate))
        return np.array([[np.abs(b).max(), b.mean()] for b in blocks], np.float32) * np.float32(self.scale)


class Louder(Loud):
    version: ClassVar[int] = 2


class Broken(Loud):
    name: ClassVar[str] = "broken"

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return super().__call__(wave) * np.nan


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Counts the extractor's calls since it was last asked."""
    log = tmp_path / "calls"
    monkeypatch.setenv("LOUD_LOG", str(log))

    def count() -> int:
        number = len(log.read_text().splitlines()) if log.exists() else 0
        log.unlink(missing_ok=True)
        return number

    return count


@pytest.fixture
def copied(sine_corpus, tmp_path) -> Corpus:
    """The sine corpus in a folder that a test may change."""
    return load_corpus(shutil.copytree(sine_corpus.root, tmp_path / "copy"))


def one_file(folder: Path) -> Path:
    (path,) = (p for p in folder.iterdir() if p.suffix != ".lock")
    return path


def test_extracted_once_and_mapped(sine_corpus, tmp_path, calls):
    folder = tmp_path / "store"
    features = FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    assert calls() == len(sine_corpus) and features.ids == sine_corpus.ids
    assert isinstance(features.frames, np.memmap)
    assert features.meta["columns"] == ["peak", "mean"] and features.meta["hop"] == 0.01
    again = FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    assert calls() == 0 and np.array_equal(again.frames, features.frames)
    assert one_file(folder).suffix == ".safetensors"  # no parts are left


def test_the_default_folder_is_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MER_LAB_CACHE", str(tmp_path))
    assert FeatureStore().folder == tmp_path / "features"


def test_the_key(copied, tmp_path, calls):
    """Content, settings and version decide; time stamps, place and name of the corpus do not."""
    get = FeatureStore(tmp_path / "store").get
    get(copied, Loud(), workers=1)
    calls()
    for path in (copied.root / "audio").iterdir():
        os.utime(path, (1, 1))
    get(copied, Loud(), workers=1)
    moved = load_corpus(shutil.copytree(copied.root, tmp_path / "elsewhere"))
    get(moved, Loud(), workers=1)
    assert calls() == 0
    for other in (Loud(hop=0.02), Loud(scale=2.0), Louder()):
        get(copied, other, workers=1)
        assert calls() == len(copied)
    first, second = copied.audio_path("u0"), copied.audio_path("u1")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)  # the same files in another order
    swapped = get(copied, Loud(), workers=1)
    assert calls() == len(copied)
    assert np.array_equal(swapped[0], get(moved, Loud(), workers=1)[1])


def test_neighbours_and_parts_change_nothing(sine_corpus, tmp_path, monkeypatch):
    whole = FeatureStore(tmp_path / "a").get(sine_corpus, Loud(), workers=1)
    few = sine_corpus.select(["u5", "u9", "u30"])
    alone = FeatureStore(tmp_path / "b").get(few, Loud(), workers=1)
    for k, u in enumerate(few.ids):
        assert np.array_equal(alone[k], whole[sine_corpus.ids.index(u)])
    monkeypatch.setattr(store, "PART", 7)
    FeatureStore(tmp_path / "c").get(sine_corpus, Loud(), workers=1)
    assert one_file(tmp_path / "a").read_bytes() == one_file(tmp_path / "c").read_bytes()


def test_parts_of_another_size_are_not_mixed_in(sine_corpus, tmp_path, monkeypatch, calls):
    folder = tmp_path / "store"
    monkeypatch.setattr(store, "write_ragged", fail_at_the_end(store.write_ragged))
    monkeypatch.setattr(store, "PART", 12)
    with pytest.raises(MerLabError, match="the disk is full"):
        FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    monkeypatch.undo()
    monkeypatch.setattr(store, "PART", 6)
    FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    FeatureStore(tmp_path / "fresh").get(sine_corpus, Loud(), workers=1)
    assert one_file(folder).read_bytes() == one_file(tmp_path / "fresh").read_bytes()


def fail_at_the_end(write):
    def failing(path: Path, *rest) -> None:
        if path.parent.suffix != ".partial":
            raise MerLabError("the disk is full")
        write(path, *rest)

    return failing


def test_what_another_process_made_meanwhile_is_taken(sine_corpus, tmp_path, monkeypatch, calls):
    other = tmp_path / "other"
    FeatureStore(other).get(sine_corpus, Loud(), workers=1)
    calls()

    @contextmanager
    def waits(path: Path) -> Iterator[None]:
        shutil.copytree(other, path.parent)
        yield

    monkeypatch.setattr(store, "locked", waits)
    assert FeatureStore(tmp_path / "mine").get(sine_corpus, Loud(), workers=1).ids == sine_corpus.ids
    assert calls() == 0


def extract_and_die(corpus: Corpus, folder: Path, how: str, when: int) -> int:
    """Status of a process that is stopped in its ``when``-th utterance."""
    code = """
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores Ctrl-C
        from mer_lab.corpora import load_corpus
        from test_store import FeatureStore, Loud, store
        store.PART = 5
        FeatureStore(sys.argv[1]).get(load_corpus(sys.argv[2]), Loud(), workers=1)
    """
    environment = os.environ | {"LOUD_STOP": f"{how}:{when}", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder), str(corpus.root)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=100).returncode


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_a_stopped_extraction_goes_on(sine_corpus, tmp_path, calls, monkeypatch, how):
    """kill -9 or Ctrl-C in the 18th utterance: three parts of five are whole and not extracted again."""
    folder = tmp_path / "store"
    monkeypatch.setattr(store, "PART", 5)
    stopped = {"kill": -signal.SIGKILL, "interrupt": -signal.SIGINT}  # Python dies of an uncaught Ctrl-C
    assert extract_and_die(sine_corpus, folder, how, 18) == stopped[how] and calls() == 18
    assert one_file(folder).suffix == ".partial"  # nothing that looks finished
    FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    assert calls() == len(sine_corpus) - 15
    FeatureStore(tmp_path / "fresh").get(sine_corpus, Loud(), workers=1)
    assert one_file(folder).read_bytes() == one_file(tmp_path / "fresh").read_bytes()


def test_a_damaged_part_is_extracted_again(sine_corpus, tmp_path, calls, monkeypatch):
    folder = tmp_path / "store"
    monkeypatch.setattr(store, "PART", 9)
    with monkeypatch.context() as m:
        m.setattr(store, "write_ragged", fail_at_the_end(store.write_ragged))
        with pytest.raises(MerLabError):
            FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    parts = sorted(one_file(folder).iterdir())
    parts[1].write_bytes(parts[1].read_bytes()[:-4])
    calls()
    features = FeatureStore(folder).get(sine_corpus, Loud(), workers=1)
    assert calls() == 9 and len(features) == len(sine_corpus)


def test_errors_reach_the_user_from_another_process():
    again = pickle.loads(pickle.dumps(MerLabError("u7.wav: is cut off.")))
    assert type(again) is MerLabError and str(again) == "u7.wav: is cut off."


@pytest.mark.parametrize("damage", ["empty", "text", "no sound", "cut"])
def test_bad_audio_names_its_file(copied, tmp_path, damage):
    path = copied.audio_path("u7")
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"not audio", "no sound": whole[:44], "cut": whole[:2000]}[damage]
    )
    with pytest.raises(MerLabError, match=r"u7\.wav") as caught:
        FeatureStore(tmp_path / "store").get(copied, Loud(), workers=1)
    assert str(caught.value).count("\n") == 0
    path.write_bytes(whole)  # mended: what was finished is kept, and the rest is added
    assert len(FeatureStore(tmp_path / "store").get(copied, Loud(), workers=1)) == len(copied)


def test_a_missing_file_and_missing_audio(copied, tmp_path):
    copied.audio_path("u3").unlink()
    with pytest.raises(MerLabError, match=r"u3\.wav.*cannot be read"):
        FeatureStore(tmp_path / "store").get(copied, Loud(), workers=1)
    copied.table.loc["u4", "audio"] = ""
    with pytest.raises(MerLabError, match="u4 .* has no audio"):
        FeatureStore(tmp_path / "store").get(copied.select(["u4"]), Loud(), workers=1)


def test_a_feature_that_is_not_finite_is_refused(sine_corpus, tmp_path):
    with pytest.raises(MerLabError, match="broken is not finite"):
        FeatureStore(tmp_path).get(sine_corpus.select(["u4"]), Broken(), workers=1)


def test_torch_keeps_its_threads(sine_corpus, tmp_path):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        FeatureStore(tmp_path).get(sine_corpus.select(["u4"]), Loud())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_attached(copied):
    with pytest.raises(MerLabError, match="it has none.*add-features"):
        attached(copied, "roberta")
    ids = copied.ids[::-1]
    frames = np.arange(len(ids), dtype=np.float32)[:, None]
    path = copied.root / "features" / "roberta.safetensors"
    write_ragged(path, {"utterance_ids": ids}, [1] * len(ids), 1, [frames])
    assert attached(copied, "roberta")[0].tolist() == [[len(ids) - 1.0]]  # in the corpus's order
    with pytest.raises(MerLabError, match="it has roberta"):
        attached(copied, "bert")
