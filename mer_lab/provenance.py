"""Where, when and with what a result was made."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from mer_lab import __version__


def provenance(seconds: float) -> dict:
    """Where and with what a result was made: device, versions, git commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    packages = ("torch", "accelerate", "scikit-learn", "transformers", "numpy")
    return {
        "seconds": round(seconds, 1),
        "device": device,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"mer_lab": __version__, "python": platform.python_version()}
        | {p: version(p) for p in packages},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def together(parts: Sequence[dict]) -> dict:
    """Of what was made in parts: the seconds of all, and every commit, device and date that took part."""
    several = {k: ", ".join(sorted({str(p[k]) for p in parts})) for k in ("device", "commit", "date")}
    return {**parts[0], **several, "seconds": round(sum(p["seconds"] for p in parts), 1)}


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
