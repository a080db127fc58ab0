"""CMU-MOSI importer on made-up trees in the three forms; video ids are real where folds matter."""

import json
import pickle

import h5py
import numpy as np
import pandas as pd
import pytest

from mer_lab.audio import write_audio
from mer_lab.corpora.mosi import FOLDS, PUBLISHED, VIDEOS, prepare_mosi
from mer_lab.corpora.native import read_folder
from mer_lab.errors import MerLabError
from mer_lab.ragged import open_ragged

RULE = "negative-vs-nonnegative"
# video: (start, end, score, words) of its segments; ids with _ and -, and ids that begin with a digit
CONTENT = {
    "0h-zjBukYpk": [(0.5, 1.5, -2.4, "a dull film"), (2.0, 2.6, 0.0, "well"), (3.0, 4.0, 1.5, "but it ends")],
    "_dI--eQ6qVU": [(0.0, 0.8, -0.5, "not for me"), (1.0, 1.9, 3.0, "the music shines")],
    "f_pcplsH_V0": [(0.1, 1.0, 0.6, "fine"), (1.0, 2.0, -3.0, "no no no")],
    "W8NXH0Djyww": [(0.0, 1.0, 2.5, "go and see it")],
}
UIDS = [f"{v}_{n}" for v in sorted(CONTENT) for n in range(1, len(CONTENT[v]) + 1)]
SEGMENTS = {f"{v}_{n}": x for v in CONTENT for n, x in enumerate(CONTENT[v], 1)}


def raw_tree(root):
    raw = root / "deep" / "CMU_MOSI" / "Raw"
    labels = root / "deep" / "CMU_MOSI" / "Labels" / "OpinionLevelSentiment.csv"
    labels.parent.mkdir(parents=True)
    lines = []
    for video, segments in CONTENT.items():
        text = []
        for n, (start, end, score, words) in enumerate(segments, 1):
            lines.append(f"{start},{end},{video},{n},{score}")
            text.append(f"{n}_DELIM_{words.upper()}")
            wave = 0.1 * np.sin(np.arange(int(16000 * (end - start))) / 9)
            write_audio(raw / "Audio" / "WAV_16000" / "Segmented" / f"{video}_{n}.wav", wave, 16000)
        write_audio(raw / "Audio" / "WAV_16000" / "Full" / f"{video}.wav", np.zeros(1600), 16000)
        path = raw / "Transcript" / "Segmented" / f"{video}.annotprocessed"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(text) + "\n")
    labels.write_text("\n".join(reversed(lines)) + "\n")  # the file's order does not matter
    return labels


def csd(path, root_name, parts, group=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as f:
        root = f.create_group(group or root_name)
        for key, (features, intervals) in parts.items():
            entry = root.create_group(f"data/{key}")
            entry.create_dataset("features", data=features, compression="gzip")
            entry.create_dataset("intervals", data=intervals, compression="gzip")
        meta = root.create_dataset("metadata/root name", (1,), dtype=h5py.string_dtype())
        meta[0] = json.dumps(root_name)
    return path


def timed_words(video):
    """Evenly spaced words with a pause before and after each segment: as the SDK has them, in video time."""
    words, times = [], []
    for start, end, _, text in CONTENT[video]:
        words, times = [*words, "sp"], [*times, (start - 0.1, start)]
        edges = np.linspace(start, end, len(text.split()) + 1)
        words += text.split()
        times += list(zip(edges[:-1], edges[1:], strict=True))
    return np.array([[w.encode()] for w in words]), np.array(times)


def covarep(video):
    last = CONTENT[video][-1][1]
    times = np.arange(0, last + 0.2, 0.01)
    frames = np.stack([times, times * 0 - 1, np.arange(len(times))], 1)
    frames[0, 1] = -np.inf
    return frames, np.stack([times, times + 0.01], 1)


def labels_of(video):
    rows = (
        np.array([[s] for *_, s, _ in CONTENT[video]], np.float32),
        np.array([x[:2] for x in CONTENT[video]]),
    )
    return rows


def csd_tree(root, aligned=False):
    name = "x_{}.csd".format  # names of files say nothing
    labels, words = {}, {}
    for video in CONTENT:
        if aligned:
            features, times = labels_of(video)
            labels |= {f"{video}[{k}]": (features[k : k + 1], times[k : k + 1]) for k in range(len(times))}
        else:
            labels[video] = labels_of(video)
        words[video] = timed_words(video)
    csd(root / name(1), "Opinion Segment Labels", labels)
    csd(root / name(2), "words", words)
    csd(root / name(3), "COVAREP", {v: covarep(v) for v in CONTENT})
    csd(root / name(4), "FACET_4.2", {v: covarep(v) for v in CONTENT})
    return root


def mmsa(path, change=None):
    rng = np.random.default_rng(0)
    fold = {
        v: ("train", "valid", "test")[sum(VIDEOS.index(v) >= x for x in FOLDS["standard"])] for v in CONTENT
    }
    data = {}
    for part in ("train", "valid", "test"):
        uids = [u for u in SEGMENTS if fold[u.rpartition("_")[0]] == part][::-1]
        n, lengths = len(uids), [2 + len(SEGMENTS[u][3].split()) for u in uids]
        mask = (np.arange(8) < np.array(lengths)[:, None]).astype(np.float32)
        audio = rng.normal(size=(n, 6, 3)).astype(np.float32)
        for k in range(n):
            audio[k, 2 + k :] = 0
        data[part] = {
            "raw_text": np.array([SEGMENTS[u][3] for u in uids]),
            "id": np.array(["$_$".join(u.rsplit("_", 1)) for u in uids]),
            "regression_labels": np.array([SEGMENTS[u][2] for u in uids], np.float32),
            "classification_labels": np.zeros(n),
            "annotations": ["Neutral"] * n,
            "text": rng.normal(size=(n, 8, 4)).astype(np.float32),
            "text_bert": np.stack([mask, mask, 0 * mask], 1),
            "audio": audio,
            "vision": np.zeros((n, 5, 2), np.float32),
            "vision_lengths": [5] * n,
        }
    if change:
        change(data)
    path.write_bytes(pickle.dumps(data, protocol=4))
    return path


@pytest.fixture
def raw(tmp_path):
    return raw_tree(tmp_path / "raw")


def test_the_three_forms_agree(raw, tmp_path):
    sources = {
        "raw": tmp_path / "raw",
        "csd": csd_tree(tmp_path / "csd"),
        "aligned": csd_tree(tmp_path / "aligned", aligned=True),
        "mmsa": mmsa(tmp_path / "unaligned_50.pkl"),
    }
    tables = {k: prepare_mosi(v, tmp_path / f"out_{k}")[0].table for k, v in sources.items()}
    same = ["dialogue_id", "turn", "speaker", "split", "label", "score", "seven", RULE, "drop-zero"]
    for name, table in tables.items():
        assert table.index.tolist() == UIDS
        pd.testing.assert_frame_equal(table[same], tables["raw"][same])
        assert table["text"].str.lower().tolist() == [SEGMENTS[u][3] for u in UIDS], name
    for name in ("csd", "aligned"):
        pd.testing.assert_frame_equal(tables[name][["start", "end"]], tables["raw"][["start", "end"]])
    assert tables["mmsa"]["start"].isna().all()


def test_labels_and_folds(raw, tmp_path):
    corpus, report = prepare_mosi(tmp_path / "raw", tmp_path / "out")
    table = corpus.table
    assert corpus.labels == ("negative", "nonnegative")
    assert table["score"].tolist() == [SEGMENTS[u][2] for u in UIDS]
    assert (table["speaker"] == table["dialogue_id"]).all()
    assert table.groupby("dialogue_id")["split"].first().to_dict() == {
        "0h-zjBukYpk": "train", "W8NXH0Djyww": "train", "_dI--eQ6qVU": "validation", "f_pcplsH_V0": "test"
    }  # fmt: skip
    place = "0h-zjBukYpk_2"  # its score is 0
    for rule, expected in {
        RULE: "nonnegative", "drop-zero": "", "nonpositive-vs-positive": "nonpositive", "seven": "0"
    }.items():  # fmt: skip
        assert corpus.scheme(rule).table.loc[place, "label"] == expected
    half = {"_dI--eQ6qVU_1": "0", "0h-zjBukYpk_3": "2", "W8NXH0Djyww_1": "2", "0h-zjBukYpk_1": "-2"}
    assert table.loc[list(half), "seven"].to_dict() == half
    other, _ = prepare_mosi(tmp_path / "raw", tmp_path / "out2", folds="hcam", rule="drop-zero")
    assert other.labels == ("negative", "positive") and other.table.loc[place, "label"] == ""
    moved = other.table.index[other.table["split"] != table["split"]]
    assert moved.tolist() == ["W8NXH0Djyww_1"] and other.table.loc[moved[0], "split"] == "validation"
    assert sum("published corpus" in w for w in report.warnings) == 3
    assert report.counts["train"] == (1, 1, 2)


def test_official_folds():
    assert list(VIDEOS) == sorted(VIDEOS) and len(set(VIDEOS)) == 93
    assert [sum(x) for x in PUBLISHED.values()] == [1284, 229, 686]
    first, second = FOLDS["standard"]
    assert (first, second - first, 93 - second) == (52, 10, 31) and FOLDS["hcam"] == (49, 62)
    assert {"2iD-tVS8NPw", "IumbAb8q2dM"} <= set(VIDEOS[:52])  # ends of the SDK's three lists
    assert {"WKA5OygbEKI", "ZUXBRvtny7o", "c5xsKMxpXnc", "_dI--eQ6qVU"} <= set(VIDEOS[52:62])
    assert {"tmZoasNr4rU", "c7UH_rxdZv4"} <= set(VIDEOS[62:])


def test_sound(raw, tmp_path):
    folder = next((tmp_path / "raw").rglob("WAV_16000")) / "Segmented"
    (folder / "f_pcplsH_V0_1.wav").unlink()
    broken = folder / "f_pcplsH_V0_2.wav"
    broken.write_bytes(broken.read_bytes()[:2000])
    write_audio(folder / "f_pcplsH_V0_3.wav", np.zeros(99), 16000)
    (folder / "._f_pcplsH_V0_1.wav").write_bytes(b"resource fork")
    corpus, report = prepare_mosi(tmp_path / "raw", tmp_path / "out")
    listing = pd.read_csv(tmp_path / "out" / "quarantine.csv").set_index("utterance_id")
    assert listing.index.tolist() == ["f_pcplsH_V0_1", "f_pcplsH_V0_2"]
    assert "missing" in listing["reason"].iloc[0] and "truncated" in listing["reason"].iloc[1]
    assert str(tmp_path) not in (tmp_path / "out" / "quarantine.csv").read_text()
    assert (corpus.table["audio"] == "").sum() == 2 and report.counts["extra_wavs"] == 1
    assert corpus.audio_path(UIDS[0]).read_bytes() == (folder / f"{UIDS[0]}.wav").read_bytes()
    text_only, _ = prepare_mosi(tmp_path / "raw", tmp_path / "text", audio=False)
    assert (text_only.table["audio"] == "").all() and not (tmp_path / "text" / "audio").exists()


def test_odd_lines(raw, tmp_path):
    folder = next((tmp_path / "raw").rglob("Transcript")) / "Segmented"
    path = folder / "f_pcplsH_V0.annotprocessed"
    path.write_bytes(
        b"1_DELIM_ONE _DELIM_ TWO\xff \x00\x0c\r\n\n"
        + b"9" * 5000
        + b"_DELIM_X\r\n7_DELIM_NOBODY LABELLED THIS\n"
    )
    raw.write_text(raw.read_text() + "0.0,1.0,my_own-video,12,0.2\n")
    corpus, report = prepare_mosi(tmp_path / "raw", tmp_path / "out")
    assert corpus.table.loc["f_pcplsH_V0_1", "text"] == "ONE _DELIM_ TWO\ufffd"
    assert corpus.table.loc["f_pcplsH_V0_2", "text"] == ""
    row = corpus.table.loc["my_own-video_12"]
    assert (row["dialogue_id"], row["turn"], row["split"]) == ("my_own-video", 12, "")
    told = " ".join(report.warnings)
    assert "f_pcplsH_V0_7" in told and "line 3" in told and "1 videos are in no official fold" in told
    assert "2 segments have no text" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.1,1.0,abc,1,3.2", r"line 9: the score is 3.2"),
        ("0.1,1.0,abc,1,nan", "line 9: score is 'nan'"),
        ("0.1,1.0,abc,1,", "line 9: the score is nan"),
        ("2.0,inf,abc,1,1", "line 9: end is 'inf'"),
        ("0.1,1.0,abc,0,1", "line 9: the segment number is 0"),
        ("0.1,1.0,abc,one,1", "line 9: segment is 'one'"),
        ("0.1,1.0,abc,1", "line 9: 4 values"),
        ("0.1,1.0,../../etc/passwd,1,1", "line 9: the video id"),
        ("0.1,1.0,0h-zjBukYpk,1,1", "line 9: the segment 0h-zjBukYpk_1 stands twice"),
    ],
)
def test_wrong_labels(raw, tmp_path, line, message):
    raw.write_text(raw.read_text() + line + "\n")
    with pytest.raises(MerLabError, match=message):
        prepare_mosi(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_times_that_run_backwards(raw, tmp_path):
    """As the SDK's files have it for 2WGyTLYerpo_44."""
    raw.write_text(raw.read_text().replace("3.0,4.0,0h-", "4.0,3.0,0h-"))
    root, aligned = csd_tree(tmp_path / "csd"), csd_tree(tmp_path / "aligned", aligned=True)
    with h5py.File(root / "x_1.csd", "a") as f, h5py.File(aligned / "x_1.csd", "a") as g:
        f["Opinion Segment Labels/data/0h-zjBukYpk/intervals"][2] = [4.0, 3.0]
        g["Opinion Segment Labels/data/0h-zjBukYpk[2]/intervals"][0] = [4.0, 3.0]
    for source in (tmp_path / "raw", root, aligned):
        corpus, report = prepare_mosi(source, tmp_path / f"out_{source.name}")
        row = corpus.table.loc["0h-zjBukYpk_3"]
        assert np.isnan(row["start"]) and np.isnan(row["end"]) and row["score"] == 1.5
        assert corpus.ids == UIDS and corpus.table["start"].isna().sum() == 1
        assert report.counts["without_times"] == 1
        assert any("1 segments end before they start" in w and "0h-zjBukYpk_3" in w for w in report.warnings)
        if source.name == "raw":
            assert row["text"].lower() == "but it ends" and row["audio"]


def test_copies(raw, tmp_path):
    root = csd_tree(tmp_path / "csd")
    for k in (1, 2, 3):
        (root / f"y_{k}.csd").write_bytes((root / f"x_{k}.csd").read_bytes())
    corpus, report = prepare_mosi(root, tmp_path / "out_csd")
    assert corpus.ids == UIDS and report.counts["copies"] == 3
    assert any("3 files hold the same bytes" in n for n in report.notes)
    raw_tree(tmp_path / "raw" / "again")
    corpus, report = prepare_mosi(tmp_path / "raw", tmp_path / "out_raw")
    assert corpus.ids == UIDS and report.counts["copies"] == 1 + len(CONTENT) + len(UIDS)
    other = next((tmp_path / "raw" / "again").rglob("W8NXH0Djyww.annotprocessed"))
    other.write_text("1_DELIM_SOMETHING ELSE\n")
    place = (
        "W8NXH0Djyww.annotprocessed are both there and differ; give the folder above the Labels, Transcript"
    )
    with pytest.raises(MerLabError, match=place):
        prepare_mosi(tmp_path / "raw", tmp_path / "out")
    raw.write_text(raw.read_text() + "0.1,1.0,abc,1,1\n")
    with pytest.raises(
        MerLabError, match="OpinionLevelSentiment.csv and .* differ; give the folder above the"
    ):
        prepare_mosi(tmp_path / "raw", tmp_path / "out")


def test_names_and_folders_of_sound(raw, tmp_path):
    folder = next((tmp_path / "raw").rglob("WAV_16000")) / "Segmented"
    one, two, three = (folder / f"{u}.wav" for u in UIDS[:3])
    one.rename(one.with_suffix(".WAV"))
    other = folder.parent.parent / "WAV_44100" / "Segmented"
    write_audio(other / two.name, np.zeros(44100), 44100)
    write_audio(other / three.name, np.zeros(44100), 44100)
    three.unlink()
    corpus, _ = prepare_mosi(tmp_path / "raw", tmp_path / "out")
    assert (corpus.table["audio"] != "").all()
    assert corpus.audio_path(UIDS[1]).read_bytes() == two.read_bytes()
    assert corpus.audio_path(UIDS[2]).read_bytes() == (other / three.name).read_bytes()
    write_audio(folder.parent.parent / "WAV_8000" / "Segmented" / three.name, np.zeros(8000), 8000)
    with pytest.raises(
        MerLabError, match=f"WAV_44100.*{three.name} and .*WAV_8000.* are both there and differ"
    ):
        prepare_mosi(tmp_path / "raw", tmp_path / "out2")


def test_refused(raw, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MerLabError, match="holds no OpinionLevelSentiment"):
        prepare_mosi(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(MerLabError, match="holds no OpinionLevelSentiment"):
        prepare_mosi(raw, tmp_path / "out")  # a file of the layout, not its folder
    with pytest.raises(MerLabError, match="no such folder"):
        prepare_mosi(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(MerLabError, match="choose one of standard, hcam"):
        prepare_mosi(tmp_path / "raw", tmp_path / "out", folds="mine")
    with pytest.raises(MerLabError, match="drop-zero"):
        prepare_mosi(tmp_path / "raw", tmp_path / "out", rule="mine")
    path = next((tmp_path / "raw").rglob("W8NXH0Djyww.annotprocessed"))
    path.write_text("1_DELIM_A\n1_DELIM_B\n")
    with pytest.raises(MerLabError, match="line 2: the segment 1 stands already"):
        prepare_mosi(tmp_path / "raw", tmp_path / "out")


def test_words_and_features_of_csd(tmp_path):
    corpus, report = prepare_mosi(csd_tree(tmp_path / "csd"), tmp_path / "out")
    words = corpus.word_timings("0h-zjBukYpk_3")
    assert words["word"].tolist() == ["but", "it", "ends"]
    assert np.allclose(words[["start", "end"]], [[0, 1 / 3], [1 / 3, 2 / 3], [2 / 3, 1]], atol=1e-4)
    assert "sp" not in set(corpus.words["word"])
    assert (
        any("x_4.csd" in n for n in report.notes)
        and not (tmp_path / "out/features/facet_4_2.safetensors").exists()
    )
    frames = open_ragged(tmp_path / "out" / "features" / "covarep.safetensors")
    assert frames.ids == UIDS and frames.width == 3 and frames.meta["channel"] == "audio"
    for k, uid in enumerate(UIDS):
        start, end, *_ = SEGMENTS[uid]
        one = frames.padded(np.array([k]))[0][0]
        assert one[0, 0] == pytest.approx(start, abs=0.011) and one[-1, 0] == pytest.approx(
            end - 0.01, abs=0.011
        )
        assert (np.diff(one[:, 2]) == 1).all()
    first = UIDS.index("_dI--eQ6qVU_1")  # its first frame held -inf
    assert np.isnan(frames.frames[frames.offsets[first], 1]) and report.counts["covarep"]["infinite"] >= 1
    prepare_mosi(tmp_path / "csd", tmp_path / "text", audio=False)
    assert not (tmp_path / "text" / "features").exists()


def test_csd_is_found_by_what_it_holds(tmp_path):
    root = csd_tree(tmp_path / "csd")
    csd(root / "x_2.csd", "words", {v: timed_words(v) for v in CONTENT}, group="sequence")
    csd(root / "x_3.csd", "COVAREP", {v: covarep(v) for v in list(CONTENT)[1:]}, group="sequence")
    csd(root / "x_5.csd", "phoneme", {v: timed_words(v) for v in CONTENT})
    csd(root / "x_6.csd", "glove_vectors", {v: covarep(v) for v in CONTENT})
    corpus, report = prepare_mosi(root, tmp_path / "out")
    assert corpus.words is not None
    there = sorted(p.name for p in (tmp_path / "out" / "features").iterdir())
    assert there == ["glove_vectors.safetensors", "sequence.safetensors"]
    assert open_ragged(tmp_path / "out/features/glove_vectors.safetensors").meta["channel"] == "text"
    assert any("3 segments have none" in w for w in report.warnings)


def test_wrong_csd(tmp_path):
    root = csd_tree(tmp_path / "csd")
    out = tmp_path / "out"
    csd(root / "x_9.csd", "words", {v: timed_words(v) for v in list(CONTENT)[1:]})
    with pytest.raises(MerLabError, match="x_2.csd and .*x_9.csd hold the same and differ; give the folder"):
        prepare_mosi(root, out)
    for data, message in (
        ({"a": (np.ones((2, 1)), np.ones((3, 2)))}, "do not fit"),
        ({"a": (np.ones((2, 1)), np.array([[b"x", b"y"]] * 2))}, "expected numbers"),
        ({}, "lacks /COVAREP/data"),
    ):
        csd(root / "x_9.csd", "COVAREP", data)
        with pytest.raises(MerLabError, match=message):
            prepare_mosi(root, out)
    (root / "x_9.csd").write_bytes((root / "x_3.csd").read_bytes()[:3000])
    with pytest.raises(MerLabError, match="cannot be read as HDF5"):
        prepare_mosi(root, out)
    with h5py.File(root / "x_9.csd", "w") as f:  # a few bytes that claim 800 GB, and a link to another file
        entry = f.create_group("COVAREP/data/a")
        entry.create_dataset("features", (10**9, 100), "f8", chunks=(1000, 100))
        entry.create_dataset("intervals", (10**9, 2), "f8", chunks=(1000, 2))
    with pytest.raises(MerLabError, match="larger than"):
        prepare_mosi(root, out)
    with h5py.File(root / "x_9.csd", "w") as f:
        f.create_group("COVAREP")["data"] = h5py.ExternalLink(str(root / "x_3.csd"), "COVAREP/data")
    with pytest.raises(MerLabError, match="of this file"):
        prepare_mosi(root, out)
    with h5py.File(root / "x_9.csd", "w") as f:
        entry = f.create_group("COVAREP/data/a")
        entry.create_dataset("features", (4, 1), "u1", external=[(str(root / "x_3.csd"), 0, 4)])
        entry.create_dataset("intervals", data=np.zeros((4, 2)))
    with pytest.raises(MerLabError, match="of this file"):
        prepare_mosi(root, out)
    for name in ("x_1.csd", "x_9.csd"):
        (root / name).unlink()
    with pytest.raises(MerLabError, match="none of its .csd files holds the labels"):
        prepare_mosi(root, out)
    assert not out.exists()


def test_what_is_not_read_need_not_be_right(tmp_path):
    root = csd_tree(tmp_path / "csd")
    first, *others = CONTENT
    varying = {v: (np.zeros((3, 4 + k)), np.zeros((3, 2))) for k, v in enumerate(CONTENT)}
    csd(root / "x_5.csd", "OpenFace_2", varying)
    csd(root / "x_6.csd", "FACET_4.1", varying | {first: (np.zeros(0), np.zeros((0, 2)))})
    csd(
        root / "x_7.csd", "phoneme", {v: timed_words(v) for v in others} | {first: (np.zeros(0), np.zeros(0))}
    )
    csd(
        root / "x_8.csd",
        "OpenSMILE",
        {v: covarep(v) for v in others} | {first: (np.zeros((0, 1)), np.zeros((0, 2)))},
    )
    corpus, report = prepare_mosi(root, tmp_path / "out")
    assert {f"x_{k}.csd" for k in (4, 5, 6, 7)} == {
        n.partition(":")[0] for n in report.notes if "left out;" in n
    }
    assert any(w.startswith("x_8.csd: 1 entries have no rows") and first in w for w in report.warnings)
    assert open_ragged(tmp_path / "out/features/opensmile.safetensors").width == 3
    csd(root / "x_8.csd", "OpenSMILE", varying)
    with pytest.raises(MerLabError, match="its features differ from key to key"):
        prepare_mosi(root, tmp_path / "out2")


def test_features_of_mmsa(tmp_path):
    path = mmsa(tmp_path / "unaligned_50.pkl")
    data = pickle.loads(path.read_bytes())
    corpus, report = prepare_mosi(path, tmp_path / "out")
    assert not any("another part" in w for w in report.warnings) and any("vision" in n for n in report.notes)
    text, audio = (open_ragged(tmp_path / f"out/features/mmsa_{c}.safetensors") for c in ("text", "audio"))
    assert text.ids == audio.ids == corpus.ids == UIDS
    assert text.lengths.tolist() == [2 + len(SEGMENTS[u][3].split()) for u in UIDS]  # by the mask
    for part in data.values():
        for k, key in enumerate(part["id"]):
            uid = UIDS.index(key.replace("$_$", "_"))
            one = audio.frames[audio.offsets[uid] : audio.offsets[uid + 1]]
            assert np.array_equal(one, part["audio"][k, : 2 + k])  # no lengths: zeros at the end are padding


def test_lengths_and_folds_of_mmsa(tmp_path):
    def change(data):
        data["test"], data["valid"] = data["valid"], data["test"]
        for part in data.values():
            part["audio_lengths"] = [1 + k for k in range(len(part["id"]))]
            part["raw_text"] = part["raw_text"].tolist()

    corpus, report = prepare_mosi(mmsa(tmp_path / "a.pickle", change), tmp_path / "out")
    assert any("4 segments stand in another part" in w for w in report.warnings)
    assert corpus.table.loc["f_pcplsH_V0_1", "split"] == "test"  # the video's fold counts
    lengths = open_ragged(tmp_path / "out/features/mmsa_audio.safetensors").lengths
    assert sorted(lengths) == [1, 1, 1, 2, 2, 2, 3, 4]


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: np.array(x, object),
        lambda x: np.array([s.encode() for s in x]),
        lambda x: [s.encode() for s in x],
    ],
    ids=["objects", "S", "bytes"],
)
def test_kinds_of_strings_of_mmsa(tmp_path, kind):
    def change(data):
        for part in data.values():
            for key in ("id", "raw_text", "annotations"):
                part[key] = kind([str(x) for x in part[key]])
            part["regression_labels"] = part["regression_labels"].astype(object)

    expected, _ = prepare_mosi(mmsa(tmp_path / "a.pkl"), tmp_path / "expected")
    corpus, _ = prepare_mosi(mmsa(tmp_path / "b.pkl", change), tmp_path / "out")
    pd.testing.assert_frame_equal(corpus.table, expected.table)


def test_odd_texts_of_mmsa(tmp_path):
    def change(data):
        data["train"]["raw_text"] = ["lone \ud800 surrogate", b"latin \xe9", b"caf\xc3\xa9", "fine"]
        data["train"]["audio"] = data["train"]["audio"][:, :0]

    corpus, _ = prepare_mosi(mmsa(tmp_path / "a.pkl", change), tmp_path / "out")
    assert {"lone ? surrogate", "latin \ufffd", "caf\u00e9", "fine"} < set(corpus.table["text"])


def test_a_deep_nest_is_no_mmsa(tmp_path):
    deep = b")" + b"\x85" * 30_000
    for data, message in (
        (deep, "no train, valid and test"),
        (deep + b")R", "calls a tuple"),
        (
            b"}("
            + b"".join(b"\x8c\x05" + p + b"}\x8c\x02id]" + deep + b"as" for p in (b"train", b"valid"))
            + b"\x8c\x04test}u",
            "train row 0: 'id' is a tuple",
        ),
    ):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + data + b".")
        with pytest.raises(MerLabError, match=message):
            prepare_mosi(tmp_path / "a.pkl", tmp_path / "out")


def doubled(make, levels=60):
    x = make(0.0, 0.0)
    for _ in range(levels):
        x = make(x, x)
    return x


def pair(*x):
    return list(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["train"].update(id=[doubled(lambda *x: x)] * 4),
            "row 0: 'id' is a tuple, expected a string",
        ),
        (lambda d: d["train"].update(raw_text=doubled(pair)), "'raw_text' must be a list of 4"),
        (lambda d: d["train"].update(raw_text=["a", "b", 1.5, "c"]), "row 2: 'raw_text' is a float"),
        (
            lambda d: d["train"].update(regression_labels=doubled(pair)),
            "'regression_labels' must be 4 numbers",
        ),
        (lambda d: d["train"].update(regression_labels=["1"] * 4), "'regression_labels' must be 4 numbers"),
        (
            lambda d: d["train"].update(regression_labels=[10**400] * 4),
            "'regression_labels' must be 4 numbers",
        ),
        (lambda d: d.pop("valid"), "no train, valid and test"),
        (lambda d: d["train"].pop("id"), "'id' must be a list"),
        (lambda d: d["train"].update(regression_labels=[1.0]), "'regression_labels' must be 4 numbers"),
        (lambda d: d["train"].update(regression_labels=[9.0] * 4), "train row 0: the score is 9"),
        (lambda d: d["test"].update(id=["a_1", "b_2"]), r"test row 0: the id is 'a_1'"),
        (lambda d: d["test"].update(id=["../x$_$1", "b$_$2"]), "the video id is '../x'"),
        (lambda d: d["test"].update(audio=np.zeros((2, 3))), "'audio' must be 2 × n × n"),
        (lambda d: d["test"].update(audio=[[1, 2], [3]]), "'audio' must be 2 × n × n"),
        (lambda d: d["test"].update(audio=np.zeros((2, 3, 7))), "7 numbers a frame, the part before 3"),
        (lambda d: d["test"].update(audio_lengths=[1, 99]), "not within its 6 frames"),
        (lambda d: d["test"].update(id=np.array([object()] * 2)), "plain data"),
    ],
)
def test_wrong_mmsa(tmp_path, change, message):
    with pytest.raises(MerLabError, match=message):
        prepare_mosi(mmsa(tmp_path / "a.pkl", change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(raw, tmp_path, capsys):
    from mer_lab.cli import main

    arguments = ["prepare", "mosi", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--rule"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "drop-zero", "--folds", "hcam"])
    assert done.value.code == 0 and "8 segments of 4 videos." in capsys.readouterr().out
    assert read_folder(tmp_path / "out").info["rule"] == "drop-zero"
    with pytest.raises(SystemExit) as done:
        main([*arguments, "none"])
    assert done.value.code == 1 and "mer-lab: " in capsys.readouterr().err
