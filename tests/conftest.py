"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data that the repository may not carry; skips where it is absent."""
    chosen = os.environ.get("MER_LAB_SHARED_DATA")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data not present: set MER_LAB_SHARED_DATA to its folder")
    return folder
