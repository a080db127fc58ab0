"""Clips from strangers: every hostile file and name is answered with one sentence, in bounded memory."""

import io
import re
import tempfile
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_lab import audio
from mer_lab.clips import MIN_SECONDS, check_clip, shown_name
from mer_lab.errors import MerLabError


def tone(seconds=1.0, rate=16000, level=0.5):
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def as_file(wave, format="WAV", rate=16000, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format, **options)
    return buffer.getvalue()


def as_container(wave, format, codec, rate=48000, live=False):
    """The bytes of a mono file by FFmpeg; ``live``: to a pipe, as a browser records, no duration stated."""
    buffer = io.BytesIO()
    if live:
        buffer.seekable = lambda: False
    with av.open(buffer, "w", format=format, options={"live": "1"} if live else {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate = rate
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        for part in [*resampler.resample(frame), None]:
            container.mux(stream.encode(part))
    return buffer.getvalue()


def refused(data, name="clip.wav", **bounds):
    """The sentence: one line, with the name, and never where the clip lay."""
    with pytest.raises(MerLabError) as error:
        check_clip(data, name, **bounds)
    text = str(error.value)
    assert text.startswith(f"{shown_name(name)}: ") and text.endswith("."), text
    assert "\n" not in text and len(text) < 250, text
    assert tempfile.gettempdir() not in text and "clip/" not in text and "row" not in text, text
    return text


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_content_decides_not_the_name(format, kind):
    wave = check_clip(kind(as_file(tone(), format)), "holiday.jpg")
    assert wave.dtype == np.float32 and wave.shape == pytest.approx((16000,), abs=1200)
    assert np.sqrt((wave[2000:14000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize(
    "format, codec, live",
    [("mp4", "aac", False), ("webm", "libopus", False), ("webm", "libopus", True), ("ogg", "libopus", False)],
)
def test_what_browsers_record(format, codec, live):
    wave = check_clip(as_container(tone(2.0, 48000), format, codec, live=live), "recording")
    assert len(wave) / 16000 == pytest.approx(2.0, abs=0.07)
    assert np.sqrt((wave[8000:24000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_too_large_is_refused_before_it_is_decoded(monkeypatch):
    data = as_file(tone())
    monkeypatch.setattr("mer_lab.clips.read_audio", lambda *a, **k: pytest.fail("decoded"))
    assert "MB" in refused(data, max_bytes=len(data) - 1)
    assert "50 MB" in refused(bytes(50 * 2**20 + 1))
    assert "0 bytes" in refused(b"")


def test_the_bounds_are_inclusive():
    data = as_file(tone(2))
    assert len(check_clip(data, "a", max_bytes=len(data), max_seconds=2.0)) == 32000
    assert "2 s allowed" in refused(as_file(tone(2.01)), max_seconds=2.0)
    shortest = round(MIN_SECONDS * 16000)
    assert len(check_clip(as_file(tone(1)[:shortest]), "a")) == shortest
    assert "0.10 s long" in refused(as_file(tone(1)[: shortest - 1]))


@pytest.mark.parametrize(
    "data",
    [b"MZ\x90\0" + bytes(range(256)) * 40, b"\x7fELF" + b"\0" * 5000, b"<html>hello</html>" * 20,
     b"PK\3\4" * 99, b"\0" * 4096, b"R",
     b"#EXTM3U\nhttp://example.org/a.wav\n", b"ffconcat version 1.0\nfile /etc/passwd\n"],
)  # fmt: skip
def test_renamed_files_that_are_no_sound(data):
    assert "cannot be decoded" in refused(data, "song.mp3") or "no audio" in refused(data, "song.mp3")


def test_video_without_sound():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux([*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)])
    assert "no audio stream" in refused(buffer.getvalue(), "film.mp4")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38, 20000.0])
def test_samples_that_are_no_sound(bad):
    wave = tone()
    wave[77] = bad
    text = refused(as_file(wave, subtype="FLOAT"), "broken.wav")
    assert "16-bit PCM" in text if np.isfinite(bad) else "NaN" in text


def test_overflow_between_rates_is_told():
    text = refused(as_file(np.full(48000, 3e38, np.float32), rate=8000, subtype="DOUBLE"))
    assert "16-bit PCM" in text


def test_a_loud_mix_is_let_through():
    assert np.abs(check_clip(as_file(3 * tone(), subtype="FLOAT"), "a")).max() == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("level", [0.0, 9e-5])
def test_silence(level):
    assert "silence" in refused(as_file(tone(level=level), subtype="FLOAT"))
    check_clip(as_file(tone(level=2e-4), subtype="FLOAT"), "quiet.wav")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "mp4"])
def test_cut_off(format, share):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48000 * 3).astype(np.float32)
    data = as_container(noise, "mp4", "aac") if format == "mp4" else as_file(noise, format)
    refused(data[: int(len(data) * share)])


def flac_stating(samples):
    data = bytearray(as_file(tone(), "FLAC"))
    field = int.from_bytes(data[18:26], "big")  # rate 20 bits, channels 3, depth 5, samples 36
    data[18:26] = ((field >> 36 << 36) | samples).to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize("samples", [16000 * 3600, 2**36 - 1])
def test_a_header_that_claims_hours_is_refused_before_decoding(monkeypatch, samples):
    monkeypatch.setattr(audio.soundfile.SoundFile, "blocks", lambda *a, **k: pytest.fail("decoded"))
    assert "longer than the 60 s" in refused(flac_stating(samples), "bomb.flac")


def test_a_header_that_claims_too_little_is_not_believed():
    data = bytearray(as_container(tone(100, 8000), "mp4", "aac", rate=8000))
    at = data.index(b"mdhd") + 16  # 32 bits each: rate, duration
    data[at + 4 : at + 8] = data[at : at + 4]
    with av.open(io.BytesIO(data)) as container:
        assert audio._stated_seconds(container) == 1
    assert "longer than the 60 s" in refused(bytes(data), "bomb.mp4")


def test_a_stream_that_states_nothing_is_refused_once_it_is_too_long():
    # 3 minutes of a constant, some kB: 35 MB as float32 at 48 kHz, and twice that while joined.
    data = as_container(np.full(48000 * 180, 0.1, np.float32), "webm", "libopus", live=True)
    assert len(data) < 2**17
    with av.open(io.BytesIO(data)) as container:
        assert audio._stated_seconds(container) is None
    tracemalloc.start()  # counts numpy's arrays, not the decoder's own buffers
    try:
        refused(data, "bomb.webm", max_seconds=10.0)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < 10, f"{peak:.0f} MB"


NAMES = {
    "../../etc/passwd.wav": "passwd.wav",
    r"C:\Users\me\My clip (2).wav": "My clip _2_.wav",
    "a\nTraceback: b\r\n.wav": "a Traceback_ b .wav",
    "<img src=x onerror=alert(1)>.mp3": "_img src_x onerror_alert_1_.mp3",
    "\x1b[31mred\x1b[0m.wav": "31mred_0m.wav",
    "invoice\u202egpj.wav": "invoice_gpj.wav",
    "Grüße हिन्दी 录音.wav": "Grüße हिन्दी 录音.wav",
    "": "clip", "...": "clip", "/": "clip", "\0": "clip", "\ud800": "clip",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_shown_names(name):
    assert shown_name(name).strip("_ ") == NAMES[name].strip("_ ")


def test_a_long_name_keeps_both_ends():
    for middle in (60, 9000):
        shown = shown_name("begin" + "x" * middle + "end.wav")
        assert len(shown) == 40 and shown.startswith("begin") and shown.endswith("xend.wav") and "…" in shown
    assert len(shown_name("x" * 10_000_000)) == 40


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text("a. _/…<\u0301\u200f", min_size=35, max_size=60)))
def test_no_name_can_do_harm(name):
    shown = shown_name(name)
    assert 0 < len(shown) <= 40 and shown == shown.strip()
    assert not re.search(r"[\x00-\x1f<>&\"'`/\\:{}$%]", shown)
    assert shown.isprintable() and shown.encode("utf-8")
    assert shown_name(shown) == shown


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["WAV", "FLAC", "OGG", "MP3", "mp4", "webm"]), st.data())
def test_damage_is_told_or_survived(kind, data):
    if kind in ("mp4", "webm"):
        whole = as_container(tone(0.3), kind, "aac" if kind == "mp4" else "libopus")
    else:
        whole = as_file(tone(0.3), kind)
    content = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        wave = check_clip(content, "damaged")
    except MerLabError as error:
        assert str(error).startswith("damaged: ") and tempfile.gettempdir() not in str(error)
    else:
        assert wave.ndim == 1 and len(wave) and np.isfinite(wave).all()


def test_nothing_stays_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check_clip(as_file(tone()), "a.wav")
    refused(b"not sound at all", "a.wav")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_without_the_place(monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "disk is full" in refused(as_file(tone()), "a.wav")


def test_a_picture_in_the_file_is_not_decoded():
    # A PNG of a few kB for millions of pixels; a megabyte of them is 400 MB, before a sample is read.
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video, sound = container.add_stream("png", rate=25), container.add_stream("aac", rate=16000)
        video.width = video.height = 2000
        video.pix_fmt = "rgb24"
        container.mux([*video.encode(av.VideoFrame(2000, 2000, "rgb24")), *video.encode(None)])
        frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*sound.encode(frame), *sound.encode(None)])
    assert len(check_clip(buffer.getvalue(), "film.mp4")) / 16000 == pytest.approx(1, abs=0.1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        path.write_bytes(buffer.getvalue())
        with audio._open_av(path) as container:
            assert container.streams.video[0].format is None  # known only once a picture was decoded
