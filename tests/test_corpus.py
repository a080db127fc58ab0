"""The corpus and its native folder: what is written is read again, and every mistake is one sentence."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer_lab.corpora import COLUMNS, SPLITS, Corpus, load_corpus, save_corpus
from mer_lab.corpora.native import read_folder
from mer_lab.errors import MerLabError
from mer_lab.ragged import open_ragged, write_ragged

TOML = 'name = "mine"\nlabels = ["angry", "happy"]\n'
HEADER = "utterance_id,dialogue_id,turn,speaker,split,label,text,audio,start,end"
ROW = "u1,d1,0,Ann,train,happy,hello,,0,1.5"


def write(folder: Path, *rows: str, toml: str = TOML, header: str = HEADER, words: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.toml").write_text(toml, encoding="utf-8")
    (folder / "utterances.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if words:
        (folder / "words.csv").write_text(words, encoding="utf-8")
    return folder


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(MerLabError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and "Traceback" not in message
    return message


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return load_corpus(
        write(
            tmp_path / "mine",
            "a1,d1,0,Ann,train,happy,hi,,,",
            "a2,d1,1,Bob,train,angry,what,,,",
            "b1,d2,0,Ann,validation,,mm,,,",
            "c1,d3,0,Cid,test,angry,no,,,",
        )
    )


# ---------------------------------------------------------------- reading what anyone may write


def test_smallest_folder(tmp_path):
    corpus = load_corpus(write(tmp_path / "c", "x,hello", "y,bye", header="utterance_id,text"))
    assert corpus.ids == ["x", "y"] and set(COLUMNS) <= set(corpus.table.columns)
    assert corpus.table["dialogue_id"].tolist() == ["x", "y"]  # each its own dialogue
    assert corpus.targets.tolist() == [-1, -1] and not corpus.has_audio
    assert np.isnan(corpus.table["start"]).all()


def test_rows_are_put_in_dialogue_and_turn_order(tmp_path):
    rows = ["a2,A,2,x", "b1,B,1,x", "a1,A,1,x", "b0,B,0,x"]
    corpus = load_corpus(write(tmp_path / "c", *rows, header="utterance_id,dialogue_id,turn,text"))
    assert corpus.ids == ["a1", "a2", "b0", "b1"]
    unnumbered = write(tmp_path / "d", "a1,A,x", "b1,B,x", "a2,A,x", header="utterance_id,dialogue_id,text")
    assert load_corpus(unnumbered).table["turn"].to_dict() == {"a1": 0, "a2": 1, "b1": 0}


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    folder = write(tmp_path / "c")
    lines = f'\ufeff{HEADER}\r\nu1,d1,0,Ann,train,happy,"one, ""two""\nthree",,0,1\r\n\r\n'
    (folder / "utterances.csv").write_bytes(lines.encode())
    (folder / "corpus.toml").write_bytes(("\ufeff" + TOML).replace("\n", "\r\n").encode())
    corpus = load_corpus(folder)
    assert corpus.table.at["u1", "text"] == 'one, "two"\nthree' and corpus.name == "mine"


def test_scores_and_metadata_are_kept(tmp_path):
    header = HEADER + ",score,session"
    corpus = load_corpus(write(tmp_path / "c", ROW + ",-1.4,01", "u2,d1,1,,,,x,,,,,02", header=header))
    assert corpus.table["score"].tolist()[0] == -1.4 and np.isnan(corpus.table["score"].iloc[1])
    assert corpus.table["session"].tolist() == ["01", "02"]  # metadata stay text


# ---------------------------------------------------------------- writing and reading again

words = st.text(st.characters(exclude_characters="\0\r", exclude_categories=("Cs",)), max_size=12).map(
    str.strip
)
names = words.filter(bool)
seconds = st.floats(0, 1e5).map(lambda x: round(x, 4))


@st.composite
def corpora(draw) -> Corpus:
    labels = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    ids = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    dialogues = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    rows = []
    for k in range(len(ids)):
        start = draw(seconds | st.just(np.nan))
        rows.append(
            {
                "dialogue_id": dialogues[k * len(dialogues) // len(ids)],
                "turn": 3 * k,
                "speaker": draw(words),
                "split": draw(st.sampled_from([*SPLITS, ""])),
                "label": draw(st.sampled_from([*labels, ""])),
                "text": draw(words),
                "audio": "",
                "start": start,
                "end": start + 1,
                "note": draw(words),
            }
        )
    table = pd.DataFrame(rows, index=pd.Index(ids, name="utterance_id")).astype({"turn": np.int64})
    spoken = [{"utterance_id": u, "word": draw(words), "start": 0.0, "end": draw(seconds)} for u in ids]
    return Corpus(
        draw(names),
        tuple(labels),
        table,
        words=pd.DataFrame(spoken) if draw(st.booleans()) else None,
        licence=draw(words),
        source=draw(words),
        schemes={"two": {"map": {labels[0]: draw(names)}}},
        info={"made": {"year": draw(st.integers(0, 3000)), "notes": draw(st.lists(words, max_size=2))}},
    )


@given(corpora())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trip(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("trip") / "c"
    again = save_corpus(corpus, folder)
    assert (again.name, again.labels, again.licence) == (corpus.name, corpus.labels, corpus.licence)
    assert (again.source, again.schemes, again.info) == (corpus.source, corpus.schemes, corpus.info)
    pd.testing.assert_frame_equal(again.table, corpus.table, atol=1e-4, rtol=1e-12)
    if corpus.words is None:
        assert again.words is None
    else:
        pd.testing.assert_frame_equal(again.words, corpus.words, atol=1e-4, rtol=1e-12)
    first = (folder / "utterances.csv").read_bytes()
    save_corpus(again, folder)
    assert (folder / "utterances.csv").read_bytes() == first


def test_a_lone_carriage_return_becomes_a_line_end(corpus, tmp_path):
    table = corpus.table.assign(text=["a\rb", "a\r\nb", "a\nb", "ab"])
    saved = save_corpus(Corpus("c", corpus.labels, table), tmp_path / "saved")
    assert saved.table["text"].tolist() == ["a\nb", "a\nb", "a\nb", "ab"]


def test_audio_and_attached_features_are_copied(sine_corpus, tmp_path):
    folder = tmp_path / "copy"
    first = sine_corpus.select(split="test")
    saved = save_corpus(first, folder)
    assert saved.has_audio and len(list((folder / "audio").iterdir())) == len(first)
    for u in first.ids:
        assert saved.audio_path(u).read_bytes() == first.audio_path(u).read_bytes()
    meta = {"utterance_ids": first.ids}
    write_ragged(folder / "features" / "f.safetensors", meta, [1] * len(first), 1, [np.ones((len(first), 1))])
    save_corpus(saved, folder)  # onto itself
    assert open_ragged(folder / "features" / "f.safetensors").ids == first.ids
    assert save_corpus(saved, folder).has_audio


def test_saving_never_replaces_what_is_no_corpus(corpus, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("precious")
    assert "file" in refusal(save_corpus, corpus, tmp_path / "file")
    assert "not a corpus" in refusal(save_corpus, corpus, tmp_path / "notes")
    save_corpus(corpus, tmp_path / "c")
    (tmp_path / "c" / "thesis.txt").write_text("precious")
    assert "thesis.txt" in refusal(save_corpus, corpus, tmp_path / "c")
    assert (tmp_path / "c" / "thesis.txt").exists() and (tmp_path / "file").read_text() == "precious"


def test_a_failed_save_leaves_the_old_folder(corpus, tmp_path):
    folder = tmp_path / "c"
    save_corpus(corpus, folder)
    broken = Corpus("c", corpus.labels, corpus.table.assign(audio="audio/missing.wav"), root=tmp_path)
    assert "missing.wav" in refusal(save_corpus, broken, folder)
    assert load_corpus(folder).ids == corpus.ids
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "mine") == ["c"]  # no leftovers


# ---------------------------------------------------------------- one sentence for every mistake


def bad_rows(*rows: str, header: str = HEADER) -> dict:
    return {"rows": rows, "header": header}


HOSTILE = {
    "no id column": (bad_rows("d1,hi", header="dialogue_id,text"), "line 1: .*utterance_id"),
    "no text, no audio": (bad_rows("u1,d1", header="utterance_id,dialogue_id"), "line 1: .*text or audio"),
    "column twice": (bad_rows("u1,a,b", header="utterance_id,text,text"), "line 1: .*'text' stands twice"),
    "no rows": (bad_rows(), "no utterances"),
    "id twice": (bad_rows(ROW, ROW.replace(",0,", ",1,", 1)), "line 3: .*'u1'.*line 2"),
    "id empty": (bad_rows(ROW, ROW.replace("u1", " ")), "line 3: .*empty"),
    "unknown label": (bad_rows(ROW.replace("happy", "joyful")), "line 2: .*'joyful'.*angry, happy"),
    "unknown split": (bad_rows(ROW.replace("train", "dev")), "line 2: .*'dev'.*validation"),
    "row too short": (bad_rows(ROW, "u2,d1"), "line 3: 2 values .* 10 columns"),
    "row too long": (bad_rows(ROW, ROW + ",oops"), "line 3: 11 values"),
    "open quote": (bad_rows(ROW, 'u2,d1,1,,,,"never closed,,,'), "line 3: not valid CSV"),
    "turn twice": (bad_rows(ROW, ROW.replace("u1", "u2")), "line 3: turn 0 of dialogue 'd1'.*line 2"),
    "turn no number": (bad_rows(ROW.replace(",0,", ",first,", 1)), "line 2: turn is 'first'"),
    "turn empty": (bad_rows(ROW.replace(",0,", ",,", 1)), "line 2: turn is ''"),
    "turn too large": (bad_rows(ROW.replace(",0,", f",{'9' * 400},", 1)), "line 2: turn is"),
    "start no number": (bad_rows(ROW.replace("0,1.5", "soon,1.5")), "line 2: start is 'soon'"),
    "end infinite": (bad_rows(ROW.replace("1.5", "inf")), "line 2: end is 'inf'"),
    "end before start": (bad_rows(ROW.replace("0,1.5", "2,1.5")), "line 2: end 1.5 lies before start 2"),
    "score no number": (bad_rows(ROW + ",high", header=HEADER + ",score"), "line 2: score is 'high'"),
    "audio missing": (bad_rows(ROW.replace(",,", ",audio/u1.wav,")), "line 2: .*u1.wav is missing"),
    "audio of a wild name": (bad_rows(ROW.replace(",,", f",{'x' * 5000},")), "line 2: .*is missing"),
    "NUL": (bad_rows(ROW, "u2,d1,1,,,,\0,,,"), "line 3: .*NUL"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_rows(name, tmp_path):
    given, pattern = HOSTILE[name]
    folder = write(tmp_path / "c", *given["rows"], header=given["header"])
    message = refusal(load_corpus, folder)
    assert message.startswith(str(folder / "utterances.csv")) and re.search(pattern, message), message


@pytest.mark.parametrize(
    "path", ["../x.wav", "/etc/x.wav", "audio/../../x.wav", "C:\\x.wav", "..\\x.wav", "\\\\host\\x.wav"]
)
def test_audio_outside_the_folder_is_refused(path, tmp_path, corpus):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    folder = write(tmp_path / "c", f"u1,{path}", header="utterance_id,audio")
    message = refusal(load_corpus, folder)
    assert "line 2" in message and "leaves the corpus folder" in message
    table = corpus.table.assign(audio=path)
    assert "leaves" in refusal(
        save_corpus, Corpus("c", corpus.labels, table, root=tmp_path), tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with byte order mark"])
def test_bytes_that_are_not_utf8(tmp_path, mark):
    folder = write(tmp_path / "c")
    rows = f"{HEADER}\n{ROW}\nu2,d1,1,,,,".encode()
    (folder / "utterances.csv").write_bytes(mark + rows + "café".encode("latin-1") + b",,,\n")
    assert "utterances.csv, line 3: byte 0xe9 is not UTF-8" in refusal(load_corpus, folder)


def test_utf16_as_spreadsheets_write_it(tmp_path):
    folder = write(tmp_path / "c")
    (folder / "utterances.csv").write_bytes(f"{HEADER}\n{ROW}\n".encode("utf-16"))
    assert "utterances.csv, line 1" in refusal(load_corpus, folder)


TOMLS = {
    "not TOML": ('name = "x"\nlabels = oops', "line 2"),
    "no name": ('labels = ["a"]', "name"),
    "name no string": ('name = 3\nlabels = ["a"]', "name"),
    "no labels": ('name = "x"', "labels"),
    "labels no list": ('name = "x"\nlabels = "a"', "labels"),
    "labels not strings": ('name = "x"\nlabels = ["a", 1]', "labels"),
    "label twice": ('name = "x"\nlabels = ["happy", "happy"]', "'happy' stands twice"),
    "schemes no tables": (TOML + "schemes = 3", "schemes"),
    "scheme of nothing": (TOML + "[schemes.s]\nlabels = ['a']", "schemes.s.*column.*map"),
    "scheme maps the unknown": (TOML + "[schemes.s]\nmap = {sad = 'a'}", "schemes.s.*'sad'"),
    "scheme maps to a number": (TOML + "[schemes.s]\nmap = {happy = 1}", "schemes.s.*map"),
    "scheme map no table": (TOML + "[schemes.s]\nmap = 'x'", "schemes.s.*map"),
    "scheme maps past its labels": (TOML + "[schemes.s]\nmap={happy='a'}\nlabels=['b']", "schemes.s.*'a'"),
    "scheme without labels": (TOML + "[schemes.s]\ncolumn = 'speaker'", "schemes.s.*labels"),
    "scheme labels no list": (TOML + "[schemes.s]\ncolumn = 'speaker'\nlabels = 1", "schemes.s.*labels"),
    "scheme without column": (TOML + "[schemes.s]\ncolumn = 'x'\nlabels = ['Ann']", "schemes.s.*column"),
    "scheme column unfit": (TOML + "[schemes.s]\ncolumn='speaker'\nlabels=['Bob']", "schemes.s.*'Ann'"),
    "deep": ("x = " + "[" * 100_000, "not valid TOML"),
}


@pytest.mark.parametrize("name", TOMLS)
def test_hostile_toml(name, tmp_path):
    toml, pattern = TOMLS[name]
    folder = write(tmp_path / "c", ROW, toml=toml)
    message = refusal(load_corpus, folder)
    assert message.startswith(str(folder / "corpus.toml")) and re.search(pattern, message), message


WORDS = {
    "no column": ("utterance_id,word,start\nu1,a,0\n", "line 1: the column end"),
    "unknown utterance": ("utterance_id,word,start,end\nu1,a,0,1\nu9,a,0,1\n", "line 3: .*'u9'"),
    "no number": ("utterance_id,word,start,end\nu1,a,zero,1\n", "line 2: start is 'zero'"),
    "empty time": ("utterance_id,word,start,end\nu1,a,,1\n", "line 2: .*start and end"),
    "backwards": ("utterance_id,word,start,end\nu1,a,2,1\n", "line 2: .*not before start"),
    "ragged": ("utterance_id,word,start,end\nu1,a,2\n", "line 2: 3 values"),
    "empty file": ("\n", "empty|names? the columns"),
}


@pytest.mark.parametrize("name", WORDS)
def test_hostile_words(name, tmp_path):
    text, pattern = WORDS[name]
    folder = write(tmp_path / "c", ROW, words=text)
    message = refusal(load_corpus, folder)
    assert message.startswith(str(folder / "words.csv")) and re.search(pattern, message), message


def test_words_are_read(tmp_path):
    text = "utterance_id,word,start,end,stress\n u1 ,hel,0,0.2,1\nu1,lo,0.2,0.5,0\n"
    corpus = load_corpus(write(tmp_path / "c", ROW, "u2,d1,1,,,,x,,,", words=text))
    assert corpus.word_timings("u1")[["word", "start", "end"]].values.tolist() == [
        ["hel", 0.0, 0.2],
        ["lo", 0.2, 0.5],
    ]
    assert corpus.word_timings("u2").empty and len(corpus.select(["u2"]).words) == 0
    assert load_corpus(write(tmp_path / "d", ROW)).word_timings("u1").empty


def test_half_a_folder(tmp_path):
    assert "no such folder" in refusal(load_corpus, tmp_path / "nowhere")
    (tmp_path / "c").mkdir()
    assert "no corpus.toml" in refusal(load_corpus, tmp_path / "c")
    (tmp_path / "c" / "corpus.toml").write_text(TOML)
    assert "utterances.csv" in refusal(load_corpus, tmp_path / "c")
    (tmp_path / "c" / "utterances.csv").touch()
    assert "utterances.csv: is empty" in refusal(load_corpus, tmp_path / "c")
    (tmp_path / "c" / "utterances.csv").unlink()
    (tmp_path / "c" / "utterances.csv").mkdir()
    assert "utterances.csv: cannot be read" in refusal(load_corpus, tmp_path / "c")
    (tmp_path / "d" / "corpus.toml").mkdir(parents=True)
    assert "corpus.toml: cannot be read" in refusal(load_corpus, tmp_path / "d")


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bytes_end_in_a_traceback(tmp_path_factory, junk, start_well):
    folder = tmp_path_factory.mktemp("junk")
    (folder / "corpus.toml").write_text(TOML)
    (folder / "utterances.csv").write_bytes((f"{HEADER}\n{ROW}\n".encode() if start_well else b"") + junk)
    try:
        assert isinstance(read_folder(folder), Corpus)
    except MerLabError as error:
        assert str(error).startswith(str(folder / "utterances.csv"))
    shutil.rmtree(folder)


# ---------------------------------------------------------------- other labels, other choices


def test_the_table_is_checked(corpus):
    assert "lacks the column" in refusal(Corpus, "c", ("a",), corpus.table.drop(columns="turn"))
    assert "stands twice" in refusal(Corpus, "c", ("happy", "angry", "angry"), corpus.table)
    assert "'a1' stands twice" in refusal(Corpus, "c", corpus.labels, pd.concat([corpus.table] * 2))
    assert "'happy' is not in" in refusal(Corpus, "c", ("angry",), corpus.table)
    assert "label nan" in refusal(Corpus, "c", corpus.labels, corpus.table.assign(label=np.nan))
    assert "split 'Test'" in refusal(Corpus, "c", corpus.labels, corpus.table.assign(split="Test"))


def test_select(corpus):
    assert corpus.select(split="train").ids == ["a1", "a2"]
    assert corpus.select(["c1", "a1"]).ids == ["a1", "c1"]  # in the corpus's order
    assert corpus.select({"b1"}).ids == ["b1"]
    assert corpus.select(corpus.table["speaker"] == "Ann").ids == ["a1", "b1"]
    assert corpus.select(corpus.table["speaker"] == "Ann", split="train").ids == ["a1"]
    assert corpus.select([]).ids == []
    assert "'zz'" in refusal(corpus.select, ["a1", "zz"])
    assert "mask of 1" in refusal(corpus.select, [True])
    assert "'dev' does not exist" in refusal(corpus.select, split="dev")
    assert "no utterances" in refusal(corpus.select(split="train").select, split="test")


def test_relabel(corpus):
    merged = corpus.relabel({"angry": "negative", "happy": "positive"})
    assert merged.labels == ("negative", "positive") and merged.targets.tolist() == [1, 0, -1, 0]
    dropped = corpus.relabel({"happy": None})
    assert dropped.labels == ("angry",) and dropped.targets.tolist() == [-1, 0, -1, 0]
    assert len(dropped) == len(corpus)  # they stay where they were in the dialogue
    assert corpus.relabel({}, labels=["happy", "angry"]).targets.tolist() == [0, 1, -1, 1]
    assert corpus.targets.tolist() == [1, 0, -1, 0]  # unchanged
    assert "no label 'hapy'" in refusal(corpus.relabel, {"hapy": "x"})
    assert "not in the scheme" in refusal(corpus.relabel, {"happy": "joy"}, labels=["angry"])


def test_scheme(tmp_path):
    toml = TOML + (
        '[schemes.valence]\nlabels = ["pos", "neg"]\nmap = {happy = "pos", angry = "neg"}\n'
        '[schemes.calm]\nmap = {happy = "happy"}\n'
        '[schemes.who]\ncolumn = "speaker"\nlabels = ["Bob", "Ann"]\n'
    )
    rows = [ROW, "u2,d1,1,Bob,train,angry,x,,,", "u3,d1,2,,train,,x,,,"]
    corpus = load_corpus(write(tmp_path / "c", *rows, toml=toml))
    assert corpus.scheme("valence").labels == ("pos", "neg")
    assert corpus.scheme("valence").targets.tolist() == [0, 1, -1]
    assert corpus.scheme("calm").targets.tolist() == [0, -1, -1]  # what a map leaves out loses its label
    assert corpus.scheme("who").targets.tolist() == [1, 0, -1]
    assert "valence, calm, who" in refusal(corpus.scheme, "arousal")
    assert load_corpus(save_corpus(corpus, tmp_path / "again").root).scheme("who").labels == ("Bob", "Ann")


def test_with_splits(corpus):
    new = ["test", "", "train", "train"]
    assert corpus.with_splits(new).table["split"].tolist() == new
    by_id = dict(zip(reversed(corpus.ids), reversed(new), strict=True))
    assert corpus.with_splits(by_id).table["split"].tolist() == new
    assert corpus.with_splits(pd.Series(by_id)).table["split"].tolist() == new
    assert "'c1' gets no split" in refusal(corpus.with_splits, {u: "train" for u in corpus.ids[:-1]})
    assert "3 splits" in refusal(corpus.with_splits, new[:3])
    assert "'holdout'" in refusal(corpus.with_splits, ["holdout"] * 4)


def test_audio_path(sine_corpus, corpus):
    assert sine_corpus.audio_path("u3").is_file() and sine_corpus.has_audio
    assert "a1" in refusal(corpus.audio_path, "a1")
