"""Recordings whose names say everything: ``SPEAKER_EMOTION_TAKE.wav``, such as ``ann_angry_01.wav``.

Many acted corpora look like this. There are no dialogues, so each clip is one of its own, and no words.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mer_lab.audio import duration
from mer_lab.corpora.corpus import COLUMNS, Corpus
from mer_lab.corpora.importing import Report, importing, link, write_corpus
from mer_lab.corpora.native import read_folder
from mer_lab.corpora.splits import grouped_split
from mer_lab.errors import MerLabError

_NAME = re.compile(r"([a-z]+)_([a-z]+)_(\d+)")


def prepare_named(root: str | Path, out: str | Path) -> tuple[Corpus, Report]:
    """Turn a folder of such recordings into a native corpus folder, speakers disjoint over the splits.

    Args:
        root: holds the wav files, at any depth.
        out: the new folder; absent or empty.

    Raises:
        MerLabError: no file has such a name. Damaged files are listed in ``quarantine.csv``.
    """
    root, out, report = Path(root), Path(out), Report()
    rows, bad = [], []
    with importing(root, out, "recordings named SPEAKER_EMOTION_TAKE.wav") as folder:
        for path in sorted(root.rglob("*.wav")):
            if not (named := _NAME.fullmatch(path.stem)):
                bad.append((path.stem, path.name, "its name is not SPEAKER_EMOTION_TAKE"))
                continue
            try:
                seconds = duration(path)
            except MerLabError as error:
                bad.append((path.stem, path.name, str(error).removeprefix(f"{path}: ")))
                continue
            row = dict.fromkeys(COLUMNS, "") | {"utterance_id": path.stem, "dialogue_id": path.stem}
            row |= {"turn": 0, "speaker": named[1], "label": named[2], "start": 0.0, "end": seconds}
            rows.append(row | {"audio": f"audio/{path.name}"})
            link(path, folder / rows[-1]["audio"])
        if not rows:
            raise MerLabError(f"{root}: no file here is named like ann_angry_01.wav.")
        table = pd.DataFrame(rows).set_index("utterance_id")
        labels = tuple(sorted(table["label"].unique()))
        corpus = Corpus(name="named", labels=labels, table=table, root=folder, source="recordings of our own")
        write_corpus(grouped_split(corpus, by="speaker"), folder, bad)
    report.notes.append(f"{len(rows)} clips of {table['speaker'].nunique()} speakers.")
    if bad:
        report.warnings.append(f"{len(bad)} files left out; quarantine.csv says why.")
    return read_folder(out), report
