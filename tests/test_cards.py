"""Model cards say what the results say: the committed are current, their numbers are computed another way."""

import json
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_fscore_support

from mer_lab import cards
from mer_lab.card_page import FACTS, as_markdown
from mer_lab.errors import MerLabError
from mer_lab.figures import ROOT
from mer_lab.recipes import RECIPES, recorded
from mer_lab.records import Result
from mer_lab.statistics import score_interval

RESULT = re.compile(r"(.+)-([0-9a-f]{10})\.json")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return cards.pages()


def table(text: str, head: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins so, by their first cell."""
    lines = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows if not set(row[0]) == {"-"}}


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+\.\d+", text.replace("\N{MINUS SIGN}", "-"))]


def test_committed_cards_are_what_the_results_say(pages):
    found = {path.name: path.read_text(encoding="utf-8") for path in cards.CARDS.glob("*.md")}
    assert sorted(found) == sorted(pages), "run python -m mer_lab.cards"
    assert [name for name in pages if pages[name] != found[name]] == [], "run python -m mer_lab.cards"


def test_every_recorded_result_has_a_card_with_its_hash(pages):
    files = [m for path in (ROOT / "results").glob("*.json") if (m := RESULT.fullmatch(path.name))]
    assert len(files) > 30 and {f"{m[1]}.md" for m in files} == pages.keys() - {"index.md"}
    for m in files:
        assert f"hash {m[2]}" in pages[f"{m[1]}.md"] and RECIPES[m[1]].hash == m[2]


@pytest.mark.parametrize(
    "name", ["cm-roberta", "decision-mean", "xu2019-of-4", "cm-roberta-self", "text-tfidf"]
)
def test_numbers_follow_from_the_predictions(pages, name):
    """By scikit-learn and by hand, not by the package."""
    page, r = pages[f"{name}.md"], recorded(name)
    label, cue = np.array(r.truth["label"]), np.array(r.truth["cue"])
    predictions = np.array(r.predictions)
    scores = table(page, "")
    for row, score in (("accuracy", accuracy_score), ("UA", balanced_accuracy_score)):
        each = [100 * score(label, p) for p in predictions]
        assert numbers(scores[row][0])[0] == pytest.approx(np.mean(each), abs=0.051)
        if len(each) > 1:
            assert numbers(scores[row][0])[1] == pytest.approx(np.std(each, ddof=1), abs=0.051)
    by_class = np.mean(
        [precision_recall_fscore_support(label, p, zero_division=0)[:3] for p in predictions], 0
    )
    shown = table(page, "class")
    for k, name_ in enumerate(r.labels):
        assert numbers(" ".join(shown[name_][1:])) == pytest.approx(100 * by_class[:, k], abs=0.051)
    by_cue = table(page, "cue")
    accuracy = {c: 100 * (predictions[:, cue == c] == label[cue == c]).mean() for c in set(cue)}
    for c, value in accuracy.items():
        estimate, (low, high) = numbers(by_cue[c][1])[0], numbers(by_cue[c][2])
        assert estimate == pytest.approx(value, abs=0.051) and low < estimate < high
    assert f"Worst cue: *{min(accuracy, key=accuracy.get)}*" in page
    low, high = numbers(scores["accuracy"][0])[-2:]
    interval = score_interval(
        "wa", label, predictions, r.truth["dialogue"], seed=5
    )  # another draw: about equal
    assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.7)


def test_a_gain_that_holm_takes_back_is_not_called_better(pages):
    """MELD's early fusion excludes zero by itself, and does not among the systems that were tried."""
    page = pages["meld-early.md"]
    low, high = numbers(re.search(r"\*\*(.+?)\*\*", page)[1])[1:]
    assert low >= 0 < high and "no difference is shown" in page and ": better" not in page
    assert ": better" in pages["cm-roberta.md"] and ": worse" in pages["majority.md"]
    assert "counts context" in pages["cm-roberta.md"] and "counts context" not in pages["early.md"]


def test_what_is_not_known_is_not_claimed(pages):
    heard = pages["ravdess-moonshine.md"]
    assert "interval over" not in heard and "[" not in table(heard, "")["UA"][0] and "CC BY-NC-SA" in heard
    assert "under MIT" in heard and "under Apache-2.0" in pages["meld-early.md"]
    other = pages["early-of-4.md"]  # another corpus than its control's
    assert "candidates = 4" in other and "no text-only control" in other
    assert "text-only control that others" in pages["text-bilstm.md"]
    for name, page in pages.items():
        if name != "index.md":
            assert "Never use it to judge a person" in page and "not in the repository" in page


def test_commands_train_the_recorded_recipe_with_the_recorded_seeds(pages):
    for name, recipe in RECIPES.items():
        if (r := recorded(name)) is None:
            continue
        words = re.search(r"`mer-lab run (.+?)`", pages[f"{name}.md"])[1].split()
        assert words[0] == name and words[-2:] == ["--out", "runs"]
        count = int(words[words.index("--seeds") + 1]) if "--seeds" in words else len(recipe.seeds)
        assert tuple(range(count)) == r.recipe.seeds


def test_links_stay_inside_the_docs_and_lead_somewhere(pages):
    for name, page in pages.items():
        for target in re.findall(r"\]\(([^)]+)\)", page):
            assert target in pages or (cards.CARDS / target).is_file(), f"{name} links {target}"


@pytest.fixture
def copy(tmp_path):
    """A few results in a folder of their own."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("text-bilstm", "cm-roberta-self", "ravdess-moonshine"):
        recorded(name).save(folder)
    return folder


def test_a_changed_prediction_changes_its_card(copy, tmp_path):
    out = tmp_path / "cards"
    cards.write_cards(out, copy)
    assert sorted(p.name for p in out.iterdir()) == [
        "cm-roberta-self.md", "index.md", "ravdess-moonshine.md", "text-bilstm.md"
    ]  # fmt: skip
    assert cards.stale(out, copy) == []
    [path] = copy.glob("cm-roberta-self-*.json")
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["predictions"][0] = spec["truth"]["label"]  # one seed that is always right
    path.write_text(json.dumps(spec), encoding="utf-8")
    assert cards.stale(out, copy) == ["cm-roberta-self.md", "index.md"]
    path.unlink()
    assert cards.stale(out, copy) == ["cm-roberta-self.md", "index.md"]
    cards.write_cards(out, copy)
    assert not (out / "cm-roberta-self.md").exists(), "a card of what is not recorded goes"


def test_no_card_without_a_licence(copy, monkeypatch, tmp_path):
    monkeypatch.setitem(FACTS, "encoders", {})
    with pytest.raises(MerLabError, match="moonshine"):
        cards.pages(copy)
    shutil.rmtree(copy)
    with pytest.raises(MerLabError, match="no recipe"):
        cards.pages(copy)


def test_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(cards, "stale", lambda: ["early.md"])
    assert cards.main(["--check"]) == 1 and "early.md is stale" in capsys.readouterr().out
    monkeypatch.setattr(cards, "stale", lambda: [])
    assert cards.main(["--check"]) == 0


def test_a_card_names_the_code_that_it_is_about():
    card = next(c for c in cards.cards() if c.name == "xu2019")
    assert isinstance(card.result, Result) and "mer_lab.models.alignment.AlignmentAttention" in as_markdown(
        card
    )
