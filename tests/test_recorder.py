"""The recorder's Python side: what the page sends is a clip, or a sentence; no browser is needed here."""

import sys

import numpy as np
import pytest
import soundfile
import traitlets

pytest.importorskip("anywidget", reason="the extra [course] is not installed")

from test_clips import as_container, as_file, tone

from mer_lab.audio import read_audio
from mer_lab.errors import MerLabError
from mer_lab.recorder import ClipUpload, Recorder

PART = 2**16


def send(widget, data, name="recording.webm", id="1", part=PART):
    """As recorder.js does: in parts, by custom messages with one buffer each."""
    count = max(1, -(-len(data) // part))
    for k in range(count):
        content = {"kind": "clip", "id": id, "name": name, "part": k, "parts": count}
        buffer = memoryview(data[k * part : (k + 1) * part])
        widget._handle_custom_msg(content, [buffer])
    return widget.answer


def webm(seconds=1.5, level=0.5):
    return as_container(tone(seconds, 48000, level), "webm", "libopus", live=True)


def test_a_recording_arrives_and_is_saved(tmp_path):
    recorder, seen = Recorder(), []
    recorder.observe(
        lambda change: seen.append((len(change["new"]), len(recorder.wave), recorder.name)), "data"
    )
    data = webm()
    answer = send(recorder, data)
    assert answer["ok"] and "1.5 s" in answer["text"]
    assert recorder.data == data and recorder.wave.dtype == np.float32
    assert len(recorder.wave) / 16000 == pytest.approx(1.5, abs=0.07)
    assert seen == [(len(data), len(recorder.wave), "recording.webm")]
    recorder.save(tmp_path / "me.wav")
    assert soundfile.info(tmp_path / "me.wav").samplerate == 16000
    assert np.abs(read_audio(tmp_path / "me.wav") - recorder.wave).max() < 1e-4


def test_parts_arrive_in_order_whatever_their_number():
    data = as_file(tone(2))
    for part in (len(data), len(data) - 1, 1000):
        widget = ClipUpload()
        send(widget, data, "a.wav", part=part)
        assert widget.data == data


def test_data_may_be_set_by_hand():
    recorder = Recorder()
    recorder.data = webm(1.0)
    assert len(recorder.wave) / 16000 == pytest.approx(1.0, abs=0.07)
    with pytest.raises(MerLabError, match="cannot be decoded"):
        recorder.data = b"not sound"
    recorder.data = b""
    with pytest.raises(MerLabError, match="Nothing is recorded"):
        _ = recorder.wave


@pytest.mark.parametrize("widget, words", [(Recorder, "press Record"), (ClipUpload, "No file is chosen")])
def test_before_anything_came(widget, words, tmp_path):
    widget = widget()
    for call in (lambda: widget.wave, lambda: widget.save(tmp_path / "a.wav")):
        with pytest.raises(MerLabError, match=words):
            call()
    assert not list(tmp_path.iterdir())


REFUSED = {
    "silent": (lambda: webm(1.0, level=0.0), "silence"),
    "too long": (lambda: webm(4.5), "longer than"),
    "too large": (lambda: bytes(3_000_000), "MB"),
    "undecodable": (lambda: b"MZ" * 5000, "cannot be decoded"),
    "empty": (lambda: b"", "0 bytes"),
    "a slip": (lambda: as_file(tone(0.05)), "0.05 s"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_clip_takes_the_last_one_away(case):
    make, words = REFUSED[case]
    recorder = Recorder(max_seconds=3, max_bytes=2_000_000)
    send(recorder, webm(1.0))
    answer = send(recorder, make(), "<b>../a\n.wav")
    assert not answer["ok"] and words in answer["text"] and answer["text"].endswith(".")
    assert "<" not in answer["text"] and "\n" not in answer["text"]
    assert recorder.data == b""
    with pytest.raises(MerLabError) as error:  # not the wave of the clip before
        _ = recorder.wave
    assert str(error.value) == answer["text"]
    assert send(recorder, webm(1.0))["ok"] and len(recorder.wave)


def test_a_recording_that_stops_at_its_limit_is_taken():
    assert send(Recorder(max_seconds=1), webm(1.3))["ok"]
    assert not send(ClipUpload(max_seconds=1), webm(1.3))["ok"]


def test_the_same_clip_twice_is_answered_twice():
    recorder = Recorder()
    data = webm(1.0)
    assert send(recorder, data) != send(recorder, data)


def test_the_page_cannot_widen_the_limits():
    widget = ClipUpload(max_seconds=1, max_bytes=500_000)
    widget.set_state({"max_seconds": 1e6, "max_bytes": 2**40})
    assert "longer than the 1 s" in send(widget, webm(1.5))["text"]
    assert "MB" in send(widget, bytes(600_000))["text"]
    assert not widget._parts
    with pytest.raises(traitlets.TraitError):
        widget.max_bytes = 2**40


def test_an_endless_sender_is_cut_off():
    widget = ClipUpload(max_bytes=500_000)
    for k in range(20):
        content = {"kind": "clip", "id": 1, "name": "a", "part": k, "parts": 10**9}
        widget._handle_custom_msg(content, [memoryview(bytes(PART))])
        assert sum(map(len, widget._parts)) <= 500_000 + PART
    assert "MB" in widget.answer["text"] and widget.data == b""


def test_messages_that_are_no_clip_change_nothing():
    widget = ClipUpload()
    part = memoryview(bytes(10))
    for content, buffers in [
        ("clip", [part]), ({}, [part]), (None, []), ({"kind": "clip", "part": 0}, []),
        ({"kind": "clip", "part": 3}, [part]), ({"kind": "clip", "part": "x", "parts": None}, [part]),
    ]:  # fmt: skip
        widget._handle_custom_msg(content, buffers)
    assert widget.answer == {} and widget.data == b""


def test_two_views_that_send_at_once_do_not_mix():
    widget, data = ClipUpload(), as_file(tone(1))
    first, second = data[:20000], data[20000:]

    def part(id, k, content):
        message = {"kind": "clip", "id": id, "name": id, "part": k, "parts": 2}
        widget._handle_custom_msg(message, [memoryview(content)])

    part("a", 0, b"x" * 100)
    part("b", 0, first)
    part("a", 1, b"y" * 100)
    part("b", 1, second)
    assert widget.data == data and widget.name == "b"


@pytest.mark.parametrize(
    "limits", [{"max_seconds": 0}, {"max_seconds": float("nan")}, {"max_seconds": 1e9}, {"max_bytes": 0}]
)
def test_limits_that_are_none(limits):
    with pytest.raises(MerLabError, match="expected"):
        Recorder(**limits)


def test_the_voice_is_not_in_the_state_that_a_notebook_saves():
    recorder = Recorder()
    send(recorder, webm(1.0))
    assert "data" not in recorder.get_state()
    assert all(len(str(value)) < 30_000 for value in recorder.get_state().values())
    assert repr(recorder) == "Recorder(max_seconds=30)"


def test_without_anywidget_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "mer_lab.recorder")
    with pytest.raises(MerLabError, match=r"mer_lab\[course\]"):
        import mer_lab.recorder  # noqa: F401
