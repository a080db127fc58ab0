"""The demo: a conversation of one's own clips, decided and explained turn by turn, on this machine alone.

ipywidgets, shown in a lesson or served as a page by Voilà. (Of Gradio, the other well-kept way, users report
that its page asks other people's servers for a script and for fonts; this page asks for nothing.)
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from mer_lab.answering import Answers, answer, load_systems
from mer_lab.conversation import Turn
from mer_lab.errors import MerLabError
from mer_lab.explain.turns import conversation_page
from mer_lab.models import System
from mer_lab.recorder import Recorder
from mer_lab.transcription import transcribe

MOST = 12
"""Turns of a conversation that the demo takes."""
CHARACTERS = 300
"""Most of a turn's text."""


class Demo(widgets.VBox):
    """Record or choose clips, type what is said, and see what a system makes of the conversation.

    Args:
        model: a saved system or a run's folder, as of :func:`~mer_lab.answering.load_systems`, or systems.
        recogniser: a local speech recogniser that fills in what is said where nothing was typed.

    Attributes:
        answers: of the last conversation, None before.
        problem: the sentence that is shown, ``""`` for none.

    Raises:
        MerLabError: there is no such system.
    """

    def __init__(self, model: str | Path | Sequence[System], recogniser: str = "") -> None:
        self.systems = load_systems(model) if isinstance(model, str | Path) else list(model)
        self.recogniser = recogniser
        self.answers: Answers | None = None
        self.problem = ""
        self._rows = widgets.VBox()
        self._more = widgets.Button(description="Add a turn", icon="plus")
        self._decide = widgets.Button(description="What do you hear?", button_style="primary")
        self._told, self._shown = widgets.HTML(), widgets.HTML()
        for button, action in ((self._more, self.add_turn), (self._decide, self.decide)):
            button.layout.width = "auto"
            button.on_click(lambda _, action=action: action())
        buttons = widgets.HBox([self._more, self._decide], layout={"flex_flow": "row wrap"})
        super().__init__([self._rows, buttons, self._told, self._shown], layout={"max_width": "62rem"})
        self.add_turn()

    def __repr__(self) -> str:  # what a printed page shows in its place
        return "Demo: shown where the notebook runs"

    @property
    def rows(self) -> tuple[TurnRow, ...]:
        return self._rows.children

    def add_turn(self) -> None:
        """One more row, up to :data:`MOST`."""
        if len(self.rows) >= MOST:
            self._tell(f"A conversation has at most {MOST} turns here; take one away first.")
            return
        self._rows.children = (*self.rows, TurnRow(len(self.rows), self._remove))

    def decide(self) -> None:
        """Decide on every turn and show it, or say in one sentence what is missing."""
        self._tell("")
        self._shown.value = ""  # what was shown was of other clips
        self._decide.disabled = True
        self._told.value = "<p>Listening …</p>"
        try:
            with tempfile.TemporaryDirectory() as folder:
                turns = [self._turn(k, row, Path(folder)) for k, row in enumerate(self.rows, 1)]
                self.answers = answer(self.systems, turns)
                page = conversation_page(self.answers)
        except MerLabError as error:
            self._tell(str(error))
        except Exception as error:
            self._tell(f"This did not work ({type(error).__name__}); try again, or with a shorter clip.")
            raise
        else:
            self._tell("")
            self._shown.value = _framed(page)
        finally:
            self._decide.disabled = False

    def _turn(self, number: int, row: TurnRow, folder: Path) -> Turn:
        """The turn of a row as a file: what was handed in was checked, and its own name is gone."""
        path = folder / f"turn-{number}.wav"
        try:
            row.clip.save(path)
            text = row.text.value.strip()
            if not text and self.recogniser:
                row.text.value = text = transcribe(path, self.recogniser)[:CHARACTERS]
        except MerLabError as error:
            raise MerLabError(f"Turn {number}: {error}") from None
        if not text:
            raise MerLabError(f"Turn {number}: type what is said in it.")
        if len(text) > CHARACTERS:
            most = f"at most {CHARACTERS} are read"
            raise MerLabError(f"Turn {number}: its text has {len(text)} characters; {most}.")
        return Turn(path, text, row.speaker.value)

    def _remove(self, row: TurnRow) -> None:
        self._rows.children = tuple(r for r in self.rows if r is not row)
        for k, r in enumerate(self.rows):
            r.number = k

    def _tell(self, sentence: str) -> None:
        self.problem = sentence
        shown = f'<p role="alert" style="color: #a12d00; font-weight: 600">{html.escape(sentence)}</p>'
        self._told.value = shown if sentence else ""


class TurnRow(widgets.VBox):
    """One turn: a recording or a file, what is said, who says it."""

    def __init__(self, number: int, remove) -> None:
        self._title = widgets.HTML()
        self.clip = Recorder()
        self.text = widgets.Text(placeholder="What is said", layout={"width": "100%", "max_width": "34rem"})
        self.speaker = widgets.ToggleButtons(options=["A", "B"], value="AB"[number % 2])
        self.speaker.style.button_width = "3rem"
        away = widgets.Button(description="Take away", layout={"width": "auto"})
        away.on_click(lambda _: remove(self))
        who = widgets.HBox([widgets.Label("Speaker"), self.speaker, away], layout={"flex_flow": "row wrap"})
        layout = {"border_left": "3px solid #8a929b", "padding": "0 0 0 0.8rem", "margin": "0 0 1rem 0"}
        super().__init__([self._title, self.clip, self.text, who], layout=layout)
        self.number = number

    @property
    def number(self) -> int:
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._number = number
        self._title.value = f"<strong>Turn {number + 1}</strong>"


def serve(model: str | Path, port: int = 0, browser: bool = True, recogniser: str = "") -> int:
    """The demo as a page at an address of this machine that nobody else can reach; until Ctrl-C.

    Returns:
        the exit status of Voilà.

    Raises:
        MerLabError: there is no such system, or Voilà is not installed.
    """
    load_systems(model)  # what is wrong with it is said here and not on the page
    try:
        import voila  # noqa: F401
    except ImportError:
        raise MerLabError('the demo needs Voilà: pip install "mer_lab[course]".') from None
    given = json.dumps([str(Path(model).resolve()) if Path(model).exists() else str(model), recogniser])
    templates = Path(__file__).parent / "templates" / "jupyter"
    path = os.pathsep.join(filter(None, [str(templates), os.environ.get("JUPYTER_PATH")]))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "demo.ipynb"
        page.write_text(json.dumps(_notebook()), encoding="utf-8")
        command = [
            sys.executable, "-m", "voila", str(page), "--template=mer_lab", "--Voila.ip=127.0.0.1",
            f"--port={port or 8866}", "--Voila.port_retries=50", "--Voila.auto_token=True",
            "--show_tracebacks=False",
            *([] if browser else ["--no-browser"]),
        ]  # fmt: skip
        try:
            return subprocess.call(command, env={**os.environ, "JUPYTER_PATH": path, "MER_LAB_DEMO": given})
        except KeyboardInterrupt:
            return 0


def _notebook() -> dict:
    source = (
        "import json, os\nfrom mer_lab.demo import Demo\nDemo(*json.loads(os.environ['MER_LAB_DEMO']))"
    )
    said = (
        "# What do you hear?\n\nRecord or choose the turns of a conversation, type what is said, and see "
        "what a system makes of it. All of it stays on this machine and is gone when you close the page."
    )
    cells = [
        {"cell_type": "markdown", "id": "said", "metadata": {}, "source": said},
        {"cell_type": "code", "id": "demo", "metadata": {}, "source": source, "outputs": [],
         "execution_count": None},
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def _framed(page: str) -> str:
    """A page within the page, as high as it is: what it holds runs apart from the notebook."""
    grow = "this.style.height = this.contentDocument.documentElement.scrollHeight + 20 + 'px'"
    return (
        f'<iframe title="The conversation, turn by turn" style="width: 100%; height: 40rem; border: 0" '
        f'onload="{grow}" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )
