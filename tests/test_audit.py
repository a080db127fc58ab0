"""The audit finds each planted defect with its count and nothing else, whatever a corpus lacks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mer_lab.audio import resample, write_audio
from mer_lab.cli import app
from mer_lab.corpora import Corpus, save_corpus
from mer_lab.corpora.audit import LIMITS, STATUSES, audit, near_copies
from mer_lab.corpora.meld import prepare_meld
from mer_lab.corpora.ravdess import prepare_ravdess
from mer_lab.errors import MerLabError

SENTENCE = "the {} {} told {} about a {}"
WORDS = "anchor bishop candle dragon emerald falcon garden hammer island jungle kitchen lantern".split()
RATE = 16000


def sentence(i):
    """Five hundred and more sentences, no two of them near copies: they differ in four long words."""
    rng = np.random.default_rng(i)
    return SENTENCE.format(*("".join(rng.choice(list("abcdefghijklmnop"), 7)) for _ in range(4)))


def wave(i, seconds=1.2):
    return 0.2 * np.random.default_rng(i).normal(size=round(seconds * RATE)).clip(-3, 3) / 3


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """300 utterances of 30 speakers in 60 dialogues of five turns; nothing is wrong with them."""
    folder = tmp_path_factory.mktemp("clean")
    rows = []
    for i in range(300):
        d, turn = divmod(i, 5)
        rows.append({
            "utterance_id": f"u{i}", "dialogue_id": f"d{d}", "turn": turn, "speaker": f"s{d // 2}",
            "split": "train" if d < 36 else "validation" if d < 46 else "test", "label": "ab"[i % 2],
            "text": sentence(i), "audio": f"audio/u{i}.wav", "start": 1.5 * turn, "end": 1.5 * turn + 1.2,
            "evaluators": ";".join("ab"[i % 2] * 3),
        })  # fmt: skip
        write_audio(folder / rows[-1]["audio"], wave(i), RATE)
    words = pd.DataFrame([(f"u{i}", "the", 0.1, 0.3) for i in range(300)],
                         columns=["utterance_id", "word", "start", "end"])  # fmt: skip
    return Corpus("clean", ("a", "b"), pd.DataFrame(rows).set_index("utterance_id"), words, folder)


def change(corpus, where=None, words=None, **columns):
    table = corpus.table.copy()
    for column, values in columns.items():
        if where is None:
            table[column] = values
        else:
            table.loc[where, column] = values
    return Corpus("made-up", corpus.labels, table, corpus.words if words is None else words, corpus.root)


def bad(found):
    """Check → (status, value) of all rows that are neither fine nor left out."""
    rows = found.table[~found.table["status"].isin(["ok", "not checked"])]
    return {row.check: (row.status, row.value) for row in rows.itertuples()}


def row(found, check):
    return found.table.set_index("check").loc[check]


def test_a_clean_corpus_passes(clean):
    found = audit(clean, workers=1)
    assert found.ok and set(bad(found)) <= {"test-size"}  # 70 utterances are few
    assert list(found.table["check"]) == list(LIMITS) and set(found.table["status"]) <= set(STATUSES)
    left = set(found.table.loc[found.table["status"] == "not checked", "check"])
    assert left == {"other-sessions"}


U = [f"u{i}" for i in range(300)]
TEST = U[230:]


@pytest.mark.parametrize("check, status, value, where, columns", [
    ("speakers", "fails", 1, ["u299"], {"speaker": "s0"}),
    ("dialogues", "fails", 1, ["u299"], {"dialogue_id": "d0", "turn": 9}),
    ("copied-text", "warning", 100 * 2 / 70, TEST[:2], {"text": [sentence(0).upper(), sentence(1) + "!"]}),
    ("copied-text", "fails", 100 * 4 / 70, TEST[:4], {"text": [sentence(i) for i in range(4)]}),
    ("near-copies", "warning", 100 / 70, TEST[:1], {"text": sentence(0) + "s"}),
    ("empty-text", "warning", 100 / 300, TEST[:1], {"text": "..."}),
    ("mojibake", "warning", 100 * 3 / 300, TEST[:3],
     {"text": ["I can\x92t believe my eyes", "a caf\ufffd at the corner", "she didnâ€™t come along"]}),
    ("zero-length", "warning", 100 / 300, ["u290"], {"end": 0.0, "start": 0.0}),
    ("turn-order", "warning", 100 / 300, ["u294"], {"start": 0.5, "end": 1.7}),
    ("rare-classes", "warning", 1, TEST[5:], {"label": "a"}),
    ("missing-classes", "fails", 1, TEST, {"label": "b"}),
    ("bare-majority", "warning", 100 * 151 / 300, U[:151], {"evaluators": "a;a;b"}),
])  # fmt: skip
def test_planted_in_the_table(clean, check, status, value, where, columns):
    planted = change(change(clean, audio=""), where, **columns)
    found = audit(planted)
    assert bad(found)[check] == (status, pytest.approx(value, abs=1e-3))
    allowed = {
        "zero-length": {"speaking-rate", "word-times"}, "missing-classes": {"class-drift", "majority-class"},
        "rare-classes": {"class-drift"}, "bare-majority": {"agreement", "label-error"},
    }  # fmt: skip
    assert set(bad(found)) - {check, "test-size"} <= allowed.get(check, set())
    assert found.ok == (status != "fails") and row(found, check)["todo"]
    shown = str(found)  # no transcript is quoted
    assert not any(text in shown for text in planted.table["text"] if text != "...")
    accepted = audit(planted, accept=[check])
    assert bad(accepted)[check][0] == "accepted"


def test_durations_and_word_times(clean):
    found = audit(change(clean, ["u4", "u9"], end=[7.2 + 0.26, 7.2 - 0.24]), sound=False)
    assert bad(found)["durations"] == ("warning", pytest.approx(100 / 300, abs=1e-3))
    assert "u4" in row(found, "durations")["detail"] and len(found.details["lengths"]) == 300
    assert not audit(change(clean, U[:16], start=99.0, end=101.0), sound=False).ok
    words = clean.words.assign(end=clean.words["end"].where(clean.words.index >= 6, 1.3))
    assert bad(audit(change(clean, words=words), sound=False))["word-times"] == ("warning", 2.0)
    fast = change(clean, U[:9], text=[f"one two three four five six seven eight nine {i}" for i in range(9)])
    assert bad(audit(fast, sound=False))["speaking-rate"] == ("warning", 3.0)


@pytest.fixture
def loud(clean, tmp_path):
    """The clean corpus with some files replaced: a function of position → (wave, rate) or bytes."""

    def replace(files):
        for i, sound in files.items():
            if isinstance(sound, bytes):
                (tmp_path / f"u{i}.wav").write_bytes(sound)
            else:
                write_audio(tmp_path / f"u{i}.wav", *sound)
        where = [f"u{i}" for i in files]
        return audit(change(clean, where, audio=[str(tmp_path / f"{u}.wav") for u in where]), workers=1)

    return replace


def test_planted_in_the_sound(loud):
    sine = np.sin(2 * np.pi * 200 * np.arange(round(1.2 * RATE)) / RATE)
    padded = np.concatenate([np.zeros(4800), wave(7)[:9600], np.zeros(4800)])
    narrow = resample(resample(wave(500), RATE, 8000), 8000, RATE)
    found = loud({
        0: b"RIFF nothing of the kind", 1: b"", 2: (1e-4 * sine, RATE), 3: (padded, RATE), 6: (wave(5), RATE),
        10: (wave(12), RATE), 299: (wave(0), RATE), 298: (wave(1), 22050), 297: (0.02 * wave(9), RATE),
        **{i: (2 * wave(600 + i) * 8, RATE) for i in range(20, 24)},
        **{i: (wave(600 + i) + 0.1, RATE) for i in range(30, 34)},
        **{i: (np.roll(narrow, i), RATE) for i in range(40, 45)},
    })  # fmt: skip
    assert bad(found)["decoding"] == ("fails", pytest.approx(100 * 2 / 300, abs=1e-3))
    assert bad(found)["silence"] == ("warning", pytest.approx(100 / 298, abs=1e-3))
    assert bad(found)["clipping"] == ("warning", pytest.approx(100 * 4 / 298, abs=1e-3))
    assert bad(found)["dc-offset"] == ("warning", pytest.approx(100 * 4 / 298, abs=1e-3))
    assert bad(found)["telephone-band"] == ("warning", pytest.approx(100 * 5 / 298, abs=1e-3))
    assert bad(found)["same-audio"] == ("warning", 4)  # 5 and 6, 10 and 12
    assert bad(found)["sampling-rates"] == ("warning", 1)
    assert row(found, "level")["value"] == pytest.approx(100 / 298, abs=1e-3)
    sound = found.details["sound"]
    assert sound["edges"]["u3"] == pytest.approx(0.5, abs=0.05) and sound["edges"].drop(["u3"]).max() < 0.05
    assert sound["clipped"].drop([f"u{i}" for i in range(20, 24)]).max() == 0
    assert sound["problem"]["u0"] and sound["problem"]["u1"] and (sound["problem"] != "").sum() == 2
    assert "audio-across-splits" not in bad(found)
    found = loud({299: (wave(3), RATE)})
    assert bad(found)["audio-across-splits"] == ("fails", 2) and "same-audio" not in bad(found)


def test_a_quiet_sine_is_not_clipped_and_a_low_ceiling_is(loud):
    time = np.arange(round(0.8 * RATE)) / RATE
    sine = np.sin(2 * np.pi * 100 * time)
    found = loud({0: (0.01 * sine, RATE), 1: ((0.8 * sine).clip(-0.5, 0.5), RATE), 2: (0.9 * sine, RATE)})
    clipped = found.details["sound"]["clipped"]
    assert clipped["u1"] > 0.3 and clipped["u0"] == 0 and clipped["u2"] < 0.001


def test_sentences_read_in_every_emotion_are_no_leak(clean):
    same = change(clean, text=[sentence(i // 2 % 2) for i in range(300)])
    found = audit(same, sound=False)
    assert bad(found)["copied-text"] == ("warning", 100.0)
    assert "give no label away" in row(found, "copied-text")["detail"]
    leak = audit(change(clean, text=[sentence(i % 2) for i in range(300)]), sound=False)
    assert bad(leak)["copied-text"][0] == "fails"
    short = change(clean, TEST + U[:5], text="Okay, yeah!")
    assert "copied-text" not in bad(audit(short, sound=False))
    assert (audit(short, sound=False).details["copies"]["kind"] == "short").all()


def test_sessions(clean):
    text = clean.table["text"].where(~clean.table.index.isin(U[3:6]), "word for word in three sessions")
    corpus = change(clean, text=text, session=[str(i % 5) for i in range(300)],
                    scripted=["True" if i < 100 else "False" for i in range(300)])  # fmt: skip
    found = row(audit(corpus, sound=False), "other-sessions")
    assert found["value"] == 1 and "3% of 100 scripted" in found["detail"] and "0% of 200" in found["detail"]


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_label_error_is_recovered(clean, rate):
    """Evaluators who err at a known rate: the estimate meets the errors of the majority."""
    rng = np.random.default_rng(0)
    labels = np.array(["w", "x", "y", "z"])
    truth = rng.integers(4, size=6000)
    votes = (truth[:, None] + (rng.random((6000, 3)) < rate) * rng.integers(1, 4, (6000, 3))) % 4
    table = pd.DataFrame({
        "dialogue_id": [f"d{i}" for i in range(6000)], "turn": 0, "speaker": "", "split": "", "text": "",
        "audio": "", "start": np.nan, "end": np.nan, "label": "w",
        "evaluators": [";".join(v) for v in labels[votes]],
    }, index=[f"u{i}" for i in range(6000)])  # fmt: skip
    found = audit(Corpus("noisy", tuple(labels), table))
    counts = (votes[:, :, None] == np.arange(4)).sum(1)
    won = (counts == counts.max(1, keepdims=True)).sum(1) == 1
    wrong = 100 * (counts.argmax(1) != truth)[won].mean()
    assert row(found, "label-error")["value"] == pytest.approx(wrong, rel=0.15, abs=0.2)
    assert row(found, "split-votes")["value"] == pytest.approx(100 * (counts.max(1) < 3).mean(), abs=1e-3)
    assert row(found, "agreement")["unit"] == "of 1" and "agreement" not in bad(found)


def trigrams(text):
    return {f" {text} "[i : i + 3] for i in range(len(text))}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab ", max_size=12) | st.sampled_from(WORDS), max_size=12),
    st.lists(st.text("ab ", max_size=12) | st.sampled_from(WORDS), max_size=12),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_near_copies_against_brute_force(queries, texts, least):
    found = near_copies(queries, texts, least).set_index("query")
    for q, query in enumerate(queries):
        a = trigrams(query)
        all_ = [len(a & b) / max(1, len(a | b)) for b in map(trigrams, texts)]
        best = max(all_, default=0.0)
        if best < least - 1e-6:
            assert q not in found.index
        else:
            assert found.at[q, "similarity"] == pytest.approx(best)
            assert found.at[q, "text"] == np.argmax(np.array(all_) > best - 1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.sampled_from(["", "train", "validation", "test"]), min_size=12, max_size=12),
    st.lists(st.sampled_from(["", "a", "b"]), min_size=12, max_size=12),
    st.lists(st.sampled_from(["", "no", "?!", "a b c d e", "=1+1", "ä ö ü ß"]), min_size=12, max_size=12),
    st.lists(st.sampled_from(["", "a;b", "a;a;b", ";", "c"]), min_size=12, max_size=12),
    st.sampled_from([np.nan, 0.0, 1.0]),
)
def test_any_table_is_audited(n, splits, labels, texts, votes, start):
    table = pd.DataFrame({
        "dialogue_id": [f"d{i // 3}" for i in range(n)], "turn": range(n), "speaker": splits[:n],
        "split": splits[:n], "label": labels[:n], "text": texts[:n], "audio": "", "start": start,
        "end": np.arange(n) + start, "evaluators": votes[:n],
    }, index=[f"u{i}" for i in range(n)])  # fmt: skip
    found = audit(Corpus("any", ("a", "b"), table))
    assert list(found.table["check"]) == list(LIMITS)
    assert found.table["value"].isna().equals(found.table["status"] == "not checked")
    assert np.isfinite(found.table["value"].dropna()).all() and str(found)


def test_what_is_not_there_is_not_checked(clean):
    columns = dict.fromkeys(("text", "audio", "split", "label", "speaker", "evaluators"), "")
    empty = change(clean, start=np.nan, end=np.nan, **columns)
    found = audit(empty)
    assert (found.table["status"] == "not checked").all() and found.ok and not found.details
    one = audit(change(clean, split="train"), sound=False)
    assert bad(one) == {"splits": ("warning", 2)} and "validation 0" in row(one, "splits")["detail"]
    gone = audit(change(clean, audio="nowhere.wav"), workers=1)
    assert bad(gone)["decoding"] == ("fails", 100) and row(gone, "silence")["status"] == "not checked"
    none = Corpus("none", ("a",), clean.table.iloc[:0])
    assert (audit(none).table["status"] == "not checked").all()


def test_save_and_accept(clean, tmp_path):
    found = audit(change(clean, TEST[:4], text=[sentence(i) for i in range(4)], speaker="s0"), sound=False)
    found.save(tmp_path / "out")
    back = pd.read_csv(tmp_path / "out" / "audit.csv", keep_default_na=False, na_values={"value": [""]})
    pd.testing.assert_frame_equal(back, found.table, check_dtype=False)
    saved = {p.stem for p in (tmp_path / "out").iterdir()}
    assert saved == {"audit", *found.details}
    copies = pd.read_csv(tmp_path / "out" / "copies.csv", index_col=0)
    assert copies["copy"].to_dict() == dict(zip(TEST[:4], U[:4], strict=True))
    assert not found.ok and str(found).startswith("FAILS       speakers")
    with pytest.raises(MerLabError, match="check 'voices' does not exist"):
        audit(clean, sound=False, accept=["voices"])
    with pytest.raises(MerLabError, match="choose another"):
        found.save(tmp_path / "out" / "audit.csv")


def test_the_command(clean, tmp_path):
    save_corpus(change(clean, ["u299"], speaker="s0"), tmp_path / "corpus")
    command = ["audit", str(tmp_path / "corpus"), "--no-sound"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "1 of 30 speakers stand in more than one split: s0" in " ".join(
        result.output.split()
    )
    assert (tmp_path / "out" / "audit.png").stat().st_size > 10_000
    assert CliRunner().invoke(app, [*command, "--accept", "speakers", "-q"]).exit_code == 0


def test_the_command_with_a_scheme(clean, tmp_path):
    rare = replace(
        change(clean, audio=""), labels=("a", "b", "c"), schemes={"two": {"map": {"a": "a", "b": "b"}}}
    )
    save_corpus(rare, tmp_path / "corpus")
    command = ["audit", str(tmp_path / "corpus")]
    assert CliRunner().invoke(app, command).exit_code == 1  # no c anywhere
    assert CliRunner().invoke(app, [*command, "--scheme", "two"]).exit_code == 0
    with pytest.raises(MerLabError, match="no label scheme 'six'; it has two"):
        CliRunner().invoke(app, [*command, "--scheme", "six"], catch_exceptions=False)


def test_the_command_without_a_figure(clean, tmp_path):
    few = change(clean, audio="", evaluators="", label="", start=np.nan, end=np.nan)
    few = replace(few.select(few.table.index == "u0"), words=None)
    save_corpus(few, tmp_path / "corpus")
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "corpus"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and "No figure" in result.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["audit.csv"]


def test_one_vote_less(clean):
    # 3 of 4 stays 2 of 3; 3 of 5 becomes 2 of 4; 2 of 3 becomes 1 of 2; 4 of 6 becomes 3 of 5; 2 of 4 is none
    votes = ["a;a;a;b", "a;a;a;b;b", "a;a;b", "a;a;a;a;b;b", "a;a;b;b"] + ["a;a;a"] * 5
    found = audit(change(clean.select(clean.table.index.isin(U[:10])), audio="", evaluators=votes))
    assert row(found, "bare-majority")["value"] == pytest.approx(100 * 2 / 10)
    assert row(found, "split-votes")["value"] == pytest.approx(100 * 5 / 10)


def test_agreement_on_one_label_alone_is_not_checked(clean):
    found = audit(change(clean, audio="", evaluators=["a;a"] * 299 + ["b"]))
    assert (
        row(found, "agreement")["status"] == "not checked"
        and "one label" in row(found, "agreement")["detail"]
    )
    assert row(found, "split-votes")["value"] == 0


def test_speakers_in_test(clean):
    detail = row(audit(change(clean, audio="")), "test-size")["detail"]
    assert "of 14 dialogues" in detail
    assert detail.endswith(
        "Speakers in test: 7, fewer than dialogues, so that an interval over speakers is wider."
    )
    many = change(clean, audio="", speaker=[f"s{i}" for i in range(300)])
    assert row(audit(many), "test-size")["detail"].endswith("Speakers in test: 70.")
    assert "Speakers" not in row(audit(change(clean, audio="", speaker="")), "test-size")["detail"]


def test_meld(shared_data, tmp_path):
    corpus, _ = prepare_meld(shared_data / "meld", tmp_path / "meld")
    found = audit(corpus)
    assert [*bad(found)][0] == "speakers" and not found.ok and audit(corpus, accept=["speakers"]).ok
    assert "not speaker independent" in row(found, "speakers")["detail"]
    assert row(found, "majority-class")["value"] == pytest.approx(48.12, abs=0.01)
    assert found.details["classes"].loc["test"].to_dict()["fear"] == 50
    assert row(found, "copied-text")["value"] == pytest.approx(100 * 28 / 1904, abs=1e-3)
    assert row(found, "copied-text")["status"] == "warning" and row(found, "dialogues")["status"] == "ok"
    assert row(found, "agreement")["status"] == "not checked"


def test_ravdess(shared_data, tmp_path):
    corpus, _ = prepare_ravdess(shared_data / "ravdess", tmp_path / "ravdess")
    found = audit(corpus.select(corpus.table["speaker"].isin(["actor07", "actor24"])), workers=1)
    assert found.ok and row(found, "decoding")["value"] == 0
    assert row(found, "same-audio")["value"] == 2  # actor 7 has one sound under two names
    assert "give no label away" in row(found, "copied-text")["detail"]


def test_staged(staged_corpus):
    found = audit(staged_corpus, sound=False)
    assert found.ok and row(found, "copied-text")["value"] == 0
    planted = 100 * (staged_corpus.table["label"] != staged_corpus.table["emotion"]).mean()
    assert row(found, "label-error")["value"] == pytest.approx(planted, abs=1.0)
