"""Corpora: how the classes are filled, and what an audit found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mer_lab.errors import MerLabError
from mer_lab.palette import ACCENT, GREY, INK, WIDTH, colours, ink, styled

if TYPE_CHECKING:  # at run time it would bring torch along
    from mer_lab.corpora.audit import Audit


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
def audit_figure(found: Audit) -> Figure:
    """What an audit saw: classes, recurring sentences, votes, lengths, levels; a panel for what there is."""
    panels = {"classes": _classes, "copies": _copies, "votes": _votes, "lengths": _lengths, "sound": _levels}
    shown = [draw for name, draw in panels.items() if name in found.details]
    if not shown:
        raise MerLabError(f"the audit of {found.corpus} saw nothing to draw: no label, no copy, no sound.")
    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.1 * rows))
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax, draw in zip(axes, shown, strict=False):
        draw(ax, found)
    for ax in axes[len(shown) :]:
        ax.remove()
    failed = found.table.loc[found.table["status"] == "fails", "check"].tolist()
    warned = int((found.table["status"] == "warning").sum())
    verdict = f"fails: {', '.join(failed)}" if 0 < len(failed) < 4 else f"{len(failed) or 'no'} checks fail"
    verdict = f"{found.corpus}: {verdict}; {warned} warning{'s' * (warned != 1)}"
    figure.suptitle(verdict, x=0.01, ha="left", weight="bold", fontsize=9.5)
    return figure


def _classes(ax: Axes, found: Audit) -> None:
    counts = found.details["classes"]
    share = counts.div(counts.sum(axis=1), axis=0).dropna()
    order = np.argsort(-share.iloc[0].to_numpy(), kind="stable")
    for i, (split, row) in enumerate(share.iterrows()):
        marker, colour = (("o", INK), ("D", GREY), ("s", ACCENT))[i]
        lane = np.arange(len(order)) + 0.22 * (i - (len(share) - 1) / 2)
        ax.plot(row.iloc[order], lane, marker, color=colour, markersize=4)
        y = 0.1 + 0.11 * (len(share) - 1 - i)
        ax.plot(0.5, y, marker, color=colour, transform=ax.transAxes, markersize=4)
        text = f"{split}: largest {row.max():.0%}"
        ax.text(0.53, y, text, color=ink(colour), transform=ax.transAxes, va="center", fontsize=8)
    ax.set_yticks(range(len(order)), share.columns[order])
    ax.set(xlim=(0, 2.4 * share.max(axis=None)), ylim=(len(order) - 0.4, -0.6), title="classes")
    ax.set_xlabel("share of the labelled utterances")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _bars(ax: Axes, percent: dict[str, float], notes: list[str], colour: str) -> None:
    values = list(percent.values())
    ax.barh(range(len(values)), values, color=colour, height=0.6)
    for y, (x, note) in enumerate(zip(values, notes, strict=True)):
        ax.text(x, y, f" {note}", va="center", fontsize=8)
    ax.set_yticks(range(len(values)), list(percent))
    ax.set(xlim=(0, 1.5 * max(values) or 1), xticks=[], ylim=(len(values) - 0.4, -0.6))
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.tick_params(length=0)


def _copies(ax: Axes, found: Audit) -> None:
    rows = found.table.set_index("check").loc[["copied-text", "near-copies", "short-copies"]]
    split = rows["unit"].iloc[0].split()[-1]
    copies = found.details["copies"]
    kinds = copies.loc[copies["split"] == split, "kind"].value_counts()
    names = {"exact": "word for word", "near": "nearly", "short": "up to 3 words"}
    percent = dict(zip(names.values(), rows["value"], strict=True))
    notes = [f"{x:.1f}% ({kinds.get(kind, 0)})" for kind, x in zip(names, rows["value"], strict=True)]
    _bars(ax, percent, notes, ACCENT)
    ax.set(title=f"{split} sentences that stand in train", xlabel="share of the long, of the short ones")


def _votes(ax: Axes, found: Audit) -> None:
    votes = found.details["votes"].to_numpy()
    top, m = votes.max(1), votes.sum(1)
    tied = (votes == top[:, None]).sum(1) > 1
    kinds = {
        "all agree": top == m, "majority": (top < m) & (2 * top > m), "plurality": ~tied & (2 * top <= m),
        "no winner": tied,
    }  # fmt: skip
    percent = {name: 100 * mask.mean() for name, mask in kinds.items()}
    _bars(ax, percent, [f"{x:.1f}%" for x in percent.values()], GREY)
    values = found.table.set_index("check")["value"]
    ax.set(title="votes of the evaluators", xlabel="share of the utterances")
    text = f"agreement {values['agreement']:.2f}\nlabel error {values['label-error']:.1f}%"
    ax.text(1, 0.05, text, transform=ax.transAxes, ha="right", fontsize=8)


def _lengths(ax: Axes, found: Audit) -> None:
    difference = found.details["lengths"]["difference"]
    ax.axvspan(-0.25, 0.25, color=ACCENT, alpha=0.12, linewidth=0)
    ax.hist(difference.clip(-1, 1), np.linspace(-1.025, 1.025, 42), color=GREY)
    ax.set_yscale("symlog", linthresh=1)
    beyond = f"audio minus its times (s); {(difference.abs() > 1).sum()} beyond 1 s"
    ax.set(ylim=(0, None), xlim=(-1.05, 1.05), title="lengths", ylabel="files", xlabel=beyond)


def _levels(ax: Axes, found: Audit) -> None:
    heard = found.details["sound"].loc[lambda files: files["problem"] == ""]
    for y, (column, name, colour) in enumerate((("rms", "mean (RMS)", ACCENT), ("peak", "peak", INK))):
        levels = heard[column].clip(-80, 0)
        ax.hist(levels, np.arange(-80, 2.5, 2.5), histtype="step", color=colour, linewidth=1.6)
        ax.text(0.02, 0.9 - 0.12 * y, name, color=ink(colour), transform=ax.transAxes, fontsize=8)
    clipped = f"level (dB below full scale); {(heard['clipped'] > 0.001).sum()} files clip"
    ax.set(title="levels", xlabel=clipped, ylabel="files", xlim=(-80, 2))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
