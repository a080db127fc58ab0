"""Audio in and out: every format, every way a file can be broken."""

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer_lab.audio import duration, read_audio, resample, write_audio
from mer_lab.errors import MerLabError


def tone(rate, seconds=1.0, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write_mp4(path, wave, rate, codec="aac", packets=None):
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def loudest_hz(wave, rate):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 19))
    return spectrum.argmax() * rate / (1 << 19)


def one_sentence(error, *words):
    text = str(error.value)
    assert "\n" not in text and text.endswith("."), text
    for word in words:
        assert word in text, text


def test_pcm16_round_trip_is_exact(tmp_path):
    wave = np.random.default_rng(0).integers(-32768, 32768, 5000) / 32768
    write_audio(tmp_path / "a.wav", wave, 16000)
    assert np.array_equal(read_audio(tmp_path / "a.wav"), wave.astype(np.float32))
    write_audio(tmp_path / "b.wav", np.array([1.5, -1.5, 1.0]), 16000)
    assert read_audio(tmp_path / "b.wav").tolist() == [32767 / 32768, -1.0, 32767 / 32768]


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 44101, 96000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_any_rate_keeps_pitch_level_and_length(tmp_path, rate, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(rate), rate)
    wave = read_audio(path)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) - 16000) <= 8
    assert loudest_hz(wave, 16000) == pytest.approx(440, abs=0.3)
    assert np.abs(wave[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)
    assert duration(path) == pytest.approx(1.0)


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "m4a", "mp4"])
def test_lossy_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix in ("ogg", "mp3"):
        soundfile.write(path, tone(48000), 48000)
    else:
        write_mp4(path, tone(48000), 48000)
    wave = read_audio(path)
    assert loudest_hz(wave, 16000) == pytest.approx(440, abs=0.5)
    assert len(wave) / 16000 == pytest.approx(1.0, abs=0.06)
    assert duration(path) == pytest.approx(1.0, abs=0.06)
    assert np.sqrt((wave[4000:12000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_channels_are_averaged(tmp_path):
    left, right = tone(16000, hz=300), tone(16000, hz=500)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    assert np.abs(resample(tone(48000, hz=11000), 48000, 16000)[500:-500]).max() < 0.005


def test_missing_and_empty(tmp_path):
    with pytest.raises(MerLabError) as error:
        read_audio(tmp_path / "no.wav")
    one_sentence(error, "no.wav", "no such audio file")
    (tmp_path / "empty.wav").touch()
    for function in (read_audio, duration):
        with pytest.raises(MerLabError) as error:
            function(tmp_path / "empty.wav")
        one_sentence(error, "empty.wav", "0 bytes")
    with pytest.raises(MerLabError):
        read_audio(tmp_path)


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    with pytest.raises(MerLabError) as error:
        read_audio(tmp_path / "a.wav")
    one_sentence(error, "0 samples")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(tmp_path, bad):
    wave = tone(16000)
    wave[77] = bad
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    with pytest.raises(MerLabError) as error:
        read_audio(tmp_path / "a.wav")
    one_sentence(error, "a.wav", "NaN")
    with pytest.raises(MerLabError, match="NaN"):
        write_audio(tmp_path / "b.wav", wave, 16000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "m4a"])
@pytest.mark.parametrize("share", [0.002, 0.3, 0.7])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 160000).astype(np.float32)
    write_mp4(path, noise, 16000) if suffix == "m4a" else soundfile.write(path, noise, 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MerLabError) as error:
        read_audio(path)
    one_sentence(error, f"a.{suffix}")


def test_wav_written_to_a_pipe_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, tone(16000), 16000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_audio(path)) == 16000


def test_not_audio(tmp_path):
    for name, data in (("a.wav", b"hello world\n" * 50), ("a.mp4", b"\0" * 5000), ("a.raw", b"abc" * 100)):
        (tmp_path / name).write_bytes(data)
        for function in (read_audio, duration):
            with pytest.raises(MerLabError) as error:
                function(tmp_path / name)
            one_sentence(error, name)


def test_video_without_sound(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    for function in (read_audio, duration):
        with pytest.raises(MerLabError) as error:
            function(path)
        one_sentence(error, "no audio stream")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["wav", "flac", "ogg", "mp3", "mp4"]), st.data())
def test_damage_is_told_or_survived(tmp_path, suffix, data):
    path = tmp_path / f"a.{suffix}"
    wave = tone(16000, 0.3)
    write_mp4(path, wave, 16000) if suffix == "mp4" else soundfile.write(path, wave, 16000)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        wave = read_audio(path)
    except MerLabError as error:
        assert path.name in str(error)
    else:
        assert wave.ndim == 1 and len(wave) and np.isfinite(wave).all()


def test_long_files_are_refused_before_decoding(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", tone(16000, 3), 16000)
    write_mp4(tmp_path / "a.mp4", tone(16000, 3), 16000)

    def never(*args, **kwargs):
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "blocks", never)
        patch.setattr(av, "AudioResampler", never)
        for name in ("a.wav", "a.mp4"):
            with pytest.raises(MerLabError) as error:
                read_audio(tmp_path / name, max_seconds=2)
            one_sentence(error, name, "3 s long", "max_seconds")
    assert len(read_audio(tmp_path / "a.wav", max_seconds=3)) == 48000


@pytest.mark.parametrize("rate", [1000, 2_000_000_000])
def test_absurd_rate(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    with pytest.raises(MerLabError) as error:
        read_audio(tmp_path / "a.wav")
    one_sentence(error, f"{rate} Hz")


def test_write_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_audio(path, tone(16000), 16000)
    before = path.read_bytes()

    def fails(self, data):
        with self.open("wb") as f:
            f.write(data[:4])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(type(path), "write_bytes", fails)
        with pytest.raises(MerLabError, match="disk is full"):
            write_audio(path, tone(16000, hz=200), 16000)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    for bad in (np.zeros((2, 5)), np.zeros(0)):
        with pytest.raises(MerLabError, match="shape"):
            write_audio(path, bad, 16000)


def test_real_clip(shared_data):
    path = shared_data / "ravdess" / "03-01-01-01-01-01-01.flac"
    wave = read_audio(path)
    assert len(wave) / 16000 == pytest.approx(duration(path))
    assert len(read_audio(path, rate=8000)) == pytest.approx(len(wave) / 2, abs=1)
