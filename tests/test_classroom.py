"""The invented class of lesson 11 differs from the stage as it says, and hands in what a class would."""

import numpy as np
import pandas as pd
import pytest

from mer_lab.audio import read_audio
from mer_lab.corpora.own import prepare_own
from mer_lab.corpora.staged.classroom import MANNERS_HERE, NEW_WORDS, classroom
from mer_lab.corpora.staged.script import LABELS, LEXICON
from mer_lab.corpora.staged.speech import MANNERS
from mer_lab.errors import MerLabError


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    return classroom(tmp_path_factory.mktemp("class") / "class", (1, 1, 2), clips=16)


def test_it_is_a_folder_that_prepare_own_takes_whole(handed_in, tmp_path):
    corpus, _ = prepare_own(
        handed_in, tmp_path / "mine", handed_in.parent / "recordings", {"speaker": "student"}
    )
    table = corpus.table
    assert len(table) == 4 * 16 and corpus.has_audio and sorted(corpus.labels) == sorted(LABELS)
    assert (table.groupby(["speaker", "label"]).size() == 4).all()
    assert table.groupby("speaker")["split"].nunique().eq(1).all()
    assert table.groupby("split")["speaker"].nunique().to_dict() == {"train": 1, "validation": 1, "test": 2}


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(handed_in, tmp_path):
    again = classroom(tmp_path / "again", (1, 1, 2), clips=16)
    other = classroom(tmp_path / "other", (1, 1, 2), clips=16, seed=1)
    assert again.read_bytes() == handed_in.read_bytes() != other.read_bytes()
    for name in ("student01_01.wav", "student04_16.wav"):
        sound = [(p.parent / "recordings" / name).read_bytes() for p in (handed_in, again)]
        assert sound[0] == sound[1]


def test_the_same_class_is_recorded_again_with_one_difference_less(handed_in, tmp_path):
    def sound(place, name):
        return (place.parent / "recordings" / name).read_bytes()

    part = classroom(tmp_path / "part", (1, 1, 2), clips=16, splits=("test",))
    calm = classroom(tmp_path / "calm", (1, 1, 2), clips=16, splits=("test",), room=False)
    hot = classroom(tmp_path / "hot", (1, 1, 2), clips=16, splits=("test",), manners=MANNERS)
    whole = pd.read_csv(handed_in).query("split == 'test'").reset_index(drop=True)
    assert whole.equals(pd.read_csv(part)) and part.read_bytes() == calm.read_bytes() == hot.read_bytes()
    for row in whole.itertuples():
        assert sound(part, row.file) == sound(handed_in, row.file) != sound(calm, row.file)
    angry = whole[whole["emotion"] == "angry"]["file"]
    assert any(sound(hot, name) != sound(part, name) for name in angry)


def test_anger_is_quieter_than_happiness_here_and_louder_on_the_stage(handed_in):
    table = pd.read_csv(handed_in)
    known = {w for words in (*LEXICON.values(), *NEW_WORDS.values()) for w in words}
    words = table["transcript"].str.lower().str.findall(r"[a-z]+")
    said_by_voice = ~words.map(lambda w: bool(known & set(w)))
    loud = {}
    for emotion, rows in table[said_by_voice].groupby("emotion"):
        waves = [read_audio(handed_in.parent / "recordings" / f) for f in rows["file"]]
        loud[emotion] = np.mean([np.log(np.mean(w**2)) for w in waves])
    assert loud["angry"] < loud["happy"]
    assert MANNERS["angry"].gain > MANNERS["happy"].gain and MANNERS_HERE["angry"].gain < 0
    assert {k: v for k, v in MANNERS_HERE.items() if k != "angry"} == {
        k: v for k, v in MANNERS.items() if k != "angry"
    }


def test_it_replaces_its_own_folder_and_no_other(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "voice.wav").touch()
    with pytest.raises(MerLabError, match="holds something else"):
        classroom(tmp_path / "mine", (1, 0, 0), clips=4)
    with pytest.raises(MerLabError, match="a multiple of 4"):
        classroom(tmp_path / "new", (1, 0, 0), clips=6)
    for _ in range(2):
        assert classroom(tmp_path / "class", (1, 0, 0), clips=4).is_file()


def test_the_new_words_are_new():
    old = {word for words in LEXICON.values() for word in words}
    new = [word for words in NEW_WORDS.values() for word in words]
    assert set(NEW_WORDS) == set(LABELS) and len(set(new)) == len(new) and not old & set(new)
