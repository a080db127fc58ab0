"""Bring your own: a table and recordings become a corpus, or everything that is wrong is listed."""

import os
import shlex
import shutil
import struct
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_audio import tone, write_mp4

from mer_lab.audio import duration, read_audio, resample
from mer_lab.cli import main
from mer_lab.corpora import load_corpus
from mer_lab.corpora import recordings as taking
from mer_lab.corpora.own import prepare_own
from mer_lab.corpora.splits import overlaps
from mer_lab.errors import MerLabError


def table(folder: Path, *lines: str, name="mine.csv", encoding="utf-8") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes("\n".join([*lines, ""]).encode(encoding))
    return folder / name


def sound(path: Path, seconds=0.2, hz=440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(16000, seconds, hz), 16000)
    return path


def problems(*arguments, **options) -> list[str]:
    """The list of a refusal; nothing may be left of the corpus."""
    out = Path(arguments[1])
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(MerLabError) as caught:
        prepare_own(*arguments, **options)
    assert sorted(out.parent.rglob("*")) == before
    first, *rest = str(caught.value).split("\n")
    assert (
        first.startswith(str(arguments[0])) and f" {len(rest)} problem" in first or len(rest) > 20 or not rest
    )
    assert first.endswith(".") and all(x.startswith("  ") for x in rest) and "Traceback" not in first
    return [x.strip() for x in rest] or [first]


@pytest.fixture
def clips(tmp_path) -> Path:
    for k in range(4):
        sound(tmp_path / "clips" / f"c{k}.wav", 0.1 + 0.05 * k)
    return tmp_path / "clips"


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_dialects_and_usual_names(tmp_path, delimiter, encoding):
    rows = [
        ["ID", "Speaker-ID", "Transcript", "Emotion", "Age"],
        ["a", "Ann", '"so, so; ""well"""', "Happy", "7"],
    ]
    path = table(tmp_path, *map(delimiter.join, rows), encoding=encoding)
    corpus, report = prepare_own(path, tmp_path / "out")
    row = corpus.table.loc["a"]
    assert (row["speaker"], row["text"], row["label"]) == ("Ann", 'so, so; "well"', "happy")
    assert row["Age"] == "7" and corpus.name == "mine" and corpus.table["dialogue_id"].tolist() == ["a"]
    told = str(report)
    for part in (f"separated by {delimiter!r}", "'Transcript' is the text", "metadata: 'Age'", "no splits"):
        assert part in told
    assert report.todo == f"`mer-lab audit {tmp_path / 'out'}`"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("text\nhé\n".encode("utf-16"), "UTF-16"),
        ("text\nok\nhé\n".encode("cp1252"), "line 3: byte 0xe9 is not UTF-8"),
        (b"PK\3\4\0\0workbook", "workbook"),
        (b"text\na\0b\n", "line 2: contains a NUL"),
        (b"", "is empty"),
        (b"\n\n ,\n", "is empty"),
        (b"text,text\na,b\n", "'text' stands twice"),
        (b'text,"' + b"x" * 10_000_001 + b'"\n', "line 1: not valid CSV"),
    ],
)
def test_not_a_table(tmp_path, data, said):
    path = tmp_path / "mine.csv"
    path.write_bytes(data)
    (found,) = problems(path, tmp_path / "out")
    assert said in found
    if "UTF" in said:
        assert "save it as 'CSV UTF-8'" in found


def test_every_problem_is_listed_with_its_line(tmp_path):
    path = table(
        tmp_path,
        "id,text,split,start,end,turn,dialogue,score",
        "a,x,dev,0,1,0,d,1",
        "a,x,train,0,1,1,d,1",
        "b,x,holdout,2,1,2,d,1",
        "c,x,test,soon,1,1,d,high",
        "e,x,too,many,cells,in,this,row,here",
        ",x,test,0,1,3.5,d,",
        "f,,test,0,1,9,d,",
        'g,"un"closed,test,0,1,10,d,',
    )
    found = problems(path, tmp_path / "out")
    expected = [
        (3, "'a' stands already on line 2"), (4, "split is 'holdout'"), (4, "end 1 lies before start 2"),
        (5, "start is 'soon'"), (5, "score is 'high'"), (5, "'d' stands already on line 3"),
        (6, "9 values"), (7, "turn is '3.5'"), (7, "id is empty"), (9, "not valid CSV"),
    ]  # fmt: skip
    for line, said in expected:
        assert any(x.startswith(f"line {line}: ") and said in x for x in found), said
    assert len(found) == len(expected)


def test_at_most_twenty_are_shown(tmp_path):
    path = table(tmp_path, "id,text", *(f"u{k},=A()" for k in range(50)))
    found = problems(path, tmp_path / "out")
    assert len(found) == 21 and found[-1] == "and 30 more" and found[0].startswith("line 2:")


def test_two_columns_for_one_role_must_be_chosen(tmp_path):
    path = table(tmp_path, "id,text,Emotion,sentiment", "a,x,joy,positive", "b,y,fear,negative")
    (found,) = problems(path, tmp_path / "out")
    assert (
        "'Emotion' and 'sentiment'" in found and "--column label=Emotion or --column label=sentiment" in found
    )
    corpus, _ = prepare_own(path, tmp_path / "out", columns={"label": "sentiment"})
    assert corpus.labels == ("negative", "positive") and corpus.table["Emotion"].tolist() == ["joy", "fear"]


def test_columns_overrule(tmp_path):
    path = table(tmp_path, "id,text,line,label", "a,ID 7,hello,x", "b,ID 8,bye,y")
    corpus, report = prepare_own(path, tmp_path / "out", columns={"text": "Line", "label": ""})
    assert corpus.table["text"].tolist() == ["hello", "bye"] and corpus.labels == ()
    assert corpus.table["text_given"].tolist() == ["ID 7", "ID 8"]
    assert corpus.table["label_given"].tolist() == ["x", "y"]
    assert any("no row has a label" in w for w in report.warnings)
    assert (
        "none of the columns id, text, line, label fit"
        in problems(path, tmp_path / "no", columns={"text": "words"})[0]
    )
    with pytest.raises(MerLabError, match="'words'; choose one of utterance_id"):
        prepare_own(path, tmp_path / "no", columns={"words": "line"})


def test_metadata_may_have_any_name(tmp_path, clips):
    path = table(tmp_path, "file,path,line,spelling,recording,", "c0,p,l,s,r,z", ",,,,,", "c1,p,l,s,r,z,,")
    corpus, report = prepare_own(path, tmp_path / "out", clips, {"audio": "file"})
    assert [
        corpus.table[c].tolist() for c in ("path", "line", "spelling", "recording_given", "column_6")
    ] == [[x, x] for x in "plsrz"]
    assert report.counts["empty_rows"] == 1 and "1 empty rows left out" in str(report)


@pytest.mark.parametrize(
    "cell",
    ["=CMD(1)", '=HYPERLINK("http://x","y")', "@SUM(1+1)*cmd|' /C calc'!A0", "+cmd|' /C calc'!A0",
     "-2+3+cmd|'x'!A0", " =1+HYPERLINK(A1)", "＝cmd|'x'!A0", "='cmd'|'/C calc'!A0", "\t=DDE(1)",
     "=A1+HYPERLINK(B1)", "=sum(1)", "+hyperlink(A1)", "-1*WEBSERVICE(A1)", '="a"&HYPERLINK(A1)',
     "@sum(A1)"],
)  # fmt: skip
@pytest.mark.parametrize("column", [1, 2, 3])
def test_formulas_are_refused(tmp_path, cell, column):
    row = ["a", "hello", "happy", "note"]
    row[column] = '"' + cell.replace('"', '""') + '"'
    (found,) = problems(table(tmp_path, "id,text,label,note", ",".join(row)), tmp_path / "out")
    assert found.startswith("line 2: ") and "formula" in found


@pytest.mark.parametrize(
    "text",
    [
        "- Hello (she waves)",
        "=)",
        "=( no",
        "-- what?",
        "+1",
        "-1.5",
        "@ann (there)",
        "= D",
        "- yes | no!",
        "-",
        "-yeah(laughs) ok",
        "- um(cough) no",
        "= I said (well) a(b",
        "+ maybe (sighs)",
    ],
)
def test_speech_is_no_formula(tmp_path, text):
    corpus, _ = prepare_own(table(tmp_path, "id;text", f"a;{text}"), tmp_path / "out")
    assert corpus.table.at["a", "text"] == text


# ---------------------------------------------------------------- labels, splits, speakers


def test_labels_are_folded_and_sorted(tmp_path):
    path = table(tmp_path, "text,label", "1,sad", '2,"happy "', "3,Happy", "4,", "5,HAPPY")
    corpus, report = prepare_own(path, tmp_path / "out")
    assert corpus.labels == ("happy", "sad") and corpus.targets.tolist() == [1, 0, 0, -1, 0]
    assert report.counts["labels"] == {"happy": 3, "sad": 1}
    told = str(report)
    assert "'HAPPY' = 'Happy' = 'happy'" in told and "without a label, and kept: 1" in told
    assert corpus.ids == ["row1", "row2", "row3", "row4", "row5"]


@pytest.mark.parametrize(("rows", "distinct"), [(9, 9), (60, 21)])
def test_a_column_that_is_hardly_labels(tmp_path, rows, distinct):
    path = table(tmp_path, "text,category", *(f"t,x{k % distinct}" for k in range(rows)))
    (found,) = problems(path, tmp_path / "out")
    assert f"{distinct} different labels in {rows} rows" in found and "--column label=" in found


def test_many_labels_in_a_column_that_was_chosen(tmp_path):
    path = table(tmp_path, "text,emotion", *(f"t,x{k % 28}" for k in range(140)))
    assert "28 different labels" in problems(path, tmp_path / "out")[0]
    corpus, _ = prepare_own(path, tmp_path / "out", columns={"label": "emotion"})
    assert len(corpus.labels) == 28
    path = table(tmp_path, "text,note", *(f"t,x{k % 50}" for k in range(60)))
    assert "50 different labels in 60" in problems(path, tmp_path / "no", columns={"label": "note"})[0]


def test_turns_of_pandas_and_the_first_line_of_excel(tmp_path):
    path = table(tmp_path, "text,dialogue,turn", "a,d,1.0", "b,d,2.00", "c,e,0")
    assert prepare_own(path, tmp_path / "a")[0].table["turn"].tolist() == [1, 2, 0]
    path = table(tmp_path, "SEP=;", "id;text", "u;one, two, three", "v;=A()")
    assert problems(path, tmp_path / "no")[0].startswith("line 4: ")
    path = table(tmp_path, "sep=;", "id;text", "u;one, two, three")
    corpus, report = prepare_own(path, tmp_path / "b")
    assert corpus.table["text"].to_dict() == {"u": "one, two, three"} and "separated by ';'" in str(report)


def test_scores(tmp_path):
    corpus, _ = prepare_own(table(tmp_path, "id,text,score", "a,x,-1.4", "b,y,"), tmp_path / "out")
    assert corpus.table.at["a", "score"] == -1.4 and np.isnan(corpus.table.at["b", "score"])


def test_given_splits(tmp_path):
    path = table(
        tmp_path, "id,text,split", "a,x,TRAIN", "b,x,dev", "c,x,val", "d,x,eval", "e,x,training", "f,x,"
    )
    corpus, report = prepare_own(path, tmp_path / "out")
    validation = ["validation"] * 3
    assert corpus.table["split"].tolist() == ["train", *validation, "train", ""]
    assert "1 of 6 utterances belong to no split" in str(report) and "no splits" not in str(report)
    assert "there are splits in 'split'" in problems(path, tmp_path / "no", split_by="id")[0]


@pytest.mark.parametrize("by", ["speaker", "Actor", "Town"])
def test_split_by_a_column(tmp_path, by):
    rows = [f"u{k},t,{'xy'[k % 2]},A{k // 6},T{k // 6}" for k in range(60)]
    path = table(tmp_path, "id,text,label,Actor,Town", *rows)
    corpus, report = prepare_own(path, tmp_path / "out", split_by=by)
    assert set(corpus.table["split"]) == {"train", "validation", "test"} and overlaps(corpus, "speaker").empty
    assert "Splits: train 4" in str(report) and not report.warnings


def test_without_splits_the_command_is_told_and_works(tmp_path, capsys):
    path = table(tmp_path, "id,line,spk", *(f"u{k},t,S{k % 5}" for k in range(20)))
    _, report = prepare_own(path, tmp_path / "my out", columns={"text": "line"})
    (warning,) = [w for w in report.warnings if "random ones leak" in w]
    shutil.rmtree(tmp_path / "my out")
    with pytest.raises(SystemExit) as left:
        main(shlex.split(warning.split("`")[1])[1:])
    assert left.value.code == 0 and "Splits: train 12" in capsys.readouterr().out
    assert overlaps(load_corpus(tmp_path / "my out"), "speaker").empty


def test_split_by_what_is_not_there(tmp_path):
    path = table(tmp_path, "id,text,speaker", "a,x,", "b,x,Bob")
    assert "--split-by village" in problems(path, tmp_path / "out", split_by="village")[0]
    assert "1 utterances have no speaker" in problems(path, tmp_path / "out", split_by="speaker")[0]
    _, report = prepare_own(path, tmp_path / "out")
    assert "1 of 2 utterances have no speaker" in str(report)


def test_missing_text_is_never_guessed(tmp_path, clips):
    _, report = prepare_own(table(tmp_path, "file", "c0.wav", "c1.wav"), tmp_path / "out", clips)
    (warning,) = [w for w in report.warnings if "no text" in w]
    assert "2 of 2" in warning and "none was guessed" in warning and "whisper" in warning
    compile(warning.split('python -c "')[1].split('"')[0], "recipe", "exec")
    assert (load_corpus(tmp_path / "out").table["text"] == "").all()


def test_neither_text_nor_recording(tmp_path, clips):
    path = table(tmp_path, "id,label", "a,x")
    assert "no column holds texts" in problems(path, tmp_path / "no")[0]
    path = table(tmp_path, "id,text,file", "a,x,", "b,,", "c,,c0")
    _, report = prepare_own(path, tmp_path / "out", clips)
    assert "1 of 3 utterances have neither text nor recording" in str(report)
    assert (
        "no column names the recordings" in problems(table(tmp_path, "text", "x"), tmp_path / "no", clips)[0]
    )
    assert problems(table(tmp_path, "text"), tmp_path / "no") == [
        "line 1: there are no utterances below the header."
    ]


# ---------------------------------------------------------------- recordings


def test_recordings_are_found_however_they_are_named(tmp_path, clips):
    sound(clips / "deep" / "er" / "d.flac")
    write_mp4(clips / "e.mp4", tone(16000, 0.5), 16000)
    sound(clips / "x.wav")
    sound(clips / ".hidden.wav")
    sound(clips / ".cache" / "c0.wav")
    path = table(
        tmp_path, "file,text", "c0.wav,a", "C1,b", r"deep\er\d.flac,c", "e,d", "c2.MP4,e", "./c3.wav,f", ",g"
    )
    corpus, report = prepare_own(path, tmp_path / "out", clips)
    assert corpus.ids == ["c0", "c1", "d", "e", "c2", "c3", "row7"]
    assert os.path.samefile(corpus.audio_path("c0"), clips / "c0.wav")
    assert corpus.audio_path("d").suffix == ".flac" and corpus.audio_path("e").suffix == ".wav"
    assert len(read_audio(corpus.audio_path("e"))) == pytest.approx(8000, abs=2048)
    expected = {"recordings": 7, "unused_recordings": 1, "linked": 5, "converted": 1, "cut": 0}
    assert {k: report.counts[k] for k in expected} == expected
    assert "1 of 7 utterances have no recording" in str(report) and "1 of 7 recordings" in str(report)


def test_recordings_by_utterance_id(tmp_path, clips):
    path = table(tmp_path, "id,text", "c0,a", "sub/c9,b", "c1,c")
    assert problems(path, tmp_path / "out", clips) == [f"line 3: the recording 'sub/c9' is not in {clips}."]
    corpus, _ = prepare_own(table(tmp_path, "id,text", "c0,a", "c1,c"), tmp_path / "out", clips)
    assert corpus.has_audio


def test_without_the_folder_a_table_with_recordings_gives_text(tmp_path):
    corpus, report = prepare_own(table(tmp_path, "audio,text", "c0.wav,a"), tmp_path / "out")
    assert not corpus.has_audio and corpus.table["audio_given"].tolist() == ["c0.wav"]
    assert "add --audio FOLDER" in str(report)
    with pytest.raises(MerLabError, match="no such folder"):
        prepare_own(tmp_path / "mine.csv", tmp_path / "no", tmp_path / "nowhere")


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_no_path_leaves_the_folder(tmp_path, clips):
    secret = sound(tmp_path / "secret.wav")
    (clips / "link.wav").symlink_to(secret)
    (clips / "inside.wav").symlink_to(clips / "c0.wav")
    (clips / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(clips / "pipe.wav")
    values = [
        "../secret.wav",
        str(secret),
        r"..\secret.wav",
        r"C:\x.wav",
        "link.wav",
        "link",
        "loop.wav",
        "pipe.wav",
    ]
    path = table(tmp_path, "file,text", *(f"{v},x" for v in values), "inside.wav,x")
    found = problems(path, tmp_path / "out", clips)
    assert len(found) == len(values)
    said = ["leaves the folder"] * 4 + ["a link out of"] * 2 + ["loop.wav", "pipe.wav"]
    for k, (line, words) in enumerate(zip(found, said, strict=True), 2):
        assert line.startswith(f"line {k}: ") and words in line
    corpus, _ = prepare_own(table(tmp_path, "file,text", "inside.wav,x"), tmp_path / "out", clips)
    assert not corpus.audio_path("inside").is_symlink()


def test_ambiguous_and_missing(tmp_path, clips):
    sound(clips / "a" / "same.wav")
    sound(clips / "b" / "same.wav")
    path = table(
        tmp_path, "file,text", "same.wav,x", "none.wav,x", "a/same,x", f"{'n' * 5000},x", "c0,x", "c0.wav,x"
    )
    found = problems(path, tmp_path / "out", clips)
    assert "fits a/same.wav, b/same.wav" in found[0] and "'none.wav' is not in" in found[1]
    assert found[2].startswith("line 5") and "'c0.wav' is the recording of line 6 already" in found[3]
    assert len(found) == 4


def hours(path: Path, number: float, rate=16000) -> Path:
    """A wav file of hours of silence that takes no space: a header and a hole."""
    size = round(number * 3600) * 2 * rate
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    path.write_bytes(
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + fmt + b"data" + struct.pack("<I", size)
    )
    os.truncate(path, 44 + size)
    return path


def test_broken_recordings(tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    sound(folder / "secret.wav")
    whole = sound(folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:2000])
    (folder / "empty.wav").touch()
    soundfile.write(folder / "nothing.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.array([0, np.nan]), 16000, subtype="FLOAT")
    soundfile.write(folder / "rate.flac", np.zeros((100, 8)), 655350)
    with zipfile.ZipFile(folder / "zip.wav", "w") as z:
        z.writestr("bomb.wav", b"\0" * 100_000)
    (folder / "list.wav").write_text("ffconcat version 1.0\nfile secret.wav\n")
    (folder / "list.m4a").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n"
    )
    hours(folder / "long.wav", 10)
    said = {
        "cut": "truncated", "empty": "0 bytes", "nothing": "0 samples", "nan": "NaN", "long": "36000 s long",
        "rate.flac": "655350 Hz", "zip": "cannot be decoded", "list.wav": "cannot be decoded",
        "list.m4a": "cannot be decoded",
    }  # fmt: skip
    read = soundfile.SoundFile.blocks

    def guarded(self, *arguments, **options):
        assert "long" not in self.name, "decoded"
        return read(self, *arguments, **options)

    monkeypatch.setattr(soundfile.SoundFile, "blocks", guarded)
    found = problems(table(tmp_path, "file,text", *(f"{n},x" for n in said)), tmp_path / "out", folder)
    assert len(found) == len(said)
    for k, (line, (file, words)) in enumerate(zip(found, said.items(), strict=True), 2):
        assert line.startswith(f"line {k}: {file}") and words in line and str(tmp_path) not in line, line


def test_long_recordings_are_cut_by_their_times(tmp_path, monkeypatch):
    folder = tmp_path / "talks"
    waves = [np.random.default_rng(k).integers(-9999, 9999, 32000) / 32768 for k in range(2)]
    folder.mkdir()
    for k, wave in enumerate(waves):
        soundfile.write(folder / f"talk{k}.wav", wave, 16000)
    decoded = []
    monkeypatch.setattr(taking, "read_audio", lambda p: decoded.append(p.name) or read_audio(p))
    rows = ["talk0.wav,0.25,0.5,a", "talk0.wav,1,2.01,b", "talk1.wav,0,1.5,c", "talk0.wav,0.4,0.6,d"]
    path = table(tmp_path, "clip,begin,stop,text", *rows)
    corpus, report = prepare_own(path, tmp_path / "out", folder, columns={"dialogue_id": "clip"})
    assert decoded == ["talk0.wav", "talk1.wav"] and report.counts["cut"] == 4
    expected = {"talk0": (0, 0.25, 0.5), "talk0_2": (0, 1, 2), "talk0_3": (0, 0.4, 0.6), "talk1": (1, 0, 1.5)}
    assert sorted(corpus.ids) == sorted(expected)
    for uid, (k, start, end) in expected.items():
        assert np.array_equal(
            read_audio(corpus.audio_path(uid)), waves[k][int(start * 16000) : int(end * 16000)]
        )
    assert corpus.table["dialogue_id"].tolist() == ["talk0.wav"] * 3 + ["talk1.wav"]
    assert (
        corpus.table.at["talk0_3", "recording"] == "talk0.wav" and corpus.table.at["talk0", "start"] == 0.25
    )


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("others", [[], ["talk,0.5,0.75,b"]])
def test_an_hour_and_more_is_read_in_parts(tmp_path, monkeypatch, rate, others):
    folder = tmp_path / "talks"
    folder.mkdir()
    talk = hours(folder / "talk.wav", 1.25, rate)
    wave = np.random.default_rng(0).integers(-9999, 9999, 6 * rate).astype("<i2")  # from 3995 to 4001 s
    with talk.open("r+b") as f:
        f.seek(44 + 2 * 3995 * rate)
        f.write(wave.tobytes())
    monkeypatch.setattr(soundfile.SoundFile, "blocks", lambda *_, **__: pytest.fail("decoded whole"))
    path = table(tmp_path, "file,start,end,id", "talk,3997.3,3998.9,a", *others)
    corpus, report = prepare_own(path, tmp_path / "out", folder, columns={"audio": "file"})
    monkeypatch.undo()
    whole = resample(wave / np.float32(32768), rate, 16000)[round(2.3 * 16000) : round(3.9 * 16000)]
    assert np.abs(read_audio(corpus.audio_path("a")) - whole).max() <= (0 if rate == 16000 else 1e-4)
    assert report.counts["cut"] == 1 + len(others)
    rows = [
        "talk,4499,4502,a",
        "talk,0,3700,b",
        "uncut,,,c",
        "ages,0,1,d",
        "ages,1,2,e",
        "cut,0,1,f",
        "cut,1,2,g",
    ]
    hours(folder / "uncut.wav", 10)
    hours(folder / "ages.wav", 11)
    os.truncate(hours(folder / "cut.wav", 2), 10**6)
    write_mp4(tmp_path / "film.mp4", tone(16000, 0.5), 16000)
    (tmp_path / "film.mp4").rename(folder / "film.wav")
    rows += ["film,0,0.2,h", "film,0.2,0.4,i"]
    path = table(tmp_path, "file,start,end,id", *rows)
    monkeypatch.setattr(taking, "duration", lambda p: 9999 if p.stem == "film" else duration(p))
    found = problems(path, tmp_path / "no", folder, columns={"audio": "file"})
    said = [
        "lasts 4500.00 s",
        "3700 s long",
        "36000 s long",
        "39600 s long",
        "truncated",
        "in spite of its name",
    ]
    assert len(found) == len(said) and all(w in x for w, x in zip(said, found, strict=True)), found


def test_one_row_a_recording_is_cut_where_its_times_are_places_in_it(tmp_path, clips):
    sound(clips / "long.wav", 2.0)
    path = table(tmp_path, "file,start,end", "long,0.5,1.0", "c0,0,0.1")
    corpus, report = prepare_own(path, tmp_path / "a", clips)
    assert len(read_audio(corpus.audio_path("long"))) == 8000 and report.counts["cut"] == 2
    path = table(tmp_path, "file,start,end", "long,0.5,1.0", "c0,7,7.1")  # places in a conversation
    corpus, report = prepare_own(path, tmp_path / "b", clips)
    assert os.path.samefile(corpus.audio_path("long"), clips / "long.wav")
    assert any("1 of 2 recordings are longer or shorter than their times" in w for w in report.warnings)
    path = table(tmp_path, "file,start,end", "long,0,1.9", "c0,0,0.1")
    corpus, report = prepare_own(path, tmp_path / "c", clips)
    assert report.counts["linked"] == 2 and "longer" not in str(report)


def test_split_by_recording(tmp_path, clips):
    path = table(tmp_path, "file,start,end", *(f"c{k // 3},0,{0.05 + k % 3 / 100}" for k in range(12)))
    for by, out in (("file", "a"), ("audio", "b")):
        corpus, _ = prepare_own(path, tmp_path / out, clips, split_by=by)
        assert overlaps(corpus, "recording").empty and (corpus.table["split"] != "").all()


def test_times_that_cannot_be_cut(tmp_path, clips):
    rows = [
        "c3,0,0.1,a",
        "c3,0.2,9,b",
        "c3,9,10,c",
        "c3,,0.1,d",
        "c3,-1,0.1,e",
        "c3,0.1,0.1,f",
        "c2,0.1,5,g",
        "c1,,,h",
    ]
    found = problems(table(tmp_path, "file,start,end,text", *rows), tmp_path / "out", clips)
    assert [x.split(":")[0] for x in found] == [f"line {k}" for k in range(3, 9)]
    assert "cannot cut 0.2 to 9 s from 'c3.wav', which lasts 0.25 s" in found[0]


def test_times_of_single_clips_are_metadata(tmp_path, clips):
    corpus, _ = prepare_own(
        table(tmp_path, "file,start,end", "c0,100,100.1", "c1,101,102"), tmp_path / "out", clips
    )
    assert corpus.table["start"].tolist() == [100, 101] and os.path.samefile(
        corpus.audio_path("c1"), clips / "c1.wav"
    )


def test_unicode_and_wild_ids(tmp_path):
    folder = tmp_path / "clips"
    nfc, nfd = "é", unicodedata.normalize("NFD", "é")
    sound(folder / f"{nfd}.wav", hz=300)
    sound(folder / "日本 語.wav")
    for k in range(6):
        sound(folder / f"w{k}.wav", 0.1 + k / 10)
    ids = ["a/b:c", "a", "A", "..", "i" * 300, "con"]
    rows = [f"{uid},w{k}" for k, uid in enumerate(ids)]
    path = table(tmp_path, "id,file", f"{nfd},{nfc}", "日本,日本 語", *rows)
    corpus, _ = prepare_own(path, tmp_path / "out", folder)
    assert corpus.ids == [nfc, "日本", *ids] and len(read_audio(corpus.audio_path("i" * 300))) == 8000
    names = [p.casefold() for p in corpus.table["audio"]]
    assert len(set(names)) == len(names) and all(
        len(os.fsencode(n)) < 200 and n.count("/") == 1 for n in names
    )
    path = table(tmp_path, "id,text", f"{nfd},x", f"{nfc},x")
    assert "'é' stands already on line 2" in problems(path, tmp_path / "no")[0]


# ---------------------------------------------------------------- all or nothing


def test_a_stopped_run_leaves_nothing(tmp_path, clips, monkeypatch):
    path = table(tmp_path, "file", "c0", "c1")

    def stop(source, target):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"half")
        raise KeyboardInterrupt if stop.how == "key" else OSError(28, "No space left on device")

    monkeypatch.setattr(taking, "link", stop)
    for stop.how, error in (("key", KeyboardInterrupt), ("full", MerLabError)):
        with pytest.raises(error):
            prepare_own(path, tmp_path / "out", clips)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["clips", "mine.csv"]


def test_a_killed_run_does_not_leak_into_the_next(tmp_path, clips):
    path = table(tmp_path, "file", "c0")
    partial = tmp_path / ".out.partial"
    sound(partial / "audio" / "old.wav")
    (partial / ".origin").write_text(f"{path.resolve()}\n", encoding="utf-8")
    prepare_own(path, tmp_path / "out", clips)
    assert [p.name for p in (tmp_path / "out" / "audio").iterdir()] == ["c0.wav"] and not partial.exists()
    with pytest.raises(MerLabError, match="exists already"):
        prepare_own(path, tmp_path / "out", clips)


def test_the_folder_to_write(tmp_path, monkeypatch):
    path = table(tmp_path, "id,text", "a,x")
    (tmp_path / "empty").mkdir()
    real = os.replace

    def windows(source, target):
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", windows)
    assert prepare_own(path, tmp_path / "empty")[0].ids == ["a"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "", tmp_path / "here"):
        with pytest.raises(MerLabError, match="is the folder you are in; choose a new folder in it"):
            prepare_own(path, out)
    assert prepare_own(path, "new")[0].ids == ["a"] and os.listdir() == ["new"]


WORDS = [
    "id",
    "text",
    "label",
    "file",
    "split",
    "c0",
    "../c0",
    "=A(",
    "é",
    "train",
    "1",
    "nan",
    "-1",
    "1e999",
    " ",
]
CELLS = st.sampled_from([*WORDS, '"', '""', '"a\nb"']) | st.text(max_size=4)
LINES = st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=6)
TABLES = st.binary(max_size=60) | LINES.map(lambda x: "\n".join(x).encode("utf-8", "surrogatepass"))


@given(
    TABLES,
    st.sampled_from([b"", b"id,text\n", b"id,file,text,label\n", b"text;start;end;turn;score\n"]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_work_or_are_refused(tmp_path_factory, data, header, with_audio):
    folder = tmp_path_factory.mktemp("fuzz")
    sound(folder / "clips" / "c0.wav", 0.05)
    (folder / "t.csv").write_bytes(header + data)
    try:
        corpus, _ = prepare_own(folder / "t.csv", folder / "out", folder / "clips" if with_audio else None)
    except MerLabError as error:
        assert str(error).startswith(str(folder / "t.csv"))
        assert sorted(p.name for p in folder.iterdir()) == ["clips", "t.csv"]
    else:
        again = load_corpus(folder / "out")
        assert again.ids == corpus.ids and len(corpus)
        assert sorted(p.name for p in folder.iterdir()) == ["clips", "out", "t.csv"]


def test_command_line(tmp_path, clips, capsys):
    path = table(tmp_path, "clip,words,mood,who", *(f"c{k},hi,{'ab'[k % 2]},s{k}" for k in range(4)))
    arguments = [
        "prepare",
        "own",
        str(path),
        "--audio",
        str(clips),
        "--column",
        "text=words",
        "--column",
        "label=mood",
    ]
    with pytest.raises(SystemExit) as left:
        main(
            [
                *arguments,
                "--column",
                "speaker=who",
                "--split-by",
                "who",
                "--name",
                "moods",
                "--out",
                str(tmp_path / "o"),
            ]
        )
    told = capsys.readouterr()
    assert (
        left.value.code == 0
        and "'words' is the text" in told.out
        and "Corpus(moods: 4 utterances" in told.out
    )
    with pytest.raises(SystemExit) as left:
        main([*arguments[:-1], "label=nothing", "--out", str(tmp_path / "p")])
    told = capsys.readouterr()
    assert left.value.code == 1 and "mer-lab: " in told.err and "line 1: --column label=nothing" in told.err
