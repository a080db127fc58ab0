"""MELD importer: made-up trees with oddities, and the real tables where they are present."""

import csv
import shutil
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
import soundfile

from mer_lab.corpora import load_corpus
from mer_lab.corpora.meld import (
    LABELS,
    PUBLISHED,
    PUBLISHED_SENTIMENT,
    prepare_meld,
    seconds,
    speaker_of,
    undo_mojibake,
)
from mer_lab.errors import MerLabError

HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
)


def row(
    text, dialogue, number, speaker="Ross", emotion="joy", start="00:00:01,000", end="00:00:02,500", **more
):
    known = dict(season=7, episode=3, sentiment="positive", serial=1) | more
    return [known["serial"], text, speaker, emotion, known["sentiment"], dialogue, number, known["season"],
            known["episode"], start, end]  # fmt: skip


def write(path, rows, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as f:
        f.write(header + "\r\n")
        csv.writer(f).writerows(rows)
    return path


@pytest.fixture
def tree(tmp_path):
    """A made-up copy: dialogue and utterance numbers restart in each part, rows out of order, gaps."""
    root = tmp_path / "MELD.Raw"
    write(
        root / "train" / "train_sent_emo.csv",
        [
            row('The kettle sings, "again".', 4, 7),
            row("None", 4, 2, "Waiter", "neutral", sentiment="neutral"),
            row("A boat on the\nroof!", 0, 0, "Mabel", "surprise"),
            row("Nobody likes the soup.", 0, 1, "Waiter", "disgust", sentiment="negative", episode=12),
        ],
    )
    write(root / "dev_sent_emo.csv", [row("I counted nine owls.", 0, 0, "Joey/Pilot", "fear")])
    write(root / "test_sent_emo.csv", [row("The lamp is blue.", 0, 0, "All", "neutral", end="0:00:03,5")])
    return root


def write_mp4(path, seconds_long, rate=22050):
    """A clip with one stereo tone, AAC in mp4, as long as told to within a codec frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = int(seconds_long * rate)
    wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(n) / rate)).astype(np.float32)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        for start in range(0, n, 1024):
            block = np.stack([wave[start : start + 1024]] * 2)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_tree(tree, tmp_path):
    corpus, report = prepare_meld(tree, tmp_path / "out", clips=False)
    table = corpus.table
    assert corpus.labels == LABELS == ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
    assert corpus.ids == [
        "train_dia4_utt2", "train_dia4_utt7", "train_dia0_utt0", "train_dia0_utt1",
        "dev_dia0_utt0", "test_dia0_utt0",
    ]  # fmt: skip
    assert table["turn"].tolist() == [0, 1, 0, 1, 0, 0]
    assert table["split"].tolist() == ["train"] * 4 + ["validation", "test"]
    assert table["dialogue_id"].nunique() == 4
    assert table["text"].tolist()[:3] == ["None", 'The kettle sings, "again".', "A boat on the\nroof!"]
    assert table.at["test_dia0_utt0", "end"] == 3.5
    assert table.at["train_dia4_utt2", "clip"] == "dia4_utt2"
    assert corpus.scheme("sentiment").table["label"].tolist() == table["sentiment"].tolist()
    assert corpus.scheme("sentiment").labels == ("neutral", "positive", "negative")
    assert not corpus.has_audio and (table["audio"] == "").all()
    warned = [w for w in report.warnings if w.startswith("train: 1 utterances are surprise where")]
    assert len(warned) == 1 and "1205" in warned[0]
    assert "WARNING" in str(report)
    assert load_corpus(tmp_path / "out").ids == corpus.ids
    assert not list(tmp_path.glob(".out*"))


def test_speakers(tree, tmp_path):
    speakers = prepare_meld(tree, tmp_path / "out", clips=False)[0].table["speaker"]
    assert speakers["train_dia4_utt7"] == "Ross"
    assert speakers["train_dia0_utt0"] == "Mabel"
    assert speakers["dev_dia0_utt0"] == "Joey"
    assert speakers["train_dia4_utt2"] != speakers["train_dia0_utt1"]  # two waiters
    assert speaker_of("Waiter", "7", "3") == "Waiter (s07e03)"
    assert speaker_of("The Piano Tuner", "1", "12") == "The Piano Tuner (s01e12)"
    assert speaker_of("Ross and Joey", "1", "2") == "Ross and Joey (s01e02)"
    assert speaker_of("Guard #2", "1", "2") == "Guard #2 (s01e02)"
    assert speaker_of("Mabel Sr.", "1", "2") == speaker_of("Mabel  Sr", "8", "2") == "Mabel Sr"
    assert speaker_of("Anderson", "1", "2") == "Anderson"


@pytest.mark.parametrize(
    ("time", "value"),
    [("00:20:57,256", 1257.256), ("0:03:31,211", 211.211), ("00:06:47,28", 407.28), ("1:00:00.5", 3600.5)],
)
def test_seconds(time, value):
    assert seconds(time) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("time", ["", "12", "00:61:00,000", "00:00:99,000", "00:00:01", "00:00:01,1234", "x"])
def test_bad_seconds(time):
    with pytest.raises(ValueError):
        seconds(time)


def test_mojibake():
    assert undo_mojibake("it\x92s \x93fine\x94\x85") == "it’s “fine”…"
    assert undo_mojibake("it’s a café".encode().decode("cp1252")) == "it’s a café"
    for text in ("it’s “fine”… — café", "plain", "Ãgypten", "a â€ b"):
        assert undo_mojibake(text) == text


def test_repairs_are_told(tree, tmp_path):
    write(tree / "dev_sent_emo.csv", [row("it\x92s raining", 0, 0), row("it’s dry", 0, 1)])
    corpus, report = prepare_meld(tree, tmp_path / "out", clips=False)
    assert corpus.table.at["dev_dia0_utt0", "text"] == "it’s raining"
    assert report.counts["dev_repaired_texts"] == 1 and "in 1 texts" in str(report)


@pytest.mark.parametrize(
    ("rows", "header", "told"),
    [
        ([row("a", 0, 0)], HEADER.replace("Emotion", "Feeling"), ["line 1", "Emotion"]),
        ([row("a", 0, 0), row("b", 0, 1, emotion="bliss")], HEADER, ["line 3", "bliss", "neutral, joy"]),
        ([row("a", 0, 0, sentiment="meh")], HEADER, ["line 2", "meh"]),
        ([row("a", 0, 0), row("b", 0, 0)], HEADER, ["line 3", "utterance 0 of dialogue 0", "line 2"]),
        ([row("a", 0, 0, start="00:00:1x,000")], HEADER, ["line 2", "StartTime", "hh:mm:ss"]),
        ([row("a", 0, 0, end="00:00:00,500")], HEADER, ["line 2", "before StartTime"]),
        ([row("a", "zero", 0)], HEADER, ["line 2", "Dialogue_ID", "whole number"]),
        ([row("a", 0, 0)[:-1]], HEADER, ["line 2", "10 values"]),
        ([], HEADER, ["no utterances"]),
    ],
)
def test_one_sentence(tree, tmp_path, rows, header, told):
    write(tree / "test_sent_emo.csv", rows, header)
    with pytest.raises(MerLabError) as caught:
        prepare_meld(tree, tmp_path / "out")
    message = str(caught.value)
    assert "test_sent_emo.csv" in message and all(t in message for t in told) and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_not_utf8(tree, tmp_path):
    path = tree / "dev_sent_emo.csv"
    path.write_bytes(path.read_bytes() + b'2,"caf\xe9",Ross,joy,positive,0,1,1,1,"0:00:01,0","0:00:02,0"\r\n')
    with pytest.raises(MerLabError, match=r"dev_sent_emo.csv, line 3: byte 0xe9 is not UTF-8"):
        prepare_meld(tree, tmp_path / "out")


def test_missing_and_ambiguous_files(tree, tmp_path):
    with pytest.raises(MerLabError, match="no such folder"):
        prepare_meld(tmp_path / "nowhere", tmp_path / "out")
    write(tree / "copy" / "dev_sent_emo.csv", [row("another", 0, 0)])
    with pytest.raises(MerLabError, match="differ"):
        prepare_meld(tree, tmp_path / "out")
    shutil.copy(tree / "dev_sent_emo.csv", tree / "copy" / "dev_sent_emo.csv")
    assert len(prepare_meld(tree, tmp_path / "out", clips=False)[0]) == 6
    with pytest.raises(MerLabError, match="exists already"):
        prepare_meld(tree, tmp_path / "out")
    (tree / "test_sent_emo.csv").unlink()
    with pytest.raises(MerLabError, match="test_sent_emo.csv is not here"):
        prepare_meld(tree, tmp_path / "other")


def test_clips(tree, tmp_path):
    train = tree / "train" / "train_splits"
    write_mp4(train / "dia4_utt2.mp4", 1.6)  # as its times say, 1.5 s
    write_mp4(train / "dia4_utt7.mp4", 9.0)  # runs past its cut
    (train / "dia0_utt0.mp4").write_bytes(b"not a film")
    write_mp4(train / "dia9_utt9.mp4", 1.0)  # belongs to nobody
    (train / "._dia4_utt2.mp4").write_bytes(b"resource fork")
    write_mp4(tree / "output_repeated_splits_test" / "dia0_utt0.mp4", 2.5)
    out = tmp_path / "out"
    corpus, report = prepare_meld(tree, out)
    audio = corpus.table["audio"]
    assert audio[audio != ""].index.tolist() == ["train_dia4_utt2", "test_dia0_utt0"]
    wave, rate = soundfile.read(corpus.audio_path("train_dia4_utt2"))
    assert rate == 16000 and wave.ndim == 1 and abs(len(wave) / rate - 1.6) < 0.15
    peak = np.argmax(np.abs(np.fft.rfft(wave[:16000])))
    assert abs(peak - 440) <= 2
    listing = pd.read_csv(out / "quarantine.csv").set_index("utterance_id")
    assert set(listing.index) == {"train_dia4_utt7", "train_dia0_utt0", "train_dia0_utt1"}
    assert "lasts" in listing.at["train_dia4_utt7", "reason"]
    assert "missing" in listing.at["train_dia0_utt1", "reason"]
    assert listing.at["train_dia0_utt0", "file"] == "train_splits/dia0_utt0.mp4"
    assert str(tmp_path) not in (out / "quarantine.csv").read_text()
    assert corpus.table.at["train_dia0_utt0", "text"]  # the text stays
    assert report.counts["train_extra_clips"] == 1 and report.counts["quarantined"] == 3
    assert any("dev_splits_complete" in w for w in report.warnings)
    assert not (out / "audio" / "train_dia4_utt7.wav").exists()


def test_continues_after_a_kill(tree, tmp_path, monkeypatch):
    import mer_lab.corpora.meld as meld

    train = tree / "train_splits"
    for clip in ("dia4_utt2", "dia4_utt7"):
        write_mp4(train / f"{clip}.mp4", 1.5)
    real, decoded = meld.read_audio, []

    def dies(path, *args):
        if decoded:
            raise KeyboardInterrupt
        decoded.append(path.name)
        return real(path, *args)

    monkeypatch.setattr(meld, "read_audio", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_meld(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = []
    monkeypatch.setattr(meld, "read_audio", lambda p, *a: again.append(p.name) or real(p, *a))
    corpus, _ = prepare_meld(tree, tmp_path / "out")
    assert decoded == ["dia4_utt2.mp4"] and again == ["dia4_utt7.mp4"]
    assert (corpus.table["audio"] != "").sum() == 2 and not list(tmp_path.glob(".out*"))


def test_published_table_sums():
    assert [sum(PUBLISHED[p]) for p in ("train", "dev", "test")] == [9989, 1109, 2610]
    assert all(sum(PUBLISHED_SENTIMENT[p]) == sum(PUBLISHED[p]) for p in PUBLISHED)


def test_real_counts(shared_data, tmp_path):
    if not (shared_data / "meld").is_dir():
        pytest.skip("MELD's tables are not among the real data")
    corpus, report = prepare_meld(shared_data / "meld", tmp_path / "meld", clips=False)
    assert report.warnings == []
    counts = corpus.table.groupby(["split", "label"]).size()
    assert tuple(counts["train"][list(LABELS)]) == (4710, 1743, 1205, 1109, 683, 271, 268)
    assert tuple(counts["validation"][list(LABELS)]) == (470, 163, 150, 153, 111, 22, 40)
    assert tuple(counts["test"][list(LABELS)]) == (1256, 402, 281, 345, 208, 68, 50)
    feelings = corpus.scheme("sentiment").table.groupby(["split", "label"]).size()
    assert tuple(feelings["test"][["neutral", "positive", "negative"]]) == (1256, 521, 833)
    dialogues = corpus.table.groupby("split")["dialogue_id"].nunique()
    assert dialogues.to_dict() == {"train": 1038, "validation": 114, "test": 280}
    assert "train_dia60_utt0" not in corpus.table.index
    turns = corpus.table.groupby("dialogue_id")["turn"]
    assert (turns.max() + 1 == turns.size()).all() and corpus.table["turn"].min() == 0
    numbers = corpus.table["utterance_number"].astype(int)
    assert numbers.groupby(corpus.table["dialogue_id"]).apply(lambda x: x.is_monotonic_increasing).all()
    assert corpus.table["speaker"].value_counts().index[:6].isin(
        ["Joey", "Ross", "Rachel", "Phoebe", "Monica", "Chandler"]
    ).all()  # fmt: skip
    assert corpus.table["text"].str.contains("’").any()
    durations = corpus.table["end"] - corpus.table["start"]
    assert (durations >= 0).all() and durations.median() == pytest.approx(2.46, abs=0.05)
