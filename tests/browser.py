"""A headless browser for tests: find one or skip, serve a folder, note all that goes wrong on a page.

``with launch() as browser, serve(folder) as address``, then ``watch = Watch(page := browser.new_page())``,
``page.goto(address)`` and ``assert not watch.problems``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
# No sandbox: continuous integration runs as root. The rest keeps the browser from calling home.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required", "--mute-audio",
)  # fmt: skip
_HERE = ("127.0.0.1", "localhost", "[::1]", "::1")


def chromium_path() -> str | None:
    """``$MER_LAB_CHROMIUM``, else the first Chromium on the path, else ``None``: Playwright's own may do."""
    return os.environ.get("MER_LAB_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def launch(**options):
    """A headless Chromium (``playwright.sync_api.Browser``); skips the test where there is none.

    ``options`` go to Playwright's ``launch``.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        path = chromium_path()
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium here: name one in MER_LAB_CHROMIUM, or run playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS), **options)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def serve(folder: str | Path) -> Iterator[str]:
    """The folder over HTTP on a free port of this machine; yields the address, with its last slash."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class Watch:
    """What goes wrong on a page (``playwright.sync_api.Page``) from now on, as sentences.

    ``console``: errors written to the console, and exceptions that no script caught; ``failed``: requests
    that failed or were answered with 400 or above; ``outside``: addresses asked for that leave this machine.
    Warnings of the console are kept in ``warnings`` and are no problem.
    """

    def __init__(self, page) -> None:
        self.console, self.failed, self.outside, self.warnings = [], [], [], []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.console.append(f"not caught: {error}"))
        page.on("request", self._request)
        page.on("requestfailed", self._failed)
        page.on("response", self._response)

    @property
    def problems(self) -> list[str]:
        """All of them: console, failed requests, outside requests; empty when all is well."""
        outside = [f"asks for {url}, which is not on this machine" for url in self.outside]
        return [*self.console, *self.failed, *outside]

    def clear(self) -> None:
        """Forget what was noted, before the next page."""
        for notes in (self.console, self.failed, self.outside, self.warnings):
            notes.clear()

    def _console(self, message) -> None:
        notes = {"error": self.console, "warning": self.warnings}.get(message.type)
        if notes is not None:
            notes.append(f"{message.text} ({message.location.get('url', '')})")

    def _request(self, request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss", "ftp") and parts.hostname not in _HERE:
            self.outside.append(request.url)

    def _failed(self, request) -> None:
        if request.failure != "net::ERR_ABORTED":  # given up because the next page was opened
            self.failed.append(f"{request.url}: {request.failure}")

    def _response(self, response) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.url}: answered {response.status}")


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *arguments) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the browser closed a page before it was sent
            super().handle()
