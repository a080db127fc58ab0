"""The figures of the course: each function takes plain data and returns a matplotlib Figure.

Figures are 7 inches wide (770 px at 110 dpi), leave pyplot alone, and name things where they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mer_lab.errors import MerLabError
from mer_lab.palette import (
    ACCENT,
    EMOTION_COLOURS,
    GREY,
    INK,
    PALE,
    WIDTH,
    colours,
    ink,
    spread,
    style,
    styled,
)

__all__ = [
    "EMOTION_COLOURS", "colours", "style", "conversation_ribbon", "confusion", "class_balance",
    "accuracy_by_cue", "training_curves", "waveform_and_features", "forest",
]  # fmt: skip
_RIGHT = ("axes fraction", "data")


@styled
def conversation_ribbon(turns: Sequence[Mapping], *, seconds: float = 9.0, title: str = "") -> Figure:
    """One conversation: a lane a speaker, words at their onsets, pitch, label and cue, in rows of time.

    Args:
        turns: in order, each with ``start``, ``end`` (seconds in the conversation), ``speaker``; optional are
            ``words``, (word, start, end) in seconds from the turn's start; ``accent``, positions of the words
            in bold; ``f0``, (times from the turn's start, Hz), NaN or 0 where unvoiced; ``label``; ``cue``.
        seconds: least width of a row; a row holds whole turns.
    """
    if not turns:
        raise MerLabError("a conversation needs at least one turn to be drawn.")
    seconds = max(seconds, max(t["end"] - t["start"] for t in turns))
    rows: list[list[Mapping]] = [[]]
    for turn in turns:
        if rows[-1] and turn["end"] - rows[-1][0]["start"] > seconds:
            rows.append([])
        rows[-1].append(turn)
    speakers = list(dict.fromkeys(t["speaker"] for t in turns))
    labels = list(dict.fromkeys(t["label"] for t in turns if t.get("label")))
    palette = dict(zip(labels, colours(labels), strict=True))
    pitches = [np.asarray(t["f0"][1], float) for t in turns if t.get("f0") is not None]
    voiced = np.concatenate([p[p > 0] for p in pitches]) if pitches else np.array([])
    # a tracker's few octave leaps would flatten everything else
    low, high = np.percentile(voiced, [2, 98]) * [0.9, 1.1] if voiced.size else (75.0, 300.0)

    def height(hz):  # pitch is heard as ratios, so the lane is logarithmic
        return 0.04 + 0.34 * (np.log(np.asarray(hz, float) / low) / np.log(high / low)).clip(0, 1)

    step = 1.1  # from lane to lane, where a box is 0.42 high: room for the words above and the label below
    figure = Figure(figsize=(WIDTH, 0.35 + len(rows) * (0.25 + 0.97 * len(speakers))))
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    gap = seconds * 21 / (WIDTH * 110 * 0.9)  # rotated words closer than 21 px would touch
    for ax, row in zip(axes, rows, strict=True):
        ax.set(xlim=(row[0]["start"] - 0.01 * seconds, row[0]["start"] + 1.01 * seconds), yticks=[])
        ax.set_ylim(-0.22, step * len(speakers) - 0.1)
        ax.spines["left"].set_visible(False)
        for turn in row:
            base, start = step * (len(speakers) - 1 - speakers.index(turn["speaker"])), turn["start"]
            colour = palette.get(turn.get("label"), GREY)
            box = FancyBboxPatch(
                (start, base), turn["end"] - start, 0.42, boxstyle="round,pad=0,rounding_size=0.04",
                facecolor=(*to_rgb(colour), 0.14), edgecolor=colour, linewidth=1, mutation_aspect=1,
            )  # fmt: skip
            ax.add_patch(box)
            if turn.get("f0") is not None:
                times, hz = (np.asarray(x, float) for x in turn["f0"])
                with np.errstate(divide="ignore", invalid="ignore"):
                    ax.plot(start + times, np.where(hz > 0, base + height(hz), np.nan), color=colour)
            words = list(turn.get("words") or ())
            accents = np.atleast_1d(() if turn.get("accent") is None else turn["accent"])
            for i, x in enumerate(spread([start + w[1] for w in words], gap)):
                onset, bold = start + words[i][1], i in accents
                ax.plot([onset, x], [base + 0.38, base + 0.46], color=colour if bold else GREY, linewidth=0.7)
                ax.text(
                    x, base + 0.47, words[i][0], rotation=40, rotation_mode="anchor", fontsize=7.5,
                    weight="bold" if bold else "normal", color=ink(colour) if bold else INK,
                )  # fmt: skip
            caption = " · ".join(str(turn[k]) for k in ("label", "cue") if turn.get(k))
            ax.text(start, base - 0.03, caption, color=ink(colour), fontsize=8, weight="bold", va="top")
        for i, speaker in enumerate(reversed(speakers)):
            ax.text(
                -0.012, step * i + 0.21, speaker, transform=ax.get_yaxis_transform(), ha="right", va="center"
            )
    axes[-1].set_xlabel("time in the conversation (s)")
    if voiced.size:
        scale = f"line: pitch, {low:.0f} to {high:.0f} Hz, logarithmic"
        axes[0].set_title(scale, loc="right", fontsize=8, weight="normal", color=ink(GREY))
    axes[0].set_title(title, pad=4)
    return figure


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
def class_balance(counts: pd.DataFrame) -> Figure:
    """Utterances per class: a panel for each row of ``counts`` (corpus, split), a bar for each label."""
    rows, columns = -(-len(counts) // 3), min(3, len(counts))
    present = [row[row > 0] for _, row in counts.fillna(0).iterrows()]
    most = [max(2, *(len(p) for p in present[r * columns : (r + 1) * columns])) for r in range(rows)]
    figure = Figure(figsize=(WIDTH, sum(0.65 + 0.24 * m for m in most)))
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=most).ravel()
    for i, (ax, name, values) in enumerate(zip(axes, counts.index, present, strict=False)):
        palette = dict(zip(values.index, colours(values.index), strict=True))
        values = values.sort_values(ascending=False, kind="stable")
        share = values / values.sum()
        ax.barh(range(len(values)), share, color=[palette[c] for c in values.index], height=0.72)
        for y, (n, x) in enumerate(zip(values, share, strict=True)):
            ax.text(x, y, f" {n:,.0f} · {x:.0%}", va="center", fontsize=8)
        ax.set_yticks(range(len(values)), values.index)
        ax.set(
            xlim=(0, share.max() * 1.75 if len(share) else 1),
            xticks=[],
            ylim=(most[i // columns] - 0.4, -0.6),
        )
        ax.spines[["bottom", "left"]].set_visible(False)
        ax.tick_params(length=0)
        ax.set_title(name, pad=16)
        ax.text(
            0, 1.0, f"{values.sum():,.0f} utterances", transform=ax.transAxes, color=ink(GREY), fontsize=8
        )
    for ax in axes[len(counts) :]:
        ax.remove()
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
            ax.text(best, 1.0, " kept", transform=ax.get_xaxis_transform(), va="top", fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.set(xlabel="epoch", title=quantity.replace("_", " "))
    return figure


@styled
def waveform_and_features(
    panels: Sequence[tuple], *, span: tuple[float, float] | None = None, title: str = ""
) -> Figure:
    """The same seconds of speech in every representation, stacked on one time axis.

    Args:
        panels: (title with unit, kind, data, hop) from top to bottom; ``hop`` is seconds between samples or
            frames, frame t is centred at t * hop. Kinds: ``wave`` (N,); ``image`` (T, D); ``lines``: (T,), or
            name → (T,); ``tokens``: rows (text, start, end) in seconds, hop unused.
        span: seconds to show; all by default.
    """
    heights = {"wave": 0.7, "image": 1.1, "lines": 0.9, "tokens": 0.35}
    for name, kind, *_ in panels:
        if kind not in heights:
            raise MerLabError(
                f"panel {name!r}: kind {kind!r} does not exist; the kinds are {', '.join(heights)}."
            )
    sizes = [heights[kind] for _, kind, _, _ in panels]
    figure = Figure(figsize=(WIDTH, 0.5 + sum(sizes) + 0.28 * len(panels)))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    last = 0.0
    for ax, (name, kind, data, hop) in zip(axes, panels, strict=True):
        ax.set_title(name, fontsize=8.5, weight="normal", pad=2)
        if kind == "tokens":
            for text, start, end in data:
                ax.axvspan(start, end, ymin=0.05, ymax=0.95, facecolor=PALE, edgecolor="white")
                left, right = np.clip((start, end), *span) if span else (start, end)  # its visible part
                if right > left:
                    ax.text((left + right) / 2, 0.5, text, ha="center", va="center", fontsize=8, clip_on=True)
                last = max(last, end)
            ax.set(ylim=(0, 1), yticks=[])
            ax.spines["left"].set_visible(False)
        elif kind == "image":
            extent = (-hop / 2, (len(data) - 0.5) * hop, -0.5, np.shape(data)[1] - 0.5)
            ax.imshow(np.asarray(data, float).T, aspect="auto", origin="lower", extent=extent, cmap="magma")
            ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
            last = max(last, len(data) * hop)
        else:
            series = data if isinstance(data, Mapping) else {"": data}
            palette = colours(series) if len(series) > 1 else [ACCENT if kind == "lines" else INK]
            ends = []
            for (_, values), colour in zip(series.items(), palette, strict=True):
                at, values = np.arange(len(values)) * hop, np.asarray(values, float)
                if span:  # what is not shown must not stretch the axis
                    values = np.where((at >= span[0]) & (at <= span[1]), values, np.nan)
                ax.plot(at, values, color=colour, linewidth=0.5 if kind == "wave" else 1.4)
                ends.append(values[np.isfinite(values)][-1] if np.isfinite(values).any() else 0.0)
                last = max(last, len(values) * hop)
            apart = spread(ends, 0.2 * np.ptp(ax.get_ylim()))
            for label, y, colour in zip(series, apart, palette, strict=True):
                ax.annotate(label, (1.01, y), xycoords=_RIGHT, color=ink(colour), va="center", fontsize=8)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes[-1].set(xlabel="time (s)", xlim=span or (0, last))
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9.5)
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
