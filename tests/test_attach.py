"""Attaching feature tables: what goes in comes out by utterance id, and nothing is lost in silence."""

import io
import json
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import mer_lab.corpora.tables as tables
from mer_lab.corpora import Corpus, save_corpus
from mer_lab.corpora.attach import add_features
from mer_lab.errors import MerLabError

IDS = ["train_a0", "train_a1", "dev_a0", "test_a0", "test_a1"]
SPLITS = ["train", "train", "validation", "test", "test"]


def make(folder):
    table = pd.DataFrame(
        {
            "dialogue_id": [f"d{i}" for i in range(5)], "turn": 0, "speaker": "s", "split": SPLITS,
            "label": "calm", "text": "The bread is warm.", "audio": "", "start": np.nan, "end": np.nan,
            "clip": [u.split("_")[1] for u in IDS],
        },
        index=pd.Index(IDS, name="utterance_id"),
    )  # fmt: skip
    save_corpus(Corpus("made-up", ("calm",), table), folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "corpus")


def load(folder, name="f"):
    """Utterance id → frames, and the metadata, read as any reader of the format would."""
    with safe_open(folder / "features" / f"{name}.safetensors", framework="np") as f:
        frames, offsets = f.get_tensor("frames"), f.get_tensor("offsets")
        meta = json.loads(f.metadata()["mer_lab"])
    assert frames.dtype == np.float32 and offsets.dtype == np.int64 and offsets[-1] == len(frames)
    assert frames.shape[1] == len(meta["columns"]) and len(offsets) == len(meta["utterance_ids"]) + 1
    return {u: frames[offsets[i] : offsets[i + 1]] for i, u in enumerate(meta["utterance_ids"])}, meta


def csv_file(path, rows, header="utterance_id,x,y"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_csv(folder, tmp_path):
    rows = ["test_a1,9,10", "train_a0,1,2.5", "stranger,7,7", "dev_a0,,inf", "train_a1,-3e2,NaN"]
    report = add_features(folder, "f", csv_file(tmp_path / "t.csv", rows), channel="text")
    got, meta = load(folder)
    assert list(got) == IDS
    assert meta == meta | {"name": "f", "channel": "text", "columns": ["x", "y"], "version": 1, "hop": None}
    np.testing.assert_array_equal(got["train_a0"], [[1, 2.5]])
    np.testing.assert_array_equal(got["train_a1"], [[-300, np.nan]])
    np.testing.assert_array_equal(got["dev_a0"], [[np.nan, np.nan]])
    np.testing.assert_array_equal(got["test_a0"], [[np.nan, np.nan]])
    np.testing.assert_array_equal(got["test_a1"], [[9, 10]])
    assert report.counts["missing"] == ["test_a0"] and report.counts["extra"] == ["t.csv stranger"]
    assert report.counts["nan"] == {"x": 1, "y": 2} and report.counts["infinite"] == 1
    assert (
        "1 utterances have no row" in str(report) and "test_a0" in str(report) and "stranger" in str(report)
    )


def test_parquet_is_the_csv(folder, tmp_path):
    frame = pd.DataFrame({"id": IDS, "x": [1, 2, 3, 4, 5], "y": [0.5, None, 2, 3, 4], "note": list("abcde")})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(MerLabError, match="'note' holds .*string"):
        add_features(folder, "p", tmp_path / "t.parquet", key="id")
    with pytest.raises(MerLabError, match="t.csv, line 2: note is 'a', not a number"):
        add_features(folder, "c", tmp_path / "t.csv", key="id")
    for name, ending in (("p", "parquet"), ("c", "csv")):
        add_features(folder, name, tmp_path / f"t.{ending}", key="id", drop=["note"])
    p, c = load(folder, "p")[0], load(folder, "c")[0]
    for uid in IDS:
        np.testing.assert_array_equal(p[uid], c[uid])
    assert np.isnan(p["train_a1"][0, 1])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.dictionaries(st.sampled_from(IDS), st.integers(0, 5), min_size=1),
    width=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float64", "float16", "int16"]),
    ending=st.sampled_from(["npz", "safetensors"]),
)
def test_ragged_round_trip(tmp_path_factory, lengths, width, dtype, ending):
    base = tmp_path_factory.mktemp("ragged")
    folder = make(base / "corpus")
    rng = np.random.default_rng(0)
    arrays = {u: (10 * rng.standard_normal((n, width))).astype(dtype) for u, n in lengths.items()}
    if ending == "npz":
        np.savez_compressed(base / "t.npz", **arrays)
    else:
        save_file(arrays, base / "t.safetensors")
    report = add_features(folder, "f", base / f"t.{ending}")
    got, _ = load(folder)
    for uid in IDS:
        if lengths.get(uid):
            np.testing.assert_array_equal(got[uid], arrays[uid].astype(np.float32))
        else:
            assert got[uid].shape == (1, width) and np.isnan(got[uid]).all()
    assert report.counts["missing"] == [u for u in IDS if u not in lengths]
    assert report.counts["empty"] == sum(n == 0 for n in lengths.values())


def test_one_vector_an_utterance(folder, tmp_path):
    np.savez(tmp_path / "t.npz", **{u: np.arange(3.0) + i for i, u in enumerate(IDS)})
    add_features(folder, "f", tmp_path / "t.npz")
    got, _ = load(folder)
    np.testing.assert_array_equal(got["test_a1"], [[4, 5, 6]])


def prosody(tmp_path):
    """Three tables in which the same clip name means another utterance."""
    return {
        "train": csv_file(tmp_path / "train.csv", ["a1.wav,2", "a0.wav,1"], "filename,pitch"),
        "validation": csv_file(tmp_path / "dev.csv", ["a0.wav,3", "a7.wav,0"], "filename,pitch"),
        "test": csv_file(tmp_path / "test.csv", ["a0.wav,4", "a1.wav,5"], "filename,pitch"),
    }


def test_tables_of_the_splits(folder, tmp_path):
    report = add_features(folder, "f", prosody(tmp_path), key="filename", match="clip")
    got, _ = load(folder)
    assert [got[u].item() for u in IDS] == [1, 2, 3, 4, 5]
    assert report.counts["extra"] == ["dev.csv a7.wav"] and report.counts["missing"] == []


def test_splits_cannot_mix(folder, tmp_path):
    given_ = prosody(tmp_path)
    with pytest.raises(MerLabError, match=r"train.csv, line 2: the key 'a1.wav' fits 2 utterances"):
        add_features(folder, "f", given_["train"], key="filename", match="clip")
    with pytest.raises(MerLabError, match="no key fits"):
        add_features(folder, "f", given_["train"], key="filename")
    with pytest.raises(MerLabError, match="'dev'; splits are train, validation, test"):
        add_features(folder, "f", {"dev": given_["train"]}, key="filename", match="clip")
    csv_file(given_["test"], ["a0.wav,4"], "filename,loudness")
    with pytest.raises(MerLabError, match="do not fit together: the columns loudness, pitch"):
        add_features(folder, "f", given_, key="filename", match="clip")
    assert not (folder / "features").exists()


def test_one_split_only_is_told(folder, tmp_path):
    report = add_features(folder, "f", {"test": prosody(tmp_path)["test"]}, key="filename", match="clip")
    assert report.counts["missing"] == IDS[:3] and "3 utterances have no row" in str(report)


def test_not_replaced_unasked(folder, tmp_path):
    table = csv_file(tmp_path / "t.csv", [f"{u},1,2" for u in IDS])
    add_features(folder, "f", table)
    csv_file(table, [f"{u},3,4" for u in IDS])
    with pytest.raises(MerLabError, match="exists already"):
        add_features(folder, "f", table)
    assert load(folder)[0]["dev_a0"].tolist() == [[1, 2]]
    add_features(folder, "f", table, overwrite=True)
    assert load(folder)[0]["dev_a0"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("rows", "header", "told"),
    [
        (["dev_a0,1,2", "dev_a0,3,4"], "utterance_id,x,y", ["line 3", "dev_a0", "line 2"]),
        (["dev_a0,1,2", "dev_a0.wav,3,4"], "utterance_id,x,y", ["line 3", "both name dev_a0"]),
        (["dev_a0,1,two"], "utterance_id,x,y", ["line 2", "y is 'two'"]),
        (["dev_a0,1"], "utterance_id,x,y", ["line 2", "2 values"]),
        (["dev_a0,1,2"], "id,x,y", ["no key column 'utterance_id'"]),
        (["dev_a0"], "utterance_id", ["no feature columns"]),
        (["dev_a0,1,2"], "utterance_id,x,x", ["'x' stands twice"]),
        ([], "utterance_id,x,y", ["no rows"]),
        (["z,1,2"], "utterance_id,x,y", ["no key fits", "'z'", "train_a0"]),
        (['"dev_a0,1,2'], "utterance_id,x,y", ["not valid CSV"]),
        (["dev_a0\0,1,2"], "utterance_id,x,y", ["line 2", "NUL"]),
    ],
)
def test_bad_csv(folder, tmp_path, rows, header, told):
    with pytest.raises(MerLabError) as caught:
        add_features(folder, "f", csv_file(tmp_path / "t.csv", rows, header))
    assert all(t in str(caught.value) for t in ["t.csv", *told]) and "\n" not in str(caught.value)
    assert not (folder / "features").exists()


def test_bad_bytes(folder, tmp_path):
    (tmp_path / "t.csv").write_bytes(b"utterance_id,x\ndev_a0,1\ncaf\xe9,2\n")
    with pytest.raises(MerLabError, match="t.csv, near line 3: a byte is not UTF-8"):
        add_features(folder, "f", tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"")
    with pytest.raises(MerLabError, match="is empty"):
        add_features(folder, "f", tmp_path / "t.csv")
    for ending in ("npz", "parquet", "safetensors"):
        for content in (b"", b"PK\x03\x04 cut", b"\xff" * 200):
            (tmp_path / f"t.{ending}").write_bytes(content)
            with pytest.raises(MerLabError, match=f"t.{ending}: not a readable"):
                add_features(folder, "f", tmp_path / f"t.{ending}")


class Bomb:
    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


def test_nothing_is_unpickled(folder, tmp_path):
    np.savez(tmp_path / "t.npz", dev_a0=np.array([Bomb()], dtype=object))
    with pytest.raises(MerLabError, match="'dev_a0' holds Python objects.*pickle"):
        add_features(folder, "f", tmp_path / "t.npz")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("dev_a0.npy", pickle.dumps(Bomb()))
    with pytest.raises(MerLabError):
        add_features(folder, "f", tmp_path / "t.npz")
    assert not Bomb.fired


def test_bad_arrays(folder, tmp_path):
    def told(match, **arrays):
        np.savez(tmp_path / "t.npz", **arrays)
        with pytest.raises(MerLabError, match=match):
            add_features(folder, "f", tmp_path / "t.npz")

    told(r"'dev_a0' has shape \(1, 1, 2\)", dev_a0=np.zeros((1, 1, 2)))
    told(r"'dev_a0' has shape \(\)", dev_a0=np.float32(1))
    told("3 numbers a frame, 'dev_a0' has 2", dev_a0=np.zeros((4, 2)), test_a0=np.zeros((4, 3)))
    told("not real numbers", dev_a0=np.array(["warm"]))
    told("not real numbers", dev_a0=np.zeros((1, 2), complex))
    told("no key fits", elsewhere=np.zeros((1, 2)))


def test_bombs(folder, tmp_path, monkeypatch):
    path = tmp_path / "t.npz"
    np.savez_compressed(path, dev_a0=np.zeros((5000, 100), np.float32))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(tables, "MAX_ARRAY", 1_000_000)
    with pytest.raises(MerLabError, match="over the limit"):
        add_features(folder, "f", path)
    monkeypatch.setattr(tables, "MAX_ARRAY", 10_000_000)
    add_features(folder, "f", path)
    monkeypatch.setattr(tables, "MAX_TOTAL", 1_000_000)
    with pytest.raises(MerLabError, match="over the limit"):
        add_features(folder, "g", path)
    # a header that promises more than the archive holds must not be believed
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 2)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dev_a0.npy", buffer.getvalue() + b"\0" * 16)
    monkeypatch.undo()
    with pytest.raises(MerLabError, match="not as long as its shape"):
        add_features(folder, "g", path)


def test_damaged_array_leaves_nothing(folder, tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, dev_a0=np.arange(2000.0).reshape(1000, 2), test_a0=np.ones((3, 2)))
    data = bytearray(path.read_bytes())
    data[4000] ^= 255
    path.write_bytes(data)
    with pytest.raises(MerLabError, match="'dev_a0' is damaged"):
        add_features(folder, "f", path)
    assert not list((folder / "features").glob("*"))


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", "x" * 65])
def test_names(folder, tmp_path, name):
    with pytest.raises(MerLabError, match="name is"):
        add_features(folder, name, csv_file(tmp_path / "t.csv", ["dev_a0,1,2"]))


def test_arguments(folder, tmp_path):
    table = csv_file(tmp_path / "t.csv", ["dev_a0,1,2"])
    for arguments, told in (
        ({"channel": "video"}, "channel is 'video'"),
        ({"match": "colour"}, "no column 'colour'"),
        ({"drop": ["z"]}, "no column 'z' to drop"),
        ({"table": tmp_path / "none.csv"}, "no such file"),
        ({"table": tmp_path / "t.xlsx"}, "expected a file ending in .csv"),
        ({"table": {}}, "no table"),
    ):
        with pytest.raises(MerLabError, match=told):
            add_features(folder, "f", **({"table": table} | arguments))


def test_the_real_prosody(shared_data, tmp_path):
    if not (shared_data / "meld").is_dir():
        pytest.skip("MELD's tables are not among the real data")
    from mer_lab.corpora.meld import prepare_meld

    data = shared_data / "meld"
    prepare_meld(data, tmp_path / "meld", clips=False)
    given_ = {s: data / f"prosody_{p}.csv" for s, p in
              (("train", "train"), ("validation", "dev"), ("test", "test"))}  # fmt: skip
    report = add_features(tmp_path / "meld", "prosody", given_, key="filename", match="clip")
    assert report.counts["missing"] == ["train_dia125_utt3", "dev_dia110_utt7"]
    assert len(report.counts["extra"]) == 9 and report.counts["frames"] == 13708
    got, meta = load(tmp_path / "meld", "prosody")
    source = pd.read_csv(data / "prosody_dev.csv").set_index("filename")
    expected = source.loc["dia36_utt11.wav", meta["columns"]].to_numpy(np.float32)
    np.testing.assert_array_equal(got["dev_dia36_utt11"][0], expected)
