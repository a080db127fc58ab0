"""RAVDESS importer: made-up trees, and the real clips where they are present."""

import itertools
import os

import numpy as np
import pandas as pd
import pytest
import soundfile

from mer_lab.corpora.ravdess import LABELS, STATEMENTS, prepare_ravdess
from mer_lab.errors import MerLabError


def clip(path, seconds=0.2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(seed).standard_normal(int(8000 * seconds))
    soundfile.write(path, wave, 8000)
    return path


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "ravdess"
    for actor, emotion in itertools.product((1, 2, 17, 24), (1, 5, 8)):
        clip(root / f"Actor_{actor:02d}" / f"03-01-{emotion:02d}-01-02-01-{actor:02d}.wav", seed=actor)
    return root


def test_fields(tree, tmp_path):
    corpus, report = prepare_ravdess(tree, tmp_path / "out")
    assert corpus.labels == LABELS and len(corpus) == 12
    row = corpus.table.loc["03-01-08-01-02-01-24"]
    assert (row["label"], row["speaker"], row["split"], row["sex"]) == (
        "surprised",
        "actor24",
        "test",
        "female",
    )
    assert (row["text"], row["intensity"], row["statement"]) == (STATEMENTS[1], "normal", "2")
    assert row["end"] == pytest.approx(0.2, abs=1e-3)
    assert corpus.table["dialogue_id"].is_unique and (corpus.table["turn"] == 0).all()
    assert corpus.table.groupby("speaker")["split"].first().tolist() == [
        "train",
        "train",
        "validation",
        "test",
    ]
    for uid in corpus.ids:
        source = tree / f"Actor_{uid[-2:]}" / f"{uid}.wav"
        assert corpus.audio_path(uid).read_bytes() == source.read_bytes()
    assert any("1440" in w for w in report.warnings) and any("actor01 has 3" in w for w in report.warnings)


def test_copies_where_it_cannot_link(tree, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    corpus, _ = prepare_ravdess(tree, tmp_path / "out")
    assert all(corpus.audio_path(u).is_file() and not corpus.audio_path(u).is_symlink() for u in corpus.ids)
    assert corpus.audio_path(corpus.ids[0]).stat().st_nlink == 1


def test_what_is_left_out(tree, tmp_path):
    clip(tree / "03-02-05-01-01-01-01.wav")  # a song
    clip(tree / "01-01-05-01-01-01-01.wav")  # the sound of a video
    clip(tree / "notes.wav")
    clip(tree / "again" / "03-01-01-01-02-01-01.wav", seed=1)  # the same clip twice
    (tree / "._03-01-05-01-01-01-01.wav").write_bytes(b"resource fork")
    (tree / "03-01-07-02-01-01-03.wav").write_bytes(b"RIFF broken")
    corpus, report = prepare_ravdess(tree, tmp_path / "out")
    assert len(corpus) == 12
    assert report.counts | {"songs": 1, "other_files": 2, "copies": 1, "quarantined": 1} == report.counts
    listing = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert listing["utterance_id"].tolist() == ["03-01-07-02-01-01-03"]
    assert str(tmp_path) not in (tmp_path / "out" / "quarantine.csv").read_text()


@pytest.mark.parametrize("name", ["03-01-09-01-01-01-01", "03-01-01-01-01-01-25", "03-01-01-00-01-01-01"])
def test_impossible_names(tree, tmp_path, name):
    clip(tree / f"{name}.wav")
    with pytest.raises(MerLabError, match=name):
        prepare_ravdess(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refused(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MerLabError, match="holds no RAVDESS"):
        prepare_ravdess(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(MerLabError, match="no such folder"):
        prepare_ravdess(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(MerLabError, match="exists already"):
        prepare_ravdess(tree, tree)
    clip(tree / "again" / "03-01-01-01-02-01-01.wav", seed=99)
    with pytest.raises(MerLabError, match="differ"):
        prepare_ravdess(tree, tmp_path / "out")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "03-01-01-01-01-01-01.wav").write_bytes(b"")
    with pytest.raises(MerLabError, match="none of the 1"):
        prepare_ravdess(broken, tmp_path / "out")


def test_real(shared_data, tmp_path):
    if not (shared_data / "ravdess").is_dir():
        pytest.skip("RAVDESS is not among the real data")
    corpus, report = prepare_ravdess(shared_data / "ravdess", tmp_path / "out")
    assert report.warnings == [] and len(corpus) == 1440
    assert corpus.table["split"].value_counts().to_dict() == {"train": 960, "validation": 240, "test": 240}
    assert (corpus.table.groupby("split")["sex"].apply(lambda x: (x == "male").mean()) == 0.5).all()
    assert corpus.table["label"].value_counts()[["neutral", "happy"]].tolist() == [96, 192]
