"""The figure of gradients: geometric means with their intervals, theory with its line, one hue per series."""

from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.lines import Line2D
from scipy import stats

import gradlab as gl
from gradlab.results.drawing import drawn

SEEDS = 4


def facts(name: str) -> dict[str, object]:
    kind = "plain" if name[:5] == "plain" else "residual"
    series, depth = name.rstrip("0123456789"), int(name.lstrip("plainrest"))
    description = {"family": series, "kind": kind, "series": series, "depth": depth}
    return {"network": name, "weights_label": "init", "description": description}


def result(values: Mapping[str, np.ndarray], theory: bool = True) -> gl.GradientsResult:
    """A result of gradients (seeds, layers) by network."""
    parts = []
    for name, norms in values.items():
        for seed, row in enumerate(norms):
            layers = [
                {"layer": f"{name}.{n}", "index": n + 1, "kind": "conv3x3", "numel": 9, "grad_norm": norm, "step": 0}
                | ({"theory": 2.0**-n} if theory else {})
                for n, norm in enumerate(row)
            ]
            parts.append(gl.GradientsResult.from_rows(name, layers, (), facts(name), seed))
    return gl.GradientsResult.concat(parts)


@pytest.fixture(scope="module")
def norms() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    names = {"plain6": 5, "plain10": 9, "resnet6": 5, "resnet10": 9}
    return {name: np.exp(draw.standard_normal((SEEDS, depth))) for name, depth in names.items()}


def broken(line: Line2D) -> bool:
    return line.get_linestyle() not in ("-", "None")


def hue(color: object) -> float:
    return float(rgb_to_hsv(to_rgb(color))[0])  # type: ignore[arg-type]


def lines_of(ax: Axes, length: int) -> list[Line2D]:
    return [line for line in ax.lines if len(line.get_xdata()) == length and line.get_marker() == "o"]  # type: ignore[arg-type]


def test_lines_are_geometric_means_and_bands_their_intervals(norms: dict[str, np.ndarray]) -> None:
    ax = result({"plain10": norms["plain10"]}).figure().axes[0]
    (line,) = lines_of(ax, 9)
    logs = np.log(norms["plain10"])
    np.testing.assert_allclose(line.get_ydata(), stats.gmean(norms["plain10"]), rtol=1e-12)
    low, high = stats.t.interval(0.95, SEEDS - 1, logs.mean(0), stats.sem(logs))
    band = ax.collections[0].get_paths()[0].vertices
    for place in range(9):
        edges = band[band[:, 0] == place + 1, 1]
        np.testing.assert_allclose([edges.min(), edges.max()], np.exp([low[place], high[place]]), rtol=1e-9)


def test_one_seed_has_no_band(norms: dict[str, np.ndarray]) -> None:
    ax = result({"plain10": norms["plain10"][:1]}).figure().axes[0]
    assert all(not len(band.get_paths()) or not band.get_paths()[0].vertices.size for band in ax.collections)


def test_user_axes_may_have_any_scale(norms: dict[str, np.ndarray]) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, (linear, log) = plt.subplots(1, 2)
    log.set_yscale("log")
    for ax in (linear, log):
        result({"plain10": norms["plain10"]}).plot(ax)
    plt.close(figure)
    np.testing.assert_allclose(lines_of(linear, 9)[0].get_ydata(), lines_of(log, 9)[0].get_ydata())


def test_theory_has_the_colour_of_its_network_and_goes_through_its_mean(norms: dict[str, np.ndarray]) -> None:
    ax = result({name: norms[name] for name in ("plain10", "resnet10")}).figure().axes[0]
    for line in lines_of(ax, 9):
        (theory,) = [
            other
            for other in ax.lines
            if other.get_color() == line.get_color() and other.get_marker() == "None" and len(other.get_xdata()) == 9  # type: ignore[arg-type]
        ]
        logs = np.log(np.asarray(theory.get_ydata(), dtype=float))
        np.testing.assert_allclose(np.diff(logs), -np.log(2), rtol=1e-9)
        assert logs.mean() == pytest.approx(np.log(np.asarray(line.get_ydata(), dtype=float)).mean())


def test_each_series_has_one_hue_in_both_panels(norms: dict[str, np.ndarray]) -> None:
    upper, lower = result(norms).figure().axes
    hues = [hue(line.get_color()) for length in (5, 9) for line in lines_of(upper, length)]
    assert hues[0] == pytest.approx(hues[2], abs=0.03)
    assert hues[1] == pytest.approx(hues[3], abs=0.03)
    assert abs(hues[0] - hues[1]) > 0.1
    above = {line.get_color() for length in (5, 9) for line in lines_of(upper, length)}
    points = {line.get_color() for line in lower.lines if line.get_marker() in ("o", "s")}
    assert points == above
    names = {text.get_text(): text.get_color() for text in lower.texts}
    assert names.keys() == {"plain", "resnet"}
    assert set(names.values()) <= above


def test_bars_of_ratios_are_intervals(norms: dict[str, np.ndarray]) -> None:
    lower = result({name: norms[name] for name in ("plain6", "plain10")}).figure().axes[1]
    for container, name in zip(lower.containers, ("plain6", "plain10"), strict=True):
        logs = np.log(norms[name][:, 0] / norms[name][:, -1])
        low, high = stats.t.interval(0.95, SEEDS - 1, logs.mean(), stats.sem(logs))
        (segment,) = container.lines[2][0].get_segments()  # type: ignore[union-attr]
        np.testing.assert_allclose(sorted(segment[:, 1]), np.exp([low, high]), rtol=1e-9)


def test_networks_of_one_depth_have_no_panel_of_ratios(norms: dict[str, np.ndarray]) -> None:
    one_depth = {name: norms[name] for name in ("plain10", "resnet10")}
    assert len(result(one_depth).figure().axes) == 1
    assert len(result(norms).figure().axes) == 2


def test_zero_gradients_are_noted() -> None:
    ax = result({"plain10": np.zeros((1, 9))}).figure().axes[0]
    assert "no gradient above 0" in [text.get_text() for text in ax.texts]


def test_the_same_figure_has_the_same_bytes(norms: dict[str, np.ndarray]) -> None:
    figures = {"gradients": result(norms).figure}
    assert drawn(figures, ("png", "svg", "pdf")) == drawn(figures, ("png", "svg", "pdf"))
