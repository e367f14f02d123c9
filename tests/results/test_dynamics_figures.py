"""Figures of dynamics: extremes stay where steps are thinned, bands are quantiles, and layers have their names."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import gradlab as gl
from gradlab.results.dynamics.axes import height_of, named_layers
from gradlab.results.dynamics.figure import COLUMNS
from gradlab.results.dynamics.lines_figure import bands_figure, quantiles
from gradlab.results.dynamics.tables import Table, thinned

STEPS, LAYERS = 20_000, 300


def long_frame(values: np.ndarray, statistic: str = "grad_norm", network: str = "net") -> pd.DataFrame:
    """Rows of a statistic from an array of shape (steps, layers), four layers a block."""
    steps, layers = values.shape
    return pd.DataFrame(
        {
            "network": network,
            "step": np.repeat(np.arange(steps), layers),
            "layer": np.tile([f"layer{place}" for place in range(1, layers + 1)], steps),
            "index": np.tile(np.arange(1, layers + 1), steps),
            "block": np.tile([f"block{place // 4}" for place in range(layers)], steps),
            "statistic": statistic,
            "value": values.ravel(),
        }
    )


def result_of(*frames: pd.DataFrame) -> gl.DynamicsResult:
    frame = pd.concat(frames, ignore_index=True)
    return gl.DynamicsResult(frame, {"networks": [{"network": name} for name in dict.fromkeys(frame["network"])]})


def test_minima_and_maxima_stay_in_every_interval() -> None:
    values = np.exp(0.2 * np.random.default_rng(0).standard_normal((STEPS, 5)))
    values[12_345, 3], values[12_350, 3], values[777, 1], values[15_000, 2] = 1e6, 1e-6, 0.0, np.nan
    table = Table([*range(0, 2 * STEPS, 2)], [f"layer{place}" for place in range(5)], values)
    drawn = thinned(table, 500)
    assert len(drawn.steps) == 500
    assert drawn.steps[0] == 0
    assert all(one < other for one, other in pairwise(drawn.steps))
    starts = [table.steps.index(step) for step in drawn.steps[::2]]
    for place, (start, stop) in enumerate(pairwise([*starts, STEPS])):
        pair, whole = drawn.values[2 * place : 2 * place + 2], values[start:stop]
        assert (pair.min(0) == whole.min(0))[[0, 1, 3, 4]].all()
        assert (pair.max(0) == whole.max(0))[[0, 1, 3, 4]].all()
    # Both are drawn in the order in which they were recorded, and what is no number is not lost.
    place = drawn.values[:, 3].tolist().index(1e6)
    assert drawn.values[place + 1, 3] == 1e-6
    assert np.isnan(drawn.values[:, 2]).sum() == 1
    assert thinned(table, STEPS) is table


def test_a_spike_of_one_step_in_one_of_300_layers_is_in_every_figure() -> None:
    values = np.exp(0.2 * np.random.default_rng(0).standard_normal((4000, LAYERS)))
    values[1234, 123] = 1e5
    result = result_of(long_frame(values))
    (cells,) = [part for part in result.figure().axes[0].collections if part.get_array() is not None]
    shown = np.asarray(cells.get_array()).reshape(LAYERS, -1)
    assert shown.shape[1] <= COLUMNS
    assert shown[123].max() == 1e5
    (line,) = result.figure("layer", layer="layer124").axes[0].get_lines()
    assert max(line.get_ydata()) == 1e5
    drawn = result.figure()
    drawn.draw_without_rendering()
    names = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert names == ["layer1", *(f"layer{place}" for place in range(50, 301, 50))]


@pytest.mark.parametrize("count", [1, 2, 20, 21, 56, 110, 300, 1203])
def test_names_of_layers_do_not_touch(count: int) -> None:
    places = named_layers(count)
    assert places[0] == 1
    assert places[-1] <= count
    assert len(places) == count or len(places) <= 13
    assert height_of(count) / len(places) > 5 / 72


def test_bands_are_quantiles_of_the_finite_layers() -> None:
    draw = np.random.default_rng(1)
    values = draw.lognormal(size=(50, 11))
    values[7, 2], values[9] = np.inf, np.nan
    found = quantiles(Table([*range(50)], [str(place) for place in range(11)], values)).values
    for step in set(range(50)) - {9}:
        finite = sorted(value for value in values[step] if np.isfinite(value))
        for share, value in zip((0.05, 0.25, 0.5, 0.75, 0.95), found[step], strict=True):
            below, rest = divmod(share * (len(finite) - 1), 1)
            upper = finite[min(int(below) + 1, len(finite) - 1)]
            assert value == pytest.approx(finite[int(below)] * (1 - rest) + upper * rest)
    assert np.isnan(found[9]).all()


def test_bands_and_lines_of_two_networks_are_drawn_and_marked() -> None:
    values = np.random.default_rng(2).lognormal(size=(30, 6))
    broken = values.copy()
    broken[20:, 3] = np.nan
    result = result_of(long_frame(values, network="a"), long_frame(broken, network="b"))
    figure = bands_figure(result.frame, ["grad_norm"], Figure())
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes] == ["a", "b"]
    crosses = [line for line in figure.axes[1].get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[*range(20, 30)]]
    assert "not finite" in [text.get_text() for text in figure.legends[0].get_texts()]
    figure = result.figure("layer", layer="layer4")
    assert {"a", "b"} < {text.get_text() for text in figure.legends[0].get_texts()}


def test_the_axis_of_a_row_is_that_of_all_its_networks() -> None:
    steps = np.arange(1, 21)[:, None] * np.ones(3)
    few, none = long_frame(1.0 + 0.01 * steps), long_frame(steps, "response_std")
    many = long_frame(10.0**-steps, network="other")
    for first in (few, none):
        result = result_of(first, many)
        row = bands_figure(result.frame, ["grad_norm"], Figure()).axes
        assert [ax.get_yscale() for ax in row] == ["log", "log"]
        assert row[0].get_ylim()[0] < 1e-20 < 0.1 <= row[0].get_ylim()[1]


def test_figures_are_saved_and_refused_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    result = result_of(long_frame(np.random.default_rng(3).lognormal(size=(9, 4))))
    result.figures, result.layer = ("maps", "bands", "layer"), "layer2"
    folder = tmp_path_factory.mktemp("saved")
    result.save(folder, formats=["png"])
    assert {path.name for path in folder.glob("*.png")} == {f"dynamics{end}.png" for end in ("", "-bands", "-layer")}
    assert set(result.svg()) == {"dynamics", "dynamics-bands", "dynamics-layer"} == set(result.captions)
    with pytest.raises(gl.UsageError, match="there are the figures maps, bands, layer, not 'lines'"):
        result.figure("lines")
    with pytest.raises(gl.UsageError, match="there is no layer 'layer9': of the 4 there are, layer"):
        result.figure("layer", layer="layer9")


@pytest.mark.parametrize("name", ["nosuch", "nosuch.csv"])
def test_a_run_that_does_not_exist_is_one_sentence(name: str) -> None:
    with pytest.raises(gl.UsageError, match=f"^{name} does not exist: name a run's folder, or a file") as error:
        gl.dynamics(name)
    assert "Errno" not in str(error.value)
