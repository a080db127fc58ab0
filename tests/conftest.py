"""Fixtures that several test modules share."""

import os
from pathlib import Path

import numpy as np
import pytest

from mer_lab.batches import Dataset
from mer_lab.corpora import Corpus, load_corpus, save_corpus
from mer_lab.features import write_audio
from mer_lab.files import write_text
from mer_lab.ragged import Ragged


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data that the repository may not carry; skips where it is absent."""
    chosen = os.environ.get("MER_LAB_SHARED_DATA")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data not present: set MER_LAB_SHARED_DATA to its folder")
    return folder


SECONDS = (0.05, 1.3, 0.4, 0.75, 0.2, 1.0, 0.33, 0.6)


@pytest.fixture(scope="session")
def sine_corpus(tmp_path_factory) -> Corpus:
    """Twelve dialogues of two speakers and three turns, sine waves of 0.05 to 1.3 s.

    A label is a pitch and a word; every seventh is missing. Splits: 8, 2 and 2 dialogues.
    """
    folder = tmp_path_factory.mktemp("sines") / "corpus"
    rng = np.random.default_rng(0)
    pitch, word = {"high": 600.0, "low": 150.0}, {"high": "up", "low": "down"}
    rows = ["utterance_id,dialogue_id,turn,speaker,split,label,text,audio,start,end,mood"]
    for k in range(36):
        dialogue, turn = divmod(k, 3)
        split = "train" if dialogue < 8 else "validation" if dialogue < 10 else "test"
        label = ("high", "low")[int(rng.integers(2))]
        time = np.arange(round(16000 * SECONDS[k % 8])) / 16000
        wave = 0.3 * np.sin(2 * np.pi * pitch[label] * time) + 0.01 * rng.normal(size=len(time))
        write_audio(folder / "audio" / f"u{k}.wav", wave, 16000)
        text = f"we go {word[label]} {'now ' * (k % 4)}".strip()
        given = "" if k % 7 == 6 else label
        rows.append(f"u{k},d{dialogue},{turn},s{turn % 2},{split},{given},{text},audio/u{k}.wav,,,{k % 3}")
    write_text(folder / "utterances.csv", "\n".join(rows) + "\n")
    write_text(folder / "corpus.toml", 'name = "sines"\nlabels = ["high", "low"]\n')
    return load_corpus(folder)


@pytest.fixture(scope="module")
def sine_folder(sine_corpus, tmp_path_factory) -> Path:
    """The sine corpus as a folder that a module's tests share, with a cache of its own and no accelerator."""
    place = tmp_path_factory.mktemp("sines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MER_LAB_CACHE", str(place / "cache"))
        patch.setenv("ACCELERATE_USE_CPU", "1")
        yield save_corpus(sine_corpus, place / "sines").root


@pytest.fixture(scope="session")
def sines(sine_corpus) -> Dataset:
    """The sine corpus with audio frames of three columns and word indices, without any extractor."""
    rng = np.random.default_rng(1)
    audio, text = [], []
    for k, (label, words) in enumerate(zip(sine_corpus.targets, sine_corpus.table["text"], strict=True)):
        frames = rng.normal(size=(3 + 5 * (k % 8), 3)) + 1.5 * label
        audio.append(frames.astype(np.float32))
        index = {"we": 2, "go": 3, "up": 4, "down": 5, "now": 6}
        text.append(np.array([[index[w]] for w in words.split()], np.int64))
    ids = sine_corpus.ids
    return Dataset(sine_corpus, Ragged.from_sequences(audio, ids), Ragged.from_sequences(text, ids))


@pytest.fixture(scope="session")
def staged_corpus() -> Corpus:
    """The Staged corpus at its default size, generated in about 20 s where it is not cached."""
    return load_corpus("staged")
