"""What lessons rely on: the scale switch, claims that can fail, figures that nobody is shut out from."""

import base64
import io
import json
import os
import random

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from mer_lab import course, figures
from mer_lab.errors import MerLabError


@pytest.fixture(autouse=True)
def shown(monkeypatch, tmp_path):
    """What a test displays; its figures go to a folder of its own, environment and state are put back."""
    outputs = []
    monkeypatch.setattr(course, "display", outputs.append)
    monkeypatch.setattr(course, "_current", None)
    monkeypatch.setenv("MER_LAB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", os.environ.get("ACCELERATE_USE_CPU", ""))  # setup changes it
    monkeypatch.delenv("MER_LAB_SCALE", raising=False)
    with plt.rc_context():
        yield outputs
    plt.close("all")


def line(values=(1.0, 4.0, 2.0), colour="black"):
    fig, axes = plt.subplots()
    axes.plot(values, color=colour)
    return fig


ALT = "A line that rises from one to four and falls back to two."


def test_scale_comes_from_the_argument_then_the_environment_then_cpu(monkeypatch, capsys):
    assert course.setup("01_corpora").scale.name == "cpu"
    monkeypatch.setenv("MER_LAB_SCALE", "smoke")
    assert course.setup("01_corpora").scale.name == "smoke"
    assert course.setup("01_corpora", scale="cpu").scale.name == "cpu"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and all("01_corpora" in text and "torch" in text for text in printed)


@pytest.mark.parametrize("scale", ["huge", "CPU"])
def test_unknown_scale_is_one_sentence(monkeypatch, scale):
    monkeypatch.setenv("MER_LAB_SCALE", scale)
    with pytest.raises(MerLabError, match=f'MER_LAB_SCALE is "{scale}"; choose one of smoke, cpu, gpu'):
        course.setup("01_corpora")


def test_setup_fixes_every_source_of_chance():
    def draws():
        course.setup("01_corpora", seed=3)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draws() == draws()
    course.setup("01_corpora", seed=4)
    assert random.random() != draws()[0]


def test_smaller_scales_stay_on_the_cpu_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(course, "accelerator", lambda: "cuda")
    assert course.setup("01_corpora", scale="cpu").device == "cpu"
    assert os.environ["ACCELERATE_USE_CPU"] == "1"
    assert course.setup("01_corpora", scale="gpu").device == "cuda"
    assert "ACCELERATE_USE_CPU" not in os.environ


def test_scales_grow_and_smoke_checks_nothing():
    smoke, cpu, gpu = course.SCALES.values()
    assert not smoke.claims and cpu.claims and gpu.claims
    for small, large in ((smoke, cpu), (cpu, gpu)):
        assert all(a <= b for a, b in zip(small.staged, large.staged, strict=True))
        assert small.epochs <= large.epochs and small.seeds <= large.seeds and small.width <= large.width


def test_a_false_claim_stops_a_lesson_after_showing_its_verdict(shown):
    course.setup("01_corpora", scale="cpu")
    course.claim("four is more than three", np.float64(4) > 3, "4 > 3")
    with pytest.raises(course.ClaimFailed, match="three is more than four .*3 > 4") as failure:
        course.claim("three is more than four", 3 > 4, "3 > 4")
    assert isinstance(failure.value, AssertionError) and isinstance(failure.value, MerLabError)
    assert [repr(output)[0] for output in shown] == ["✓", "✗"]
    assert [output.metadata["mer_lab"]["claim"] for output in shown] == [True, False]


def test_smoke_scale_judges_no_claim(shown):
    course.setup("01_corpora", scale="smoke")
    course.claim("three is more than four", False)
    assert repr(shown[0]) == "– three is more than four (not checked at smoke scale)"


@pytest.mark.parametrize("ok", [1, "yes", None, np.array([True]), 0.3, torch.tensor(True)])
@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_a_claim_needs_a_truth_value(ok, scale):
    course.setup("01_corpora", scale=scale)
    with pytest.raises(MerLabError, match="needs True or False"):
        course.claim("it holds", ok)


def test_text_of_a_claim_is_no_markup(shown):
    course.setup("01_corpora")
    course.claim("UA < WA & <b>so on</b>", True, "<i>")
    page = shown[0].data["text/html"]
    assert "UA &lt; WA &amp; &lt;b&gt;" in page and "<i>" not in page


@pytest.mark.parametrize("function", [lambda: course.claim("x", True), lambda: course.show(line(), "x", ALT)])
def test_before_setup_one_sentence_says_what_to_do(function):
    with pytest.raises(MerLabError, match="course.setup.* first"):
        function()


def test_show_exports_displays_and_closes(shown, tmp_path):
    course.setup("02_features")
    fig = line()
    course.show(fig, "rise", alt=ALT)
    assert not plt.fignum_exists(fig.number)
    [row] = json.loads((tmp_path / "figures/manifest.json").read_text())["figures"]
    assert row["file"] == "02_rise.png" and row["lesson"] == "02_features" and row["scale"] == "cpu"
    data, metadata = shown[0]._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == ALT and ALT in data["text/plain"]
    assert base64.b64decode(data["image/png"]) == (tmp_path / "figures/02_rise.png").read_bytes()


def test_a_figure_shown_again_keeps_one_row(tmp_path):
    course.setup("02_features")
    for name in ("rise", "fall", "rise"):
        course.show(line(), name, alt=ALT)
    assert [row["file"] for row in figures.read_manifest(tmp_path / "figures")] == [
        "02_fall.png",
        "02_rise.png",
    ]


@pytest.mark.parametrize("alt", ["", "a figure", "one two three four five", None, " \n "])
def test_short_alt_text_is_refused(alt, tmp_path):
    course.setup("02_features")
    with pytest.raises(MerLabError, match="alt text"):
        course.show(line(), "rise", alt=alt)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ["", "../rise", "Rise", "ri se", "rise.png"])
def test_a_name_unfit_for_a_file_is_refused(name):
    course.setup("02_features")
    with pytest.raises(MerLabError, match="cannot name a figure"):
        course.show(line(), name, alt=ALT)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.integers(0, 4))
def test_the_hash_follows_the_data_and_not_the_looks(values, at):
    same = figures.plotted_data(line(values)), figures.plotted_data(line(values, colour="red"))
    changed = list(values)
    changed[at % len(values)] += 1 + abs(changed[at % len(values)]) * 0.01
    other = figures.plotted_data(line(changed))
    plt.close("all")
    assert same[0] == same[1] != other


@pytest.mark.parametrize("draw", ["bar", "scatter", "imshow", "fill_between", "pcolormesh", "hist"])
def test_the_hash_sees_every_kind_of_plot(draw):
    def drawn(values):
        fig, axes = plt.subplots()
        plots = {
            "bar": lambda: axes.bar(range(3), values),
            "scatter": lambda: axes.scatter(range(3), values),
            "imshow": lambda: axes.imshow(np.outer(values, values)),
            "fill_between": lambda: axes.fill_between(range(3), values),
            "pcolormesh": lambda: axes.pcolormesh(np.outer(values, values)),
            "hist": lambda: axes.hist(values, bins=[0, 1, 2, 3, 9]),
        }
        plots[draw]()
        return figures.plotted_data(fig)

    assert drawn([1.0, 2.5, 4.0]) == drawn([1.0, 2.5, 4.0]) != drawn([1.0, 1.5, 4.0])


def test_listen_embeds_a_sound_that_decodes(shown):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    course.listen(wave, 16000, 'An "A", <soft>')
    page = shown[0].data["text/html"]
    assert 'aria-label="An &quot;A&quot;, &lt;soft&gt;"' in page and "1.0 s" in repr(shown[0])
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])))
    assert rate == 16000 and abs(len(heard) - 16000) < 3000
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(np.argmax(spectrum) * rate / len(heard) - 440) < 5


@pytest.mark.parametrize(
    "wave, rate", [(np.zeros(0), 16000), (np.zeros((2, 50)), 16000), (np.zeros(50), 12345)]
)
def test_a_sound_that_cannot_be_played_is_one_sentence(wave, rate):
    with pytest.raises(MerLabError, match='The sound "hum"'):
        course.listen(wave, rate, "hum")


def test_real_cells_run_with_data_and_show_the_record_without(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    course.setup("03_unimodal", scale="cpu")
    assert course.real_cell("meld_text", lambda: "ran", tmp_path) == "ran"
    assert course.real_cell("meld_text", lambda: "ran", None) is None
    assert "No recorded result" in capsys.readouterr().out
    (tmp_path / "results").mkdir()
    (tmp_path / "results/meld_text.json").write_text('{"weighted_f1": 0.5432, "git_commit": "abc", "x": [1]}')
    assert course.real_cell("meld_text", lambda: "ran", tmp_path / "absent")["weighted_f1"] == 0.5432
    printed = capsys.readouterr().out
    assert "not computed here" in printed and "weighted_f1 0.5432" in printed and "git_commit abc" in printed
    course.setup("03_unimodal", scale="smoke")  # proves that code runs, and reads no corpus for it
    assert course.real_cell("meld_text", lambda: "ran", tmp_path)["weighted_f1"] == 0.5432


def test_real_data_is_looked_for_where_the_user_says_first(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "ROOT", tmp_path / "checkout")
    monkeypatch.delenv("MER_LAB_DATA", raising=False)
    monkeypatch.delenv("MER_LAB_SHARED_DATA", raising=False)
    assert course.real_data("ravdess") is None
    for name in ("shared/data", "mine"):
        (tmp_path / name / "ravdess").mkdir(parents=True)
    assert course.real_data("ravdess") == tmp_path / "shared/data/ravdess"
    monkeypatch.setenv("MER_LAB_DATA", str(tmp_path / "mine"))
    assert course.real_data("ravdess") == tmp_path / "mine/ravdess"
    assert course.real_data("iemocap") is None


def test_a_real_cell_is_recorded_only_where_results_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("MER_LAB_RESULTS", raising=False)
    course.setup("02_features", scale="cpu")
    assert course.real_cell("probe", lambda: {"ua": 0.4}, tmp_path) == {"ua": 0.4}
    monkeypatch.setenv("MER_LAB_RESULTS", str(tmp_path / "results"))
    course.setup("02_features", scale="smoke")
    course.real_cell("probe", lambda: {"ua": 0.1}, tmp_path)
    assert not (tmp_path / "results").exists()  # nothing so far: not asked for, or not a full run
    course.setup("02_features", scale="cpu")
    course.real_cell("probe", lambda: {"ua": 0.4}, tmp_path)
    monkeypatch.setattr(course, "ROOT", tmp_path)
    found = course.recorded("probe")
    assert found["ua"] == 0.4 and found["lesson"] == "02_features" and found["scale"] == "cpu"


def test_gpu_cells_train_on_an_accelerator_only(monkeypatch, capsys):
    course.setup("03_unimodal", scale="cpu")
    assert course.gpu_cell("none_such", lambda: "ran") is None
    assert "gpu scale" in capsys.readouterr().out
    monkeypatch.setattr(course, "accelerator", lambda: "cuda")
    course.setup("03_unimodal", scale="gpu")
    assert course.gpu_cell("none_such", lambda: "ran") == "ran"


def test_measured_time_is_told_where_it_is_known(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    rows = {"cpu": {"02_features": {"seconds": 93.0, "machine": "2 CPU cores, Linux"}}}
    (tmp_path / "results/lesson_seconds.json").write_text(json.dumps(rows))
    course.setup("02_features")
    assert "takes about 1.6 minutes (2 CPU cores, Linux)" in capsys.readouterr().out
    course.setup("02_features", scale="smoke")
    assert "takes" not in capsys.readouterr().out


def test_a_broken_record_names_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/half.json").write_text('{"a": ')
    with pytest.raises(MerLabError, match="half.json: not readable as JSON"):
        course.recorded("half")


def test_a_table_shows_three_decimals_and_is_told_to_the_index(shown):
    course.setup("03_x", scale="smoke")
    frame = pd.DataFrame({"wa": [0.51234, 1.0], "seeds": [3, 1]}, index=["a", "b"])
    course.table(frame, "scores", "test split, <0 to 1>")
    data, metadata = shown[-1]._repr_mimebundle_()
    assert "0.512" in data["text/html"] and "&lt;0 to 1&gt;" in data["text/html"]
    table = metadata["mer_lab"]["table"]
    assert table["file"] == "03_scores.csv" and table["columns"] == ["", "wa", "seeds"]
    assert table["rows"] == [["a", "0.512", "3"], ["b", "1.000", "1"]]
