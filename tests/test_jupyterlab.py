"""The course where it is read: JupyterLab in a headless browser, with sound, widgets and a microphone."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import browser
import nbformat
import numpy as np
import psutil
import pytest
import soundfile
from nbformat.v4 import new_code_cell, new_notebook
from test_clips import as_file, tone

from mer_lab.audio import read_audio, resample
from mer_lab.corpora.staged.speech import Line, speak

pytest.importorskip("jupyterlab", reason="the extra [course] is not installed")
pytest.importorskip("anywidget", reason="the extra [course] is not installed")

ROOT = Path(__file__).resolve().parents[1]
LESSON = "00_start_here.ipynb"
SECONDS = 120_000  # ms; how long a page may take on a machine that does other things too

CELLS = [
    """import sys
import ipywidgets
import matplotlib.pyplot as plt

slider = ipywidgets.IntSlider(3, 0, 10, description="Tempo")


def draw(tempo):
    fig, axes = plt.subplots(figsize=(3, 1.2))
    axes.bar([0], [tempo])
    plt.show()
    print("tempo is", tempo, "in", sys.executable)


display(slider, ipywidgets.interactive_output(draw, {"tempo": slider}))""",
    """from mer_lab.recorder import ClipUpload, Recorder

recorder, heard = Recorder(max_seconds=4), ipywidgets.HTML("nothing heard")


def hear(change):
    if change["new"]:
        recorder.save(f"heard_{recorder.answer.get('number', 0)}.wav")
        heard.value = f"heard {len(recorder.wave) / 16000:.2f} s"


recorder.observe(hear, "data")
display(recorder, heard)""",
    """upload, taken = ClipUpload(max_bytes=20 * 2**20), ipywidgets.HTML("nothing taken")


def take(change):
    taken.value = f"taken {len(change['new'])} bytes of {upload.name}"


upload.observe(take, "data")
display(upload, taken)""",
]


class NoNetwork:
    """A proxy that lets nothing through and counts what came: what the server and its kernels ask for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection:
                self.asked.append(connection.recv(200).split(b"\r\n")[0].decode(errors="replace"))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """About two seconds of speech as a wav file at 48 kHz, the rate of the browser's microphone."""
    folder = tmp_path_factory.mktemp("speech")
    path = folder / "at16.wav"
    speak([Line(str(path), ["banelu", "tirosa", "kemodi", "pasule"], accent=1, wpm=150)])
    wave = read_audio(path)
    soundfile.write(folder / "spoken.wav", resample(wave, 16000, 48000), 48000, subtype="PCM_16")
    return folder / "spoken.wav"


class Lab:
    """JupyterLab on a copy of the lessons, with settings and data folders of its own and no network."""

    def __init__(self, folder: Path) -> None:
        self.notebooks = folder / "notebooks"
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT / "notebooks", self.notebooks, ignore=ignored)
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        cells = [new_code_cell(source) for source in CELLS]
        widgets = new_notebook(cells=cells, metadata={"kernelspec": kernelspec})
        nbformat.write(widgets, self.notebooks / "widgets.ipynb")
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        no_news = json.dumps({"fetchNews": "false", "checkForUpdates": False})
        (settings / "notification.jupyterlab-settings").write_text(no_news, encoding="utf-8")
        kernel = folder / "data" / "kernels" / "python3"
        kernel.mkdir(parents=True)
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": launch, "display_name": "Python 3", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        self.proxy = NoNetwork()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.token = "only-for-this-test"
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "server.log").open("w+", encoding="utf-8")
        proxies = dict.fromkeys(
            ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], self.proxy.address
        )
        local = dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
        folders = {
            "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython", "MER_LAB_FIGURES": "figures",
        }  # fmt: skip
        environment = {
            **os.environ, **proxies, **local, **{name: str(folder / to) for name, to in folders.items()},
            "JUPYTER_PREFER_ENV_PATH": "0", "MER_LAB_SCALE": "smoke", "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", str(self.notebooks), "--no-browser",
                "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={self.token}", f"--LabApp.user_settings_dir={folder / 'settings'}",
                f"--LabApp.workspaces_dir={folder / 'workspaces'}", "--LabApp.news_url=None",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                "--LabApp.extension_manager=readonly", "--expose-app-in-browser", "--allow-root",
            ],
            env=environment, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/api"):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        self._log.seek(0)
        pytest.fail(f"JupyterLab did not start:\n{self._log.read()}")

    def close(self) -> None:
        """End the server, then what it left: kernels live in sessions of their own."""
        family = [psutil.Process(self._process.pid)] if self._process.poll() is None else []
        family += [child for process in family for child in process.children(recursive=True)]
        self._process.terminate()
        _, alive = psutil.wait_procs(family, timeout=8)
        for process in alive:
            process.kill()
        self._process.wait()
        self._log.close()
        self.proxy.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def page(lab, spoken):
    """A page whose microphone hears ``spoken`` over and over."""
    microphone = (
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={spoken}",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "ARGUMENTS", (*browser.ARGUMENTS, *microphone))
        with browser.launch() as chromium:
            lab.wait()
            page = chromium.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(SECONDS)
            page.watch = browser.Watch(page)
            page.sockets = []
            page.on("websocket", lambda socket: page.sockets.append(urlsplit(socket.url).hostname))
            yield page


@pytest.fixture
def nothing_wrong(page, lab):
    """Asserts, after each test, that nothing went wrong on the page and that nobody asked the network."""
    yield
    problems = page.watch.problems
    page.watch.clear()
    assert not problems
    assert set(page.sockets) == {"127.0.0.1"}
    assert not lab.proxy.asked


def open_notebook(page, lab, name):
    page.goto(f"{lab.url}/lab/tree/{name}?token={lab.token}&reset")
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for()
    page.wait_for_function(
        "name => { const s = window.jupyterapp.shell.currentWidget?.context?.sessionContext;"
        " return s?.path === name && s.session?.kernel?.status === 'idle' }",
        arg=name,
    )


def run_all(page):
    """Run → Run All Cells by the menu, until the last cell has its number and the kernel is idle."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => { const panel = window.jupyterapp.shell.currentWidget;
        const code = [...panel.content.model.cells].filter(c => c.type === 'code' && c.sharedModel.source);
        return panel.context.sessionContext.session.kernel.status === 'idle'
            && code.every(c => c.executionCount && c.executionState === 'idle') }"""
    )


def saved(page, lab, name):
    """The notebook as JupyterLab saves it."""
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    return nbformat.read(lab.notebooks / name, as_version=4)


@pytest.mark.usefixtures("nothing_wrong")
def test_a_lesson_runs_and_plays(page, lab):
    open_notebook(page, lab, LESSON)
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    assert page.locator("audio").count() == 0
    run_all(page)
    player = page.locator("audio").first
    player.scroll_into_view_if_needed()
    assert player.evaluate("a => [a.currentTime, a.paused]") == [0, True]
    player.click(position={"x": 20, "y": player.bounding_box()["height"] / 2})
    page.wait_for_function("() => document.querySelector('audio').currentTime > 0.3")
    code = [cell for cell in saved(page, lab, LESSON).cells if cell.cell_type == "code" and cell.source]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "scale smoke" in outputs[0].text


@pytest.fixture(scope="module")
def widgets(page, lab):
    """The notebook of widgets, run."""
    open_notebook(page, lab, "widgets.ipynb")
    run_all(page)
    page.locator(".mlr").nth(1).wait_for()
    return page


@pytest.mark.usefixtures("nothing_wrong")
def test_a_slider_moves_its_figure(widgets):
    page = widgets
    output = page.locator(".jp-OutputArea .widget-output, .jp-OutputArea .jupyter-widget-output").first
    output.get_by_text("tempo is 3").wait_for()
    assert sys.executable in output.inner_text()
    before = output.locator("img").get_attribute("src")
    page.locator(".widget-slider").filter(has_text="Tempo").get_by_role("slider").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    output.get_by_text("tempo is 7").wait_for()
    assert output.locator("img").get_attribute("src") != before


def alike(heard, spoken):
    """Highest correlation of a recording with the speech that the microphone repeats, at any shift."""
    source = np.tile(spoken, 2 + len(heard) // len(spoken))
    size = len(source) + len(heard)
    product = np.fft.irfft(np.fft.rfft(source, size) * np.conj(np.fft.rfft(heard, size)), size)
    energy = np.convolve(source**2, np.ones(len(heard)), mode="valid")
    return (product[: len(energy)] / np.sqrt(energy * (heard**2).sum())).max()


@pytest.mark.usefixtures("nothing_wrong")
def test_the_microphone_reaches_the_kernel(widgets, lab, spoken):
    page = widgets
    box = page.locator(".mlr").first
    button = box.get_by_role("button", name=re.compile("Record|Stop"))
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.mlr-time').textContent.startsWith('0:02')")
    assert button.inner_text() == "Stop"
    page.wait_for_function("() => document.querySelector('.mlr-level i').offsetWidth > 20")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"heard \d")).wait_for()
    assert button.inner_text() == "Record"
    assert re.search(r"2\.\d s of sound", box.get_by_role("status").inner_text())
    wave = read_audio(lab.notebooks / "heard_0.wav")
    assert 1.9 < len(wave) / 16000 < 3.2
    assert np.abs(wave).max() > 0.05
    assert alike(wave, read_audio(spoken)) > 0.8  # 0.97; 0.14 when one is reversed
    player = box.locator("audio")
    page.wait_for_function("() => isFinite(document.querySelector('.mlr audio').duration)")
    assert abs(player.evaluate("a => a.duration") - len(wave) / 16000) < 0.2


@pytest.mark.usefixtures("nothing_wrong")
def test_a_recording_stops_at_its_limit(widgets, lab):
    page = widgets
    box = page.locator(".mlr").first
    box.get_by_role("button", name="Record").click()
    box.get_by_role("button", name="Stop").wait_for()
    box.get_by_role("button", name="Record").wait_for()
    box.get_by_text(re.compile(r"[34]\.\d s of sound")).wait_for()
    assert box.locator(".mlr-time").inner_text() == "0:04 / 0:04"
    assert 3.7 < len(read_audio(lab.notebooks / "heard_1.wav")) / 16000 < 5


REFUSALS = {
    "refused": ("NotAllowedError", "Allow it"),
    "absent": ("NotFoundError", "No microphone was found"),
    "taken": ("NotReadableError", "another program"),
    "unknown": ("StrangeError", "(StrangeError)"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.usefixtures("nothing_wrong")
def test_a_refused_microphone_is_explained(widgets, case):
    error, words = REFUSALS[case]
    page = widgets
    box = page.locator(".mlr").first
    page.evaluate(
        "name => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)) }",
        error,
    )
    box.get_by_role("button", name="Record").click()
    box.get_by_text(words).wait_for()
    assert "Choose a file" in box.get_by_role("status").inner_text()
    page.evaluate("() => { delete navigator.mediaDevices.getUserMedia }")


@pytest.mark.usefixtures("nothing_wrong")
def test_a_page_that_is_not_secure_says_how_to_reach_one(widgets):
    page = widgets
    page.evaluate(
        "() => Object.defineProperty(window, 'isSecureContext', { value: false, configurable: true })"
    )
    page.locator(".mlr").first.get_by_role("button", name="Record").click()
    page.locator(".mlr").first.get_by_text("ssh -L 8888").wait_for()
    page.evaluate("() => { delete window.isSecureContext }")


@pytest.mark.usefixtures("nothing_wrong")
def test_files_reach_the_kernel(widgets, tmp_path):
    page = widgets
    box = page.locator(".mlr").nth(1)
    chooser = box.locator("input[type=file]")
    # Larger than the 10 MiB that Jupyter takes in one message.
    data = as_file(np.stack([tone(30, 48000)] * 2, 1), rate=48000, subtype="FLOAT")
    assert 10 * 2**20 < len(data) < 20 * 2**20
    (tmp_path / "my <clip>.wav").write_bytes(data)
    chooser.set_input_files(tmp_path / "my <clip>.wav")
    page.get_by_text(f"taken {len(data)} bytes of my _clip_.wav").wait_for()
    assert "30.0 s of sound" in box.get_by_role("status").inner_text()
    for name, content, words in [
        ("program.mp3", b"MZ" * 5000, "program.mp3: the audio cannot be decoded"),
        ("large.wav", bytes(20 * 2**20 + 1), "more than the 20.0 MB allowed"),
        ("empty.wav", b"", "0 bytes"),
    ]:
        (tmp_path / name).write_bytes(content)
        chooser.set_input_files(tmp_path / name)
        box.get_by_text(words).wait_for()


@pytest.mark.usefixtures("nothing_wrong")
def test_no_voice_is_in_the_notebook(widgets, lab):
    text = json.dumps(saved(widgets, lab, "widgets.ipynb"))
    assert "application/vnd.jupyter.widget-view+json" in text
    assert len(text) < 60_000


def test_the_proxy_would_tell_of_a_request():
    proxy = NoNetwork()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.address}))
    with pytest.raises((urllib.error.URLError, OSError)):
        opener.open("http://example.org/feed", timeout=10)
    proxy.close()
    assert proxy.asked == ["GET http://example.org/feed HTTP/1.1"]
