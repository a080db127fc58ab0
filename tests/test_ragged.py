"""Ragged: padding against a loop, choices of utterances, and feature files that are whole or refused."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mer_lab.errors import MerLabError
from mer_lab.ragged import Ragged, open_ragged, write_ragged


@st.composite
def ragged(draw) -> Ragged:
    width = draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=7))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    sequences = [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]
    return Ragged.from_sequences(sequences, [f"u{k}" for k in range(len(lengths))], {"name": "f"})


def padded_by_loop(data: Ragged, chosen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    steps = max([1, *(len(data[k]) for k in chosen)])
    out = np.zeros((len(chosen), steps, data.width), np.float32)
    mask = np.zeros((len(chosen), steps), bool)
    for row, k in enumerate(chosen):
        out[row, : len(data[k])] = data[k]
        mask[row, : len(data[k])] = True
    return out, mask


@given(ragged(), st.data())
@settings(deadline=None)
def test_padded_is_what_a_loop_makes(data, choose):
    chosen = choose.draw(st.lists(st.integers(0, len(data) - 1), max_size=9))
    out, mask = data.padded(np.array(chosen, np.int64))
    expected, expected_mask = padded_by_loop(data, chosen)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    assert out.dtype == np.float32 and mask.dtype == bool


@given(ragged(), st.data())
@settings(deadline=None)
def test_take(data, choose):
    """A view of a view shows the same frames, in any order, by every way of reading."""
    order = choose.draw(st.permutations(data.ids))
    few = order[: choose.draw(st.integers(0, len(order)))]
    view = data.take(order).take(few)
    assert view.ids == few and len(view) == len(few) and view.meta == data.meta and view.width == data.width
    for k, u in enumerate(few):
        np.testing.assert_array_equal(view[k], data[data.ids.index(u)])
    assert view.lengths.tolist() == [len(data[data.ids.index(u)]) for u in few]
    rows = np.array([data.ids.index(u) for u in few], np.int64)
    for got, wanted in zip(view.padded(np.arange(len(few))), data.padded(rows), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert view.frames is data.frames


def test_reading_from_the_end_and_in_a_loop():
    data = Ragged.from_sequences([np.zeros((2, 1)), np.ones((3, 1))], ["a", "b"])
    for one in (data, data.take(["b", "a"]).take(["a", "b"])):
        np.testing.assert_array_equal(one[-1], np.ones((3, 1)))
        assert [len(x) for x in one] == [2, 3]


def test_words_stay_whole_numbers():
    data = Ragged.from_sequences([np.array([[3], [2**40]]), np.array([[5]])], ["a", "b"])
    assert data.padded(np.array([1, 0]))[0].tolist() == [[[5], [0]], [[3], [2**40]]]


def test_an_utterance_without_features():
    data = Ragged.from_sequences([np.zeros((1, 1))], ["a"], {"name": "prosody"})
    with pytest.raises(MerLabError, match="2 utterances have no features prosody, first 'x'; extract again."):
        data.take(["x", "a", "y"])


# ---------------------------------------------------------------- files


def written(path, data: Ragged, pieces: int = 2) -> None:
    chunks = np.array_split(data.frames, pieces)
    write_ragged(path, {**data.meta, "utterance_ids": data.ids}, data.lengths, data.width, chunks)


@given(ragged(), st.integers(1, 4))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trip(tmp_path_factory, data, pieces):
    path = tmp_path_factory.mktemp("trip") / "f.safetensors"
    written(path, data, pieces)
    again = open_ragged(path)
    assert again.ids == data.ids and again.meta == data.meta
    np.testing.assert_array_equal(again.offsets, data.offsets)
    np.testing.assert_array_equal(again.frames, data.frames)
    other = load_file(path)  # any reader of the format can read it
    np.testing.assert_array_equal(other["frames"], data.frames)


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    data = Ragged.from_sequences([rng.normal(size=(n, 2)) for n in (3, 1, 4)], ["ä", "b", "c"], {"hop": 0.01})
    written(tmp_path / "f.safetensors", data)
    return tmp_path / "f.safetensors"


def test_the_frames_are_mapped_not_read(path):
    frames = open_ragged(path).frames
    assert isinstance(frames, np.memmap) and not frames.flags.writeable


def test_every_cut_is_noticed(path):
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(MerLabError, match="cut off; delete it and extract again"):
            open_ragged(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(MerLabError):
        open_ragged(path)


def test_missing_and_foreign_files(path, tmp_path):
    with pytest.raises(MerLabError, match="no such feature file"):
        open_ragged(tmp_path / "nowhere")
    save_file({"frames": np.zeros((2, 2), np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("utterance_id,text\n" * 40)
    for foreign in (tmp_path / "other.safetensors", tmp_path / "text", tmp_path):
        with pytest.raises(MerLabError, match="is not a feature file of mer_lab"):
            open_ragged(foreign)


HEADERS = {
    "wide": lambda h: h["frames"].update(shape=[8, 2**40]),
    "narrow": lambda h: h["frames"].update(shape=[8, 1]),
    "flat": lambda h: h["frames"].update(shape=[16]),
    "negative": lambda h: h["frames"].update(shape=[8, -2]),
    "doubles": lambda h: h["frames"].update(dtype="F64"),
    "no frames": lambda h: h.pop("frames"),
    "no offsets": lambda h: h.pop("offsets"),
    "offsets elsewhere": lambda h: h["offsets"].update(data_offsets=[8, 40]),
    "too many offsets": lambda h: h["offsets"].update(shape=[10**12]),
    "no metadata": lambda h: h.pop("__metadata__"),
    "metadata no JSON": lambda h: h["__metadata__"].update(mer_lab="{"),
    "metadata a list": lambda h: h["__metadata__"].update(mer_lab="[]"),
    "metadata deep": lambda h: h["__metadata__"].update(mer_lab="[" * 100_000),
    "ids missing": lambda h: h["__metadata__"].update(mer_lab="{}"),
    "too few ids": lambda h: h["__metadata__"].update(mer_lab='{"utterance_ids": ["a"]}'),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_do_not_fit(path, name):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    HEADERS[name](header)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + size :])
    with pytest.raises(MerLabError, match="is not a feature file"):
        open_ragged(path)


def test_offsets_that_run_backwards(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    offsets = np.array([0, 5, 4, 8], "<i8").tobytes()
    path.write_bytes(data[: 8 + size] + offsets + data[8 + size + 32 :])
    with pytest.raises(MerLabError):
        open_ragged(path)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_byte_is_no_traceback(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("damage")
    written(folder / "f", Ragged.from_sequences([np.ones((2, 1))], ["a"]))
    data = bytearray((folder / "f").read_bytes())
    data[choose.draw(st.integers(0, len(data) - 9))] = choose.draw(st.integers(0, 255))
    (folder / "f").write_bytes(data)
    try:
        again = open_ragged(folder / "f")
    except MerLabError:
        return
    assert again[0].shape == (2, 1)


def test_chunks_that_do_not_add_up(tmp_path):
    for lengths, chunk in (([2], np.ones((3, 2))), ([2], np.ones((2, 3))), ([2], np.ones(2))):
        with pytest.raises(ValueError, match="were given|was given"):
            write_ragged(tmp_path / "f", {"utterance_ids": ["a"]}, lengths, 2, [chunk])
    assert not list(tmp_path.iterdir())
