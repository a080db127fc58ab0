"""Speech itself: a conversation on its time axis, and a sentence in every representation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from mer_lab.errors import MerLabError
from mer_lab.palette import ACCENT, GREY, INK, PALE, WIDTH, colours, ink, spread, styled

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
