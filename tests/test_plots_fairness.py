"""Figures of lesson 09: everything named, nothing on top of a name, and drawn is what was given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from test_plots import assert_readable

from mer_lab import plots
from mer_lab.errors import MerLabError


def groups(names, low=0.4):
    return pd.DataFrame(
        {"estimate": low + 0.1, "low": low, "high": low + 0.2, "utterances": 30}, index=[*names, "all"]
    )


FAIR = {
    "all seeds": lambda n: plots.all_seeds(
        {f"system {k}": [50 + k, 51 + k] for k in range(n)},
        {f"system {k}": (49, 53) for k in range(n)},
        "points",
    ),
    "imagined": lambda n: plots.imagined_gains(
        {"epochs": {"system 0": [1.0, 2.0]}, "seeds": {f"system {k}": [0.1 * k] for k in range(n)}}
    ),
    "detectable": lambda n: plots.detectable(
        {f"system {k}": 4000.0 * (k + 1) for k in range(min(n, 4))}, {"near": 700, "nearer": 760, "far": 2600}
    ),
    "side by side": lambda n: plots.side_by_side(
        {way: {f"system {k}": groups("abc") for k in (0, 1)} for way in ("class", "cue", "shift")}
    ),
    "worth": lambda n: plots.worth(
        pd.DataFrame(
            {"value_text": 20.0, "value_audio": 10.0, "emap_gap": -1.0}, [f"system {k}" for k in range(n)]
        )
    ),
    "length": lambda n: plots.cost_by_length(
        [8, 64, 512],
        {f"system {k}": [0.1, 0.2, 0.4] for k in range(min(n, 5))},
        {f"system {k}": 1.0 for k in range(5)},
    ),
}


@pytest.mark.parametrize("name", FAIR)
@pytest.mark.parametrize("n", [2, 18])
def test_every_system_is_named_and_everything_can_be_read(name, n):
    figure = FAIR[name](n)
    assert_readable(figure)
    shown = " ".join(t.get_text() for t in figure.findobj(Text))
    assert "system 0" in shown and "system 1" in shown


def test_what_is_drawn_is_what_was_given():
    columns = {"value_text": [20.0, 5.0], "value_audio": [10.0, 30.0], "emap_gap": [1.0, 8.0]}
    frame = pd.DataFrame(columns, list("ab"))
    left, right = plots.worth(frame).axes
    widths = [round(bar.get_width(), 6) for bar in left.patches]
    assert widths == [20, 5, 10, 30] and [bar.get_x() for bar in left.patches][2:] == [20, 5]
    assert [bar.get_width() for bar in right.patches] == [1, 8]
    line = plots.detectable({"x": 10_000.0}, {"small": 400}).axes[0].lines[0]
    many, gain = line.get_data()
    assert np.interp(10_000, many, gain) == pytest.approx(1, abs=0.01)  # so many show one point


NOTHING = (
    lambda: plots.all_seeds({}, {}, ""),
    lambda: plots.imagined_gains({}),
    lambda: plots.side_by_side({}),
    lambda: plots.detectable({}, {}),
)


@pytest.mark.parametrize("draw", NOTHING)
def test_of_nothing_nothing_is_drawn(draw):
    with pytest.raises(MerLabError, match="has nothing to draw"):
        draw()
