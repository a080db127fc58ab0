"""An explanation to be listened to: one HTML page without a network, or a gallery for a lesson."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import soundfile

from mer_lab.audio import resample
from mer_lab.errors import MerLabError
from mer_lab.explain.attribution import Attribution
from mer_lab.explain.single import Explained, span_table, unknown_words, word_table
from mer_lab.explain.units import words_of
from mer_lab.files import TEMPLATES

_AUDIO = {
    "mean": "the mean frame of the training set", "noise": "white noise as loud as the voice",
    "silence": "silence",
}  # fmt: skip
_TEXT = {
    "mask": "the word that stands for unknown or hidden ones", "mean": "the mean of all words",
    "zero": "no word at all",
}  # fmt: skip
_MP3 = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
_DARKEST = 0.55
"""Share of the colour behind the strongest word: ink on it keeps a contrast above 4.5 (WCAG)."""
_LEFT, _RIGHT, _WAVE, _BARS, _LINE = 104, 888, 76, 84, 15  # of the picture, in its own pixels


def explanation_page(
    values: Attribution, b: int, labels: Sequence[str], probabilities: np.ndarray, wave: np.ndarray,
    rate: int, times: pd.DataFrame | None = None, gold: str = "", name: str = "",
) -> str:  # fmt: skip
    """One page that plays a recording while its words and spans of 0.1 s light up, coloured by what they add.

    Arguments as of :class:`~mer_lab.explain.single.Explained`: ``explanation_page(*explained)``. The page is
    whole in itself: sound, style and script stand in it, and nothing comes from a network.
    """
    return _render([Explained(values, b, labels, probabilities, wave, rate, times, gold, name)], page=True)


def gallery(items: Iterable[Explained]) -> str:
    """Several explanations below each other, as HTML to be shown in a notebook (``IPython.display.HTML``)."""
    return _render(list(items), page=False)


def sound(wave: np.ndarray, rate: int) -> str:
    """``wave (N,)`` as a ``data:`` address of an MP3.

    Raises:
        MerLabError: it is empty or not mono.
    """
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1 or not len(wave):
        raise MerLabError(f"the sound has shape {wave.shape}; expected one channel (N,) with N > 0.")
    if rate not in _MP3:
        wave, rate = resample(wave, rate, 16000), 16000
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1, 1), rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def number(value: float) -> str:
    """A signed number with a real minus: ``+0.42``, ``−0.10``."""
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if text[1:] == "0.00" else text


def percent(share: float) -> str:
    """``12%``; near 0 and 1 a decimal more, and what rounds to nothing or to all says so."""
    if 0 < share < 0.0005:
        return "below 0.1%"
    if 0.9995 < share < 1:
        return "above 99.9%"
    return f"{share:.0%}" if 0.1 <= share <= 0.99 else f"{share:.1%}"


def _render(items: list[Explained], page: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("explain.html").render(items=[_block(x) for x in items], page=page)


def _block(given: Explained) -> dict[str, Any]:
    """What the template shows of one utterance; every text in it is still to be escaped."""
    values, b, question = given.values, given.b, given.values.question
    row, seconds = int(question.rows[b]), len(given.wave) / given.rate
    text = question.data.corpus.table["text"].iloc[row]
    target, decided = given.labels[int(question.target[b])], int(np.argmax(given.probabilities))
    words, spans = word_table(values, b, given.times), span_table(values, b)
    timed = bool(words["start"].notna().any())
    picture = _picture(given.wave, seconds, words if timed else None)
    # one scale of shades for both: a word that adds little must not look like a loud one
    top = max([*words["value"].abs(), *spans["value"].abs()], default=0.0)
    rows = _spans(spans, seconds, picture["zero"], top)
    method, margin = _sentences(values, b, target)
    shown = [
        {"name": label, "share": round(100 * float(p), 2), "number": percent(float(p)), "sign": "",
         "bold": k == decided}
        for k, (label, p) in enumerate(zip(given.labels, given.probabilities, strict=True))
    ]  # fmt: skip
    missing = len(words_of(text, question.data).words) - len(words) if len(words) > 1 else 0
    return {
        "name": given.name or question.data.corpus.ids[row], "gold": given.gold,
        "system": type(question.system).__name__, "seconds": f"{seconds:.2f}",
        "sound": sound(given.wave, given.rate), "picture": picture,
        "decision": given.labels[decided], "sure": percent(float(given.probabilities[decided])),
        "target": target, "probabilities": shown, "error": percent(float(values.error[b])),
        "method": method, "margin": margin, "words": _words(words, top), "spans": rows, "timed": timed,
        "largest": f"{spans['value'].abs().max():.2f}", "voice": number(float(values.own_audio[b].sum())),
        "unknown": unknown_words(question.entrances["text"].encoder, text), "missing": max(0, missing),
        "modalities": _modalities(values, b), "turns": _turns(values, b),
    }  # fmt: skip


def _sentences(values: Attribution, b: int, target: str) -> tuple[str, str]:
    """What was done, and what came of it."""
    audio, text = values.baseline
    output, reference, total = (number(float(x[b])) for x in (values.output, values.reference, values.total))
    change = number(float(values.output[b] - values.reference[b]))
    promise = "" if values.complete else ", which this method does not promise to match"
    return (
        f"Method: {values.method}, compared with a baseline in which the voice is {_AUDIO[audio]} and the "
        f"text is {_TEXT[text]}.",
        f"The margin of {target} (its logit less the mean of the others) is {output}, with the baseline "
        f"{reference}; the numbers below add up to {total} where the margin changes by {change}{promise}.",
    )


def _words(words: pd.DataFrame, top: float) -> list[dict[str, Any]]:
    return [
        {
            "word": w.word, "value": w.value, "number": number(w.value), "unknown": w.unknown,
            "alpha": _alpha(w.value, top), "spoken": _spoken(w.value),
            "start": None if np.isnan(w.start) else round(w.start, 3),
            "end": None if np.isnan(w.start) else round(w.end, 3),
        }
        for w in words.itertuples()
    ]  # fmt: skip


def _spans(spans: pd.DataFrame, seconds: float, zero: float, top: float) -> list[dict[str, Any]]:
    """Each span with its place in the picture; what a frame reaches beyond the sound is not drawn."""
    scale, largest = (_RIGHT - _LEFT) / seconds, spans["value"].abs().max()
    rows = []
    for span in spans.itertuples():
        end = min(span.end, seconds)
        if (width := scale * (end - span.start)) <= 0:
            continue
        height = (_BARS / 2 - 2) * abs(span.value) / largest if largest else 0.0
        rows.append({
            "start": round(span.start, 3), "end": round(end, 3), "value": span.value,
            "number": number(span.value), "alpha": _alpha(span.value, top),
            "spoken": f"{span.start:.2f} to {end:.2f} s: {_spoken(span.value)}",
            "x": round(_LEFT + scale * span.start, 2), "width": round(width, 2),
            "inner": round(max(width - 1, 0.5), 2), "height": round(height, 2),
            "y": round(zero - height if span.value > 0 else zero, 2),
        })  # fmt: skip
    return rows


def _picture(wave: np.ndarray, seconds: float, words: pd.DataFrame | None) -> dict[str, Any]:
    """Sizes, the wave's outline, words at their onsets and ticks of the time axis."""
    scale = (_RIGHT - _LEFT) / seconds
    placed, ends = [], []
    for w in words.dropna().itertuples() if words is not None else ():
        x = _LEFT + scale * w.start
        line = next((k for k, end in enumerate(ends) if end <= x), len(ends))  # the first with room
        ends[line : line + 1] = [x + 7.2 * len(w.word) + 8]
        placed.append({"word": w.word, "x": round(x, 1), "line": line})
    top = _LINE * len(ends) + 6
    for row in placed:
        row["y"] = 12 + _LINE * row["line"]
    zero = top + _WAVE + 8 + _BARS / 2
    bottom = top + _WAVE + _BARS + 12
    step = next((s for s in (0.5, 1, 2, 5, 10, 30, 60) if seconds / s <= 14), 300)
    ticks = [{"x": round(_LEFT + scale * t, 1), "text": f"{t:g} s"} for t in np.arange(0, seconds, step)]
    return {
        "left": _LEFT, "right": _RIGHT, "width": _RIGHT + 12, "height": bottom + 22, "scale": scale,
        "wave_top": top, "wave_height": _WAVE, "zero": zero, "bottom": bottom, "words": placed,
        "ticks": ticks, "path": _outline(wave, top),
    }  # fmt: skip


def _outline(wave: np.ndarray, top: float, columns: int = 420) -> str:
    """Largest and smallest sample of each column, as a path that goes there and back."""
    parts = np.array_split(np.asarray(wave, float), min(columns, len(wave)))
    high, low = np.array([p.max() for p in parts]), np.array([p.min() for p in parts])
    loudest = max(high.max(), -low.min(), 1e-9)
    x = np.linspace(_LEFT, _RIGHT, len(parts))
    y = [top + _WAVE / 2 - (_WAVE / 2 - 3) * side / loudest for side in (high, low)]
    points = [*zip(x, y[0] - 0.4, strict=True), *zip(x[::-1], y[1][::-1] + 0.4, strict=True)]
    return "M" + "L".join(f"{a:.1f} {c:.1f}" for a, c in points) + "Z"


def _modalities(values: Attribution, b: int) -> list[dict[str, Any]]:
    found = dict(zip(("text", "audio", "context"), values.modalities[b].tolist(), strict=True))
    if int(values.question.real[b].sum()) == 1:
        del found["context"]
    total = sum(map(abs, found.values())) or 1.0
    return [
        {"name": name, "share": round(100 * abs(value) / total, 1), "bold": False,
         "sign": "mx-pos" if value > 0 else "mx-neg",
         "number": f"{number(value)} ({abs(value) / total:.0%})"}
        for name, value in found.items()
    ]  # fmt: skip


def _turns(values: Attribution, b: int) -> list[dict[str, Any]]:
    question = values.question
    real, place = question.turns[b] >= 0, int(question.place[b])
    if real.sum() < 2:
        return []
    texts = question.data.corpus.table["text"]
    return [
        {"place": "this one" if n == place else f"{abs(n - place)} {'before' if n < place else 'after'}",
         "text": texts.iloc[int(row)], "number": number(float(values.turns[b, n]))}
        for n, row in enumerate(question.turns[b]) if row >= 0
    ]  # fmt: skip


def _alpha(value: float, top: float) -> float:
    """A root, so that small ones are seen beside a large one."""
    return round(_DARKEST * (abs(value) / top) ** 0.5, 3) if top else 0.0


def _spoken(value: float) -> str:
    side = "for" if value > 0 else "against"
    return number(value) if number(value) == "0.00" else f"{number(value)}, speaks {side}"
