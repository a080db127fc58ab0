"""A conversation with an answer and an explanation for each of its turns, to be read and listened to."""

from __future__ import annotations

from typing import Any

import jinja2
import numpy as np

from mer_lab.answering import Answers
from mer_lab.conversation import audio_extractor
from mer_lab.explain.attribution import REFUSED, attribute
from mer_lab.explain.page import gallery, percent
from mer_lab.explain.question import Question
from mer_lab.explain.single import Explained, explained
from mer_lab.files import TEMPLATES
from mer_lab.palette import colours

STEPS = 128
"""Steps of an integral: a page that answers while its reader waits does not refine it any further."""


def explained_turns(answers: Answers) -> list[Explained | None]:
    """Each turn with what its words and its voice add to the decision of the first system.

    None stands for a turn whose numbers do not add up to what they should explain, by more than
    :data:`~mer_lab.explain.attribution.REFUSED`.
    """
    model, data = answers.systems[0], answers.data
    question = Question(model, data, list(range(len(data))))
    values = attribute(question, extractor=audio_extractor(model), refuse=False, steps=STEPS)
    return [
        # as they are shown above it: calibrated
        item._replace(name=f"Turn {k + 1}", probabilities=answers.seeds[0, k])
        if values.error[k] <= REFUSED else None
        for k, item in enumerate(explained(model, values))
    ]  # fmt: skip


def conversation_page(answers: Answers, page: bool = True, explain: bool = True) -> str:
    """All turns below each other: decision, how sure, what cannot be ruled out, words and voice in colours.

    Args:
        page: a page of its own, which needs no network; else a fragment for a notebook.
        explain: colour words and voice too, which takes a second a turn.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    items = explained_turns(answers) if explain else []
    shown = [item for item in items if item is not None]
    return environment.get_template("conversation.html").render(
        page=page, turns=_turns(answers), labels=answers.labels, several=len(answers.systems),
        coverage=percent(answers.coverage) if answers.sets is not None else "",
        colours=dict(zip(answers.labels, colours(answers.labels), strict=True)),
        details=gallery(shown) if shown else "",
        refused=[k for k, item in enumerate(items, 1) if item is None],
    )  # fmt: skip


def _turns(answers: Answers) -> list[dict[str, Any]]:
    rows = []
    table = answers.data.corpus.table
    for k, p in enumerate(answers.probabilities):
        own, order = answers.seeds[:, k], np.argsort(-p)
        low, high = own.min(0), own.max(0)
        kept = answers.sets[k] if answers.sets is not None else np.zeros(len(p), bool)
        rows.append({
            "speaker": table["speaker"].iloc[k], "text": table["text"].iloc[k],
            "decision": answers.labels[order[0]], "sure": percent(float(p[order[0]])),
            "low": percent(float(low[order[0]])), "high": percent(float(high[order[0]])),
            "left": [answers.labels[j] for j in order if kept[j]],
            "bars": [
                {"label": label, "number": percent(float(p[j])), "share": round(100 * float(p[j]), 2),
                 "low": round(100 * float(low[j]), 2), "high": round(100 * float(high[j]), 2)}
                for j, label in enumerate(answers.labels)
            ],
        })  # fmt: skip
    return rows
