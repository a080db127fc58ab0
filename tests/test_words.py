"""Tokens, vocabularies, and word vectors from files that are right, odd or broken."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer_lab.errors import MerLabError
from mer_lab.features import Vocabulary, load_glove, tokenise

VECTORS = {"the": [1, 2, 3], "do": [0.5, 0, -1], "n't": [0.5, 1, 0], "?": [0, 0, 9.5], "café": [7, 7, 7]}


def write_vectors(path, extra="", vectors=VECTORS):
    lines = [", -0.1 0.2 0.3", *(f"{w} {' '.join(map(str, v))}" for w, v in vectors.items())]
    path.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Excuse me.", ["excuse", "me", "."]),
        ("I don’t KNOW", ["i", "don't", "know"]),
        ("'Okay,' she said -- fine!", ["okay", "she", "said", "fine", "!"]),
        ("What?! No...", ["what", "?", "!", "no", "..."]),
        ("wait…. now..", ["wait", "...", "now", "..."]),
        ("It costs $3.50, 1,000 times", ["it", "costs", "3.50", "1,000", "times"]),
        ("well-known_thing (laughs) [x]", ["well", "known", "thing", "laughs", "x"]),
        ("Café ÉTÉ Straße", ["café", "été", "straße"]),
        ("cafe\u0301", ["café"]),
        ("मैं ठीक हूँ", ["मैं", "ठीक", "हूँ"]),
        ("Really？！", ["really", "?", "!"]),
        ("rock 'n' roll's", ["rock", "n", "roll's"]),
        ("", []),
        (" \t\n--- ", []),
    ],
)
def test_tokenise(text, tokens):
    assert tokenise(text) == tokens


@given(st.text())
def test_tokenise_anything(text):
    tokens = tokenise(text)
    assert all(token and not any(c.isspace() for c in token) for token in tokens)
    assert tokenise(" ".join(tokens)) == tokens  # stable
    encoded = Vocabulary.build([text]).encode(text)
    assert encoded.dtype == np.int64 and encoded.shape == (max(1, len(tokens)), 1)
    assert tokens == [] or encoded.min() >= 2


def test_vocabulary():
    vocabulary = Vocabulary.build(["a b b", "c b a", "d"], min_count=2)
    assert vocabulary.words == ("<pad>", "<unk>", "b", "a")
    assert vocabulary.encode("A b zebra <pad>").ravel().tolist() == [3, 2, 1, 1]
    assert vocabulary.encode("").tolist() == vocabulary.encode("--").tolist() == [[1]]
    assert Vocabulary.build(["b a", "d c"]) == Vocabulary.build(["d c", "b a"])
    assert len(Vocabulary.build([])) == 2


def test_vocabulary_file(tmp_path):
    vocabulary = Vocabulary.build(["naïve don't ?", "मैं"])
    path = tmp_path / "words.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert json.loads(path.read_text(encoding="utf-8")) == list(vocabulary.words)
    broken = ["", "[1, 2]", '{"a": 1}', '["a", "b"]', '["<pad>", "<unk>", "a", "a"]', "\x80"]
    for text in broken:
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(MerLabError, match="words.json"):
            Vocabulary.load(path)
    with pytest.raises(MerLabError, match="none.json"):
        Vocabulary.load(tmp_path / "none.json")


def test_glove(tmp_path):
    vocabulary = Vocabulary.build(["the the the café ? don't zzz yyy"])
    matrix, coverage = load_glove(write_vectors(tmp_path / "g.txt"), vocabulary)
    assert matrix.shape == (len(vocabulary), 3) and matrix.dtype == np.float32
    assert coverage == pytest.approx(4 / 6)
    row = {word: matrix[k] for word, k in vocabulary.index.items()}
    for word in ("the", "café", "?"):
        assert np.allclose(row[word], VECTORS[word])
    assert np.allclose(row["don't"], [0.5, 0.5, -0.5])  # the mean of do and n't
    assert not row["<pad>"].any()
    assert row["zzz"].any() and row["<unk>"].any() and not np.allclose(row["zzz"], row["yyy"])


def test_missing_words_do_not_depend_on_the_others(tmp_path):
    path = write_vectors(tmp_path / "g.txt")
    first, second = Vocabulary.build(["the zzz"]), Vocabulary.build(["zzz zzz yyy the"])
    one, two = load_glove(path, first)[0], load_glove(path, second)[0]
    assert np.array_equal(one[first.index["zzz"]], two[second.index["zzz"]])
    assert np.array_equal(load_glove(path, first)[0], one)


def test_glove_oddities(tmp_path):
    """Tokens with spaces as in 840B, a word2vec header, a repeated word, CRLF, a next-line character."""
    vocabulary = Vocabulary.build(["at the name"])
    extra = "at name@domain.com 8 8 8\n. . . 1 1 1\nat 4 5 6\nthe 9 9 9\nx\x85y 1 1 1\n"
    matrix, coverage = load_glove(write_vectors(tmp_path / "g.txt", extra), vocabulary)
    assert np.allclose(matrix[vocabulary.index["at"]], [4, 5, 6])
    assert np.allclose(matrix[vocabulary.index["the"]], [1, 2, 3])
    assert coverage == pytest.approx(2 / 3)
    (tmp_path / "w.txt").write_bytes(b"2 3\r\nthe 1 2 3\r\nat 4 5 6 \r\n")
    assert load_glove(tmp_path / "w.txt", vocabulary)[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("name 1 2", ["line 7", "3 numbers"]),
        ("name 1 2 3\n\nat 1 2 3", ["line 8"]),
        ("name 1 b 3", ["line 7", "3 numbers"]),
        ("name 1 nan 3", ["line 7", "NaN"]),
        ("x", ["line 7"]),
    ],
)
def test_malformed_lines_are_named(tmp_path, extra, words):
    with pytest.raises(MerLabError) as error:
        load_glove(write_vectors(tmp_path / "g.txt", extra), Vocabulary.build(["name the"]))
    for word in ["g.txt", *words]:
        assert word in str(error.value)


def test_wrong_files(tmp_path):
    vocabulary = Vocabulary.build(["the"])
    for name, data, word in [
        ("empty.txt", b"", "empty"),
        ("glove.zip", b"PK\x03\x04", "unpack"),
        ("binary.txt", b"\0\1\2\n" * 9, "line 1"),
        ("other.txt", b"le 1 2\nla 3 4\n", "none of the 1 words"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MerLabError, match=word):
            load_glove(tmp_path / name, vocabulary)
    with pytest.raises(MerLabError, match="no such file"):
        load_glove(tmp_path / "absent.txt", vocabulary)


def test_television_dialogue(shared_data):
    texts = pd.read_csv(shared_data / "meld" / "train_sent_emo.csv")["Utterance"]
    lengths = [len(tokenise(text)) for text in texts]
    assert len(texts) == 9989 and min(lengths) >= 1
    assert "don't" in (vocabulary := Vocabulary.build(texts, min_count=2)).index
    assert np.mean([(vocabulary.encode(text) == 1).mean() for text in texts]) < 0.06
