"""What the audio files themselves say: every file is decoded once."""

from __future__ import annotations

import os
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from mer_lab.audio import duration, read_audio
from mer_lab.corpora.audit.findings import Findings
from mer_lab.corpora.corpus import Corpus
from mer_lab.corpora.importing import some
from mer_lab.errors import MerLabError
from mer_lab.files import digest
from mer_lab.parallel import in_processes

SILENT, LOW = -60.0, -45.0
"""dBFS: peak of a file that holds no speech; RMS below which 16 bits leave little of the quiet parts."""

EDGE, BAND = -40.0, -60.0
"""dB: edges lie so far below the loudest 20 ms; a telephone leaves so little above 4 kHz (6 kHz, with room
for the slope of a resampling filter)."""

_COLUMNS = ("problem", "seconds", "rate", "peak", "rms", "edges", "clipped", "dc", "band", "digest")
_CHECKS = """silence edges clipping dc-offset level sampling-rates telephone-band same-audio
    audio-across-splits"""
_TOGETHER = 16  # files a job


def hear(corpus: Corpus, sound: bool, workers: int | None) -> pd.DataFrame:
    """One row an utterance that names a file; without ``sound`` only its seconds, from the header.

    Columns: ``problem`` ("" where it can be decoded), ``seconds``, ``rate`` (Hz; NaN unless libsndfile knows
    the format), ``peak`` and ``rms`` (dBFS), ``edges`` (share of silence at both ends), ``clipped`` (share of
    samples), ``dc`` (mean, full scale = 1), ``band`` (dB, energy above 6 kHz against all; NaN where the rate
    leaves none), ``digest`` (of the samples).
    """
    ids = corpus.table.index[corpus.table["audio"] != ""]
    paths = [corpus.audio_path(u) for u in ids]
    parts = [paths[i : i + _TOGETHER] for i in range(0, len(paths), _TOGETHER)]
    if not sound:
        workers = 1
    elif workers is None:  # a file takes milliseconds, a process seconds to start
        workers = min(os.cpu_count() or 1, 1 + len(paths) // 5000)
    rows: list[dict] = []
    silent = {} if paths else {"disable": True}  # given, it would overrule TQDM_DISABLE
    with tqdm(total=len(paths), desc="listening", unit="file", leave=False, **silent) as bar:
        for part in in_processes((joblib.delayed(_hear_part)(p, sound) for p in parts), workers):
            rows += part
            bar.update(len(part))
    return pd.DataFrame(rows, ids, list(_COLUMNS)).astype(dict.fromkeys(_COLUMNS[1:-1], float))


def _hear_part(paths: list[Path], sound: bool) -> list[dict]:
    rows = []
    for path in paths:
        try:
            rows.append({"problem": "", **(_measure(path) if sound else {"seconds": duration(path)})})
        except MerLabError as error:
            rows.append({"problem": str(error)})
    return rows


def _measure(path: Path) -> dict[str, object]:
    try:
        rate = known = soundfile.info(str(path)).samplerate
    except (soundfile.LibsndfileError, TypeError):  # what FFmpeg decodes is heard as the systems hear it
        rate, known = 16000, np.nan
    wave = read_audio(path, rate)
    peak = float(np.abs(wave).max())
    row = {
        "seconds": len(wave) / rate, "rate": known, "peak": _db(peak**2), "dc": wave.mean(dtype=float),
        "rms": _db(np.mean(np.square(wave, dtype=float))), "clipped": 0.0,
        "digest": digest(wave.tobytes()),
    }  # fmt: skip
    frame = max(1, rate // 50)
    power = np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
    if not peak or not len(power):
        return row
    loud = np.flatnonzero(power > power.max() * 10 ** (EDGE / 10))
    row["edges"] = (loud[0] + len(power) - 1 - loud[-1]) / len(power)
    if peak > 0.1:  # where steps are coarse, a quiet sine stays at its top for three samples, too
        top = np.abs(wave) >= min(peak, 0.999)
        runs = np.convolve(top[:-2] & top[1:-1] & top[2:], np.ones(3)) if len(wave) > 2 else np.zeros(1)
        row["clipped"] = float((runs > 0).mean())
    if rate >= 16000:
        blocks = wave[: len(wave) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024).astype(np.float32)
        density = np.square(np.abs(np.fft.rfft(blocks))).sum(0, dtype=float)
        row["band"] = _db(density[6000 * 1024 // rate :].sum() / max(density.sum(), 1e-30))
    return row


def _db(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-20)))


def check_sound(table: pd.DataFrame, heard: pd.DataFrame, sound: bool, found: Findings) -> None:
    """Grade what :func:`hear` measured; ``details["sound"]`` holds it."""
    if heard.empty or not sound:
        why = "The corpus has no audio." if heard.empty else "The files were not decoded (sound was off)."
        found.skip("decoding " + _CHECKS, why)
        return
    found.details["sound"] = heard
    todo = "Copy these files again, or remove their rows (sound.csv says what is wrong)."
    found.share("decoding", heard["problem"] != "", "% of files", "files cannot be decoded", todo)
    heard = heard[heard["problem"] == ""]
    if heard.empty:
        found.skip(_CHECKS, "No file can be decoded.")
        return
    silent, unit = heard["peak"] < SILENT, "% of files"
    what = f"files never pass {SILENT:g} dBFS"
    found.share("silence", silent, unit, what, "Remove these utterances or mark their audio as missing.")
    edges = heard["edges"].dropna()
    detail = f"Mean share of each file {-EDGE:g} dB below its loudest 20 ms, at both ends; above half in "
    detail += f"{(edges > 0.5).sum()} of {len(edges)} files."
    found.add("edges", 100 * edges.mean() if len(edges) else 0.0, "% of the time", detail, "Trim the files.")
    what = "files hold clipped samples, 3 or more at the top in a row, in more than 0.1 % of their time"
    found.share("clipping", heard["clipped"] > 0.001, unit, what, "Score them apart; loudness is cut there.")
    off = heard["dc"].abs() > np.maximum(0.005, 0.1 * 10 ** (heard["rms"] / 20))
    what = "files have an offset above 0.005 of full scale and a tenth of their level"
    found.share("dc-offset", off, unit, what, "Subtract the mean before measuring energy.")
    low = ~silent & (heard["rms"] < LOW)
    todo = "Measure loudness relative to each speaker or recording."
    found.share("level", low, unit, f"files have an RMS level below {LOW:g} dBFS", todo)
    rates = heard["rate"].value_counts()
    detail = "Files by rate: " + ", ".join(f"{rate:.0f} Hz {n}" for rate, n in rates.items()) + "."
    if unknown := int(heard["rate"].isna().sum()):
        detail += f" Of {unknown} files the rate is not known."
    todo = "Resample all to the lowest rate before extracting, so that none has a band that others lack."
    found.add("sampling-rates", rates.iloc[1:].sum(), "files unlike most", detail, todo)
    band = ~silent & (heard["band"] < BAND)
    what = f"files have {BAND:g} dB or less above 4 kHz at a rate that allows more: a telephone band"
    found.share("telephone-band", band, unit, what, "Filter all to 4 kHz, or report the two kinds apart.")
    sounds = heard.loc[~silent, "digest"]
    same = sounds[sounds.duplicated(keep=False)]
    across = same[table.loc[same.index, "split"].replace("", np.nan).groupby(same).transform("nunique") > 1]
    for check, ids, where, todo in (
        ("same-audio", same.index.difference(across.index, sort=False), "under another id",
         "Keep one id of each sound."),
        ("audio-across-splits", across.index, "in another split, too", "Keep each sound in one split."),
    ):  # fmt: skip
        detail = f"{len(ids)} files hold exactly the sound that stands {where}"
        detail += f": {some(ids.astype(str).tolist())}." if len(ids) else "."
        found.add(check, len(ids), "files", detail, todo)
