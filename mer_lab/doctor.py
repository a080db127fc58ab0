"""What is on this machine, what is missing, and what to do about it: the rows of ``mer-lab doctor``."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from mer_lab.files import cache_dir

_PACKAGES = (
    "numpy", "pandas", "scikit-learn", "transformers", "accelerate", "captum", "soundfile", "av",
    "jupyterlab",
)  # fmt: skip
_WANTED_GB = 2.0  # the Staged corpus and its features at cpu scale, with room for a second corpus


@dataclass(frozen=True)
class Row:
    """One finding. ``status``: ``"ok"``, ``"warn"`` (the course runs without it) or ``"missing"``."""

    what: str
    status: str
    found: str
    todo: str = ""


def doctor() -> list[Row]:
    """Look at Python, packages, device, disk, voice, encoders and corpora; download and change nothing."""
    return [
        _python(),
        _torch(),
        *_packages(),
        _device(),
        _disk(),
        _voice(),
        _encoders(),
        *_corpora(),
    ]


def as_text(rows: list[Row]) -> str:
    """The rows as lines for a terminal, with what to do below each that is not ``ok``."""
    sign = {"ok": "ok  ", "warn": "note", "missing": "MISS"}
    width = max(len(row.what) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{sign[row.status]}  {row.what:<{width}}  {row.found}")
        if row.todo:
            lines.append(f"{'':<{width + 6}}  → {row.todo}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Row:
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if (3, 11) <= tuple(map(int, platform.python_version_tuple()[:2])) <= (3, 13):
        return Row("Python", "ok", found)
    return Row("Python", "missing", found, "use Python 3.11, 3.12 or 3.13: make course PYTHON=python3.12")


def _torch() -> Row:
    versions = [_version("torch"), _version("torchaudio")]
    found = f"torch {versions[0] or 'absent'}, torchaudio {versions[1] or 'absent'}"
    if all(version and version.startswith("2.11.") for version in versions):
        return Row("PyTorch", "ok", found)
    return Row(
        "PyTorch", "missing", found, "the two must both be 2.11: pip install torch==2.11.* torchaudio==2.11.*"
    )


def _packages() -> list[Row]:
    versions = {package: _version(package) for package in _PACKAGES}
    absent = [package for package, version in versions.items() if version is None]
    found = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    rows = [Row("packages", "ok", found)] if found else []
    if absent:
        todo = 'pip install -e ".[course]" -c constraints.txt, in the checkout'
        rows.append(Row("packages", "missing", f"{', '.join(absent)} absent", todo))
    return rows


def _device() -> Row:
    try:
        import torch  # slow, and its absence must not keep the other rows from being shown
    except ImportError as error:
        return Row("device", "missing", f"torch cannot be loaded ({error})", "install torch 2.11 first")
    cores = f"{os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        name = torch.cuda.get_device_name(0)
        return Row("device", "ok", f"CUDA: {name}, {memory:.0f} GiB; {cores}")
    if torch.backends.mps.is_available():
        return Row("device", "ok", f"Apple GPU (MPS); {cores}")
    todo = "enough for the course at cpu scale; cells tagged gpu show their recorded results"
    return Row("device", "warn", f"no GPU; {cores}", todo)


def _disk() -> Row:
    folder = cache_dir()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free / 2**30
    found = f"{free:.1f} GiB free for the cache in {_home(folder)}"
    if not os.access(there, os.W_OK):
        return Row("disk", "missing", f"{there} cannot be written", "set MER_LAB_CACHE to a folder that can")
    if free < _WANTED_GB:
        todo = f"free some space, or set MER_LAB_CACHE to a disk with {_WANTED_GB:.0f} GiB"
        return Row("disk", "missing", found, todo)
    return Row("disk", "ok", found)


def _voice() -> Row:
    try:
        import espeakng_loader

        from mer_lab.corpora.staged.speech import LONGEST_PATH

        library = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_Info.restype = ctypes.c_char_p
        version = library.espeak_Info(None).decode()
        if not Path(espeakng_loader.get_data_path()).is_dir():
            raise OSError("its voices are not there")
        if len(os.fsencode(espeakng_loader.get_data_path())) > LONGEST_PATH:
            raise OSError(f"its path is longer than {LONGEST_PATH} bytes: move the environment")
    except (ImportError, OSError, AttributeError) as error:
        todo = "pip install espeakng-loader; without it the Staged corpus cannot be spoken"
        return Row("espeak-ng", "missing", f"cannot be loaded ({error})", todo)
    return Row("espeak-ng", "ok", f"{version} (GPL-3, a separate library)")


def _encoders() -> Row:
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    cached = Path(hub).expanduser().glob("models--*/snapshots/*/config.json")
    names = {path.parents[2].name.removeprefix("models--").replace("--", "/") for path in cached}
    for root, shown in _data_folders():
        names |= {f"{shown}/encoders/{path.parent.name}" for path in root.glob("encoders/*/config.json")}
    if names:
        return Row("encoders", "ok", ", ".join(sorted(names)))
    todo = "optional: a name (facebook/wav2vec2-base) is downloaded on first use; a local folder does as well"
    return Row("encoders", "warn", "no pretrained encoder in the local cache", todo)


def _corpora() -> list[Row]:
    cache = cache_dir()
    staged = cache.is_dir() and next(cache.glob("**/corpus.toml"), None)
    if staged:
        rows = [Row("Staged corpus", "ok", f"generated, in {_home(cache)}")]
    else:
        rows = [Row("Staged corpus", "ok", "not generated yet: made on first use, in about a minute")]
    found = []
    for root, shown in _data_folders():
        places = ("corpus.toml", "*/corpus.toml", "corpora/*/corpus.toml")
        for path in sorted(path for place in places for path in root.glob(place)):
            found.append(f"{_corpus_name(path)} in {shown}/{path.parent.relative_to(root)}")
        if (root / "meld" / "train_sent_emo.csv").exists():
            found.append(f"MELD's CSV files in {shown}/meld, ready for mer-lab prepare meld")
        if (root / "ravdess").is_dir():
            found.append(f"RAVDESS clips in {shown}/ravdess")
    if found:
        return [*rows, *(Row("corpus", "ok", text) for text in found)]
    todo = "optional: set MER_LAB_DATA to a folder of corpora (mer-lab prepare meld DIR --out DIR makes one)"
    return [*rows, Row("real corpora", "warn", "none found", todo)]


def _data_folders() -> list[tuple[Path, str]]:
    """The folders that the user named, and how to show them: rows stay free of this machine's paths."""
    chosen = [(os.environ.get(name), f"${name}") for name in ("MER_LAB_DATA", "MER_LAB_SHARED_DATA")]
    folders = [(Path(folder).expanduser(), name) for folder, name in chosen if folder]
    return [(folder, name) for folder, name in folders if folder.is_dir()]


def _home(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _corpus_name(path: Path) -> str:
    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8")).get("name", path.parent.name))
    except (OSError, ValueError):
        return f"{path.parent.name} (its corpus.toml cannot be read)"
