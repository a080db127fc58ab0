"""What was said: tokens, a vocabulary, and pretrained word vectors."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mer_lab.errors import MerLabError
from mer_lab.files import digest, write_text

PAD, UNKNOWN = "<pad>", "<unk>"

_MARKS = r"\s!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3000-\u303f"  # white space and punctuation
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)+|[^{_MARKS}]+(?:'[^{_MARKS}]+)*|\.{{2,}}|[?!.]")


def tokenise(text: str) -> list[str]:
    """Words and sentence marks of ``text``, in lower case.

    An apostrophe inside a word stays (``don't``), decimal numbers stay whole (``3.5``), and of the
    punctuation only what carries tone is kept: ``?``, ``!``, ``.`` one by one, and ``...`` (two dots or
    more), often a hesitation. Everything else separates. Languages written without spaces need a
    tokeniser of their own.

    >>> tokenise("No -- I DON'T know... Really?!")
    ['no', 'i', "don't", 'know', '...', 'really', '?', '!']
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return ["..." if token.startswith("..") else token for token in _TOKEN.findall(text)]


@dataclass(frozen=True)
class Vocabulary:
    """The words a model knows: ``words[k]`` has index ``k``; 0 is padding, 1 stands for all others."""

    words: tuple[str, ...]
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        words = tuple(self.words)
        if words[:2] != (PAD, UNKNOWN):
            raise MerLabError(f"a vocabulary begins with {PAD} and {UNKNOWN}, not with {list(words[:2])}.")
        index = {word: k for k, word in enumerate(words)}
        if len(index) != len(words):
            twice = next(word for word, count in Counter(words).items() if count > 1)
            raise MerLabError(f"the word {twice!r} stands twice in the vocabulary.")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "index", index)

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int = 1) -> Vocabulary:
        """Every token that ``texts`` hold at least ``min_count`` times, frequent ones first.

        Give it the training split only: a word that only the test split holds is unknown.
        """
        counts = Counter(token for text in texts for token in tokenise(text))
        kept = sorted((-n, word) for word, n in counts.items() if n >= min_count)
        return cls((PAD, UNKNOWN, *(word for _, word in kept)))

    def encode(self, text: str) -> np.ndarray:
        """Indices of the tokens, int64 ``(T, 1)``; a text without a token is one unknown word."""
        indices = [self.index.get(token, 1) for token in tokenise(text)] or [1]
        return np.array(indices, np.int64)[:, None]

    def save(self, path: str | Path) -> None:
        """Write the words as a JSON list."""
        write_text(path, json.dumps(self.words, ensure_ascii=False, indent=0))

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what :meth:`save` wrote.

        Raises:
            MerLabError: there is no such file, or it is not a JSON list of different words.
        """
        path = Path(path)
        try:
            words = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise MerLabError(f"{path}: the vocabulary cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise MerLabError(
                f"{path}: expected a JSON list of words, this is not JSON ({error})."
            ) from error
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise MerLabError(f"{path}: expected a JSON list of words, found other JSON.")
        try:
            return cls(tuple(words))
        except MerLabError as error:
            raise MerLabError(f"{path}: {error}") from error


def load_glove(path: str | Path, vocabulary: Vocabulary) -> tuple[np.ndarray, float]:
    """Word vectors from an unpacked GloVe text file: float32 ``(V, D)``, and the share of words found.

    The file is streamed, only the vectors of the vocabulary are kept. A contraction that it lacks gets
    the mean of its two parts, since GloVe was trained on text split that way (``do n't``), and counts as
    found. Padding is zero; other words that are missing get normal noise of the spread of the found
    vectors, drawn from a seed that depends on the word alone. Skipped are a first line of two numbers, as
    word2vec and fastText write it, and tokens that hold spaces, of which GloVe 840B has some.

    Raises:
        MerLabError: the file is missing, packed or empty, holds none of the words, or has a malformed
            line, whose number is told.
    """
    path = Path(path)
    if not path.is_file():
        raise MerLabError(f"{path}: there is no such file; download and unpack a GloVe release.")
    if path.suffix in (".zip", ".gz"):
        raise MerLabError(f"{path}: is packed; unpack it and give the path of the .txt file inside.")
    parts = {word: _contraction(word) for word in vocabulary.words[2:]}
    wanted = {piece.encode() for word, pair in parts.items() for piece in (word, *pair)}
    found = _read_vectors(path, wanted)
    if not found:
        raise MerLabError(f"{path}: holds none of the {len(parts)} words; is it the right language?")
    vectors = {word: found[word.encode()] for word in parts if word.encode() in found}
    for word, pair in parts.items():
        if word not in vectors and pair and all(piece.encode() in found for piece in pair):
            vectors[word] = np.mean([found[piece.encode()] for piece in pair], axis=0)
    known = np.stack(list(found.values()))
    width, spread = known.shape[1], float(known.std())
    matrix = np.zeros((len(vocabulary), width), np.float32)
    for k, word in enumerate(vocabulary.words[1:], start=1):
        if word in vectors:
            matrix[k] = vectors[word]
        else:
            matrix[k] = np.random.default_rng(int(digest(word), 16)).normal(0, spread, width)
    return matrix, len(vectors) / len(parts)


_ENDING = re.compile(r"(.+?)(n't|'(?:s|m|d|re|ve|ll))")


def _contraction(word: str) -> tuple[str, ...]:
    """``don't`` → ``("do", "n't")``, and ``()`` for a word that is none."""
    match = _ENDING.fullmatch(word)
    return match.groups() if match else ()


def _read_vectors(path: Path, wanted: set[bytes]) -> dict[bytes, np.ndarray]:
    found: dict[bytes, np.ndarray] = {}
    width = 0
    size = path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, delay=2)
    with path.open("rb") as f, bar:
        for number, line in enumerate(f, start=1):
            bar.update(len(line))
            line = line.rstrip()
            if number == 1 and re.fullmatch(rb"\d+ \d+", line):
                continue
            spaces = line.count(b" ")
            if not width:
                width = spaces
            if spaces < width or not width:
                raise MerLabError(
                    f"{path}, line {number}: expected a word and {width or 'its'} numbers after "
                    f"spaces, found {spaces}; the file is damaged or not in GloVe's text format."
                )
            word = line[: line.index(b" ")]
            if spaces > width or word not in wanted or word in found:
                continue
            try:
                vector = np.array(line.split(b" ")[1:], dtype=np.float32)
            except ValueError as error:
                raise MerLabError(
                    f"{path}, line {number}: expected {width} numbers after the word."
                ) from error
            if not np.isfinite(vector).all():
                raise MerLabError(f"{path}, line {number}: holds NaN or infinity; download the file again.")
            found[word] = vector
    if not width:
        raise MerLabError(f"{path}: the file of word vectors is empty; download it again.")
    return found
