"""The demo answers clips that were handed in, and what is no clip with a sentence."""

import contextlib
import io
import re
import socket
import subprocess
import sys
import threading

import browser
import numpy as np
import psutil
import pytest
import soundfile
import torch

from mer_lab.demo import MOST, Demo, serve
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, prepare
from mer_lab.models import System


@pytest.fixture(scope="module")
def model(sine_folder, tmp_path_factory):
    recipe = Recipe(
        "tiny", {"name": "early", "width": 6}, corpus=str(sine_folder),
        audio={"name": "prosody", "hop": 0.05}, text={"name": "words", "width": 6},
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "model"
    prepare(recipe)[1]().save_pretrained(folder)
    return folder


def wav(seconds=0.5, **options):
    tone = 0.3 * np.sin(2 * np.pi * 200 * np.arange(round(16000 * seconds)) / 16000)
    buffer = io.BytesIO()
    soundfile.write(buffer, options.pop("wave", tone), 16000, format="WAV", **options)
    return buffer.getvalue()


def hand_in(row, data, name="clip.wav"):
    """As the browser sends it."""
    row.clip._receive(None, {"kind": "clip", "id": "x", "part": 0, "parts": 1, "name": name}, [data])


def test_a_conversation_is_answered_turn_by_turn(model):
    demo = Demo(model)
    demo.add_turn()
    for row, text in zip(demo.rows, ("we go up", "we go <b>down</b>"), strict=True):
        hand_in(row, wav())
        row.text.value = text
    demo.decide()
    assert demo.problem == "" and len(demo.answers.data) == 2
    assert demo.answers.data.corpus.table["speaker"].tolist() == ["A", "B"]
    assert "Turn 2" in demo._shown.value and "<b>down" not in demo._shown.value


@pytest.mark.parametrize(
    "data, name, problem",
    [
        (b"", "empty.wav", "is empty"),
        (b"MZ\x90\x00" + bytes(5000), "virus.wav", "cannot be decoded"),
        (wav(wave=np.full(8000, np.nan), subtype="FLOAT"), "nan.wav", "NaN"),
        (wav(wave=np.zeros(3600 * 16000, np.int16), subtype="PCM_U8"), "hour.wav", "MB large|longer than"),
        (wav(wave=np.zeros(8000)), "muted.wav", "silence"),
        (wav(0.02), "../../<script>.wav", "only 0.02 s"),
    ],
)
def test_hostile_clips_get_a_sentence_each_and_the_demo_goes_on(model, data, name, problem):
    demo = Demo(model)
    [row] = demo.rows
    row.text.value = "we go up"
    hand_in(row, data, name)
    demo.decide()
    assert demo.answers is None
    assert re.search(problem, demo.problem), demo.problem
    assert demo.problem.startswith("Turn 1: ") and "/tmp" not in demo.problem and "<" not in demo.problem
    assert "\n" not in demo.problem
    hand_in(row, wav())
    demo.decide()
    assert demo.problem == "" and demo.answers is not None


def test_what_is_missing_is_said(model):
    demo = Demo(model)
    demo.decide()
    assert "Turn 1: Nothing is recorded yet" in demo.problem
    hand_in(demo.rows[0], wav())
    demo.decide()
    assert demo.problem == "Turn 1: type what is said in it."
    for _ in range(MOST):
        demo.add_turn()
    assert len(demo.rows) == MOST and f"at most {MOST}" in demo.problem
    demo.rows[0].children[-1].children[-1].click()  # take away
    assert len(demo.rows) == MOST - 1 and "<strong>Turn 1<" in demo.rows[0]._title.value


def test_a_recogniser_fills_in_what_was_not_typed(model, monkeypatch):
    monkeypatch.setattr("mer_lab.demo.transcribe", lambda path, recogniser: f"we go up {recogniser}")
    demo = Demo([System.from_pretrained(model)], recogniser="tiny")
    hand_in(demo.rows[0], wav())
    demo.decide()
    assert demo.problem == "" and demo.rows[0].text.value == "we go up tiny"


def test_a_demo_without_a_system_does_not_start(tmp_path):
    with pytest.raises(MerLabError, match="neither a saved system"):
        serve(tmp_path)


@pytest.fixture(scope="module")
def page_address(model):
    """The demo as a page, started by its command."""
    pytest.importorskip("voila", reason="the extra [course] is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mer_lab", "demo", str(model), "--no-browser", "--port", str(port)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = []
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/\S*", "".join(said[-1:]))):
            line = process.stdout.readline()
            assert line, "".join(said)
            said.append(line)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield found[0]
    finally:
        for child in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def test_the_page_answers_at_phone_width_and_asks_nobody_for_anything(page_address, tmp_path):
    (tmp_path / "virus.wav").write_bytes(b"MZ\x90\x00" + bytes(5000))
    (tmp_path / "clip.wav").write_bytes(wav())
    with browser.launch() as chromium:
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(120_000)
        watch = browser.Watch(page)
        page.goto(page_address)
        decide = page.get_by_role("button", name="What do you hear?")
        page.locator("input[type=file]").set_input_files(tmp_path / "virus.wav")
        page.get_by_text("virus.wav: the audio cannot be decoded").wait_for()
        page.get_by_placeholder("What is said").fill("we go up")
        decide.click()
        page.get_by_role("alert").get_by_text("Turn 1: virus.wav").wait_for()
        page.locator("input[type=file]").set_input_files(tmp_path / "clip.wav")
        page.get_by_text("0.5 s of sound").wait_for()
        decide.click()
        frame = page.frame_locator("iframe")
        frame.get_by_text("1 turn, and what a network makes of it").wait_for()
        frame.get_by_text("go", exact=True).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert watch.problems == []
