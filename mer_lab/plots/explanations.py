"""Explanations: one on its time axis, methods by what they were tested on, curves of taking away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mer_lab.errors import MerLabError
from mer_lab.palette import GREY, INK, PALE, WIDTH, ink, spread, styled

if TYPE_CHECKING:
    from mer_lab.explain.attribution import Attribution

FOR, AGAINST = "#0072B2", "#D55E00"
_WAVE = "#59636E"
_RIGHT = ("axes fraction", "data")
_MANY = 24
"""Words in a figure; of a longer text those that add most."""


@styled
def explanation(
    values: Attribution, b: int, labels: Sequence[str], probabilities: np.ndarray, wave: np.ndarray,
    rate: int, times: pd.DataFrame | None = None, gold: str = "", name: str = "",
) -> Figure:  # fmt: skip
    """What each span of 0.1 s and each word add to the margin of a class: ``explanation(*explained)``.

    Bars to the right or upwards speak for the class, hatched ones to the left or downwards against it. Spans
    and words share a scale of shades.

    Args:
        values, b, labels, probabilities, wave, rate, times, gold, name: as of
            :class:`~mer_lab.explain.single.Explained`.
    """
    from mer_lab.explain.page import number, percent  # other figures need neither torch nor captum
    from mer_lab.explain.single import span_table, word_table

    words, spans = word_table(values, b, times), span_table(values, b)
    if len(words) > _MANY:
        kept = words["value"].abs().nlargest(_MANY).index
        words = words.loc[sorted(kept)]
    seconds = len(wave) / rate
    target, decided = labels[int(values.question.target[b])], int(np.argmax(probabilities))
    top = max([*words["value"].abs(), *spans["value"].abs()], default=0.0) or 1.0
    sizes = [0.95, 0.75, 0.19 * len(words) + 0.1]
    figure = Figure(figsize=(WIDTH, sum(sizes) + 1.75))
    sound, voice, text = figure.subplots(3, 1, height_ratios=sizes)
    shown = np.asarray(wave, float)[: len(wave)]
    step = max(1, len(shown) // 4000)  # an outline: more points than pixels would only be slow
    parts = np.array_split(shown, max(1, len(shown) // step))
    at = np.linspace(0, seconds, len(parts))
    for span in spans.itertuples():
        sound.axvspan(
            span.start, min(span.end, seconds), color=_shade(span.value, top), linewidth=0, zorder=0
        )
    sound.fill_between(at, [p.min() for p in parts], [p.max() for p in parts], color=_WAVE, linewidth=0.3)
    loudest = max(np.abs(shown).max(), 1e-9)
    sound.set(xlim=(0, seconds), ylim=(-loudest, loudest), xticks=[], yticks=[])
    sound.set_ylabel("wave")
    timed = words.dropna(subset="start")
    if len(timed):
        onsets = timed["start"].to_numpy()
        for onset, place, word in zip(onsets, spread(onsets, seconds * 0.025), timed["word"], strict=True):
            sound.axvline(onset, color=GREY, linewidth=0.7)
            sound.annotate(
                _plain(word), (onset, 1), (place, 1.08), xycoords=("data", "axes fraction"), fontsize=7.5,
                textcoords=("data", "axes fraction"), rotation=40, rotation_mode="anchor",
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    if len(spans):
        ends = spans["end"].clip(upper=seconds)
        width = ends - spans["start"]
        _bars(voice.bar, spans["value"], x=spans["start"] + width / 2, width=0.92 * width)
        voice.axhline(0, color=GREY, linewidth=0.8)
        reach = spans["value"].abs().max() * 1.1 or 1.0
        voice.set(ylim=(-reach, reach))
        voice.yaxis.set_major_locator(MaxNLocator(nbins=3, symmetric=True))
    else:
        whole = number(float(values.own_audio[b].sum()))
        voice.text(0.5, 0.5, f"the audio features have no clock: the voice as a whole adds {whole}",
                   transform=voice.transAxes, ha="center", va="center")  # fmt: skip
        voice.set(yticks=[])
    voice.set(xlim=(0, seconds), xlabel="time (s)", ylabel="adds\n(logits)")
    rows = np.arange(len(words))
    _bars(text.barh, words["value"], y=rows, height=0.72)
    reach = max(words["value"].abs(), default=0.0) or 1.0
    for y, value in zip(rows, words["value"], strict=True):
        text.annotate(number(value), (value, y), (3 if value >= 0 else -3, 0), textcoords="offset points",
                      ha="left" if value >= 0 else "right", va="center", fontsize=7.5)  # fmt: skip
    text.axvline(0, color=GREY, linewidth=0.8)
    text.set(ylim=(len(words) - 0.4, -0.6), xlim=_room(words["value"], reach))
    marks = ["?" if unknown else "" for unknown in words["unknown"]]
    text.set_yticks(rows, [_plain(w) + mark for w, mark in zip(words["word"], marks, strict=True)])
    text.tick_params(axis="y", length=0)
    text.spines["left"].set_visible(False)
    note = "; ?: read as unknown" if any(marks) else ""
    text.set_xlabel(f"adds to the margin of {_plain(target)} (logits); hatched: speaks against it{note}")
    true = f", label {gold}" if gold else ""
    figure.suptitle(
        _plain(
            f"{name + ': ' if name else ''}decision {labels[decided]} "
            f"({percent(float(probabilities[decided]))}){true}\n{values.method} of {target}, baseline "
            f"{' and '.join(values.baseline)}; completeness error {percent(float(values.error[b]))}"
        ),
        x=0.01, ha="left", weight="bold", fontsize=9.5,
    )  # fmt: skip
    return figure


@styled
def methods_by_criteria(frame: pd.DataFrame, higher: Mapping[str, bool] | None = None) -> Figure:
    """Methods (rows) by criteria (columns): the estimate in each cell, its interval below, chance marked.

    A cell is shaded by how far it is from chance towards the best (bold) of its column; one whose interval
    holds chance, or that is worse, stays white. Without chance the worst of the column is its start.

    Args:
        frame: columns ``method, criterion, estimate, low, high, chance`` (NaN for none).
        higher: whether more is better, by criterion; it is, by default.
    """
    needed = ["method", "criterion", "estimate", "low", "high", "chance"]
    if missing := [c for c in needed if c not in frame] or (["any row"] if frame.empty else []):
        raise MerLabError(
            f"methods_by_criteria needs a table with {', '.join(needed)}; it lacks {missing[0]}."
        )
    methods, criteria = (list(dict.fromkeys(frame[c])) for c in ("method", "criterion"))
    cells = {(r.method, r.criterion): r for r in frame.itertuples()}
    figure = Figure(figsize=(WIDTH, 0.95 + 0.42 * len(methods)))
    ax = figure.subplots()
    blues = colormaps["Blues"]
    shade, heads = np.zeros((len(methods), len(criteria))), []
    for j, criterion in enumerate(criteria):
        column = frame[frame["criterion"] == criterion]
        up = (higher or {}).get(criterion, True)
        side, chance = (1 if up else -1), float(column["chance"].iloc[0])
        scores = side * column["estimate"].to_numpy(float)
        best = np.nanmax(scores) if np.isfinite(scores).any() else 0.0
        start = side * chance if np.isfinite(chance) else np.nanmin(scores, initial=best)
        heads.append(f"{criterion}\n{'more' if up else 'less'} is better"
                     + (f"\nchance {chance:.2f}" if np.isfinite(chance) else ""))  # fmt: skip
        for i, method in enumerate(methods):
            cell = cells.get((method, criterion))
            if cell is None or not np.isfinite(cell.estimate):
                ax.text(j, i, "–", ha="center", va="center")
                continue
            bound = cell.low if up else cell.high  # where the interval is nearest to chance
            bound = bound if np.isfinite(bound) else cell.estimate
            if not np.isfinite(chance) or side * bound > start:
                shade[i, j] = (side * cell.estimate - start) / max(best - start, 1e-9)
            colour = _readable(blues(shade[i, j] / 1.15))
            lost = np.isfinite(chance) and not side * bound > start
            ax.text(j, i - 0.02 if lost else i - 0.1, _short(cell.estimate), ha="center", va="center",
                    color=colour, fontsize=9,
                    weight="bold" if side * cell.estimate >= best else "normal")  # fmt: skip
            if np.isfinite(cell.low) and np.isfinite(cell.high):
                ax.text(j, i + 0.29, f"{_short(cell.low)} to {_short(cell.high)}", ha="center", va="center",
                        color=colour, fontsize=6.5)  # fmt: skip
            if lost:
                ax.text(j, i - 0.33, "≈ chance", ha="center", va="center", color=ink(GREY), fontsize=6)
    ax.imshow(shade, cmap=blues, vmin=0, vmax=1.15, aspect="auto")
    ax.set_xticks(range(len(criteria)), heads, fontsize=8 if len(criteria) < 6 else 6.8)
    ax.set_yticks(range(len(methods)), methods)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_xticks(np.arange(len(criteria) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(methods) - 1) + 0.5, minor=True)
    ax.grid(which="minor", color=PALE, linewidth=0.8)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)
    return figure


@styled
def curves(
    frame: pd.DataFrame, *, ylabel: str = "margin (logits)", xlabel: str = "share taken away"
) -> Figure:  # fmt: skip
    """Margin against the share that was taken away or put back, a panel a channel, a line an order.

    Args:
        frame: columns ``panel, order, share, margin, low, high``; share from 0 to 1, the margin a mean with
            its interval (NaN for none).
    """
    needed = ["panel", "order", "share", "margin", "low", "high"]
    if missing := [c for c in needed if c not in frame] or (["any row"] if frame.empty else []):
        raise MerLabError(f"curves needs a table with {', '.join(needed)}; it lacks {missing[0]}.")
    panels, orders = (list(dict.fromkeys(frame[c])) for c in ("panel", "order"))
    looks = {"most first": (FOR, "-"), "random": (GREY, (0, (1, 1.2))), "least first": (AGAINST, (0, (5, 2)))}
    spare = [("#009E73", (0, (5, 1, 1, 1))), ("#CC79A7", (0, (3, 1, 1, 1, 1, 1))), (INK, (0, (8, 3)))]
    for k, order in enumerate(o for o in orders if o not in looks):
        looks[order] = spare[k % len(spare)]
    figure = Figure(figsize=(WIDTH, 2.7))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        there = {}
        for order in orders:
            part = frame[(frame["panel"] == panel) & (frame["order"] == order)].sort_values("share")
            if part.empty:
                continue
            colour, dashes = looks[order]
            ax.fill_between(part["share"], part["low"], part["high"], color=colour, alpha=0.13, linewidth=0)
            ax.plot(part["share"], part["margin"], color=colour, linestyle=dashes, linewidth=1.8)
            there[order] = part
        ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
        ax.set(xlim=(0, 1), xlabel=xlabel, title=panel, xticks=[0, 0.5, 1])
        ax.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_ylabel(ylabel)
    # the lines meet where all is gone: names stand in the order of half way, each beside a piece of its line
    final = [float(part["margin"].iloc[-1]) for part in there.values()]
    middle = [float(np.interp(0.5, part["share"], part["margin"])) for part in there.values()]
    gap = 0.1 * np.ptp(axes[-1].get_ylim())
    for order, y in zip(there, spread(_ranked(final, middle), gap), strict=True):
        colour, dashes = looks[order]
        axes[-1].plot([1.04, 1.18], [y, y], transform=axes[-1].get_yaxis_transform(), color=colour,
                      linestyle=dashes, clip_on=False)  # fmt: skip
        axes[-1].annotate(order, (1.22, y), xycoords=_RIGHT, va="center", color=ink(colour), fontsize=8.5)
    return figure


def _ranked(values: Sequence[float], ties: Sequence[float]) -> np.ndarray:
    """``values`` moved by next to nothing, so that equal ones keep the order of ``ties``."""
    return np.asarray(values) + 1e-6 * np.argsort(np.argsort(ties))


def _bars(draw, heights: pd.Series, **where) -> None:
    """Signed bars; hatching carries the sign where colour cannot."""
    size = {"x": "height", "y": "width"}["x" if "x" in where else "y"]
    bars = draw(**where, **{size: heights}, linewidth=0.6)
    for bar, value in zip(bars, heights, strict=True):
        bar.set(facecolor=FOR if value > 0 else "white", edgecolor=FOR if value > 0 else AGAINST)
        if value <= 0:
            bar.set_hatch("//////")


def _shade(value: float, top: float) -> tuple[float, float, float]:
    share = 0.6 * (abs(value) / top) ** 0.5  # a root, so that small ones are seen beside a large one
    return tuple(1 - share * (1 - np.array(to_rgb(FOR if value > 0 else AGAINST))))


def _readable(colour: Sequence[float]) -> str:
    """White or ink, whichever is farther from a colour in lightness."""
    return "white" if float(np.array(to_rgb(colour)) ** 2.2 @ [0.2126, 0.7152, 0.0722]) < 0.21 else INK


def _room(values: pd.Series, reach: float) -> tuple[float, float]:
    """Limits of the words' axis with room for the numbers beside the bars."""
    return min([0.0, *values]) - 0.14 * reach, max([0.0, *values]) + 0.14 * reach


def _plain(text: str) -> str:
    """A text from outside, in which a dollar sign is no mathematics."""
    return text.replace("$", r"\$")


def _short(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
