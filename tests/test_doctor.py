"""The doctor sees what is there, says what to do about what is not, and never falls over."""

import importlib.metadata

import pytest

from mer_lab import doctor


@pytest.fixture
def machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MER_LAB_CACHE", str(tmp_path / "cache/not/made/yet"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MER_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MER_LAB_SHARED_DATA", raising=False)
    return tmp_path


def row(what):
    return next(row for row in doctor.doctor() if row.what == what)


def test_on_a_sound_machine_nothing_is_missing(machine):
    rows = doctor.doctor()
    assert [row for row in rows if row.status == "missing"] == []
    assert {row.status for row in rows} <= {"ok", "warn"}
    assert all(row.todo for row in rows if row.status != "ok")
    text = doctor.as_text(rows)
    assert all(row.found in text and row.todo in text for row in rows)
    assert not (machine / "cache").exists(), "looking changes nothing"


def test_torch_and_torchaudio_of_different_releases_are_told(machine, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "2.10.0" if n == "torchaudio" else real(n))
    found = row("PyTorch")
    assert found.status == "missing" and "both be 2.11" in found.todo and "2.10.0" in found.found


def test_an_absent_package_and_an_unspeaking_voice_are_told(machine, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "jupyterlab":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    def load(path):
        raise OSError("wrong architecture")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor.ctypes, "CDLL", load)
    rows = doctor.doctor()
    assert [r.found for r in rows if r.what == "packages" and r.status == "missing"] == ["jupyterlab absent"]
    assert "wrong architecture" in next(r for r in rows if r.what == "espeak-ng").found


def test_a_full_disk_is_told(machine, monkeypatch):
    usage = type("usage", (), {"free": 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert row("disk").status == "missing" and "MER_LAB_CACHE" in row("disk").todo


def test_encoders_and_corpora_are_found_and_their_paths_kept_private(machine):
    model = machine / "hub/models--acme--tiny/snapshots/abc"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    for name, text in (("mine", 'name = "My corpus"'), ("half", 'name = "My'), ("bytes", "\x00")):
        (machine / "data" / name).mkdir(parents=True)
        (machine / "data" / name / "corpus.toml").write_text(text)
    assert row("encoders").found == "acme/tiny"
    found = [r.found for r in doctor.doctor() if r.what == "corpus"]
    assert "My corpus in $MER_LAB_DATA/mine" in found and sum("cannot be read" in text for text in found) == 2
    assert not any(str(machine / "data") in text for text in found)
