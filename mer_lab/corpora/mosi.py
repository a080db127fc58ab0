"""CMU-MOSI: opinions about films in 93 videos of one speaker each, with a sentiment score in [-3, 3].

Zadeh et al. 2016, "MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis in Online
Opinion Videos". The user brings a copy in one of three forms; nothing is downloaded. All three give the same
utterances ``{video}_{n}``, n from 1:

- the raw layout: ``Labels/OpinionLevelSentiment.csv``, ``Transcript/Segmented/{video}.annotprocessed``,
  ``Audio/WAV_16000/Segmented/{video}_{n}.wav`` [C-3rd];
- the SDK's ``.csd`` files (HDF5: ``ROOT/data/KEY/{features,intervals}``, with metadata) [C-author]. KEY is a
  video, whose k-th row of labels (from 0) is the segment k + 1 of the raw layout [C-3rd], or ``video[k]`` in
  files that were aligned. Times count from the start of the video. Our reading: a word or a frame belongs to
  the segment that its middle falls into, and ``sp`` is a pause;
- MMSA's pickle: ``train``, ``valid``, ``test``, each with ``id`` (``video$_$n``, n from 1 like the raw files
  that it was made of [C-3rd]; a 0 is refused), ``regression_labels``, ``raw_text``, ``text`` and ``audio``
  (segments, frames, numbers), and ``audio_lengths`` where the audio is not aligned.

Folds. ``standard``: 52, 10 and 31 videos; the SDK's lists are the 93 ids in the order of their characters,
cut in three [D]. ``hcam``: videos 1-49, 50-62 and 63-93 [C-3rd]. In which order is not said; our reading is
that same one, because its last 31 videos are then the official test videos, and the counts known for that
lineage (379 negative, 307 not) are theirs [D]. Which three of the 62 others change sides is not settled.

One person speaks in a video, and as far as is known in one video only [M], so the video is the speaker.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mer_lab.audio import read_audio
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.corpora.importing import Report, importing, link, some, write_corpus
from mer_lab.corpora.mosi_packed import Found, read_csd, read_mmsa, write_features
from mer_lab.corpora.native import read_folder, read_number
from mer_lab.errors import MerLabError
from mer_lab.metrics import SCORE_RULES, seven_classes, two_classes

VIDEOS = tuple(
    """03bSnISJMiM 0h-zjBukYpk 1DmNV9C1hbY 1iG0909rllw 2WGyTLYerpo 2iD-tVS8NPw 5W7Z1C_fDaE 6Egk_28TtTM
    6_0THN4chvY 73jzhE8R1TQ 7JsX8y1ysxY 8OtFthrtaJM 8d-gEyoeBzc 8qrpnFRGt2A 9J25DZhivz8 9T9Hf74oK10
    9c67fiY0wGQ 9qR7uwkblbs Af8D0E4ZXaw BI97DNYfe5I BXuRRbG0Ugk Bfr499ggo-0 BioHAh1qJAQ BvYR0L6f2Ig
    Ci-AH39fi3Y Clx4VXItLTE Dg_0XKD0Mf4 G-xst2euQUc G6GlGvlkxAQ GWuJjcEuzt8 HEsqda8_d0Q I5y0__X72p0
    Iu2PFX3z_1s IumbAb8q2dM Jkswaaud0hk LSi-o-IrDMs MLal-t_vJPM Njd1F0vZSm4 Nzq88NnDkEk OQvJTdtJ2H4
    OtBXNcAL_lE Oz06ZWiO20M POKffnXeBds PZ-lDQFboO8 QN9ZIUWUXsY Qr1Ca94K55A Sqr0AcuoNnk TvyZBvOMOTc
    VCslbP0mgZI VbQk4H8hgr0 Vj1wYRQjB-o W8NXH0Djyww WKA5OygbEKI X3j2zQgwYgE ZAIRrfG22O0 ZUXBRvtny7o
    _dI--eQ6qVU aiEXnCPZubE atnd_PF-Lbs bOL9jKpeJRs bvLlb-M3UXU c5xsKMxpXnc c7UH_rxdZv4 cM3Yna7AavY
    cW1FSBF59ik cXypl4FnoZo d3_k5Xpfmik d6hH302o4v8 dq3Nf_lMPnE etzxEpPuc6I f9O3YtZ2VfI f_pcplsH_V0
    fvVhgmXxadc iiK8YX8oH1E jUzDDGyPkXU k5Y_838nuGo lXPQBPVc5Cw nbWiPyCm4g0 nzpVDcQ0ywM ob23OKe5a9Q
    pLTX3ipuDJI phBUpBr1hSo rnaNMUZpvvg tIrG4oNLFzE tStelxIAHjw tmZoasNr4rU v0zCBqDeKcE vvZ4IcEtiZc
    vyB00TXsimI wMbj6ajWbic yDtzw_Y-7RU yvsjCA6Y5Fc zhpQhgha_KU""".split()
)
"""The ids of the 93 videos in the order of their characters."""
FOLDS = {"standard": (52, 62), "hcam": (49, 62)}
"""Where validation and test begin in VIDEOS."""
PUBLISHED = {"train": (552, 53, 679), "validation": (92, 13, 124), "test": (379, 30, 277)}
"""Segments below, at and above 0 in the standard folds; they sum to 1284, 229 and 686."""
SEVEN = ("-3", "-2", "-1", "0", "1", "2", "3")
_ABOVE = "the folder above the Labels, Transcript and Audio that you mean"
_WANTED = "CMU-MOSI's raw folder, its .csd files or an MMSA pickle"


def prepare_mosi(
    root: str | Path,
    out: str | Path,
    folds: str = "standard",
    rule: str = "negative-vs-nonnegative",
    audio: bool = True,
) -> tuple[Corpus, Report]:
    """Turn a copy of CMU-MOSI into a native corpus folder.

    Args:
        root: a folder that holds, at any depth, the raw layout or the ``.csd`` files, or one MMSA pickle; or
            that pickle. Several forms in one folder: the first of these is read.
        out: the new folder; absent or empty. Audio is hard-linked where the disk allows it.
        folds: ``standard`` or ``hcam``, see the module.
        rule: which two classes are the labels: ``negative-vs-nonnegative``, ``drop-zero`` (a score of 0 has
            no label) or ``nonpositive-vs-positive``.
        audio: take sound and audio features; without, there is only text.

    Returns:
        The corpus, with the column ``score``, every rule and ``seven`` (see
        :func:`mer_lab.metrics.seven_classes`) as label schemes, and words where the source times them; and a
        report. Features that a source holds stand in ``features/``: ``mmsa_text``, ``mmsa_audio``, and the
        SDK's by the name of their root group (``covarep``). Visual features are left out. Sound that is
        missing or damaged is listed in ``quarantine.csv``; the segment keeps its text.

    Raises:
        MerLabError: no such source, or a row, file or value in it that is not as described, with its place.
    """
    root, out = Path(root), Path(out)
    if folds not in FOLDS:
        raise MerLabError(f"the folds {folds!r} do not exist; choose one of {', '.join(FOLDS)}.")
    two_classes(0.0, rule)
    report, bad = Report(), []
    with importing(root, out, _WANTED, f"{folds} {rule} audio={audio}") as folder, ExitStack() as files:
        read, paths = _source(root, report)
        found = read(root, paths, report, files)
        table = _table(found, folds, rule, report)
        _verify(table, folds, report)
        if audio and read is _read_raw:
            _link_audio(table, root, folder, report, bad)
        if copies := report.counts.get("copies"):
            report.notes.append(f"{copies} files hold the same bytes as another and are not read twice.")
        words = None
        if found.words is not None:
            words = pd.DataFrame(found.words, columns=["utterance_id", "word", "start", "end"])
        schemes = SCORE_RULES | {"seven": SEVEN}
        corpus = Corpus(
            name="mosi",
            labels=SCORE_RULES[rule],
            table=table,
            words=words,
            root=folder,
            licence="for research, on the terms of CMU-MultimodalSDK",
            source="CMU-MOSI, Zadeh et al. 2016, https://arxiv.org/abs/1606.06259",
            schemes={name: {"column": name, "labels": list(labels)} for name, labels in schemes.items()},
            info={"rule": rule, "folds": folds, "splits": "by video, and so by speaker"},
        )
        write_corpus(corpus, folder, bad)
        write_features(found, corpus.ids, folder / "features", audio, report)
    return read_folder(out), report


def _table(found: Found, folds: str, rule: str, report: Report) -> pd.DataFrame:
    """Videos in the order of their ids, segments in the order of their numbers."""
    if not found.rows:
        raise MerLabError("the source holds no labelled segment; get it from its publisher again.")
    table = pd.DataFrame(found.rows).set_index("utterance_id").sort_values(["dialogue_id", "turn"])
    if not table.index.is_unique:
        twice = table[table.index.duplicated()].iloc[0]
        raise MerLabError(f"{twice['where']}: the segment {twice.name} stands twice; keep one of them.")
    place = {video: k for k, video in enumerate(VIDEOS)}

    def split_of(folds: str) -> pd.Series:
        first, second = FOLDS[folds]
        names = ["train"] * first + ["validation"] * (second - first) + ["test"] * (len(VIDEOS) - second)
        return table["dialogue_id"].map(lambda v: names[place[v]] if v in place else "")

    moved = table.index[(table["split"] != "") & (table["split"] != split_of("standard"))].tolist()
    if moved:
        report.warnings.append(
            f"{len(moved)} segments stand in another part of the pickle than their video's official fold, "
            f"which counts here: {some(moved)}."
        )
    if strange := sorted(set(table["dialogue_id"]) - set(VIDEOS)):
        report.warnings.append(f"{len(strange)} videos are in no official fold, no split: {some(strange)}.")
    if found.untimed:
        report.warnings.append(
            f"{len(found.untimed)} segments end before they start and have no times: {some(found.untimed)}."
        )
    if silent := table.index[table["text"] == ""].tolist():
        report.warnings.append(f"{len(silent)} segments have no text: {some(silent)}.")
    report.counts |= {"moved": len(moved), "strange": len(strange), "without_text": len(silent)}
    report.counts["without_times"] = len(found.untimed)
    score = table["score"].to_numpy()
    columns = {"seven": [str(k) for k in seven_classes(score)]}
    for name, labels in SCORE_RULES.items():
        columns[name] = ["" if k < 0 else labels[k] for k in two_classes(score, name)]
    table = table.assign(
        speaker=table["dialogue_id"], split=split_of(folds), audio="", label=columns[rule], **columns
    )
    return table[[*COLUMNS, "score", *columns]]


def _verify(table: pd.DataFrame, folds: str, report: Report) -> None:
    videos = table["dialogue_id"].nunique()
    report.notes.insert(0, f"{len(table)} segments of {videos} videos.")
    report.counts |= {"segments": len(table), "videos": videos}
    for split, published in PUBLISHED.items():
        score = table.loc[table["split"] == split, "score"]
        counts = tuple(int((np.sign(score) == s).sum()) for s in (-1, 0, 1))
        report.counts[split] = counts
        if counts != published and (folds == "standard" or split == "test"):
            told, expected = (" / ".join(map(str, x)) for x in (counts, published))
            report.warnings.append(
                f"{split}: {told} segments are below / at / above 0, the published corpus has {expected}; "
                "results on this copy do not compare with published ones."
            )


def _source(root: Path, report: Report) -> tuple[Callable[..., Found], list[Path]]:
    """The reader of the form that root has, and its files."""
    inside = sorted(p for p in root.rglob("*") if not p.name.startswith("._"))
    labels = [p for p in inside if p.name == "OpinionLevelSentiment.csv"]
    csd = [p for p in inside if p.suffix.lower() == ".csd"]
    pickles = [p for p in inside or [root] if p.suffix.lower() in (".pkl", ".pickle")]
    forms = {_read_raw: labels, read_csd: csd, read_mmsa: pickles}
    if not any(forms.values()):
        raise MerLabError(
            f"{root}: holds no OpinionLevelSentiment.csv, .csd or .pkl file; give the place of {_WANTED}."
        )
    read, paths = next((r, _without_copies(p, report)) for r, p in forms.items() if p)
    if read is not read_csd and len(paths) > 1:
        place = _ABOVE if read is _read_raw else "the one that you mean, or its folder"
        raise MerLabError(f"{paths[0]} and {paths[1]} are both there and differ; give {place}.")
    if unused := [p.name for r, others in forms.items() if r is not read for p in others]:
        report.notes.append(f"read from {paths[0].name}; not read: {some(unused)}.")
    return read, paths


def _without_copies(paths: list[Path], report: Report) -> list[Path]:
    """The files without those that hold the same bytes as one before them."""
    kept: list[Path] = []
    for path in paths:
        try:
            same = next((k for k in kept if filecmp.cmp(k, path, shallow=False)), None)
        except OSError as error:
            raise MerLabError(f"{path}: cannot be read ({error.strerror}).") from None
        if same is None:
            kept.append(path)
        else:
            report.counts["copies"] = report.counts.get("copies", 0) + 1
    return kept


def _by_stem(paths: Iterable[Path], report: Report) -> dict[str, Path]:
    """The one file of each segment or video; copies of it count once."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(p for p in paths if not p.name.startswith("._")):
        groups.setdefault(path.stem, []).append(path)
    for stem, group in groups.items():
        groups[stem] = group = _without_copies(group, report) if len(group) > 1 else group
        if len(group) > 1:
            raise MerLabError(f"{group[0]} and {group[1]} are both there and differ; give {_ABOVE}.")
    return {stem: group[0] for stem, group in groups.items()}


def _read_raw(root: Path, paths: list[Path], report: Report, files: ExitStack) -> Found:
    """Rows ``start,end,video,n,score`` without a header, and transcripts of lines ``n_DELIM_TEXT``."""
    found, texts = Found(), _transcripts(root, report)
    for number, line in enumerate(_lines(paths[0]), 1):
        if not line.strip():
            continue
        cells = [c.strip() for c in line.split(",")]
        where = f"{paths[0]}, line {number}"
        if len(cells) != 5:
            raise MerLabError(f"{where}: {len(cells)} values, expected start,end,video,segment,score.")
        start, end, score = (
            read_number(paths[0], number, c, cells[k]) for c, k in (("start", 0), ("end", 1), ("score", 4))
        )
        n = int(read_number(paths[0], number, "segment", cells[3], whole=True))
        found.add(where, cells[2], n, score, texts.pop((cells[2], n), ""), start, end)
    if texts:
        extra = [f"{video}_{n}" for video, n in texts]
        report.warnings.append(f"{len(texts)} transcript lines have no label, left out: {some(extra)}.")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise MerLabError(f"{path}: cannot be read ({error.strerror}).") from None


def _transcripts(root: Path, report: Report) -> dict[tuple[str, int], str]:
    texts: dict[tuple[str, int], str] = {}
    odd: list[str] = []
    for path in _by_stem(root.rglob("*.annotprocessed"), report).values():
        for number, line in enumerate(_lines(path), 1):
            head, mark, text = line.partition("_DELIM_")
            if not mark or not re.fullmatch(r"\s*[0-9]{1,9}\s*", head):
                odd += [f"{path.name} line {number}"] if line.strip() else []
            elif (key := (path.stem, int(head))) in texts:
                raise MerLabError(f"{path}, line {number}: the segment {key[1]} stands already above.")
            else:
                texts[key] = text
    if odd:
        report.warnings.append(f"{len(odd)} transcript lines are not n_DELIM_TEXT, left out: {some(odd)}.")
    return texts


def _link_audio(table: pd.DataFrame, root: Path, folder: Path, report: Report, bad: list) -> None:
    """Link the segments' wav files; fills the table's audio column."""
    there = [p for p in root.rglob("*") if p.suffix.lower() == ".wav" and p.parent.name == "Segmented"]
    wavs = _by_stem((p for p in there if p.parent.parent.name == "WAV_16000"), report)
    wavs |= _by_stem((p for p in there if p.stem not in wavs), report)
    if not wavs:
        report.warnings.append("there is no Audio/WAV_16000/Segmented, so the segments have text only.")
        return
    for uid in tqdm(table.index, desc="CMU-MOSI", unit="wav"):
        reason, path = "the file is missing", wavs.pop(uid, None)
        if path is not None:
            try:
                read_audio(path)
                link(path, folder / "audio" / f"{uid}.wav")
                table.loc[uid, "audio"] = f"audio/{uid}.wav"
                continue
            except MerLabError as error:
                reason = str(error).replace(str(path), path.name)
        bad.append((uid, path.relative_to(root).as_posix() if path else f"{uid}.wav", reason))
    report.counts |= {"quarantined": len(bad), "extra_wavs": len(wavs)}
    if bad:
        report.warnings.append(
            f"{len(bad)} wav files are missing or damaged and their segments have text only: "
            f"{some([uid for uid, *_ in bad])}; quarantine.csv has the reasons."
        )
    if wavs:
        report.warnings.append(f"{len(wavs)} wav files belong to no label, left out: {some(sorted(wavs))}.")
