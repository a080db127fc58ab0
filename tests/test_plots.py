"""Figures draw what they are given, at one class and at eight, and no text lies on other text."""

import itertools
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from mer_lab import plots
from mer_lab.corpora.audit import Audit
from mer_lab.errors import MerLabError
from mer_lab.palette import ink, spread

FOUR = ["angry", "happy", "sad", "neutral"]
EIGHT = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
CUES = ["lexical", "prosodic", "redundant", "incongruent", "accent", "contextual"]


def texts(figure):
    """Every visible, non-empty text of a figure, drawn."""
    figure.savefig(BytesIO())
    found = figure.findobj(mpl.text.Text)
    hidden = {id(t) for ax in figure.axes for t in _unused_tick_labels(ax)}
    return [t for t in found if t.get_visible() and t.get_text().strip() and id(t) not in hidden]


def _unused_tick_labels(ax):
    for axis in (ax.xaxis, ax.yaxis):
        drawn = {id(t) for tick in axis._update_ticks() for t in (tick.label1, tick.label2)}
        every = [*axis.majorTicks, *axis.minorTicks]
        yield from (t for tick in every for t in (tick.label1, tick.label2) if id(t) not in drawn)


def corners(text):
    """The four corners of a text in pixels, also when it is rotated."""
    angle = text.get_rotation()
    if angle in (0, 90):
        (a, b), (c, d) = text.get_window_extent().get_points() + [[1, 1], [-1, -1]]
        return np.array([[a, b], [c, b], [c, d], [a, d]])
    anchor = text.get_transform().transform(text.get_position())
    text.set_rotation(0)
    (a, b), (c, d) = text.get_window_extent().get_points() + [[1, 1], [-1, -1]]
    text.set_rotation(angle)
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (np.array([[a, b], [c, b], [c, d], [a, d]]) - anchor) @ matrix.T + anchor


def overlap(p, q):
    """Whether two convex shapes meet (separating axes)."""
    for shape in (p, q):
        for edge in np.roll(shape, -1, 0) - shape:
            normal = np.array([-edge[1], edge[0]])
            a, b = p @ normal, q @ normal
            if a.max() < b.min() or b.max() < a.min():
                return False
    return True


def assert_readable(figure):
    """No two texts overlap and none leaves the page, which is at most 800 px wide."""
    found = texts(figure)
    shapes = [corners(t) for t in found]
    clashes = [
        (a.get_text(), b.get_text())
        for (a, p), (b, q) in itertools.combinations(zip(found, shapes, strict=True), 2)
        if overlap(p, q)
    ]
    assert not clashes
    width, height = figure.get_size_inches() * figure.dpi
    assert width <= 800
    outside = [
        t.get_text()
        for t, s in zip(found, shapes, strict=True)
        if s.min() < -2 or (s > (width + 2, height + 2)).any()
    ]
    assert not outside
    return [t.get_text() for t in found]


def conversation(count=9, seed=0, speakers=("Mira", "Jonas")):
    rng = np.random.default_rng(seed)
    vocabulary = (
        "the kitchen was really lovely today honestly I never wanted this terrible surprise okay".split()
    )
    turns, now = [], 0.0
    for i in range(count):
        words, x = [], 0.05
        for word in rng.choice(vocabulary, 1 if i % 5 == 4 else rng.integers(5, 9)):
            words.append((str(word), x, x + 0.08 + 0.045 * len(word)))
            x = words[-1][2] + 0.03
        times = np.arange(0, x, 0.01)
        f0 = np.where(times % 0.4 < 0.3, 150 + 60 * np.sin(3 * times), np.nan)
        turns.append(
            {"start": now, "end": now + x, "speaker": speakers[i % len(speakers)], "words": words,
             "f0": (times, f0), "label": FOUR[i % 4], "cue": CUES[i % 6], "accent": [1]}
        )  # fmt: skip
        now += x + 0.25
    return turns


def test_the_overlap_check_sees_an_overlap():
    with mpl.rc_context(plots.style.__globals__["STYLE"]):
        figure = mpl.figure.Figure()
        figure.text(0.3, 0.3, "first words", rotation=40, rotation_mode="anchor")
        figure.text(0.31, 0.32, "second words")
        with pytest.raises(AssertionError, match="first words"):
            assert_readable(figure)


@pytest.mark.parametrize("seed", range(4))
def test_ribbon_draws_every_turn_and_word(seed):
    turns = conversation(9, seed)
    figure = plots.conversation_ribbon(turns, title="dialogue 12")
    found = assert_readable(figure)
    for turn in turns:
        assert f"{turn['label']} · {turn['cue']}" in found
    words = sorted(w for t in turns for w, _, _ in t["words"])
    assert sorted(t for t in found if t in set(words)) == words
    assert {"Mira", "Jonas", "dialogue 12", "time in the conversation (s)"} <= set(found)
    boxes = figure.findobj(FancyBboxPatch)
    assert sorted(b.get_x() for b in boxes) == pytest.approx([t["start"] for t in turns])
    assert sorted(b.get_x() + b.get_width() for b in boxes) == pytest.approx([t["end"] for t in turns])
    bold = [t for t in texts(figure) if t.get_weight() == "bold" and t.get_rotation()]
    assert len(bold) == sum(len(t["words"]) > 1 for t in turns)
    pitch = [line for line in figure.findobj(mpl.lines.Line2D) if np.size(line.get_xdata()) > 20]
    assert len(pitch) == len(turns)


def test_ribbon_moves_the_words_of_fast_speech_apart():
    words = [(f"word{i}", 0.1 * i, 0.1 * i + 0.1) for i in range(12)]
    figure = plots.conversation_ribbon([{"start": 5.0, "end": 9.0, "speaker": "A", "words": words}])
    assert {w for w, _, _ in words} <= set(assert_readable(figure))
    feet = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert feet == pytest.approx([5 + w[1] for w in words])  # the ticks stay at the onsets


def test_ribbon_takes_what_real_corpora_lack():
    text_only = [{"start": 0.0, "end": 2.0, "speaker": "A"}, {"start": 30.0, "end": 55.0, "speaker": "B"}]
    figure = plots.conversation_ribbon(text_only)
    assert len(figure.findobj(FancyBboxPatch)) == 2 and len(figure.axes) == 2
    silent = [{"start": 0, "end": 1, "speaker": "A", "label": "bored", "f0": ([0, 0.5], [np.nan, 0])}]
    assert "bored" in assert_readable(plots.conversation_ribbon(silent))
    assert_readable(plots.conversation_ribbon(conversation(10, speakers=("Ann", "Ben", "Cleo"))))
    with pytest.raises(MerLabError, match="at least one turn"):
        plots.conversation_ribbon([])


@pytest.mark.parametrize("labels", [["angry"], FOUR, EIGHT])
def test_confusion(labels):
    k = len(labels)
    counts = np.random.default_rng(0).integers(0, 300, (k, k)) + 400 * np.eye(k, dtype=int)
    figure = plots.confusion(counts, labels, title="a system")
    found = assert_readable(figure)
    for i, j in np.ndindex(k, k):
        assert f"{counts[i, j] / counts[i].sum():.0%}\n{counts[i, j]}" in found
    assert set(labels) <= set(found) and f"{labels[0]} ({counts[0].sum()})" in found
    drawn = figure.axes[0].images[0].get_array()
    assert np.allclose(drawn.sum(1), 1)


def test_confusion_of_a_class_that_never_occurs():
    found = assert_readable(plots.confusion(np.array([[3, 1], [0, 0]]), ["angry", "sad"]))
    assert found.count("–") == 2 and "75%\n3" in found
    with pytest.raises(MerLabError, match="does not fit 3 labels"):
        plots.confusion(np.eye(2), ["a", "b", "c"])


@pytest.mark.parametrize("corpora", [1, 2, 4])
def test_class_balance(corpora):
    rows = [dict.fromkeys(FOUR, 300) | {"sad": 1084}, dict(zip(EIGHT, range(100, 900, 100), strict=True)),
            {"joy": 2308, "anger": 1607, "neutral": 6436}, {"neutral": 5}]  # fmt: skip
    counts = pd.DataFrame(rows[:corpora], index=["IEMOCAP-4", "RAVDESS", "MELD", "mine"][:corpora])
    figure = plots.class_balance(counts)
    found = assert_readable(figure)
    assert len(figure.axes) == corpora and set(counts.index) <= {t.strip() for t in found}
    for ax, (_, row) in zip(figure.axes, counts.iterrows(), strict=True):
        row = row.dropna()
        assert [b.get_width() for b in ax.patches] == pytest.approx(sorted(row / row.sum(), reverse=True))
        shown = dict(zip([t.get_text() for t in ax.get_yticklabels()], ax.patches, strict=True))
        for name in {"neutral", "joy", "happy"} & set(shown):
            fixed = plots.EMOTION_COLOURS["happy" if name == "joy" else name]
            assert to_rgb(shown[name].get_facecolor()) == to_rgb(fixed)


@pytest.mark.parametrize("models", [1, 2, 6])
@pytest.mark.parametrize("chance", [0.13, 0.3, None])
def test_accuracy_by_cue(models, chance):
    heard = ["nothing", "text", "audio", "text", "text", "audio"][:models]
    names = ["Majority", "Bag of words", "Pooled prosody", "BiLSTM", "Transformer", "BiLSTM 2"][:models]
    best = {
        "nothing": [0.3] * 6,
        "text": [0.95, 0.3, 0.95, 0.4, 0.5, 0.3],
        "audio": [0.3, 0.95, 0.9, 0.4, 0.3, 0.3],
    }
    ceilings = {cue: {s: values[i] for s, values in best.items()} for i, cue in enumerate(CUES)}
    rows = {
        name: {
            c: (ceilings[c][s] - 0.05, ceilings[c][s] - 0.1, ceilings[c][s], [0.2, 0.4, 0.5]) for c in CUES
        }
        for name, s in zip(names, heard, strict=True)
    }
    figure = plots.accuracy_by_cue(rows, ceilings, dict(zip(names, heard, strict=True)), chance)
    found = assert_readable(figure)
    assert {f"{n} ({s})" for n, s in zip(names, heard, strict=True)} | set(CUES) | {"ceiling"} <= set(found)
    assert ("chance" in found) == (chance is not None)
    for ax, name, s in zip(figure.axes, names, heard, strict=True):
        means = [x.get_xdata()[0] for x in ax.lines if x.get_marker() == "o" and len(x.get_xdata()) == 1]
        assert means == pytest.approx([rows[name][c][0] for c in CUES])
        ticks = [x.get_xdata()[0] for x in ax.lines if x.get_linewidth() == 2 and x.get_color() == plots.INK]
        assert ticks == pytest.approx([ceilings[c][s] for c in CUES])


def test_accuracy_by_cue_with_less():
    figure = plots.accuracy_by_cue(
        {"A": {"x": (0.5, 0.4, 0.6, [])}, "B": {"x": (0.6, 0.5, 0.7, []), "y": (1, 1, 1, [])}}
    )
    assert {"A", "B", "x", "y"} <= set(assert_readable(figure))
    with pytest.raises(MerLabError, match="at least one model"):
        plots.accuracy_by_cue({})


@pytest.mark.parametrize("rows", [1, 14])
def test_who_can_do_what_writes_every_number(rows):
    names = [f"system-number-{k}" for k in range(rows)]
    values = np.random.default_rng(1).random((rows, 7)) * 0.98 + 0.01
    values[0, 2] = np.nan
    scores = pd.DataFrame(values, names, [*CUES, "all"])
    ceilings = pd.Series(dict.fromkeys(CUES, 0.96))
    found = assert_readable(plots.who_can_do_what(scores, ceilings, chance=0.3))
    assert set(names) | {"all", "accent\n(≤ 96)"} <= set(found)
    numbers = [f"{100 * v:.0f}" for v in values.ravel() if np.isfinite(v)]
    assert sorted(t for t in found if t.isdigit()) == sorted(numbers)


def test_training_curves():
    rng = np.random.default_rng(0)
    history = pd.DataFrame(
        {
            "epoch": e,
            "seed": s,
            "train_loss": 1 / e + 0.01 * rng.random(),
            "validation_loss": 1 / e,
            "validation_ua": 1 - 1 / e,
        }
        for e in range(1, 11)
        for s in range(3)
    )
    figure = plots.training_curves(history, best=4)
    found = assert_readable(figure)
    assert {"loss", "ua", "train", "validation", "epoch"} <= set(found)
    loss = figure.axes[0]
    thick = [line for line in loss.lines if line.get_linewidth() == 2]
    assert len(thick) == 2 and len([x for x in loss.lines if x.get_linewidth() == 0.6]) == 6
    assert thick[0].get_ydata() == pytest.approx(history.groupby("epoch")["train_loss"].mean())
    assert thick[1].get_color() == [x for x in figure.axes[1].lines if x.get_linewidth() == 2][0].get_color()
    assert_readable(plots.training_curves(pd.DataFrame([{"epoch": 1, "loss": 2.0}])))
    with pytest.raises(MerLabError, match="column epoch"):
        plots.training_curves(pd.DataFrame([{"loss": 2.0}]))


def test_waveform_and_features_share_time():
    t = np.arange(101) * 0.01
    figure = plots.waveform_and_features(
        [("waveform", "wave", np.sin(np.arange(16000)), 1 / 16000),
         ("mel (bands)", "image", np.ones((101, 80)), 0.01),
         ("pitch (Hz)", "lines", np.full(101, np.nan), 0.01),
         ("z (sd)", "lines", {"energy": t, "pitch": t + 0.01}, 0.01),
         ("words", "tokens", [("never", 0.0, 0.4), ("again", 0.5, 1.0)], None)],
        span=(0, 1),
        title="I never",
    )  # fmt: skip
    found = assert_readable(figure)
    assert {"waveform", "mel (bands)", "energy", "never", "again", "time (s)", "I never"} <= set(found)
    assert all(ax.get_xlim() == (0, 1) for ax in figure.axes)
    left, right, *_ = figure.axes[1].images[0].get_extent()
    assert (left, right) == pytest.approx((-0.005, 1.005))  # frame t is centred at t * hop
    assert figure.axes[3].lines[0].get_xdata()[-1] == pytest.approx(1.0)
    with pytest.raises(MerLabError, match="kinds are wave, image"):
        plots.waveform_and_features([("x", "bars", [1], 1)])


def test_forest():
    rows = [
        ("Text", -4.2, -7.1, -1.4),
        ("Decision", -0.5, -2, 1),
        ("A long name, residual, 4 layers", 9, 6.2, 12),
    ]
    figure = plots.forest(rows, xlabel="WA (points)")
    found = assert_readable(figure)
    assert {"Text", "WA (points)", "−4.2 [−7.1, −1.4]", "9.0 [6.2, 12.0]"} <= set(found)
    bars = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    assert [tuple(b.get_xdata()) for b in bars] == [(r[2], r[3]) for r in rows]
    assert [b.get_color() == plots.GREY for b in bars] == [False, True, False]
    assert_readable(plots.forest([("one", 0.712, 0.69, 0.73)], zero=None, digits=3))
    with pytest.raises(MerLabError, match="at least one row"):
        plots.forest([])


def test_emotions_keep_their_colours():
    for labels in (
        FOUR,
        EIGHT,
        ["joy", "anger", "neutral", "sadness"],
        ["ang", "hap", "exc", "neu", "sad", "fru"],
    ):
        assert len(set(plots.colours(labels))) == len(labels)
    assert plots.colours(["Anger", "joy"]) == plots.colours(["angry", "happy"])
    assert plots.colours(reversed(FOUR)) == plots.colours(FOUR)[::-1]
    assert plots.colours(["bored", "angry"])[1] == plots.EMOTION_COLOURS["angry"]


@given(st.lists(st.text(max_size=5) | st.sampled_from(EIGHT + ["joy", "anger"]), max_size=25))
def test_colours_always_differ(labels):
    result = plots.colours(labels)
    assert len(result) == len(labels) and len(set(result)) == len(result)
    for colour in result:
        assert mpl.colors.is_color_like(colour) and contrast(ink(colour)) >= 4.5


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(colour):
    return 1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05)


SIGHT = {  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    "usual": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_every_eye(sight):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]

    def lab(colour):
        xyz = to_xyz @ np.clip(SIGHT[sight] @ linear(colour), 0, 1) / [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    pairs = itertools.combinations([lab(c) for c in plots.EMOTION_COLOURS.values()], 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > 14  # about 2 is just noticeable, side by side


@given(st.lists(st.floats(-100, 100), max_size=12), st.floats(0.1, 5))
def test_spread_keeps_order_and_distance(positions, gap):
    result = spread(positions, gap)
    ordered = result[np.argsort(positions, kind="stable")]
    assert (np.diff(ordered) >= gap - 1e-9).all()
    if len(positions) and (np.diff(np.sort(positions)) >= gap).all():
        assert result == pytest.approx(positions)


def test_drawing_leaves_matplotlib_alone():
    before = dict(mpl.rcParams)
    plots.forest([("one", 1, 0, 2)])
    assert dict(mpl.rcParams) == before
    with mpl.rc_context():
        plots.style()
        assert mpl.rcParams["figure.dpi"] == 110


def made_up_audit(labels, seed=0):
    rng = np.random.default_rng(seed)
    n, splits = 200, ["train", "validation", "test"]
    ids = [f"u{i}" for i in range(n)]
    lengths = pd.DataFrame({"stated": 2.0, "difference": rng.normal(0, 0.2, n)}, ids)
    sound = pd.DataFrame({"problem": "", "rms": rng.normal(-30, 8, n), "peak": rng.normal(-15, 8, n),
                          "clipped": rng.choice([0, 0.01], n)}, ids)  # fmt: skip
    copies = pd.DataFrame({"split": "test", "kind": rng.choice(["exact", "near", "short"], 30)})
    values = {"copied-text": 7.5, "near-copies": 2.5, "short-copies": 80, "agreement": 0.43, "label-error": 9}
    table = pd.DataFrame({"check": values.keys(), "value": values.values(), "unit": "% of test",
                          "status": ["fails", "warning", "ok", "ok", "ok"]})  # fmt: skip
    counts = rng.integers(1, 900, (3, len(labels)))
    details = {
        "classes": pd.DataFrame(counts, splits, labels), "copies": copies, "lengths": lengths, "sound": sound,
        "votes": pd.DataFrame(rng.multinomial(3, np.full(4, 0.25), n), ids, list("abcd")),
    }  # fmt: skip
    return Audit("made-up", table, details)


@pytest.mark.parametrize("labels", [["angry"], FOUR, EIGHT])
def test_audit_figure(labels):
    found = made_up_audit(labels)
    figure = plots.audit_figure(found)
    shown = assert_readable(figure)
    assert {*labels, "made-up: fails: copied-text; 1 warning", "all agree", "peak"} <= set(shown)
    classes, copies, votes, lengths, levels = figure.axes
    share = found.details["classes"].loc["train"] / found.details["classes"].loc["train"].sum()
    assert sorted(classes.lines[0].get_xdata()) == pytest.approx(sorted(share))
    assert [b.get_width() for b in copies.patches] == [7.5, 2.5, 80]
    assert sum(b.get_width() for b in votes.patches) == pytest.approx(100)
    beyond = (found.details["lengths"]["difference"].abs() > 1).sum()
    assert sum(b.get_height() for b in lengths.patches[1:]) == 200
    assert f"{beyond} beyond 1 s" in lengths.get_xlabel()
    assert f"{(found.details['sound']['clipped'] > 0).sum()} files clip" in levels.get_xlabel()


@pytest.mark.parametrize("part", ["classes", "copies", "votes", "lengths", "sound"])
def test_audit_figure_with_less(part):
    found = made_up_audit(FOUR)
    figure = plots.audit_figure(Audit("x", found.table, {part: found.details[part]}))
    assert len(figure.axes) == 1 and assert_readable(figure)
    with pytest.raises(MerLabError, match="nothing to draw"):
        plots.audit_figure(Audit("x", found.table, {}))
