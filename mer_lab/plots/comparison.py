"""The fair comparison: calibration, declining to answer, robustness, accuracy against cost."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory

from mer_lab.errors import MerLabError
from mer_lab.palette import ACCENT, EMOTION_COLOURS, GREY, INK, WIDTH, colours, ink, spread, styled

_LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_MARKERS = "os^DvPX<>*hp"
_LABEL = 0.155  # inches from one label to the next


@styled
def reliability_diagram(
    curves: Mapping[str, pd.DataFrame], errors: Mapping[str, float] | None = None
) -> Figure:
    """Accuracy against confidence, a panel a system: the bars to the diagonal are the gap of calibration.

    Args:
        curves: system → what :func:`mer_lab.calibration.reliability` returns.
        errors: system → expected calibration error, 0..1, written in its panel.

    Raises:
        MerLabError: nothing to draw, or a column is missing.
    """
    _need(curves, ("confidence", "accuracy", "count"), "reliability_diagram")
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    names = [textwrap.fill(name, 19) for name in curves]
    lines = max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(max(4.6, WIDTH * columns / 4), 0.5 + rows * (1.5 + 0.15 * lines)))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, name, (system, curve) in zip(axes, names, curves.items(), strict=False):
        share = curve["count"] / curve["count"].sum()
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", zorder=1)
        x, y = curve["confidence"], curve["accuracy"]
        ax.vlines(x, x, y, color=EMOTION_COLOURS["angry"], linewidth=0.5 + 6 * np.sqrt(share))
        ax.scatter(x, y, 6 + 150 * share, color=ACCENT, zorder=3, alpha=0.85, clip_on=False)
        if errors is not None and system in errors:
            free = not ((x < 0.55) & (y > 0.8)).any()
            place = {"x": 0.04, "y": 0.97, "va": "top"} if free else {"x": 1, "y": 0.03, "ha": "right"}
            ax.text(s=f"ECE {100 * errors[system]:.1f}", transform=ax.transAxes, fontsize=8, **place)
        ax.set_title(name, fontsize=8.5)
        ax.set(xlim=(0, 1.04), ylim=(0, 1.04), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
    for ax in axes[len(curves) :]:
        ax.remove()
    below = axes[max(0, len(curves) - columns) : len(curves)]
    for ax in below:
        ax.tick_params(labelbottom=True)
    told = "confidence (area of a dot: share of the answers" + ("; ECE in points)" if errors else ")")
    figure.supxlabel(told, fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    return figure


@styled
def selective_curves(curves: Mapping[str, pd.DataFrame], start: float = 0.05) -> Figure:
    """Accuracy on the most confident utterances against their share, all systems in one panel.

    Args:
        curves: system → what :func:`mer_lab.calibration.selective` returns.
        start: the coverage where the lines begin; below it an accuracy is that of a handful of utterances.

    Raises:
        MerLabError: nothing to draw, or a column is missing.
    """
    _need(curves, ("coverage", "accuracy"), "selective_curves")
    height = max(3.2, 0.75 + _LABEL * len(curves))
    ax = (figure := Figure(figsize=(WIDTH, height))).subplots()
    ends = {}
    for name, look in _looks(curves).items():
        curve = curves[name][curves[name]["coverage"] >= start]
        curve = curve if len(curve) else curves[name]
        every = max(1, len(curve) // 4)
        first = every * len(ends) // len(curves)  # so that markers of neighbours do not hide each other
        ax.plot(curve["coverage"], curve["accuracy"], markevery=(first, every), **look)
        ends[name] = (curve["accuracy"].iloc[-1], look)
    ax.set(xlim=(0, 1), xlabel="coverage: share of the utterances that are answered, most confident first")
    _percent(ax, "accuracy on these")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    _name_ends(ax, ends, height - 0.75)
    return figure


@styled
def robustness_curves(frame: pd.DataFrame, units: Mapping[str, str] | None = None) -> Figure:
    """Accuracy against the strength of a disturbance, a panel a kind; what hurts more stands further right.

    Lines have the same colour, marker and dashes in all panels and are named at the end of each row.

    Args:
        frame: columns ``system, kind, level, estimate, low, high``, the last three in 0..1. A system's score
            without any disturbance, drawn left of the mildest level, is that of its row of kind ``"clean"``,
            as :func:`mer_lab.robustness.robustness` has it, or stands in a column ``clean``.
        units: kind → label of its x axis. Where that has "dB" in it the level is a signal-to-noise ratio,
            and falls to the right; ``""`` is for what is on or off. Default: dB for white, babble and music
            noise, else "rate".

    Raises:
        MerLabError: nothing to draw, or a column is missing.
    """
    _need({"frame": frame}, ("system", "kind", "level", "estimate", "low", "high"), "robustness_curves")
    if len(intact := frame[frame["kind"] == "clean"]):
        frame = frame.assign(clean=frame["system"].map(intact.set_index("system")["estimate"].to_dict()))
    frame = frame[(frame["kind"] != "clean") & np.isfinite(frame["level"])]
    _need({"frame": frame}, (), "robustness_curves")
    systems, kinds = list(dict.fromkeys(frame["system"])), list(dict.fromkeys(frame["kind"]))
    units = dict.fromkeys(("white", "babble", "music"), "SNR (dB)") | dict(units or {})
    rows = -(-len(kinds) // 3)
    columns = -(-len(kinds) // rows)
    height = max(1.6, _LABEL * len(systems))  # of a panel
    figure = Figure(figsize=(WIDTH, 0.3 + rows * (height + 0.7)))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    looks = _looks(systems)
    for ax, kind in zip(axes.ravel(), kinds, strict=False):
        part = frame[frame["kind"] == kind]
        _robustness_panel(ax, part, looks, units.get(kind, "rate"))
        ax.set_title(kind)
    for ax in axes.ravel()[len(kinds) :]:
        ax.remove()
    _percent(axes[0, 0], "accuracy")
    for row, first in enumerate(range(0, len(kinds), columns)):
        shown = kinds[first : first + columns]
        axes[row, 0].set_ylabel("accuracy")
        ends, elsewhere = {}, set()
        for name in systems:
            own = frame[(frame["system"] == name) & frame["kind"].isin(shown)]
            if len(own):
                last = own[own["kind"] == max(own["kind"], key=shown.index)]
                falls = "dB" in units.get(last["kind"].iloc[0], "rate")
                end = last["level"].idxmin() if falls else last["level"].idxmax()
                ends[name] = (last.loc[end, "estimate"], looks[name])
                if last["kind"].iloc[0] != shown[-1]:
                    elsewhere.add(name)
        _name_ends(axes[row, len(shown) - 1], ends, height, elsewhere)
    return figure


@styled
def cost_front(frame: pd.DataFrame, xlabel: str = "cost") -> Figure:
    """Accuracy against cost: the systems that nothing cheaper beats, joined by steps, and the others in grey.

    Args:
        frame: indexed by system: ``cost`` above 0, ``accuracy``, ``low``, ``high`` in 0..1, and ``front``,
            True for those that are not dominated.
        xlabel: what the cost is, with its unit.

    Raises:
        MerLabError: nothing to draw, a column is missing, a cost is not above 0, or the front is empty.
    """
    _need({"frame": frame}, ("cost", "accuracy", "low", "high", "front"), "cost_front")
    if not (frame["cost"] > 0).all():
        raise MerLabError(f"the cost of {frame.index[~(frame['cost'] > 0)][0]} must be above 0 (log axis).")
    if not frame["front"].any():
        raise MerLabError("no system is on the front, though the cheapest always is; see the column front.")
    ax = (figure := Figure(figsize=(WIDTH, 4.4))).subplots()
    front = frame["front"].astype(bool)
    best = frame[front].sort_values(["cost", "accuracy"])
    ax.set(xscale="log", xlabel=xlabel)
    low, high = np.log10(frame["cost"].min()), np.log10(frame["cost"].max())
    pad = max(0.12 * (high - low), 0.2)
    ax.set_xlim(10 ** (low - pad), 10 ** (high + pad))
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    x = [*best["cost"], ax.get_xlim()[1]]
    y = [*best["accuracy"], best["accuracy"].iloc[-1]]
    ax.step(x, y, where="post", color=ACCENT, linewidth=1.2, zorder=1)
    for part, colour, marker in ((frame[~front], GREY, "D"), (best, ACCENT, "o")):
        ax.vlines(part["cost"], part["low"], part["high"], color=colour, alpha=0.6, linewidth=1.6, zorder=2)
        ax.plot(part["cost"], part["accuracy"], marker, color=colour, markersize=5, zorder=3)
    ax.margins(y=0.08)
    _percent(ax, "accuracy (bar: 95% interval)")
    _name_points(ax, frame.assign(front=front), list(zip(x, y, strict=True)))
    return figure


def _need(frames: Mapping[str, pd.DataFrame], columns: Sequence[str], who: str) -> None:
    if not frames or any(not len(frame) for frame in frames.values()):
        raise MerLabError(f"{who} has nothing to draw; give it at least one system with one row.")
    for frame in frames.values():
        if missing := [c for c in columns if c not in frame]:
            raise MerLabError(f"{who} needs the column {missing[0]!r}; it reads {', '.join(columns)}.")


def _looks(names: Sequence[str]) -> dict[str, dict]:
    """Colour, dashes and marker of each system's line; no two alike, not even without colour."""
    return {
        name: {"color": ink(colour), "linestyle": _LINES[(k + k // 12) % 4], "marker": _MARKERS[k % 12],
               "markersize": 4, "linewidth": 1.3}
        for k, (name, colour) in enumerate(zip(names, colours(names), strict=True))
    }  # fmt: skip


def _percent(ax: Axes, label: str) -> None:
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if np.ptp(ax.get_ylim()) > 0.05 else 1))
    ax.set_ylabel(label)


def _name_ends(
    ax: Axes, ends: Mapping[str, tuple[float, dict]], height: float, elsewhere: Collection[str] = ()
) -> None:
    """Names right of a panel ``height`` inches high, joined with the ends of the lines that are in it."""
    low, high = ax.get_ylim()
    gap = _LABEL / height * (high - low)
    heights = np.array([y for y, _ in ends.values()])
    order = np.argsort(heights, kind="stable")
    places, steps = spread(heights, gap), gap * np.arange(len(order))
    places[order] = np.minimum(places[order], high - steps[::-1])
    places[order] = np.maximum(places[order], low + steps)  # inside the panel, above the numbers of its axis
    inches = ax.figure.dpi_scale_trans + ScaledTranslation(1, 0, ax.transAxes)  # from the panel's right side
    across = blended_transform_factory(inches, ax.transData)
    kept = ax.get_subplotspec().is_last_col()  # else the names stand in the empty place beside the panel
    for (name, (y, look)), place in zip(ends.items(), places, strict=True):
        look = look | {"linewidth": 0 if name in elsewhere else 0.6, "linestyle": "-"}
        (line,) = ax.plot([0.02, 0.13, 0.2], [y, place, place], transform=across, clip_on=False,
                          markevery=[2], **look)  # fmt: skip
        text = ax.text(0.27, place, name, transform=across, va="center", fontsize=8, color=look["color"])
        for artist in (line, text):
            artist.set_in_layout(kept)
    ax.set_ylim(low, high)


def _robustness_panel(ax: Axes, part: pd.DataFrame, looks: Mapping[str, dict], unit: str) -> None:
    falls = "dB" in unit
    levels = np.sort(part["level"].unique())[:: -1 if falls else 1]  # the mildest first
    clean = "clean" in part and part["clean"].notna().any() and (falls or levels[0] != 0)
    reach = (levels[-1] - levels[0]) or (-1.0 if falls else 1.0)
    start = levels[0] - (0.35 * reach if clean else 0)
    for name, own in part.groupby("system", sort=False):
        own = own.sort_values("level", ascending=not falls)
        x, y, look = own["level"], own["estimate"], looks[name] | {"clip_on": False}
        if len(own) > 1:
            ax.fill_between(x, own["low"], own["high"], color=look["color"], alpha=0.1, linewidth=0)
        else:
            ax.vlines(x, own["low"], own["high"], color=look["color"], alpha=0.3, linewidth=2, clip_on=False)
        ax.plot(x, y, **look)
        if clean:
            ax.plot([start, x.iloc[0]], [own["clean"].iloc[0], y.iloc[0]], markevery=[0], mfc="white", **look)
    names = {level: f"{level:g}".replace("-", "\N{MINUS SIGN}") if unit else "on" for level in levels}
    ax.set_xticks(list(names), [*_thinned(names, abs(levels[-1] - start) or 1.0)])
    if clean:
        ax.set_xticks([start], ["clean"], minor=True)
        ax.tick_params(which="minor", length=3, labelsize=8.5)
    ax.set(xlabel=unit, xlim=(start, levels[-1] if levels[-1] != start else start + reach))


def _thinned(names: Mapping[float, str], width: float) -> list[str]:
    """Names of ticks on an axis of this width, ``""`` for those that would touch their right neighbour."""
    shown, last = [], None
    for level, name in reversed(names.items()):
        free = last is None or abs(level - last[0]) / width > 0.025 * (len(name) + len(last[1])) + 0.02
        last = (level, name) if free else last
        shown.append(name if free else "")
    return shown[::-1]


def _name_points(ax: Axes, frame: pd.DataFrame, steps: Sequence[tuple[float, float]]) -> None:
    """Names as near to their points as is free of names and points and, where possible, of lines."""
    ax.figure.draw_without_rendering()
    ax.figure.set_layout_engine("none")  # the free places are those of this layout
    scale, page = ax.figure.dpi / 72, ax.get_window_extent()  # pixels in a point
    points, low, high = (ax.transData.transform(frame[["cost", y]]) for y in ("accuracy", "low", "high"))
    taken = [Bbox([p - 4 * scale, p + 4 * scale]) for p in points]
    lines = [Bbox([a - scale, b + scale]) for a, b in zip(low, high, strict=True)]
    for a, b in pairwise(ax.transData.transform(steps)):  # to the right, then up
        lines += [Bbox([a - scale, [b[0], a[1] + scale]]), Bbox([[b[0] - scale, a[1]], b + scale])]
    around = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for k in np.lexsort((-points[:, 1], ~frame["front"])):
        text = ax.annotate(
            str(frame.index[k]), frame[["cost", "accuracy"]].iloc[k], (0, 0), textcoords="offset points",
            ha="center", va="center", fontsize=8, color=INK if frame["front"].iloc[k] else ink(GREY),
        )  # fmt: skip
        half = np.array(text.get_window_extent().size) / 2 + scale
        free = []
        for far in range(0, 240, 6):  # points of the page
            for way in map(np.array, around):
                centre = points[k] + way * (half + (4 + far) * scale)
                box = Bbox([centre - half, centre + half])
                inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
                if inside and not box.count_overlaps(taken):
                    free.append((far + 40 * box.count_overlaps(lines), len(free), centre, box))
            if free and min(free)[0] <= far:
                break
        _, _, centre, box = min(free, default=(0, 0, points[k], Bbox([points[k] - half, points[k] + half])))
        text.set_position((centre - points[k]) / scale)
        taken.append(box)
        edge = np.clip(points[k], box.min, box.max)
        if np.hypot(*(edge - points[k])) > 12 * scale:
            ends = ax.transData.inverted().transform([points[k], edge])
            ax.plot(*ends.T, color=GREY, linewidth=0.6, zorder=1)
