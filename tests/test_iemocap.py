"""IEMOCAP importer: a made-up release with every oddity, and one of the official size."""

import errno
import filecmp
import os
from itertools import accumulate

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import mer_lab.corpora.iemocap as iemocap
from mer_lab.corpora import load_corpus
from mer_lab.corpora.iemocap import (
    CODES,
    DIALOGUES,
    LABELS,
    PUBLISHED,
    PUBLISHED_FOUR,
    PUBLISHED_PARTS,
    PUBLISHED_SESSIONS,
    SPLIT,
    prepare_iemocap,
    read_wdseg,
)
from mer_lab.corpora.splits import leave_one_group_out, overlaps
from mer_lab.errors import MerLabError
from mer_lab.metrics import count_votes

FIRST_LINE = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"


def block(uid, start, end, code, votes=("C-E2:\tNeutral;\t()",), means="[2.5000, 3.0000, 2.0000]"):
    rows = [f"[{start:.4f} - {end:.4f}]\t{uid}\t{code}\t{means}", *votes]
    return "\n".join([*rows, "A-E3:\tval 3; act 2; dom  2;\t()\n\n"])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def wdseg(*rows):
    return "\t SFrm\t EFrm\t    SegAScr\t Word\n" + "".join(
        f"\t{a:5d}\t{b:5d}\t  -{1000 + a}\t {word}\n" for a, b, word in rows
    ) + " Total score:   -123456\n"  # fmt: skip


def sentences(release, uid):
    """Where an utterance's wav and wdseg files lie."""
    folder, dialogue = release / f"Session{uid[4]}" / "sentences", uid.rsplit("_", 1)[0]
    return folder / "wav" / dialogue / f"{uid}.wav", folder / "ForcedAlignment" / dialogue / f"{uid}.wdseg"


def make_release(release):
    """Three sessions, four dialogues, eleven utterances. Each file lists all of F's turns before M's."""
    evaluations, transcripts, times = {}, {}, {}

    def say(uid, start, end, code, text, **more):
        dialogue = uid.rsplit("_", 1)[0]
        evaluations[dialogue] = evaluations.get(dialogue, FIRST_LINE) + block(uid, start, end, code, **more)
        line = f"{uid} [{start:08.4f}-{end:08.4f}]: {text}\n"
        transcripts[dialogue] = transcripts.get(dialogue, "") + (line if text is not None else "")
        times[uid] = end - start

    say("Ses01F_impro01_F000", 0.5, 2.5, "neu", "The ladder is behind the greenhouse.",
        votes=("C-E2:\tNeutral;\t()", "C-E3:\tNeutral;\t(calm; or tired)", "C-E4:\tSadness;\t()",
               "C-F1:\tHappiness; Excited;\t()", "A-E4:\tval 3; act 2; dom  ;\t()",
               "A-F1:\tval  4; act 2; dom;\t()"))  # fmt: skip
    say("Ses01F_impro01_F001", 4.0, 5.0, "exc", "Three geese! On the roof!", votes=("C-E2:\tExcited;\t()",))
    say("Ses01F_impro01_M000", 2.0, 3.5, "xxx", "Is it?", votes=(
        "C-E2:\tNeutral;\t()", "C-E3:\tAnger;\t()", "C-E4:\tOther;\t(amused)", "C-M1:\tSurprise;\t()"),
        means="[, 3.0000, 2.0000]")  # fmt: skip
    say("Ses01F_impro01_M001", 6.0, 8.0, "ang", "Who painted the goat, and why?", votes=(
        "C-E2:\tNeutral; Anger;\t()", "C-E3:\tAnger;\t()", "C-E4:\tFrustration; Disgust;\t()"))  # fmt: skip
    say("Ses01M_script01_1b_F000", 1.0, 2.0, "sad", "I kept your kettle.", votes=())
    say("Ses02F_script03_2_F000", 1.0, 2.0, "hap", "I kept your kettle.")
    say("Ses02F_script03_2_M000", 1.0, 3.0, "fru", None)
    say("Ses02F_script03_2_M001", 3.0, 4.0, "sur", "Oh.")
    say("Ses05M_impro02_F000", 3.0, 4.0, "fea", "A bee.")
    say("Ses05M_impro02_M000", 0.0, 1.0, "dis", "Soup again?")
    say("Ses05M_impro02_M012", 9.0, 9.5, "oth", "Mm.")
    transcripts["Ses01F_impro01"] += (
        "M: Yes.\n\nSes01F_impro01_MXX0 [009.0000-009.5000]: [LAUGHTER]\n"
        "Ses01F_impro01_F000 [000.5000-002.5000]: Said again.\n"
    )
    for dialogue, text in evaluations.items():
        write(release / f"Session{dialogue[4]}" / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", text)
        place = release / f"Session{dialogue[4]}" / "dialog" / "transcriptions" / f"{dialogue}.txt"
        write(place, transcripts[dialogue])
        write(place.with_name(f"._{dialogue}.txt"), b"\0\5\x16\7 resource fork")
    folder = release / "Session1" / "dialog" / "EmoEvaluation"
    write(folder / "._Ses01F_impro01.txt", b"\0\5\x16\7[1.0 - 2.0] resource fork")
    write(folder / "Categorical" / "Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Neutral state; ()\n")
    # Windows line ends, and a byte that is not UTF-8 in a place that is.
    crlf = folder / "Ses01M_script01_1b.txt"
    crlf.write_bytes(crlf.read_bytes().replace(b"\n", b"\r\n"))
    place = release / "Session5" / "dialog" / "transcriptions" / "Ses05M_impro02.txt"
    place.write_bytes(place.read_bytes().replace(b"A bee.", b"A b\xe9e."))
    for k, (uid, seconds) in enumerate(times.items()):
        wav, alignment = sentences(release, uid)
        wav.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(16000 * seconds)) / 16000
        soundfile.write(wav, 0.3 * np.sin(2 * np.pi * (200 + 20 * k) * time), 16000, subtype="PCM_16")
        write(alignment, wdseg((0, 9, "<s>"), (10, 29, "OH"), (30, 39, "</s>")))
    write(sentences(release, "Ses01F_impro01_F000")[1], wdseg(
        (0, 44, "<s>"), (45, 52, "THE(2)"), (53, 97, "LADDER"), (98, 98, "<sil>"), (99, 120, "++BREATHING++"),
        (121, 150, "IS"), (151, 199, "</s>")))  # fmt: skip
    return release


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "download" / "IEMOCAP_full_release")


def test_utterances(release, tmp_path):
    corpus, report = prepare_iemocap(release, tmp_path / "out")
    table = corpus.table
    assert corpus.labels == LABELS and corpus.name == "iemocap"
    assert corpus.ids == [
        "Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses01F_impro01_F001", "Ses01F_impro01_M001",
        "Ses01M_script01_1b_F000",
        "Ses02F_script03_2_F000", "Ses02F_script03_2_M000", "Ses02F_script03_2_M001",
        "Ses05M_impro02_M000", "Ses05M_impro02_F000", "Ses05M_impro02_M012",
    ]  # fmt: skip
    assert table["turn"].tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 0, 1, 2]
    # The third-from-last letter of Ses01F_impro01_M000 is the markers' wearer, the last one speaks.
    assert table["speaker"].tolist() == [
        "Ses01_F", "Ses01_M", "Ses01_F", "Ses01_M", "Ses01_F", "Ses02_F", "Ses02_M", "Ses02_M",
        "Ses05_M", "Ses05_F", "Ses05_M",
    ]  # fmt: skip
    assert table["sex"].str[0].str.upper().tolist() == table["speaker"].str[-1].tolist()
    assert set(table["dialogue_id"]) == {i.rsplit("_", 1)[0] for i in corpus.ids}
    assert table["label"].tolist() == [
        "neutral", "", "excitement", "anger", "sadness", "happiness", "frustration", "surprise", "disgust",
        "fear", "other",
    ]  # fmt: skip
    assert table["scripted"].tolist() == ["improvised"] * 4 + ["scripted"] * 4 + ["improvised"] * 3
    assert table["session"].tolist() == ["1"] * 5 + ["2"] * 3 + ["5"] * 3
    assert table["split"].tolist() == ["validation"] * 5 + ["train"] * 3 + ["test"] * 3
    assert table.loc["Ses01F_impro01_M001", ["start", "end"]].tolist() == [6.0, 8.0]
    assert table.loc["Ses01F_impro01_F000", ["valence", "activation", "dominance"]].tolist() == [
        "2.5000", "3.0000", "2.0000",
    ]  # fmt: skip
    assert table.at["Ses01F_impro01_M000", "valence"] == ""
    assert table.at["Ses01F_impro01_F000", "text"] == "The ladder is behind the greenhouse."  # the first one
    assert table.at["Ses05M_impro02_F000", "text"] == "A b\ufffde."
    assert table.at["Ses02F_script03_2_M000", "text"] == ""
    for uid in corpus.ids:
        assert corpus.audio_path(uid).read_bytes() == sentences(release, uid)[0].read_bytes()
    assert load_corpus(tmp_path / "out").table.equals(table)
    assert not list(tmp_path.glob(".out*")) and overlaps(corpus, "speaker").empty
    assert "kettle" in overlaps(corpus, "text").index[0]


def test_evaluators(release, tmp_path):
    corpus, report = prepare_iemocap(release, tmp_path / "out", audio=False)
    table = corpus.table
    one, tie, both = (table.loc[f"Ses01F_impro01_{turn}"] for turn in ("F000", "M000", "M001"))
    nobody = table.loc["Ses01M_script01_1b_F000"]
    assert (one["evaluators"], one["self_evaluation"]) == ("neutral;neutral;sadness", "happiness")
    assert one["agreement"] == "0.6667"  # two of three; what the actor said does not count
    assert (tie["evaluators"], tie["self_evaluation"], tie["agreement"]) == (
        "neutral;anger;other", "surprise", "",
    )  # fmt: skip
    # "Neutral; Anger;": neutral is the vote, anger, the official label, is an answer of two of three
    assert (both["evaluators"], both["agreement"]) == ("neutral;anger;frustration", "0.6667")
    assert (nobody["evaluators"], nobody["agreement"]) == ("", "")
    assert table.at["Ses02F_script03_2_F000", "agreement"] == "0.0000"
    assert count_votes(table["evaluators"], LABELS).sum(1).tolist() == [3, 3, 1, 3, 0, 1, 1, 1, 1, 1, 1]
    assert report.counts["several_answers"] == 2 and report.counts["empty_ratings"] == 2
    assert report.counts["odd_evaluation_lines"] == 0
    assert not corpus.has_audio and not (tmp_path / "out" / "audio").exists()


def test_word_timings(release, tmp_path):
    corpus, report = prepare_iemocap(release, tmp_path / "out", audio=False)
    words = corpus.word_timings("Ses01F_impro01_F000")
    assert words["word"].tolist() == ["THE", "LADDER", "IS"]
    assert words["start"].tolist() == [0.45, 0.53, 1.21]
    assert words["end"].tolist() == [0.53, 0.98, 1.51]  # frame 52 is the word's last and ends at 0.53 s
    assert corpus.words["utterance_id"].unique().tolist() == corpus.ids
    assert report.counts["missing_alignments"] == 0


def test_quarantine(release, tmp_path):
    gone, cut, noise, late, odd, back, no_end = (
        "Ses01F_impro01_F001", "Ses01F_impro01_M000", "Ses01F_impro01_M001", "Ses05M_impro02_F000",
        "Ses02F_script03_2_F000", "Ses02F_script03_2_M001", "Ses05M_impro02_M000",
    )  # fmt: skip
    sentences(release, gone)[0].unlink()
    wav = sentences(release, cut)[0]
    wav.write_bytes(wav.read_bytes()[:9000])
    write(sentences(release, noise)[0], b"not a sound")
    late_words = (0, 99, "A"), (100, 149, "BEE"), (150, 150, "BUZZ"), (151, 151, "</s>")
    write(sentences(release, late)[1], wdseg(*late_words))
    write(sentences(release, odd)[1], wdseg((0, 9, "I")).replace("I\n", "I\n one two three four\n"))
    write(sentences(release, back)[1], wdseg((0, 9, "OH"), (9, 12, "NO")))
    write(sentences(release, no_end)[1], wdseg((0, 9, "SOUP")).rsplit(" Total", 1)[0])
    sentences(release, "Ses05M_impro02_M012")[1].unlink()
    corpus, report = prepare_iemocap(release, tmp_path / "out")
    bad = pd.read_csv(tmp_path / "out" / "quarantine.csv").set_index("utterance_id")
    assert set(bad.index) == {gone, cut, noise, late, odd, back, no_end}
    assert bad.at[gone, "file"] == f"Session1/sentences/wav/Ses01F_impro01/{gone}.wav"
    assert bad.at[late, "file"] == f"Session5/sentences/ForcedAlignment/Ses05M_impro02/{late}.wdseg"
    for uid, told in ((gone, "missing"), (cut, "truncated"), (noise, "decoded"),
                      (late, "line 4: a word ends at 1.51 s of 1.00 s"), (odd, "line 3"),
                      (back, "line 3: frames 9 to 12 go back"), (no_end, "total score")):  # fmt: skip
        assert told in bad.at[uid, "reason"], (uid, bad.at[uid, "reason"])
    assert str(tmp_path) not in (tmp_path / "out" / "quarantine.csv").read_text()
    assert corpus.table.index[corpus.table["audio"] == ""].tolist() == [cut, gone, noise]
    assert corpus.table.at[noise, "text"] and len(corpus) == 11
    assert not (tmp_path / "out" / "audio" / f"{cut}.wav").exists()
    without = set(corpus.ids) - set(corpus.words["utterance_id"])
    assert without == {late, odd, back, no_end, "Ses05M_impro02_M012"}
    assert report.counts["missing_alignments"] == 1 and report.counts["quarantined"] == 7


def test_report(release, tmp_path):
    path = release / "Session2" / "dialog" / "EmoEvaluation" / "Ses02F_script03_2.txt"
    votes = ("C-E1:\tBliss; Anger;\t()", "C-E2:\t;\t()")
    more = "C-E1:\tAnger;\t()\n\nstray\n" + block("Ses02F_script03_2_F001", 7, 8, "hap", votes)
    path.write_text(path.read_text() + more)
    corpus, report = prepare_iemocap(release, tmp_path / "out", audio=False)
    assert corpus.table.at["Ses02F_script03_2_F001", "evaluators"] == "anger"
    expected = {
        "utterances": 12, "dialogues": 4, "without_majority": 1, "other_transcript_lines": 3,
        "missing_transcripts": 2, "odd_evaluation_lines": 4, "missing_alignments": 1,
        "scripted": 5, "improvised": 7, "happiness": 2, "session 1": 5, "session 1 anger": 1,
        "no majority": 1,
    }  # fmt: skip
    assert report.counts | expected == report.counts
    text = str(report)
    assert "1 utterances have no majority" in text and "Ses01F_impro01.txt line 5" in text
    assert "Session3, Session4 not found; splits without an utterance: none." in text
    assert "session 1 5 (1819)" in text and "more; results on this copy do not compare" in text


def test_some_sessions(release, tmp_path):
    (release / "Session5").rename(release / "kept_elsewhere")
    (release / "Session1" / "dialog" / "transcriptions" / "Ses01F_impro01.txt").unlink()
    corpus, report = prepare_iemocap(tmp_path / "download", tmp_path / "out", audio=False)
    assert len(corpus) == 8 and set(corpus.table["session"]) == {"1", "2"}
    assert any("Session3, Session4, Session5 not found" in w and "test" in w for w in report.warnings)
    assert report.counts["missing_transcripts"] == 5


def test_second_run_after_a_kill(release, tmp_path, monkeypatch):
    real, linked = iemocap.link, []

    def dies(source, target):
        if len(linked) == 4:
            raise KeyboardInterrupt
        linked.append(target)
        real(source, target)

    monkeypatch.setattr(iemocap, "link", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_iemocap(release, tmp_path / "out")
    assert not (tmp_path / "out").exists() and linked[0].is_file()
    linked[0].unlink()
    linked[0].write_bytes(b"half a copy")  # where the disk cannot link, a kill leaves this
    sentences(release, "Ses01F_impro01_M000")[0].unlink()  # linked by the first run, gone since
    monkeypatch.setattr(iemocap, "link", real)
    prepare_iemocap(release, tmp_path / "out")
    prepare_iemocap(release, tmp_path / "fresh")
    files = sorted(p.relative_to(tmp_path / "fresh") for p in (tmp_path / "fresh").rglob("*") if p.is_file())
    there = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == there and len(files) == 4 + 10
    match, *_ = filecmp.cmpfiles(tmp_path / "fresh", tmp_path / "out", map(str, files), shallow=False)
    assert len(match) == len(files) and not list(tmp_path.glob(".*"))


def test_full_disk(release, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mer_lab.corpora.importing.os.link", full)
    monkeypatch.setattr("mer_lab.corpora.importing.shutil.copyfile", full)
    with pytest.raises(MerLabError, match="the disk is full"):
        prepare_iemocap(release, tmp_path / "out")


GOOD = block("Ses01F_impro09_F000", 1, 2, "neu")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GOOD.replace("1.0000 -", "one -"), ["line 3", "expected [START - END]", "one - 2.0000"]),
        (GOOD.replace("[2.5000, 3.0000, 2.0000]", "[2.5000, 3.0000]"), ["line 3", "[V, A, D]"]),
        (GOOD.removeprefix("["), ["line 3", "expected [START - END]"]),
        (GOOD.replace("F000", "FXX0"), ["line 3", "FXX0"]),
        (GOOD.replace("Ses01F", "Ses02F"), ["line 3", "of session 1", "Ses02F_impro09"]),
        (GOOD.replace("Ses01F_impro09", "../Ses01F_impro09"), ["line 3", "expected [START - END]"]),
        (GOOD.replace("neu", "joy"), ["line 3", "label 'joy' is unknown", "ang, hap"]),
        (GOOD + GOOD, ["line 7", "Ses01F_impro09_F000 is evaluated a second time"]),
        (GOOD.replace("F000", "F001") + block("Ses01F_impro01_F000", 1, 2, "neu"),
         ["line 7", "Ses01F_impro01_F000 is evaluated a second time"]),
        (GOOD.replace("2.0000]\tSes", "0.5000]\tSes"), ["line 3", "before the start 1.0000"]),
    ],
)  # fmt: skip
def test_one_sentence(release, tmp_path, content, told):
    write(release / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro09.txt", FIRST_LINE + content)
    with pytest.raises(MerLabError) as caught:
        prepare_iemocap(release, tmp_path / "out")
    message = str(caught.value)
    assert "Ses01F_impro09.txt" in message and all(t in message for t in told) and "\n" not in message
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_strange_mean_is_left_empty(release, tmp_path):
    folder = release / "Session1" / "dialog" / "EmoEvaluation"
    odd = block("Ses01F_impro09_F000", 1, 2, "neu", means="[-1.0000, nan , 2.5000]")
    write(folder / "Ses01F_impro09.txt", FIRST_LINE + odd)
    corpus, report = prepare_iemocap(release, tmp_path / "out", audio=False)
    row = corpus.table.loc["Ses01F_impro09_F000"]
    assert row[["valence", "activation", "dominance", "label"]].tolist() == ["", "", "2.5000", "neutral"]
    assert report.counts["odd_means"] == 2 and "2 means of valence" in str(report)  # an empty one is not odd


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_linked_folders(release, tmp_path):
    expected, _ = prepare_iemocap(release, tmp_path / "plain")
    data = tmp_path / "data"
    data.mkdir()
    (data / "IEMOCAP").symlink_to(release, target_is_directory=True)
    (data / "Session1").symlink_to(release / "Session1", target_is_directory=True)  # the same, once more
    (release / "round").symlink_to(data, target_is_directory=True)
    corpus, report = prepare_iemocap(data, tmp_path / "out")
    assert corpus.table.equals(expected.table) and report.counts["quarantined"] == 0


def test_wrong_folders(release, tmp_path):
    with pytest.raises(MerLabError, match="no such folder"):
        prepare_iemocap(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty" / "Session1").mkdir(parents=True)
    with pytest.raises(MerLabError, match="holds no folder Session1 to Session5"):
        prepare_iemocap(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "Session1" / "dialog" / "EmoEvaluation").mkdir(parents=True)
    with pytest.raises(MerLabError, match=r"holds no Ses\*.txt"):
        prepare_iemocap(tmp_path / "empty", tmp_path / "out")
    folder = tmp_path / "empty" / "Session1" / "dialog" / "EmoEvaluation"
    write(folder / "Ses01F_impro01.txt", b"\xff\xfe\0[\0")
    with pytest.raises(MerLabError, match="hold no utterance"):
        prepare_iemocap(tmp_path / "empty", tmp_path / "out")
    make_release(tmp_path / "download" / "copy")
    with pytest.raises(MerLabError, match="Session1 and .*Session1 are one session"):
        prepare_iemocap(tmp_path / "download", tmp_path / "out")
    with pytest.raises(MerLabError, match="exists already"):
        prepare_iemocap(release, release)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["<sil>", "OH", "NO(3)"]))))
def test_any_alignment(tmp_path_factory, steps):
    """Words of any gaps and lengths come back in order, at their frames, without touching one another."""
    free = [0, *accumulate(gap + length + 1 for gap, length, _ in steps)]
    rows = [(f + gap, f + gap + length, w) for f, (gap, length, w) in zip(free, steps, strict=False)]
    path = write(tmp_path_factory.getbasetemp() / "any.wdseg", wdseg(*rows))
    words = read_wdseg(path, 1e6)
    spoken = [(a, b, w) for a, b, w in rows if w != "<sil>"]
    assert [w for w, _, _ in words] == [w[:2] for _, _, w in spoken]
    assert np.allclose([w[1:] for w in words], [(a * 0.01, (b + 1) * 0.01) for a, b, _ in spoken] or [])


@given(st.binary(max_size=200))
def test_any_bytes_are_no_alignment(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp() / "bytes.wdseg", content)
    with pytest.raises(ValueError, match=r"^line \d+: "):
        read_wdseg(path, 10.0)


def test_published_tables_agree():
    assert {sum(t.values()) for t in (PUBLISHED, PUBLISHED_SESSIONS, PUBLISHED_PARTS)} == {10039}
    four = np.array(list(PUBLISHED_FOUR.values()))
    assert four.sum(0).tolist() == [PUBLISHED[label] for label in LABELS[:5]]
    assert four.sum() == 5531 and four[:, [0, 1, 3, 4]].sum() == 4490
    assert four.sum() + PUBLISHED["frustration"] == 7380
    assert four.sum(1).tolist() == [1085, 1023, 1151, 1031, 1241]
    sizes = {s: sum(sum(PUBLISHED_FOUR[k]) for k in SPLIT if SPLIT[k] == s) for s in SPLIT.values()}
    assert sizes == {"train": 3205, "validation": 1085, "test": 1241}


@pytest.fixture(scope="module")
def official_size(tmp_path_factory):
    """Evaluations, and nothing else, of as many utterances as are published; the rest made up."""
    root = tmp_path_factory.mktemp("official")
    codes = {label: code for code, label in CODES.items()}
    rest = [codes[label] for label in ("frustration", "surprise", "fear", "disgust", "other", "")
            for _ in range(PUBLISHED[label])]  # fmt: skip
    for session, counts in PUBLISHED_FOUR.items():
        labels = [codes[label] for label, n in zip(LABELS, counts, strict=False) for _ in range(n)]
        for _ in range(PUBLISHED_SESSIONS[session] - len(labels)):
            labels.append(rest.pop())
        files = {}
        for k, code in enumerate(labels):
            part = "script" if k < 1051 else "impro"  # 5 x 1051 = 5255
            dialogue = f"Ses0{session}F_{part}{k % (15 + (session == '5' and part == 'impro')):02d}"
            line = block(f"{dialogue}_{'FM'[k % 2]}{k:04d}", k, k + 0.8, code)
            files[dialogue] = files.get(dialogue, FIRST_LINE) + line
        for dialogue, text in files.items():
            write(root / f"Session{session}" / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", text)
    return prepare_iemocap(root, root / "out", audio=False)


def test_official_size(official_size):
    corpus, report = official_size
    assert len(corpus) == 10039 and corpus.table["dialogue_id"].nunique() == DIALOGUES
    assert not [w for w in report.warnings if "published" in w or "not found" in w]
    sizes = {name: int((corpus.scheme(name).table["label"] != "").sum()) for name in corpus.schemes}
    assert sizes == {"four": 5531, "four-without-excited": 4490, "six": 7380}
    assert corpus.scheme("four").labels == ("angry", "happy", "sad", "neutral")
    assert len(corpus.scheme("six").labels) == 6 and len(corpus.scheme("six")) == 10039
    four = corpus.scheme("four").table
    assert four["label"].value_counts()["happy"] == 1636
    labelled = four[four["label"] != ""]["split"].value_counts()
    assert labelled.to_dict() == {"train": 3205, "test": 1241, "validation": 1085}


def test_leave_one_session_out(official_size):
    corpus, _ = official_size
    folds = dict(leave_one_group_out(corpus, "session"))
    assert list(folds) == ["1", "2", "3", "4", "5"]
    assert folds["5"].table["split"].equals(corpus.table["split"])
    for session, fold in folds.items():
        assert set(fold.table.loc[fold.table["split"] == "test", "session"]) == {session}
        assert overlaps(fold, "speaker").empty and overlaps(fold, "dialogue_id").empty
