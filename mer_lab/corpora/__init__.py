"""Corpora: importers, the native folder, the built-in Staged corpus, splits."""

from pathlib import Path

from mer_lab.corpora.corpus import COLUMNS, SPLITS, Corpus
from mer_lab.corpora.native import read_folder, save_corpus

__all__ = ["COLUMNS", "SPLITS", "Corpus", "load_corpus", "save_corpus"]


def load_corpus(name: str | Path) -> Corpus:
    """Load a corpus: ``"staged"`` (generated on first use) or the path of a native folder.

    Raises:
        MerLabError: the folder is missing, half written or wrong; with file and line.
    """
    if str(name) == "staged":
        from mer_lab.corpora.staged import staged

        return staged()
    return read_folder(name)
