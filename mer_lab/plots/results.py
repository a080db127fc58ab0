"""Results: who was mistaken for whom, curves of training, intervals, accuracy by cue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mer_lab.errors import MerLabError
from mer_lab.palette import ACCENT, GREY, INK, PALE, WIDTH, colours, ink, spread, styled

_RIGHT = ("axes fraction", "data")


@styled
def confusion(matrix: np.ndarray, labels: Sequence[str], *, title: str = "") -> Figure:
    """Confusion matrix ``(K, K)`` of counts, rows = true label: colour and per cent by row, count below."""
    counts = np.asarray(matrix, float)
    k = len(labels)
    if counts.shape != (k, k):
        raise MerLabError(f"a confusion matrix of shape {counts.shape} does not fit {k} labels.")
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, where=total > 0, out=np.zeros_like(counts))
    side = min(1.1 + 0.78 * k, 5.6)
    ax = (figure := Figure(figsize=(side + 1.2, side))).subplots()
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(k, k):
        text = f"{share[i, j]:.0%}\n{counts[i, j]:g}" if total[i, 0] else "–"
        ax.text(
            j, i, text, ha="center", va="center", color="white" if share[i, j] > 0.55 else INK, fontsize=8
        )
    ax.set_xticks(range(k), labels, rotation=35 if k > 4 else 0, ha="right" if k > 4 else "center")
    ax.set_yticks(range(k), [f"{name} ({n:g})" for name, n in zip(labels, total[:, 0], strict=True)])
    ax.set(xlabel="predicted", ylabel="true label (utterances)", title=title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


@styled
def accuracy_by_cue(
    rows: Mapping[str, Mapping[str, tuple]],
    ceilings: Mapping[str, Mapping[str, float]] | None = None,
    information: Mapping[str, str] | None = None,
    chance: float | None = None,
) -> Figure:
    """Accuracy of each model on each cue, a panel a model, against what its information allows.

    Args:
        rows: model → cue → (mean, low, high, values of the seeds), all in 0..1; the values may be empty.
        ceilings: cue → information set → best possible accuracy, drawn as a tick.
        information: model → the information set that it hears.
        chance: accuracy of the majority class, drawn as a dotted line.
    """
    models, cues = list(rows), list(dict.fromkeys(cue for row in rows.values() for cue in row))
    if not cues:
        raise MerLabError("accuracy_by_cue needs at least one model with one cue.")
    count, columns = -(-len(models) // 3), min(3, len(models))
    figure = Figure(figsize=(WIDTH, 0.6 + count * (0.65 + 0.23 * len(cues))))
    axes = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False).ravel()
    ticks = []  # of the first cue: the one farthest from chance carries the word "ceiling"
    for ax, model in zip(axes, models, strict=False):
        heard = (information or {}).get(model)
        for y, cue in enumerate(cues):
            ax.axhline(y, color=PALE, linewidth=0.7, zorder=0)
            best = (ceilings or {}).get(cue, {}).get(heard)
            if best is not None:
                ax.plot([best, best], [y - 0.36, y + 0.36], color=INK, linewidth=2, solid_capstyle="butt")
                if y == 0:
                    ticks.append((abs(best - (chance or 0)), -len(ticks), best, ax))
            if cue in rows[model]:
                mean, low, high, seeds = rows[model][cue]
                ax.plot([low, high], [y, y], color=ACCENT, linewidth=2, alpha=0.6)
                below = np.full(len(seeds), y + 0.26)
                ax.plot(seeds, below, "o", color=ACCENT, markersize=3, alpha=0.5, mew=0)
                ax.plot(mean, y, "o", color=ACCENT, markersize=5.5)
        if chance is not None:
            ax.axvline(chance, color=GREY, linewidth=1, linestyle=":")
        ax.set_title(model + (f" ({heard})" if heard else ""), pad=8)
        ax.set(xlim=(0, 1.03), xticks=[0, 0.5, 1], ylim=(len(cues) - 0.4, -0.9))
        ax.set_yticks(range(len(cues)), cues)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    if ticks:
        distance, _, best, ax = max(ticks)
        where = "center" if distance > 0.2 else "left" if best >= (chance or 0) else "right"
        ax.text(best, -0.45, "ceiling", ha=where, va="bottom", fontsize=7.5)
    if chance is not None:
        axes[0].text(chance - 0.02, -0.45, "chance", color=ink(GREY), ha="right", va="bottom", fontsize=7.5)
    for ax in axes[len(models) :]:
        ax.remove()
    figure.supxlabel("accuracy (dot: mean; small dots: seeds; bar: 95% interval)", fontsize=9)
    return figure


@styled
def who_can_do_what(scores: pd.DataFrame, ceilings: pd.Series | None = None, chance: float = 0.0) -> Figure:
    """Accuracy by cue and model as a table of shades: a row a model, a column a cue, numbers in the cells.

    Args:
        scores: 0..1, models by cues; NaN leaves a cell empty.
        ceilings: best possible accuracy of each column, written under its name.
        chance: accuracy below which a cell is white.
    """
    values = scores.to_numpy(float)
    rows, columns = values.shape
    ax = (figure := Figure(figsize=(WIDTH, 0.75 + 0.27 * rows))).subplots()
    ax.imshow((values - chance) / (1 - chance), cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for i, j in np.ndindex(rows, columns):
        if np.isfinite(values[i, j]):
            dark = (values[i, j] - chance) / (1 - chance) > 0.62
            text = f"{100 * values[i, j]:.0f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)
    names = list(map(str, scores.columns))
    if ceilings is not None:
        names = [f"{name}\n(≤ {100 * ceilings[name]:.0f})" if name in ceilings else name for name in names]
    ax.set_xticks(range(columns), names)
    ax.set_yticks(range(rows), list(map(str, scores.index)))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("accuracy in per cent" + ("; under each cue the ceiling" if ceilings is not None else ""))
    return figure


@styled
def training_curves(history: pd.DataFrame, *, best: int | None = None) -> Figure:
    """Curves over epochs, a panel a quantity: seeds thin, their mean thick, named at its end.

    Args:
        history: columns ``epoch``, optionally ``seed``, and quantities named ``part_quantity``, such as
            ``train_loss``, ``validation_loss``, ``validation_ua``; parts of one quantity share a panel.
        best: the epoch that was kept.
    """
    history = pd.DataFrame(history)
    names = [c for c in history.columns if c not in ("epoch", "seed")]
    if "epoch" not in history or not names:
        raise MerLabError("training_curves needs a column epoch and at least one more, such as train_loss.")
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(name.partition("_")[2] or name, []).append(name)
    parts = dict.fromkeys(name.partition("_")[0] for name in names)
    palette = dict(zip(parts, (GREY, ACCENT, *colours(parts)), strict=False))
    axes = (figure := Figure(figsize=(WIDTH, 2.4))).subplots(1, len(panels), squeeze=False)[0]
    for ax, (quantity, members) in zip(axes, panels.items(), strict=True):
        means = history.groupby("epoch")[members].mean()
        for name in members:
            colour = palette[name.partition("_")[0]]
            for _, run in history.groupby("seed") if "seed" in history else []:
                ax.plot(run["epoch"], run[name], color=colour, linewidth=0.6, alpha=0.5)
            ax.plot(means.index, means[name], color=colour, linewidth=2)
        ends = spread([means[name].dropna().iloc[-1] for name in members], 0.1 * np.ptp(ax.get_ylim()))
        for name, y in zip(members, ends, strict=True):
            part = name.partition("_")[0]
            ax.annotate(part, (1.01, y), xycoords=_RIGHT, color=ink(palette[part]), va="center")
        if best is not None:
            ax.axvline(best, color=INK, linewidth=0.8, linestyle=":")
            late = best > means.index.min() + 0.7 * np.ptp(means.index)  # names stand on the right
            ax.text(best, 1.0, "kept " if late else " kept", transform=ax.get_xaxis_transform(), va="top",
                    ha="right" if late else "left", fontsize=8)  # fmt: skip
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.set(xlabel="epoch", title=quantity.replace("_", " "))
    return figure


@styled
def forest(
    rows: Iterable[tuple[str, float, float, float]],
    *,
    xlabel: str = "difference (points)",
    zero: float | None = 0.0,
    digits: int = 1,
) -> Figure:
    """Forest plot of rows (name, estimate, low, high), grey where the interval holds ``zero``.

    The numbers stand at the right with ``digits`` decimals; ``zero=None`` leaves the reference line out.
    """
    rows = list(rows)
    if not rows:
        raise MerLabError("a forest plot needs at least one row.")
    ax = (figure := Figure(figsize=(WIDTH, 0.65 + 0.27 * len(rows)))).subplots()
    for y, (_, estimate, low, high) in enumerate(rows):
        colour = GREY if zero is not None and low <= zero <= high else ACCENT
        ax.plot([low, high], [y, y], color=colour, linewidth=2)
        ax.plot(estimate, y, "o", color=colour, markersize=6)
        text = f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "\N{MINUS SIGN}")
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
    if zero is not None:
        ax.axvline(zero, color=INK, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(rows)), [r[0] for r in rows])
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.6))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return figure
