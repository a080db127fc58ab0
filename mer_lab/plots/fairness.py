"""What lesson 09 draws: seeds, what choosing on the test set seems to gain, groups, worth, cost by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mer_lab.errors import MerLabError
from mer_lab.palette import ACCENT, GREY, INK, PALE, WIDTH, colours, ink, spread, styled

_WARM, _GOLD = "#D55E00", "#E69F00"
_RIGHT = ("axes fraction", "data")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))


@styled
def all_seeds(
    seeds: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple[float, float]], xlabel: str
) -> Figure:
    """A row a system, the first at the bottom: every seed a dot, the interval of the mean a bar.

    Args:
        seeds: system → score of each seed.
        intervals: system → ends of its interval, in the same unit.
    """
    _need(seeds, "all_seeds")
    ax = (figure := Figure(figsize=(WIDTH, 0.25 * len(seeds) + 0.6))).subplots()
    for y, (name, values) in enumerate(seeds.items()):
        ax.plot(intervals[name], [y, y], color=ACCENT, linewidth=5, alpha=0.25, solid_capstyle="butt")
        ax.plot(values, [y] * len(values), "o", color=INK, markersize=3.2, alpha=0.75, mew=0)
    ax.set_yticks(range(len(seeds)), list(seeds))
    ax.set(xlabel=xlabel, ylim=(-0.7, len(seeds) - 0.3))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=PALE, linewidth=0.7)
    ax.set_axisbelow(True)
    return figure


@styled
def imagined_gains(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """What a choice on the test set showed there beyond what it showed elsewhere: a panel a kind of choice.

    Args:
        panels: title → system → gains in points, small dots; their mean is the large one.
    """
    _need(panels, "imagined_gains")
    rows = max(len(part) for part in panels.values())
    figure = Figure(figsize=(WIDTH, 0.2 * rows + 1.0))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, part) in zip(axes, panels.items(), strict=True):
        for y, values in enumerate(part.values()):
            mean = float(np.mean(values))
            ax.plot([0, mean], [y, y], color=_WARM, linewidth=1.5)
            ax.plot(mean, y, "o", color=_WARM, markersize=5.5)
            if len(values) > 1:
                below = np.full(len(values), y - 0.22)
                ax.plot(values, below, "o", color=INK, markersize=2.5, alpha=0.5, mew=0)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(range(len(part)), list(part), fontsize=8)
        ax.set(title=title, xlabel="imagined gain (points)", ylim=(-0.7, len(part) - 0.4))
        ax.tick_params(axis="y", length=0)
    return figure


@styled
def detectable(needed: Mapping[str, float], sizes: Mapping[str, int]) -> Figure:
    """The smallest gain that a test set shows, against its size, with the sizes of known test sets.

    Args:
        needed: name of a comparison → utterances that would show one point
            (:func:`mer_lab.statistics.utterances_needed`).
        sizes: name of a test set → its labelled utterances.
    """
    _need(needed, "detectable")
    many = np.geomspace(min(sizes.values()) / 2.5, 2 * max([*sizes.values(), *needed.values()]), 50)
    ax = (figure := Figure(figsize=(WIDTH, 3.0))).subplots()
    palette = (ACCENT, _WARM, "#009E73", "#CC79A7", *colours(needed))
    ends = {}
    for (name, count), colour, dash in zip(needed.items(), palette, _DASHES, strict=False):
        ax.plot(many, np.sqrt(count / many), linestyle=dash, color=colour)
        ends[name] = (np.log10(count / many[-1]) / 2, colour)
    ax.set(xscale="log", yscale="log", xlabel="labelled test utterances")
    ax.set_ylabel("smallest true gain found\nwith 80 % power (points)")
    marks = {"x": (100, 300, 1000, 3000, 10_000, 30_000, 100_000), "y": (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8)}
    for axis in marks:
        low, high = getattr(ax, f"get_{axis}lim")()
        ticks = [t for t in marks[axis] if low <= t <= high]
        getattr(ax, f"set_{axis}ticks")(ticks, [f"{t:,g}" for t in ticks])
    ax.minorticks_off()
    ax.axhline(1, color=PALE, linewidth=1, zorder=0)
    places = spread([end for end, _ in ends.values()], 0.11)
    for place, (name, (_, colour)) in zip(places, ends.items(), strict=True):
        ax.annotate(name, (1.01, 10**place), xycoords=_RIGHT, color=ink(colour), va="center")
    order = sorted(sizes.items(), key=lambda x: x[1])
    for k, (name, size) in enumerate(order):
        ax.axvline(size, color=GREY, linewidth=0.8, linestyle=":")
        left = k + 1 < len(order) and order[k + 1][1] < 1.3 * size  # the next line is near: stand before it
        ax.annotate(
            name, (size, 0.03), xycoords=("data", "axes fraction"), xytext=(-2 if left else 2, 0),
            textcoords="offset points", rotation=90, va="bottom", ha="right" if left else "left", fontsize=8,
        )  # fmt: skip
    return figure


@styled
def side_by_side(parts: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Accuracy of two systems within groups, a panel a way to divide.

    Args:
        parts: way → system → what :func:`mer_lab.breakdown.breakdown` returns; the same two systems in each.
    """
    _need(parts, "side_by_side")
    rows = -(-len(parts) // 2)
    axes = (figure := Figure(figsize=(WIDTH, 2.1 * rows + 0.3))).subplots(rows, 2, squeeze=False).ravel()
    looks = ((_WARM, "^", 0.13), (ACCENT, "o", -0.13))
    for ax, (way, systems) in zip(axes, parts.items(), strict=False):
        names = [n for n in next(iter(systems.values())).index if n != "all"]
        for part, (colour, mark, up) in zip(systems.values(), looks, strict=True):
            part, y = part.loc[names], np.arange(len(names)) + up
            ax.hlines(y, part["low"], part["high"], color=colour, linewidth=1.6, alpha=0.6)
            ax.plot(part["estimate"], y, mark, color=colour, markersize=5)
        ax.set_yticks(range(len(names)), [f"{n} ({part.at[n, 'utterances']})" for n in names], fontsize=8)
        ax.set(title=way, xlim=(0, 1.02), xticks=[0, 0.5, 1], ylim=(len(names) - 0.4, -0.7))
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.tick_params(axis="y", length=0)
    for ax in axes[len(parts) :]:
        ax.remove()
    first, second = next(iter(parts.values()))
    legend = f"accuracy, 95 % interval over dialogues (triangles: {first}; dots: {second})"
    figure.supxlabel(legend, fontsize=9)
    return figure


@styled
def worth(frame: pd.DataFrame) -> Figure:
    """Shapley values of text and audio side by side, and beside them the EMAP gap; the first row lowest.

    Args:
        frame: indexed by system: ``value_text``, ``value_audio``, ``emap_gap``, in points.
    """
    _need(frame, "worth")
    text, audio, gap = (frame[c].to_numpy(float) for c in ("value_text", "value_audio", "emap_gap"))
    figure = Figure(figsize=(WIDTH, 0.25 * len(frame) + 0.9))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1])
    y = np.arange(len(frame))
    left.barh(y, text, color=ACCENT, height=0.7)
    left.barh(y, audio, left=text, color=_GOLD, height=0.7, hatch="//", edgecolor="white", linewidth=0)
    left.text(0.5, len(frame) - 0.45, "text", color=ink(ACCENT), va="bottom")
    left.text(text[-1] + 0.5, len(frame) - 0.45, "audio", color=ink(_GOLD), va="bottom")
    left.set_yticks(y, list(frame.index))
    left.set(xlabel="Shapley value: points above no channel", ylim=(-0.6, len(frame) + 0.3))
    right.barh(y, gap, color=GREY, height=0.7)
    right.axvline(0, color=INK, linewidth=0.8)
    right.set(xlabel="EMAP gap: more than addition\n(points)")
    for ax in (left, right):
        ax.tick_params(axis="y", length=0)
    return figure


@styled
def cost_by_length(
    turns: Sequence[int], seconds: Mapping[str, Sequence[float]], exponents: Mapping[str, float]
) -> Figure:
    """Seconds a dialogue against its turns, both logarithmic, a line a system with its exponent.

    Args:
        turns: ``(L,)``.
        seconds: system → ``(L,)``.
        exponents: system → of turns, over the range that the caption tells.
    """
    _need(seconds, "cost_by_length")
    ax = (figure := Figure(figsize=(WIDTH, 3.0))).subplots()
    looks = {n: ink(c) for n, c in zip(seconds, colours(seconds), strict=True)}
    for (name, values), dash in zip(seconds.items(), _DASHES * len(seconds), strict=False):
        ax.plot(turns, values, linestyle=dash, marker="o", markersize=3, color=looks[name])
    ax.set(xscale="log", yscale="log", xlabel="turns of the dialogue", ylabel="seconds a dialogue")
    ax.set_xticks(turns, [f"{t:g}" for t in turns])
    ax.minorticks_off()
    low, high = np.log10(ax.get_ylim())
    places = spread([np.log10(v[-1]) for v in seconds.values()], 0.07 * (high - low))
    for name, place in zip(seconds, places, strict=True):
        text = f"{name}, turns$^{{{exponents[name]:.2f}}}$"
        ax.annotate(text, (1.01, 10**place), xycoords=_RIGHT, color=looks[name], va="center")
    return figure


def _need(data, who: str) -> None:
    if not len(data):
        raise MerLabError(f"{who} has nothing to draw; give it at least one row.")
