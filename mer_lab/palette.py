"""What the course's figures share: colours, matplotlib's settings, labels that keep apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import wraps

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb

EMOTION_COLOURS = {
    "angry": "#D55E00",
    "happy": "#E69F00",
    "sad": "#0072B2",
    "neutral": "#6A6A6A",
    "fear": "#CC79A7",
    "disgust": "#009E73",
    "surprise": "#56B4E9",
    "calm": "#332288",
    "excited": "#F0E442",
    "frustrated": "#661133",
}
"""Okabe & Ito's palette with three colours of Tol's kind; told apart with each kind of colour blindness."""

_SAME = {
    "anger": "angry", "ang": "angry", "joy": "happy", "happiness": "happy", "hap": "happy", "sadness": "sad",
    "neu": "neutral", "fearful": "fear", "disgusted": "disgust", "surprised": "surprise", "exc": "excited",
    "excitement": "excited", "fru": "frustrated", "frustration": "frustrated",
}  # fmt: skip
INK, GREY, PALE, ACCENT = "#222222", "#8A8A8A", "#E4E4E4", "#0072B2"
WIDTH = 7.0
STYLE = {
    "figure.dpi": 110, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.labelsize": 9, "axes.labelcolor": INK, "text.color": INK, "axes.edgecolor": GREY,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.color": GREY, "ytick.color": GREY,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.major.size": 3, "ytick.major.size": 3,
    "lines.linewidth": 1.6, "axes.grid": False, "legend.frameon": False, "image.interpolation": "nearest",
}  # fmt: skip


def style() -> None:
    """Give a notebook's own figures the course's look; the functions here wear it without being asked."""
    mpl.rcParams.update(STYLE)


def colours(labels: Iterable[str]) -> list[str]:
    """One colour a label, all different: fixed for known emotions, the next free one for any other label."""
    labels = list(labels)
    result: dict[int, str] = {}
    for i, label in enumerate(labels):
        name = str(label).strip().lower()
        colour = EMOTION_COLOURS.get(_SAME.get(name, name))
        if colour and colour not in result.values():
            result[i] = colour
    spare = [c for c in EMOTION_COLOURS.values() if c not in result.values()]
    short = max(0, len(labels) - len(result) - len(spare))
    spare += [mpl.colors.to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(0.05, 0.95, short))]
    return [result[i] if i in result else spare.pop(0) for i in range(len(labels))]


def styled(draw):
    """Decorator: draw in the course's style and leave matplotlib's settings as they were."""

    @wraps(draw)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def ink(colour: str) -> tuple[float, float, float]:
    """The colour, darkened until text in it can be read on white (contrast 4.5, WCAG)."""
    rgb = np.array(to_rgb(colour))
    while 1.05 / (_luminance(rgb) + 0.05) < 4.5:
        rgb = rgb * 0.95
    return tuple(rgb)


def _luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Positions moved apart as little as possible so that neighbours are ``gap`` apart; order is kept."""
    positions = np.asarray(positions, float)
    order, rank = np.argsort(positions, kind="stable"), np.arange(len(positions))
    shifted = positions[order] - rank * gap
    blocks: list[list[float]] = []  # pool adjacent violators: [mean, size]
    for value in shifted:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    result = np.empty_like(positions)
    result[order] = np.repeat([b[0] for b in blocks], [b[1] for b in blocks]) + rank * gap
    return result
