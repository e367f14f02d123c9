"""The figures of shattering: intervals as bands, and coinciding curves and families that remain distinguishable."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

import gradlab as gl
from gradlab.plots.style import shades
from gradlab.results.shatter.depth_figure import coactivation_figure
from gradlab.results.shatter.figure import acf_figure
from gradlab.results.shatter.theory_figure import theory_figure

SEEDS = 3
FAMILIES = ("ff-norm=none", "ff-norm=center", "ff-norm=bn", "resnet", "ll")


@pytest.fixture(scope="module")
def small() -> gl.ShatterResult:
    return gl.shatter(depths=(2, 5), families=FAMILIES, seeds=SEEDS, width=16, points=32, lags=6, device="cpu")


def panel(result: gl.ShatterResult, network: str) -> Axes:
    return result.figure("acf").axes[FAMILIES.index(network)]


def test_bands_are_intervals_by_students_t(small: gl.ShatterResult) -> None:
    rows = small.frame.query("network == 'resnet' and depth == 5")
    band = panel(small, "resnet").collections[1].get_paths()[0].vertices
    half = stats.t.ppf(0.975, SEEDS - 1) * rows["acf_sem"]
    for lag, value, margin in zip(rows["lag"][1:], rows["acf"][1:], half[1:], strict=True):
        edges = band[band[:, 0] == lag, 1]
        np.testing.assert_allclose([edges.min(), edges.max()], [value - margin, value + margin], rtol=1e-9)


def test_coinciding_lines_of_linear_nets_are_distinguished(small: gl.ShatterResult) -> None:
    markers = {line.get_label(): line.get_marker() for line in panel(small, "ll").lines if line.get_label() in "25"}
    assert markers["2"] != markers["5"]
    assert "None" not in markers.values()
    legend = {handle.get_label(): handle for handle in small.figure("acf").legends[0].legend_handles}
    assert [legend[f"depth {depth}"].get_marker() for depth in (2, 5)] == [markers["2"], markers["5"]]  # type: ignore[union-attr]


def test_feedforward_nets_of_three_norms_are_three_shades(small: gl.ShatterResult) -> None:
    for which in ("correlation", "coactivation", "theory"):
        figure = small.figure(which)
        legend = figure.axes[0].get_legend() or figure.legends[0]
        colors = {line.get_label(): line.get_color() for line in legend.get_lines()}
        assert [colors[name] for name in FAMILIES[:3]] == shades("plain", 3), which


def test_one_family_of_each_style_is_shown_as_a_signal(small: gl.ShatterResult) -> None:
    titles = [ax.get_title().split("\n")[0] for ax in small.figure("signals").axes[:6]]
    assert titles == ["ff-norm=none", "ff-norm=none", "resnet", "ll", "brown noise", "white noise"]


def test_one_seed_and_one_layer_are_drawn() -> None:
    one = gl.shatter(depths=(1,), families=("ff",), seeds=1, width=8, points=16, lags=4, device="cpu")
    for which in ("correlation", "coactivation", "theory"):
        points = [line for line in one.figure(which).axes[0].lines if line.get_marker() not in ("None", "")]
        assert points, which


@pytest.mark.parametrize("network", FAMILIES)
def test_no_panel_cuts_off_a_line_whichever_network_is_lowest(small: gl.ShatterResult, network: str) -> None:
    frame = small.to_frame()
    frame.loc[(frame["network"] == network) & (frame["lag"] == 2), "acf"] = -0.7
    drawn = acf_figure(frame, {}, Figure()).axes[: frame["network"].nunique()]
    assert all(ax.get_ylim()[0] <= -0.7 for ax in drawn)
    assert all(line.get_ydata().min() >= ax.get_ylim()[0] for ax in drawn for line in ax.lines)  # type: ignore[union-attr]


def test_points_of_theory_and_lines_of_activation_are_never_cut_off(small: gl.ShatterResult) -> None:
    layers, summary = small.layers_frame.copy(), small.summary_frame.copy()
    layers.loc[layers["layer"] == 2, ["activation", "coactivation"]] = 0.9, 0.85
    layers.loc[layers["layer"] == 1, ["activation", "coactivation"]] = 0.15, 0.05
    summary.loc[summary["statistic"] == "lag1", "value"] = -0.3
    axes = [*coactivation_figure(layers, Figure()).axes[:2], theory_figure(layers, summary, Figure()).axes[0]]
    for ax, expected in zip(axes, [(0.15, 0.9), (0.05, 0.85), (-0.3, -0.3)], strict=True):
        low, high = ax.get_ylim()
        assert low < expected[0] <= expected[1] < high
