"""Figures of the comparison: sixteen systems or one, everything named, nothing on top of a name."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D
from test_plots import assert_readable

from mer_lab import plots
from mer_lab.calibration import expected_calibration_error, reliability, selective
from mer_lab.errors import MerLabError
from mer_lab.palette import ACCENT

NAMES = (
    "majority text-tfidf text-bilstm text-transformer audio-boosting audio-bilstm audio-transformer early "
    "decision-mean decision-learned gated mult xu2019-interacting krishna2021-no-attention dialogue-rnn hcam"
).split()
NOISE, ERRORS = ("white", "babble", "music"), ("word errors", "wrong transcripts", "missing words")


def answers(count, seeds=2, n=300):
    """Probabilities (seeds, n, 4) of systems that are ever better, some too sure and some not enough."""
    rng = np.random.default_rng(0)
    target, found = rng.integers(0, 4, n), {}
    for k, name in enumerate(NAMES[:count]):
        logits = rng.normal(size=(seeds, n, 4))
        logits[:, np.arange(n), target] += 0.4 + 0.16 * k
        powers = np.exp(logits * rng.uniform(0.7, 3))
        found[name] = powers / powers.sum(-1, keepdims=True)
    return found, target


def disturbed(count, kinds, clean=True):
    rng, rows = np.random.default_rng(1), []
    for (k, name), kind in itertools.product(enumerate(NAMES[:count]), kinds):
        if kind == "word errors" and k % 4 == 1:  # hears no words
            continue
        for j, level in enumerate([20, 10, 5, 0, -5] if kind in NOISE else [0.1, 0.2, 0.3, 0.5]):
            y = max(0.27, 0.45 + 0.025 * k - rng.uniform(0.02, 0.05) * (j + 1))
            rows.append({"system": name, "kind": kind, "level": level, "estimate": y, "low": y - 0.03,
                         "high": y + 0.03, "clean": 0.45 + 0.025 * k})  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame if clean else frame.drop(columns="clean")


def costs(count, seed):
    rng = np.random.default_rng(seed)
    cost = 10 ** rng.uniform(3, 6.5, count)
    y = 0.16 + 0.08 * np.log10(cost) + 0.06 * rng.normal(size=count)
    frame = pd.DataFrame({"cost": cost, "accuracy": y, "low": y - 0.03, "high": y + 0.03}, NAMES[:count])
    frame["front"] = [not ((cost <= c) & (y > a)).any() for c, a in zip(cost, y, strict=True)]
    return frame


@pytest.mark.parametrize("count", [1, 5, 16])
def test_reliability_diagram(count):
    found, target = answers(count)
    curves = {name: reliability(p, target) for name, p in found.items()}
    errors = {name: expected_calibration_error(p, target) for name, p in found.items()}
    figure = plots.reliability_diagram(curves, errors)
    shown = assert_readable(figure)
    assert set(NAMES[:count]) <= {t.replace("-\n", "-") for t in shown}
    assert {f"ECE {100 * e:.1f}" for e in errors.values()} <= set(shown)
    assert len(figure.axes) == count
    for ax, curve in zip(figure.axes, curves.values(), strict=True):
        gaps, dots = ax.collections
        assert np.array(dots.get_offsets()) == pytest.approx(curve[["confidence", "accuracy"]].to_numpy())
        assert (np.argsort(dots.get_sizes()) == np.argsort(curve["count"] / curve["count"].sum())).all()
        drawn = [segment[:, 1].tolist() for segment in gaps.get_segments()]
        assert drawn == [pytest.approx(list(row)) for row in curve[["confidence", "accuracy"]].to_numpy()]


def test_reliability_diagram_without_errors():
    found, target = answers(1)
    figure = plots.reliability_diagram({name: reliability(p, target) for name, p in found.items()})
    assert not any("ECE" in t for t in assert_readable(figure))


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("n", [12, 300])
def test_selective_curves(count, n):
    found, target = answers(count, n=n)
    curves = {name: selective(p, target) for name, p in found.items()}
    figure = plots.selective_curves(curves)
    assert set(NAMES[:count]) <= set(assert_readable(figure))
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 3]
    for line, curve in zip(drawn, curves.values(), strict=True):
        kept = curve[curve["coverage"] >= 0.05]
        assert line.get_xydata() == pytest.approx(kept.to_numpy())
    looks = {(line.get_marker(), line.get_linestyle(), str(line._dash_pattern)) for line in drawn}
    assert len(looks) == count  # told apart without colour


def test_equal_ends_are_named_apart():
    same = pd.DataFrame({"coverage": [0.5, 1], "accuracy": [0.9, 0.8]})
    assert set(NAMES) <= set(assert_readable(plots.selective_curves(dict.fromkeys(NAMES, same))))


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (1, NOISE[:1]),
        (5, ERRORS[:1]),
        (16, (*NOISE, ERRORS[0])),
        (16, (*NOISE, *ERRORS[:2])),
        (6, (*NOISE, *ERRORS)),
        (3, (*NOISE, *ERRORS, "pink")),
    ],
)
def test_robustness_curves(count, kinds):
    frame = disturbed(count, kinds)
    figure = plots.robustness_curves(frame, {"word errors": "word error rate"})
    shown = assert_readable(figure)
    per_row = -(-len(kinds) // -(-len(kinds) // 3))
    assert set(frame["system"]) | set(kinds) <= set(shown)
    for first in range(0, len(kinds), per_row):  # every row names its systems
        row = frame[frame["kind"].isin(kinds[first : first + per_row])]
        beside = figure.axes[min(first + per_row, len(kinds)) - 1]
        assert {t.get_text() for t in beside.texts} == set(row["system"])
    for ax, kind in zip(figure.axes, kinds, strict=True):
        assert ax.xaxis_inverted() == (kind in NOISE)
        assert ax.get_ylim() == figure.axes[0].get_ylim()
        unit = "SNR (dB)" if kind in NOISE else "word error rate" if kind == "word errors" else "rate"
        assert ax.get_xlabel() == unit
        part = frame[frame["kind"] == kind]
        drawn = [line for line in ax.lines if len(line.get_xdata()) > 3]
        for line, (_, own) in zip(drawn, part.groupby("system", sort=False), strict=True):
            assert line.get_xydata() == pytest.approx(own[["level", "estimate"]].to_numpy())
        assert len(ax.collections) == len(drawn)  # a band each


def test_the_score_without_disturbance_as_a_row_or_a_column():
    column = disturbed(5, (NOISE[0], ERRORS[0]))
    clean = column.drop_duplicates("system").assign(kind="clean", level=np.nan, estimate=lambda f: f["clean"])
    row = pd.concat([clean, column]).drop(columns="clean")
    figures = [plots.robustness_curves(frame, {"word errors": ""}) for frame in (column, row)]
    shown = [assert_readable(figure) for figure in figures]
    assert shown[0] == shown[1] and shown[0].count("clean") == 2 and "on" in shown[0]
    for a, b in zip(*(figure.axes for figure in figures), strict=True):
        for one, other in zip(a.lines, b.lines, strict=True):
            assert np.array(one.get_xydata()) == pytest.approx(np.array(other.get_xydata()))
    white, errors = figures[0].axes
    first = [line.get_ydata()[0] for line in white.lines if len(line.get_xdata()) == 2]
    assert first == pytest.approx(clean["estimate"].tolist())
    loose = [line for line in errors.lines if line.get_linewidth() == 0]
    assert len(loose) == 1  # one system hears no words: its name joins no line of that panel
    with pytest.raises(MerLabError, match="nothing to draw"):
        plots.robustness_curves(clean)


def test_robustness_curves_with_less():
    frame = disturbed(2, NOISE[:2], clean=False)
    assert "clean" not in assert_readable(plots.robustness_curves(frame))
    one_level = frame[frame["level"] == 0]
    assert {"white", *NAMES[:2]} <= set(assert_readable(plots.robustness_curves(one_level)))
    from_zero = disturbed(2, ERRORS[:1]).assign(level=lambda f: f["level"] - 0.1)  # undisturbed is a level
    assert "clean" not in assert_readable(plots.robustness_curves(from_zero))


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (4, 1), (16, 2), (16, 3)])
def test_cost_front(count, seed):
    frame = costs(count, seed)
    figure = plots.cost_front(frame, "parameters learnt")
    ax = figure.axes[0]
    assert {"parameters learnt", *frame.index} <= set(assert_readable(figure))
    assert ax.get_xscale() == "log"
    best = frame[frame["front"]].sort_values("cost")
    steps = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert steps.get_xydata()[:-1] == pytest.approx(best[["cost", "accuracy"]].to_numpy())
    points = {line.get_marker(): line for line in ax.lines if line.get_marker() in ("o", "D")}
    assert points["o"].get_color() == ACCENT and len(points["o"].get_xdata()) == len(best)
    assert points["D"].get_color() == plots.GREY and len(points["D"].get_xdata()) == count - len(best)
    names = {t.get_text(): t.get_window_extent() for t in ax.texts}
    for x, y in ax.transData.transform(frame[["cost", "accuracy"]]):
        assert not any(box.contains(x, y) for box in names.values())  # no name lies on a point


def test_points_at_one_place_are_named_apart():
    frame = costs(8, 0).assign(cost=1e5, accuracy=0.6, low=0.58, high=0.62, front=True)
    figure = plots.cost_front(frame)
    assert set(frame.index) <= set(assert_readable(figure))
    assert any(isinstance(line, Line2D) and line.get_linewidth() == 0.6 for line in figure.axes[0].lines)


def test_mistakes_are_told():
    for draw, empty in ((plots.reliability_diagram, {}), (plots.selective_curves, {}),
                        (plots.robustness_curves, disturbed(1, NOISE)[:0]),
                        (plots.cost_front, costs(2, 0)[:0]),
                        (plots.selective_curves, {"a": pd.DataFrame()})):  # fmt: skip
        with pytest.raises(MerLabError, match=f"{draw.__name__} has nothing to draw"):
            draw(empty)
    with pytest.raises(MerLabError, match="needs the column 'level'"):
        plots.robustness_curves(disturbed(1, NOISE).drop(columns="level"))
    with pytest.raises(MerLabError, match="text-tfidf must be above 0"):
        plots.cost_front(costs(2, 0).assign(cost=[1, 0]))
    with pytest.raises(MerLabError, match="no system is on the front"):
        plots.cost_front(costs(2, 0).assign(front=False))
