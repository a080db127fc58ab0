"""Frozen speech encoders at scale: planned batches, one decoding, and the same file whatever happened."""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from test_listening import noise, save_encoder
from test_pretrained import Letters

from mer_lab.audio import read_audio
from mer_lab.errors import BudgetError, MerLabError
from mer_lab.features import Prosody, Waveform, encoders, pretrained, store
from mer_lab.features.pretrained import PretrainedSpeech, extractor_of
from mer_lab.features.store import FeatureStore

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="session")
def group(tmp_path_factory) -> str:
    """A wav2vec 2.0 whose first convolution is normalised over time."""
    return str(save_encoder("wav2vec2", tmp_path_factory.mktemp("extraction") / "wav2vec2"))


@pytest.fixture(scope="session")
def moonshine(tmp_path_factory) -> str:
    return str(save_encoder("moonshine", tmp_path_factory.mktemp("extraction") / "moonshine"))


@pytest.fixture(scope="session")
def whisper(tmp_path_factory) -> str:
    return str(save_encoder("whisper", tmp_path_factory.mktemp("extraction") / "whisper"))


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Processes that are forked must not find more threads than the parent used."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def close(a, b, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and float(np.abs(a - b).max()) <= tolerance * float(np.abs(b).max())


# ---------------------------------------------------------------- one utterance


@pytest.mark.parametrize("layer", [0, 2, 3, -1, -4])
def test_layers(group, layer):
    wave = noise(9000)
    whole = PretrainedSpeech(group, "all")(wave)
    assert whole.shape == (27, 4 * 32) and whole.dtype == np.float32
    extractor = PretrainedSpeech(group, layer)
    start = 32 * (layer % 4)
    np.testing.assert_array_equal(extractor(wave), whole[:, start : start + 32])
    assert extractor.names == PretrainedSpeech(group, "all").names[start : start + 32]


def test_layers_stand_side_by_side_as_asked(group):
    wave, several = noise(9000), PretrainedSpeech(group, [3, 1])
    assert several == PretrainedSpeech(group, (3, 1)) and several.names[0] == "layer3_0"
    singles = [PretrainedSpeech(group, k)(wave) for k in (3, 1)]
    np.testing.assert_array_equal(several(wave), np.concatenate(singles, axis=1))
    assert several.extract_many([]) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layer": 4}, "has the layers 0 to 3"),
        ({"layer": ()}, "has the layers 0 to 3"),
        ({"pool": "mean"}, "pool is 'mean', expected '' or 'statistics'"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"window": 31}, "window is 31 s, expected 1 to 30"),
    ],
)
def test_settings_that_cannot_be(group, options, sentence):
    with pytest.raises(MerLabError, match=sentence):
        PretrainedSpeech(group, **options)(noise(9000))


def test_the_folder_decides_who_reads_it(group):
    assert extractor_of(group, layer=2) == PretrainedSpeech(group, 2)
    with pytest.raises(MerLabError, match="takes the settings layer, pool, .*not words"):
        extractor_of(group, words=True)


def test_pooled_statistics(group):
    waves = [noise(16000), noise(500), noise(9000)]
    pooled = PretrainedSpeech(group, (1, 3), pool="statistics")
    assert pooled.hop is None and len(pooled.names) == 128
    assert (pooled.names[0], pooled.names[64]) == ("mean_layer1_0", "std_layer1_0")
    for wave, found in zip(waves, pooled.extract_many(waves), strict=True):
        frames = PretrainedSpeech(group, (1, 3))(wave)
        expected = np.concatenate([frames.mean(0), frames.std(0)])[None]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_bfloat16_is_close_and_another_key(group):
    wave = noise(16000)
    exact, half = PretrainedSpeech(group), PretrainedSpeech(group, precision="bfloat16")
    assert half.settings != exact.settings
    a, b = exact(wave), half(wave)
    assert b.dtype == np.float32 and 1e-5 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.03


@pytest.mark.parametrize("kind", ["group", "moonshine", "whisper"])
def test_a_long_utterance_is_read_in_pieces_on_one_clock(kind, request):
    """70 s in three pieces about equal; each as if alone, each beginning where the next frame does."""
    encoder = PretrainedSpeech(request.getfixturevalue(kind))
    network, wave = encoder._network(), noise(70 * 16000)
    frames = encoder(wave)
    assert len(frames) == (len(wave) - network.reach) // network.stride + 1
    step = -(-len(frames) // 3)
    for k in range(0, len(frames), step):
        end = (k + step - 1) * network.stride + max(network.reach, network.stride)
        piece = wave[k * network.stride : end]
        assert len(piece) <= 30 * 16000 and close(frames[k : k + step], encoder(piece))
    together = encoder.extract_many([noise(9000), wave])
    assert close(together[1], frames) and close(together[0], encoder(noise(9000)))
    short = replace(encoder, window=1.0)
    assert len(short(noise(40000))) == len(encoder(noise(40000))) and short.settings != encoder.settings


@pytest.mark.parametrize(
    ("kind", "samples", "hop"), [("group", 199.5, 0.02), ("moonshine", 447, 0.024), ("whisper", 0, 0.02)]
)
def test_the_clock_shows_where_a_click_is(kind, samples, hop, request):
    """By hand: 400 samples every 320 (wav2vec 2.0), 895 every 384 (Moonshine), centred at 0 (Whisper)."""
    encoder = PretrainedSpeech(request.getfixturevalue(kind), 0)
    assert encoder.first == samples / 16000 and encoder.hop == hop
    silence = np.zeros(16000, np.float32)
    for frame in (1, 7, 20):
        wave = silence.copy()
        wave[round((encoder.first + frame * encoder.hop) * 16000)] = 0.9
        moved = encoder(wave) - encoder(silence)
        moved = np.abs(moved - np.median(moved, axis=0)).sum(1)
        assert moved.argmax() == frame


def test_waveform_is_the_samples(sine_corpus, tmp_path):
    features = FeatureStore(tmp_path).get(sine_corpus.select(["u0", "u1"]), Waveform(), workers=1)
    assert features.meta["name"] == "waveform" and features.meta["hop"] == 1 / 16000
    np.testing.assert_array_equal(features[1][:, 0], read_audio(sine_corpus.audio_path("u1")))


# ---------------------------------------------------------------- the plan


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.lists(st.floats(0.01, 29) | st.sampled_from([2.0, 30.0, 30.1, 95.0]), max_size=40),
    rows=st.floats(1, 30),
    window=st.sampled_from([5.0, 30.0]),
)
def test_a_plan_keeps_its_budget(group, seconds, rows, window):
    encoder = PretrainedSpeech(group, window=window)
    network = encoder._network()
    budget = network.size + rows * network.memory(max(min(window, max(seconds, default=1.0)), 0.1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "duration", lambda path: seconds[path])
        plan = encoder.plan(range(len(seconds)), budget)
    order = [row for batch in plan for row in batch]
    assert sorted(order) == list(range(len(seconds)))
    assert [seconds[k] for k in order] == sorted(seconds, reverse=True)
    for k, batch in enumerate(plan):
        longest = max(seconds[row] for row in batch)
        length = max(min(longest, window), 0.1)
        assert len(batch) * network.memory(length) <= (budget - network.size) * (1 + 1e-9)
        most = pretrained._CPU_SECONDS
        assert len(batch) == 1 or (longest <= window and len(batch) * length <= most)
        more = (len(batch) + 1) * network.memory(length) > budget - network.size
        assert more or (len(batch) + 1) * length > most or longest > window or k == len(plan) - 1


def lasting(monkeypatch, seconds: list[float]) -> list[int]:
    """Files of that length, without the files."""
    monkeypatch.setattr(pretrained, "duration", lambda path: seconds[path])
    return list(range(len(seconds)))


def test_a_budget_too_small_for_one(group, monkeypatch):
    encoder = PretrainedSpeech(group)
    paths = lasting(monkeypatch, [20.0, 3.0])
    with pytest.raises(BudgetError, match=r"needs \d+ MiB for 20\.0 s of speech, .*raise it") as error:
        encoder.plan(paths, encoder.weights + 1000)
    assert "\n" not in str(error.value)


def test_fewer_processes_where_the_budget_is_small(group, tmp_path, monkeypatch):
    encoder, paths = PretrainedSpeech(group), lasting(monkeypatch, [20.0, 3.0, 1.0])
    budget = 2.5 * (encoder.weights + encoder._network().memory(20))
    assert store._write_plans({tmp_path / "a.safetensors": encoder}, paths, 8, budget) == 2
    # begun already: its batches stay, and the budget still holds
    assert store._write_plans({tmp_path / "a.safetensors": encoder}, paths, 8, budget) == 2
    with pytest.raises(BudgetError):
        store._write_plans({tmp_path / "a.safetensors": encoder}, paths, 8, budget / 4)


def test_batches_for_several_encoders_suit_each(group, moonshine, tmp_path, monkeypatch):
    """Neither the one's plan nor the other's: one is dear where utterances are long, one where short."""
    one, two = PretrainedSpeech(group), PretrainedSpeech(moonshine)
    paths = lasting(monkeypatch, [8.0, 7.0, 6.0, 2.0, 2.0, 1.0, 1.0, 0.5])
    plans = {one: [[0], [1], [2], [3, 4, 5, 6, 7]], two: [[0, 1, 2], [3, 4], [5, 6], [7]]}
    rooms = {}
    monkeypatch.setattr(
        PretrainedSpeech, "plan", lambda self, _, budget: rooms.update({self: budget}) or plans[self]
    )
    wanted = {tmp_path / "a.safetensors": one, tmp_path / "b.safetensors": two}
    assert store._write_plans(wanted, paths, 1, 1e9) == 1
    for path in wanted:
        written = store.json.loads((store._partial(path) / "plan.json").read_text())
        assert written == [[0], [1], [2], [3, 4], [5, 6], [7]]
    assert rooms == {one: 1e9 - two.weights, two: 1e9 - one.weights}  # both stand in memory


# ---------------------------------------------------------------- a corpus


def test_a_file_is_decoded_once_for_all(sine_corpus, group, moonshine, tmp_path, monkeypatch):
    wanted = [
        PretrainedSpeech(group),
        PretrainedSpeech(moonshine, "all"),
        PretrainedSpeech(group, (0, 1), pool="statistics"),
        Prosody(),
        Letters(),
    ]
    decoded = []
    monkeypatch.setattr(store, "read_audio", lambda *a: decoded.append(a[0]) or read_audio(*a))
    pretrained._speech_network.cache_clear()
    together = FeatureStore(tmp_path / "together")
    found = together.get_all(sine_corpus, wanted, workers=1)
    assert sorted(decoded) == sorted(sine_corpus.audio_path(u) for u in sine_corpus.ids)
    assert pretrained._speech_network.cache_info().misses == 2  # and an encoder is loaded once
    seconds = sum(len(read_audio(path)) for path in decoded) / 16000
    assert together.speed is not None and together.speed.audio == pytest.approx(seconds)
    for extractor, features in zip(wanted, found, strict=True):
        alone = FeatureStore(tmp_path / "apart").get(sine_corpus, extractor, workers=1)
        assert features.ids == alone.ids == sine_corpus.ids and (features.offsets == alone.offsets).all()
        assert close(features.frames, alone.frames)
    decoded.clear()
    twice = together.get_all(sine_corpus, [*wanted, *wanted[:1]])
    assert [f.meta["name"] for f in twice] == [e.name for e in (*wanted, wanted[0])]
    assert not decoded and together.speed is None
    for extractor, features in zip(wanted, found, strict=True):
        assert features.meta["columns"] == extractor.names and features.meta["hop"] == extractor.hop
        assert features.meta["first"] == getattr(extractor, "first", 0.0)
        assert features.meta["channel"] == extractor.channel
    assert found[0].meta["first"] == 199.5 / 16000 and group not in str(found[0].meta)


def test_a_store_file_is_what_the_extractor_gives(sine_corpus, group, tmp_path):
    extractor = PretrainedSpeech(group, (1, -1))
    features = FeatureStore(tmp_path).get(sine_corpus, extractor, workers=1)
    for k, u in enumerate(sine_corpus.ids):
        assert close(features[k], extractor(read_audio(sine_corpus.audio_path(u))), 1e-4)


def in_fork(work: Callable[[], object], **environment: str) -> int:
    """Process of a copy of this one that does its work and ends."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        os.environ.update(environment)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def status(pid: int) -> int:
    """How it ended; one that hangs, waiting for another, is ended."""
    for _ in range(1200):
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Batches(list):
    """Utterances of each batch that this process computed; ``everywhere``, that any process did."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def note(self, count: int) -> None:
        self.append(count)
        with self.log.open("a") as f:
            f.write(f"{count}\n")
        if len(self) == int(os.environ.get("DIE", 0)):
            os.kill(os.getpid(), signal.SIGKILL)

    def everywhere(self) -> list[int]:
        """Those since it was last asked."""
        lines = [int(line) for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        self.clear()
        return lines


@pytest.fixture
def batches(tmp_path, monkeypatch) -> Batches:
    """Of at most 3 s, so that there are several; ``DIE=3`` in the environment kills in the third."""
    found, extract = Batches(tmp_path / "log"), PretrainedSpeech.extract_many
    monkeypatch.setattr(
        PretrainedSpeech, "extract_many", lambda self, waves: found.note(len(waves)) or extract(self, waves)
    )
    monkeypatch.setattr(pretrained, "_CPU_SECONDS", 3.0)
    return found


def forked(jobs, workers: int, ordered: bool):
    """Stands for joblib's processes, which take seconds to start: jobs are pickled, too."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(call, jobs)


def call(job):
    function, arguments, options = job
    return function(*arguments, **options)


@pytest.fixture
def whole(sine_corpus, group, tmp_path, batches) -> Path:
    """What an extraction gives that nothing interrupts."""
    FeatureStore(tmp_path / "whole").get(sine_corpus, PretrainedSpeech(group), workers=1)
    return next((tmp_path / "whole").glob("*.safetensors"))


@needs_fork
@pytest.mark.parametrize(("workers", "rows"), [(1, None), (1, 1.5), (2, None)])
def test_kill_9_loses_one_batch(sine_corpus, group, tmp_path, whole, batches, monkeypatch, workers, rows):
    """Also where it goes on in more processes, or with a budget for fewer rows in a batch."""
    monkeypatch.setattr(store, "in_processes", forked)
    extractor, folder = PretrainedSpeech(group), tmp_path / "killed"
    uninterrupted = batches.everywhere()
    assert sum(uninterrupted) == 36 and len(uninterrupted) > 6
    get = FeatureStore(folder).get
    assert status(in_fork(lambda: get(sine_corpus, extractor, workers=1), DIE="4")) == -signal.SIGKILL
    assert batches.everywhere() == uninterrupted[:4] and not list(folder.glob("*.safetensors"))
    budget = rows and extractor.weights + rows * extractor._network().memory(1.3)
    get(sine_corpus, extractor, workers=workers, budget=budget)
    assert sorted(batches.everywhere()) == sorted(uninterrupted[3:])  # the fourth again, no other
    assert (folder / whole.name).read_bytes() == whole.read_bytes()


@needs_fork
def test_processes_change_nothing(sine_corpus, group, tmp_path, whole, batches, monkeypatch):
    """A budget for less than a batch makes other batches: the features stay, though not to the bit."""
    monkeypatch.setattr(store, "in_processes", forked)
    uninterrupted, extractor = batches.everywhere(), PretrainedSpeech(group)
    budget = 2 * (extractor.weights + 1.5 * extractor._network().memory(1.3))
    few = FeatureStore(tmp_path / "two").get(sine_corpus, extractor, workers=2, budget=budget)
    assert len(batches.everywhere()) > len(uninterrupted)
    one = store.open_ragged(whole)
    assert few.ids == one.ids and (few.offsets == one.offsets).all() and close(few.frames, one.frames)


@needs_fork
def test_launched_processes_share_the_batches(sine_corpus, group, tmp_path, whole, batches):
    """Two processes as `accelerate launch` starts them, each with half of the work."""
    uninterrupted = batches.everywhere()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def work() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        features = FeatureStore(tmp_path / "shared").get(sine_corpus, PretrainedSpeech(group), workers=4)
        assert features.ids == sine_corpus.ids and encoders.this_process().num_processes == 2
        (tmp_path / f"share-{os.environ['RANK']}").write_text(str(sum(batches)))

    together = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, ACCELERATE_USE_CPU="true")
    pids = [in_fork(work, RANK=str(k), LOCAL_RANK=str(k), **together) for k in range(2)]
    assert [status(pid) for pid in pids] == [0, 0]
    shares = [int((tmp_path / f"share-{k}").read_text()) for k in range(2)]
    assert sum(shares) == 36 and min(shares) > 10
    assert sorted(batches.everywhere()) == sorted(uninterrupted)
    assert (tmp_path / "shared" / whole.name).read_bytes() == whole.read_bytes()


def test_real_encoders_on_real_speech(shared_data, tmp_path):
    folder = shared_data / "encoders" / "moonshine-tiny-en"
    clips = sorted((shared_data / "ravdess").glob("03-01-0[1-4]-01-01-01-01.flac"))
    if not folder.is_dir() or not clips:
        pytest.skip("encoder or clips not present: moonshine-tiny-en, ravdess")
    extractor = extractor_of(str(folder), layer="all")
    assert isinstance(extractor, PretrainedSpeech)
    assert len(extractor.layers) == 7 and extractor.hop == 0.024 and extractor.first == 447 / 16000
    waves = [read_audio(path)[: 30000 + 7000 * k] for k, path in enumerate(clips)]
    for wave, frames in zip(waves, extractor.extract_many(waves), strict=True):
        assert close(frames, extractor(wave), 1e-4)
