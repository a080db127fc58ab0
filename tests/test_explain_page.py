"""One recording is heard as the corpus's own was; page, gallery and figures say what the numbers say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_plots import assert_readable
from test_pretrained import save_bert

from mer_lab import plots
from mer_lab.cli import main
from mer_lab.conversation import audio_extractor, conversation
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, prepare
from mer_lab.explain import Question, attribute
from mer_lab.explain.page import explanation_page, gallery, number, percent
from mer_lab.explain.single import (
    Explained,
    confident_mistakes,
    explain_recording,
    explained,
    span_table,
    word_table,
)
from mer_lab.features import write_audio
from mer_lab.files import write_text
from mer_lab.models import System
from mer_lab.prediction import predict
from mer_lab.ragged import Ragged

PITCH, WORDS = {"name": "prosody", "hop": 0.02}, {"name": "words", "width": 6}
SMALL = {"width": 6, "heads": 2, "layers": 1, "hidden": 6}


@pytest.fixture(scope="module")
def built(sine_folder, tmp_path_factory):
    """An untrained system of the sine corpus, saved and loaded again, and its data."""
    bert = str(save_bert(tmp_path_factory.mktemp("encoders") / "bert"))
    texts = {
        "words": WORDS, "pretrained": {"name": "pretrained", "encoder": bert},
        "pooled": {"name": "pretrained", "encoder": bert, "pool": True},
        "by word": {"name": "pretrained", "encoder": bert, "words": True},
        "tokens": {"name": "tokens", "encoder": bert},
    }  # fmt: skip
    done = {}

    def make(name: str, text: str = "words", audio: dict = PITCH):
        if (key := (name, text, audio["name"])) not in done:
            from mer_lab.models import SYSTEMS

            settings = {k: v for k, v in SMALL.items() if hasattr(SYSTEMS[name][1], k)}
            encoder = {"text": {"name": "pretrained", "encoder": bert}} if text == "tokens" else {}
            recipe = Recipe(
                "tiny", {"name": name} | settings, corpus=str(sine_folder), audio=audio, text=texts[text],
                encoder=encoder,
            )  # fmt: skip
            data, build = prepare(recipe)
            torch.manual_seed(3)
            model = build()
            model.save_pretrained(folder := tmp_path_factory.mktemp("model") / "model")
            done[key] = System.from_pretrained(folder), data["test"], folder
        return done[key]

    return make


def recording(data, row):
    table = data.corpus.table.iloc[row]
    return data.corpus.audio_path(data.corpus.ids[row]), table["text"], table["speaker"]


def one_utterance(model, audio, text, context=(), speaker=""):
    return conversation(model, [*context, (audio, text, speaker)], Path(audio).stem)


@pytest.mark.parametrize("text", ["words", "pretrained", "pooled", "by word", "tokens"])
def test_a_recording_alone_is_heard_as_in_its_corpus(built, text):
    model, data, _ = built("early", text)
    for row in (1, 4):
        alone = one_utterance(model, *recording(data, row)[:2])
        assert alone.audio.meta == data.audio.meta  # the clock among it
        assert data.text.meta.items() <= alone.text.meta.items()
        with torch.no_grad():
            expected, found = model(data.batch([row])).logits, model(alone.batch([0])).logits
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("audio", [{"name": "logmel", "hop": 0.02}, {"name": "mfcc"}])
def test_whatever_features_the_recipe_asks_for(built, audio):
    model, data, _ = built("early", audio=audio)
    alone = one_utterance(model, *recording(data, 3)[:2])
    assert np.allclose(alone.audio[0], data.audio[3], atol=1e-5)
    assert audio_extractor(model).name == audio["name"]


@pytest.mark.parametrize("name", ["cm-roberta", "dialogue-rnn", "bc-lstm"])
def test_with_its_earlier_turns_a_recording_is_heard_as_in_its_dialogue(built, name):
    model, data, _ = built(name)
    *before, last = np.flatnonzero(data.dialogue == data.dialogue[-1])
    path, text, speaker = recording(data, last)
    turns = [recording(data, k) for k in before]
    with torch.no_grad():
        expected = model(data.batch([*before, last])).logits[-1]
        together = one_utterance(model, path, text, turns, speaker)
        assert torch.allclose(model(together.batch(range(3))).logits[-1], expected, atol=1e-5)
        swapped = one_utterance(model, path, text, turns[::-1], speaker)
        assert not torch.allclose(model(swapped.batch(range(3))).logits[-1], expected, atol=1e-5)
    assert together.corpus.ids[-1] == path.stem


def test_a_recording_leaves_nothing_in_the_cache(built, sine_folder, tmp_path, monkeypatch):
    model, data, _ = built("early", "pretrained")
    monkeypatch.setenv("MER_LAB_CACHE", str(tmp_path / "cache"))
    one_utterance(model, *recording(data, 1)[:2])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_cannot_be_explained_is_told_in_one_sentence(built, tmp_path):
    model, data, folder = built("early")
    path, text, _ = recording(data, 1)
    write_audio(tmp_path / "silent.wav", np.zeros(16000), 16000)
    write_audio(tmp_path / "short.wav", 0.1 * np.ones(800), 16000)
    for given, problem in (
        ((tmp_path / "no.wav", "we"), "no such audio file"), ((path, " "), "text is empty"),
        ((tmp_path / "silent.wav", "we"), "is silent"), ((tmp_path / "short.wav", "we"), "shorter than 0.1"),
        ((path, "we", [(path, "")]), "text is empty"), ((path, "we", [("no.wav", "we")]), "no such audio"),
    ):  # fmt: skip
        with pytest.raises(MerLabError, match=problem):
            one_utterance(model, *given)
    with pytest.raises(MerLabError, match="reads single utterances"):
        explain_recording(model, path, text, [(path, text)])
    with pytest.raises(MerLabError, match="no class 'glad'"):
        explain_recording(model, path, text, target="glad")
    with pytest.raises(MerLabError, match="times of 1 words, but the text has 3"):
        explain_recording(model, path, "we go up", times=pd.DataFrame({"start": [0], "end": [1]}))
    for about, problem in (
        ({}, "no recipe was saved"),
        ({"recipe": model.about["recipe"].replace('name = "prosody"', 'attached = "covarep"')}, "attached"),
        ({"recipe": model.about["recipe"].replace('"words"', '"tokens"')}, "do not belong together"),
        ({"recipe": model.about["recipe"].replace('"prosody"', '"mfcc"')}, "do not belong together"),
        ({"recipe": 'name = "x"\n[model]\nname = "bilstm"\n[text]\nname = "words"'}, "from audio and text"),
    ):
        other = System.from_pretrained(folder)
        other.about = about
        with pytest.raises(MerLabError, match=problem):
            one_utterance(other, path, text)


class Elements(HTMLParser):
    """Every element with its attributes; the text of each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all, self.texts, self.open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def of(self, name: str) -> list[dict]:
        return [a for _, a in self.all if name in (a.get("class") or "").split()]


def timed(text: str, seconds: float) -> pd.DataFrame:
    edges = np.linspace(0, seconds, len(text.split()) + 1)
    return pd.DataFrame({"start": edges[:-1], "end": edges[1:]})


@pytest.fixture(scope="module")
def shown(built) -> Explained:
    """A recording of 0.75 s with its word times."""
    model, data, _ = built("early")
    row = next(k for k, n in enumerate(data.audio.lengths) if n > 30)
    path, text, _ = recording(data, row)
    values = attribute(Question(model, data, [row]), refuse=False)
    found = explained(model, values)[0]
    assert np.allclose(found.probabilities, predict(model, data)[row], atol=1e-5)
    assert found.gold == data.corpus.table["label"].iloc[row]
    return found._replace(times=timed(text, len(found.wave) / found.rate))


def test_words_and_spans_add_up_and_spans_follow_each_other(shown):
    words, spans = word_table(shown.values, 0, shown.times), span_table(shown.values, 0)
    assert words["value"].sum() == pytest.approx(shown.values.own_text.sum(), abs=1e-5)
    assert spans["value"].sum() == pytest.approx(shown.values.own_audio.sum(), abs=1e-5)
    assert np.allclose(spans["start"].to_numpy()[1:], spans["end"].to_numpy()[:-1])
    assert spans["start"].iloc[0] == 0
    assert spans["end"].iloc[-1] == pytest.approx(len(shown.wave) / shown.rate, abs=0.02)
    assert (spans["end"] - spans["start"]).to_numpy()[1:-1] == pytest.approx(0.1)
    assert np.array_equal(words[["start", "end"]], shown.times)


def test_a_frame_lights_up_when_it_is_heard(shown):
    """Where one frame holds everything, the span that holds it holds its time."""
    for frame in (0, 7, 20):
        audio = np.zeros_like(shown.values.audio)
        audio[0, 0, frame] = 1.0
        values = type(shown.values)(**{**vars(shown.values), "audio": audio})
        spans = span_table(values, 0)
        lit = spans[spans["value"] > 0]
        assert len(lit) == 1 and lit["start"].iloc[0] <= 0.02 * frame < lit["end"].iloc[0]


def test_the_page_says_what_the_numbers_say(shown):
    page = Elements(html := explanation_page(*shown))
    words, spans = word_table(shown.values, 0, shown.times), span_table(shown.values, 0)
    for found, table in ((page.of("mx-word"), words), (page.of("mx-span"), spans)):
        assert len(found) == len(table)
        for element, row in zip(found, table.itertuples(), strict=True):
            assert float(element["data-start"]) == pytest.approx(row.start, abs=1e-3)
            assert number(row.value) in element["aria-label"]  # for those who see no colour
    for element, row in zip(page.of("mx-word"), words.itertuples(), strict=True):
        assert ("mx-pos" in element["class"]) == (row.value > 0)
        assert ("mx-neg" in element["class"]) == (row.value < 0)
    shades = [float(e["style"].partition(":")[2]) for e in page.of("mx-word") + page.of("mx-shade")]
    sizes = np.abs([*words["value"], *spans["value"]])
    assert np.corrcoef(np.sqrt(sizes), shades)[0, 1] > 0.9999  # one scale for both
    assert f"Completeness error {percent(float(shown.values.error[0]))}" in html
    assert "integrated-gradients" in html and "mean frame of the training set" in html
    for label, p in zip(shown.labels, shown.probabilities, strict=True):
        assert re.search(rf"{label}(</strong>)?</span>.*?{re.escape(percent(float(p)))}", html)
    assert "not describe the person" in html


def test_the_page_needs_no_network_and_no_mouse(shown):
    page = Elements(html := explanation_page(*shown))
    links = [v for _, a in page.all for k, v in a.items() if k in ("src", "href", "xlink:href", "srcset")]
    assert links and all(link.startswith("data:audio/mpeg;base64,") for link in links)
    assert not re.search(r"https?:|@import|url\(", re.sub(r"data:audio[^\"]*", "", html))
    for kind in ("mx-word", "mx-span"):  # one stop of the tab key for each row; arrows go on from there
        assert [e["tabindex"] for e in page.of(kind)] == ["0"] + ["-1"] * (len(page.of(kind)) - 1)
    assert all(e.get("aria-label") for tag, e in page.all if tag in ("audio", "svg", "button"))
    assert [tag for tag, _ in page.all].count("table") == 2  # the same numbers to be read


def test_what_is_written_in_a_text_is_shown_and_not_run(built):
    model, data, _ = built("early")
    text = 'we <script>alert(1)</script> "up" onload=x & go'
    found = explain_recording(model, recording(data, 1)[0], text, method="occlusion")
    page = explanation_page(*found._replace(name='<img src=x onerror="1">', gold="</p><b>"))
    elements = Elements(page)
    assert [tag for tag, _ in elements.all].count("script") == 1 and "alert" not in elements.texts["script"]
    assert not [a for tag, a in elements.all if tag == "img" or "onerror" in a or "onload" in a]
    assert "Read as unknown: script, alert, 1, onload, x." in page
    words = word_table(found.values, 0)
    assert words["unknown"].tolist() == [word not in ("we", "go", "up") for word in words["word"]]
    assert elements.of("mx-word") and not elements.of("mx-word")[0].get("data-start")  # no times are known


@pytest.mark.parametrize("text", ["words", "pretrained", "by word", "tokens"])
def test_each_kind_of_text_gives_words_that_add_up(built, text):
    """Only what stands for no word, such as the special tokens, is left over."""
    model, data, _ = built("early", text)
    found = explain_recording(model, recording(data, 1)[0], "we go up now", method="occlusion")
    words = word_table(found.values, 0)
    assert words["word"].tolist() == ["we", "go", "up", "now"]
    special = 2 if text in ("pretrained", "tokens") else 0
    own = found.values.own_text[0]
    assert words["value"].sum() == pytest.approx(own[1:-1].sum() if special else own.sum(), abs=1e-5)


def test_vectors_without_words_or_clock_are_not_given_any(built):
    model, data, _ = built("early", "pooled")
    found = explain_recording(model, *recording(data, 1)[:2], method="occlusion")
    assert word_table(found.values, 0)["word"].tolist() == [recording(data, 1)[1]]
    explanation_page(*found)
    data.audio.meta["hop"] = None
    try:
        values = attribute(Question(model, data, [1]), "occlusion")
        assert span_table(values, 0).empty
        assert "have no clock" in explanation_page(*explained(model, values)[0])
        assert_readable(plots.explanation(*explained(model, values)[0]))
    finally:
        data.audio.meta["hop"] = 0.02


def test_a_gallery_holds_every_item_and_no_id_twice(shown):
    html = gallery([shown, shown._replace(gold="low", name="a second"), shown])
    page = Elements(html)
    assert not [a["id"] for _, a in page.all if "id" in a]
    assert [tag for tag, _ in page.all].count("audio") == 3
    assert "Label low" in html and "a second" in html
    assert "<html" not in html and "<body" not in html  # a fragment, for a notebook's own page
    rules = re.search(r"<style>(.*?)</style>", html, re.S)[1]
    selectors = [s for block in re.findall(r"([^{}]+)\{", rules) for s in block.split(",")]
    assert all("mx-" in s for s in selectors if s.strip() and "@media" not in s)  # nothing else is restyled
    assert "Label" not in gallery([])


def test_mistakes_are_wrong_and_the_surest_first(built):
    model, data, _ = built("early")
    rows, p = confident_mistakes(model, data, 99), predict(model, data)
    wrong = (p.argmax(1) != data.targets) & (data.targets >= 0)
    assert sorted(rows) == np.flatnonzero(wrong).tolist()
    sure = p.max(1)[rows]
    assert (np.diff(sure) <= 0).all()
    assert confident_mistakes(model, data, 1).tolist() == rows[:1].tolist()


def test_a_conversation_shows_its_turns(built, tmp_path):
    model, data, _ = built("cm-roberta")
    rows = np.flatnonzero(data.dialogue == data.dialogue[-1])
    first, second, last = (recording(data, k) for k in rows)
    found = explain_recording(model, *last[:2], [first, second], last[2], method="occlusion")
    page = explanation_page(*found)
    assert "2 before" in page and "this one" in page and "context" in page
    assert "There is no context" in explanation_page(
        *explain_recording(model, *last[:2], method="occlusion")
    )


def test_the_figure_is_readable_with_signs_beyond_colour(shown):
    figure = plots.explanation(*shown)
    texts = " ".join(assert_readable(figure))
    assert percent(float(shown.values.error[0])) in texts and "(s)" in texts and "logits" in texts
    bars = [bar for ax in figure.axes[1:] for bar in ax.patches if bar.get_height() * bar.get_width()]
    assert bars
    for bar in bars:
        long = bar.get_width() if bar.axes is figure.axes[2] else bar.get_height()
        assert bool(bar.get_hatch()) == (long < 0)
    long = shown._replace(times=None, name="a" * 8)
    assert_readable(plots.explanation(*long))


CRITERIA = ["method", "criterion", "estimate", "low", "high", "chance"]


def test_methods_by_criteria_writes_every_number_and_marks_chance():
    rows = [
        ("one", "word", 0.9, 0.8, 0.95, 0.2), ("two", "word", 0.25, 0.15, 0.4, 0.2),
        ("one", "change", -0.31, np.nan, np.nan, np.nan), ("two", "change", 0.07, 0.01, 0.1, np.nan),
    ]  # fmt: skip
    figure = plots.methods_by_criteria(pd.DataFrame(rows, columns=CRITERIA), {"change": False})
    texts = assert_readable(figure)
    assert {"0.90", "0.25", "−0.31", "0.07", "0.80 to 0.95", "≈ chance"} <= set(texts)
    assert texts.count("≈ chance") == 1
    shade = figure.axes[0].images[0].get_array()
    assert shade[0, 0] > shade[1, 0] == 0 and shade[0, 1] > shade[1, 1]  # less is better in the second
    bold = {t.get_text() for t in figure.axes[0].texts if t.get_weight() == "bold"}
    assert bold == {"0.90", "−0.31"}
    with pytest.raises(MerLabError, match="lacks chance"):
        plots.methods_by_criteria(pd.DataFrame(rows, columns=CRITERIA).drop(columns="chance"))
    with pytest.raises(MerLabError, match="lacks any row"):
        plots.methods_by_criteria(pd.DataFrame([], columns=CRITERIA))


def test_curves_differ_without_colour_and_are_named():
    share = np.linspace(0, 1, 5)
    rows = [
        (panel, order, s, 2 * (1 - s**power), 1.5 * (1 - s**power), 2.5 * (1 - s**power))
        for panel in ("audio", "text")
        for order, power in (("most first", 0.3), ("random", 1), ("least first", 3), ("another", 2))
        for s in share
    ]
    frame = pd.DataFrame(rows, columns=["panel", "order", "share", "margin", "low", "high"])
    figure = plots.curves(frame)
    texts = assert_readable(figure)
    assert {"most first", "random", "least first", "another", "audio", "text"} <= set(texts)
    for ax in figure.axes:
        lines = [line for line in ax.lines if len(line.get_xdata()) == 5]
        assert len(lines) == len({str(line._dash_pattern) for line in lines}) == 4
        for line, power in zip(lines, (0.3, 1, 3, 2), strict=True):
            assert np.allclose(line.get_ydata(), 2 * (1 - share**power))
    with pytest.raises(MerLabError, match="lacks margin"):
        plots.curves(frame.drop(columns="margin"))


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code


def test_the_command_writes_two_files_or_none(built, tmp_path, capsys, monkeypatch):
    _, data, folder = built("cm-roberta")
    rows = np.flatnonzero(data.dialogue == data.dialogue[-1])
    (path, text, who), out = recording(data, rows[-1]), tmp_path / "out"
    first = recording(data, rows[0])
    write_text(tmp_path / "before.csv", f'audio,text,speaker\n{first[0]},"{first[1]}",{first[2]}\n')
    times = timed(text, 0.3).to_csv(index=False)
    write_text(tmp_path / "words.csv", times)
    asked = ["explain", folder, path, "--text", text, "--out", out, "--speaker", who]
    asked += ["--context", tmp_path / "before.csv", "--words", tmp_path / "words.csv"]
    asked += ["--method", "occlusion"]
    assert status(*asked) == 0
    said = capsys.readouterr().out
    assert "decision: " in said and "completeness error: " in said and str(out / "explanation.html") in said
    assert sorted(p.name for p in out.iterdir()) == ["explanation.html", "explanation.png"]
    assert (out / "explanation.png").read_bytes()[:4] == b"\x89PNG"
    assert "data-start" in (out / "explanation.html").read_text(encoding="utf-8")
    assert status(*asked, "--quiet", "--target", "low") == 0 and not capsys.readouterr().out
    assert "speaks for low" in (out / "explanation.html").read_text(encoding="utf-8")

    write_text(tmp_path / "bad.csv", "start\n1\n")
    none = tmp_path / "none"
    for wrong, problem in (
        (["--words", tmp_path / "bad.csv"], "lacks the column end"), (["--method", "guess"], "no method"),
        (["--baseline-text", "dots"], "no text baseline"), (["--target", "glad"], "no class"),
        (["--context", tmp_path / "absent.csv"], "no such file"), (["--out", path], "is a file"),
    ):  # fmt: skip
        assert status("explain", folder, path, "--text", text, "--out", none, *wrong) == 1
        error = capsys.readouterr().err
        assert problem in error and error.count("\n") == 1
    assert status("explain", folder, path, "--out", none) == 2  # no text
    monkeypatch.setattr("mer_lab.explain.attribution.REFUSED", -1.0)
    monkeypatch.setattr("mer_lab.explain.attribution.NEGLIGIBLE", -1.0)
    capsys.readouterr()
    assert status("explain", folder, path, "--text", text, "--out", none) == 1
    assert "adds up to" in capsys.readouterr().err
    assert not none.exists()


def test_a_text_without_words_and_a_dollar_in_a_name_are_drawn():
    """No word is no reason for a traceback, and a dollar sign no formula."""
    from test_explain import make_linear
    from test_systems import made_up

    from mer_lab.batches import Dataset
    from mer_lab.corpora.corpus import Corpus

    old = made_up()
    for text, words in (("...", 0), ("a", 1)):
        table = old.corpus.table.assign(text=text)
        index = [np.array([[1]])] * len(old)
        data = Dataset(Corpus(name="made up", labels=("a", "b", "c"), table=table), old.audio,
                       Ragged.from_sequences(index, old.corpus.ids))  # fmt: skip
        values = attribute(Question(make_linear(data), data, [3]))
        wave, p = np.linspace(-1, 1, 8000), np.array([0.2, 0.3, 0.5])
        figure = plots.explanation(values, 0, ("a", "b$2", "c$"), p, wave, 16000, name="rec$1$.wav")
        figure.canvas.draw()
        assert len(figure.axes[2].get_yticklabels()) == words
        assert explanation_page(values, 0, ("a", "b", "c"), p, wave, 16000)
