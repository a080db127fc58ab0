"""What an audit found: rows, graded by :data:`LIMITS`, as a table, as text and as files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mer_lab.corpora.importing import some
from mer_lab.files import write_text

LIMITS: dict[str, tuple[float | None, float | None]] = {  # a warning above, fails above, in the row's unit
    "splits": (0, None),  # without validation a model is selected on test
    "speakers": (None, 0),  # a model scores for recognising a voice or a manner of speaking
    "dialogues": (None, 0),  # neighbouring turns share mood, topic and microphone
    # If text models gain 30 points on what they have read before, 5 % of copies are worth 1.5 points: about
    # half an interval on MELD's test set. 1 % is worth 0.3, as much as many a claimed gain.
    "copied-text": (1, 5),
    "near-copies": (1, 5),
    "short-copies": (None, None),  # "okay" recurs in every conversation
    "other-sessions": (10, None),  # a trait of scripted dialogues; whether it leaks, the splits decide
    "agreement": (0.6, None),  # 1 - kappa; a kappa below 0.4 is called fair at best (Landis & Koch 1977)
    "split-votes": (None, None),
    "bare-majority": (50, None),
    "label-error": (10, None),  # no system can then be seen to pass 90 %
    "missing-classes": (None, 0),  # the recall is 0 or undefined whatever the model does
    "rare-classes": (0, None),  # one utterance moves the recall by 10 points or more
    "majority-class": (2, None),  # times 1 / classes: guessing looks like skill
    "class-drift": (0.1, None),  # Cramér's V where p < 0.05; 0.1 is called a small effect (Cohen 1988)
    "durations": (0, 5),  # a clip cut elsewhere holds other words than its transcript
    "zero-length": (0, None),
    "turn-order": (0, None),  # a contextual model reads the future
    "word-times": (0, 5),  # words are aligned with frames that do not hold them
    "speaking-rate": (1, None),  # single times are off in every corpus; a share of them has a cause
    "decoding": (None, 0),
    "silence": (0, 1),
    "edges": (30, None),  # a third of what a pooled statistic averages is no speech
    "clipping": (1, None),
    "dc-offset": (1, None),
    "level": (1, None),
    "sampling-rates": (0, None),  # bandwidth tells recordings apart, not emotions
    "telephone-band": (1, None),
    "same-audio": (0, None),
    "audio-across-splits": (None, 0),
    "empty-text": (0, None),
    "mojibake": (0, None),
    "duplicates": (5, None),
    "test-size": (5, None),  # points; most published gains are smaller
}
STATUSES = ("fails", "warning", "accepted", "ok", "not checked")


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        corpus: its name.
        table: one row a check: ``check``, ``status`` (of :data:`STATUSES`), ``value``, ``unit``, ``detail``,
            ``todo``. Utterances are named by id and no transcript is quoted: it may be shown where the
            corpus may not.
        details: the tables behind the rows: ``classes`` (utterances, splits by labels), and with a row an
            utterance ``copies``, ``votes``, ``lengths`` (seconds), ``sound``; only what could be looked at.
    """

    corpus: str
    table: pd.DataFrame
    details: dict[str, pd.DataFrame]

    @property
    def ok(self) -> bool:
        """True where no check fails."""
        return not (self.table["status"] == "fails").any()

    def __str__(self) -> str:
        lines = []
        for status in STATUSES[:-1]:
            for row in self.table[self.table["status"] == status].itertuples():
                name = status.upper() if status == "fails" else status
                lines.append(f"{name:12}{row.check:20} {row.value:.4g} {row.unit}")
                for text in (row.detail, f"To do: {row.todo}") if status != "ok" else ():
                    lines += textwrap.wrap(text, 100, initial_indent=" " * 12, subsequent_indent=" " * 12)
        unseen = self.table[self.table["status"] == STATUSES[-1]]
        for why, rows in unseen.groupby("detail", sort=False):
            text = f"{STATUSES[-1]:12}{', '.join(rows['check'])}: {why}"
            lines += textwrap.wrap(text, 100, subsequent_indent=" " * 12, break_on_hyphens=False)
        counts = self.table["status"].value_counts().reindex(STATUSES, fill_value=0)
        return "\n".join([*lines, f"{self.corpus}: " + ", ".join(f"{n} {s}" for s, n in counts.items())])

    def save(self, folder: str | Path) -> None:
        """Write ``audit.csv``, and a CSV file for each of the details.

        Raises:
            MerLabError: the folder cannot be written.
        """
        write_text(Path(folder) / "audit.csv", self.table.to_csv(index=False, lineterminator="\n"))
        for name, table in self.details.items():
            write_text(Path(folder) / f"{name}.csv", table.to_csv(lineterminator="\n"))


@dataclass
class Findings:
    """The rows while they are collected; ``accept`` names the checks whose outcome is known."""

    accept: Sequence[str] = ()
    rows: list[tuple] = field(default_factory=list)
    details: dict[str, pd.DataFrame] = field(default_factory=dict)

    def add(
        self, check: str, value: float, unit: str, detail: str, todo: str, bad: float | None = None
    ) -> None:
        """A row, graded by its value, or by ``bad`` where that is another number."""
        bad = value if bad is None else bad
        warning, fails = LIMITS[check]
        status = "ok"
        if fails is not None and bad > fails:
            status = "fails"
        elif warning is not None and bad > warning:
            status = "warning"
        if status == "ok":
            todo = ""
        elif check in self.accept:
            status = "accepted"
        self.rows.append((check, status, round(float(value), 4), unit, detail, todo))

    def share(self, check: str, mask: pd.Series, unit: str, what: str, todo: str) -> None:
        """A row with the share of utterances, in per cent, for which a mask (not empty) is true."""
        ids = mask.index[mask].astype(str).tolist()
        detail = f"{len(ids)} of {len(mask)} {what}" + (f": {some(ids)}." if ids else ".")
        self.add(check, 100 * len(ids) / len(mask), unit, detail, todo)

    def skip(self, checks: str, why: str) -> None:
        """Rows of checks, parted by spaces, that could not be made."""
        self.rows += [(check, "not checked", np.nan, "", why, "") for check in checks.split()]
