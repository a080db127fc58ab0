"""Corpora: importers, the native folder, the built-in Staged corpus, splits."""

import os
from pathlib import Path

from mer_lab.corpora.corpus import COLUMNS, SPLITS, Corpus
from mer_lab.corpora.native import read_folder, save_corpus

__all__ = ["COLUMNS", "SPLITS", "Corpus", "load_corpus", "save_corpus"]


def load_corpus(name: str | Path) -> Corpus:
    """Load a corpus: ``"staged"`` (generated on first use), a native folder, or its name in
    ``$MER_LAB_DATA/corpora``.

    Raises:
        MerLabError: the folder is missing, half written or wrong; with file and line.
    """
    if str(name) == "staged":
        from mer_lab.corpora.staged import staged

        return staged()
    home = Path(os.environ.get("MER_LAB_DATA", ".")).expanduser() / "corpora" / name
    return read_folder(home if home.is_dir() and not Path(name).is_dir() else name)
