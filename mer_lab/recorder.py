"""Widgets for a clip of one's own, recorded or chosen: from the browser to the kernel and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from mer_lab.audio import write_audio
from mer_lab.clips import MAX_BYTES, MAX_SECONDS, check_clip, shown_name
from mer_lab.errors import MerLabError
from mer_lab.files import TEMPLATES

try:
    import anywidget
except ImportError:
    raise MerLabError(
        'The recorder needs anywidget, which comes with the course: pip install "mer_lab[course]".'
    ) from None

_GRACE = 1.0  # seconds; a recording that stops at its limit is some frames longer


class ClipUpload(anywidget.AnyWidget):
    """A button that takes one audio file from the reader's machine, with a player of it.

    ``data`` holds the file's bytes once they passed :func:`mer_lab.clips.check_clip`, and ``b""`` before and
    after a clip that did not; ``observe(f, "data")`` calls ``f`` on each change. The bytes come in parts, so
    that a file larger than Jupyter's limit of 10 MiB a message arrives, and are not saved in the notebook.

    Args:
        max_seconds: longest clip taken, at most an hour.
        max_bytes: largest file taken.

    Raises:
        MerLabError: a limit that is none, or ``data`` set by hand to what ``check_clip`` refuses.
    """

    _esm = (TEMPLATES / "recorder.js").read_text(encoding="utf-8")
    _css = (TEMPLATES / "recorder.css").read_text(encoding="utf-8")
    microphone = traitlets.Bool(False, read_only=True).tag(sync=True)
    max_seconds = traitlets.Float(read_only=True).tag(sync=True)
    max_bytes = traitlets.Int(read_only=True).tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)
    name = traitlets.Unicode("clip")
    data = traitlets.Bytes()

    _nothing = "No file is chosen yet: press the button, choose one, then run this cell again."

    def __init__(self, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES, **traits: Any) -> None:
        if not 0 < max_seconds <= 3600:
            raise MerLabError(f"max_seconds is {max_seconds}, expected more than 0 and at most 3600.")
        if not 0 < max_bytes <= 2**30:
            raise MerLabError(f"max_bytes is {max_bytes}, expected 1 to {2**30}.")
        # Not the traits: a page may change those, and where strangers see it the limits must hold.
        self._limits = {"max_bytes": max_bytes, "max_seconds": max_seconds}
        self._wave = np.zeros(0, np.float32)
        self._refusal, self._id, self._parts = "", None, []
        super().__init__(**traits)
        self.set_trait("max_seconds", max_seconds)
        self.set_trait("max_bytes", max_bytes)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_seconds={self.max_seconds:g})"

    @property
    def wave(self) -> np.ndarray:
        """The sound as float32 ``(N,)`` at 16 kHz, full scale = 1.

        Raises:
            MerLabError: there is no clip yet, or why the last one was refused.
        """
        if not self.data:
            raise MerLabError(self._refusal or self._nothing)
        return self._wave

    def save(self, path: str | Path) -> None:
        """Write the sound as a 16-bit wav file at 16 kHz.

        Raises:
            MerLabError: as :attr:`wave`, and where the file cannot be written.
        """
        write_audio(path, self.wave, 16000)

    @traitlets.validate("data")
    def _check(self, proposal: dict[str, Any]) -> bytes:
        data = proposal["value"]
        if data:
            self._wave = check_clip(data, self.name, **self._limits)
        return data

    def _receive(self, _: Any, content: Any, buffers: list[memoryview]) -> None:
        if not isinstance(content, dict) or content.get("kind") != "clip" or len(buffers) != 1:
            return
        if content.get("part") == 0:
            self._id, self._parts = content.get("id"), []
        elif content.get("id") != self._id or content.get("part") != len(self._parts):
            return  # two views send at once: the clip that began last wins
        self._parts.append(bytes(buffers[0]))
        complete = len(self._parts) == content.get("parts")
        if complete or sum(map(len, self._parts)) > self._limits["max_bytes"]:
            data, self._id, self._parts = b"".join(self._parts), None, []
            self._take(data, str(content.get("name")))

    def _take(self, data: bytes, name: str) -> None:
        self._refusal = ""
        try:
            self.name = shown_name(name)
            if not data:
                check_clip(data, name)  # says that it is empty
            self.data = data
        except MerLabError as error:
            self._refusal = str(error)
            self.data = b""
        seconds = len(self._wave) / 16000
        self.answer = {
            "text": self._refusal or f"{seconds:.1f} s of sound are in the notebook's kernel now.",
            "ok": not self._refusal,
            "number": self.answer.get("number", 0) + 1,  # so that the same answer twice is a change
        }


class Recorder(ClipUpload):
    """A button that records from the reader's microphone, with time, level, limit and a player.

    Where there is no microphone, or the browser refuses it, it says why and takes a file instead. All else is
    as in :class:`ClipUpload`::

        recorder = Recorder()
        recorder          # press Record, speak, press Stop; in the next cell:
        recorder.wave     # float32 (N,) at 16 kHz

    Args:
        max_seconds: the recording stops by itself after this long.
    """

    _nothing = "Nothing is recorded yet: press Record, speak, press Stop, then run this cell again."

    def __init__(self, max_seconds: float = 30.0, max_bytes: int = MAX_BYTES, **traits: Any) -> None:
        super().__init__(max_seconds, max_bytes, **traits)
        self._limits["max_seconds"] += _GRACE
        self.set_trait("microphone", True)
