"""Two runs side by side: layer × step in colour, and their difference with its beginning marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from gradlab.plots.style import DOTTED, PAGE_WIDTH
from gradlab.results.compare_runs.differences import Difference, by_difference
from gradlab.results.compare_runs.pairs import Pair
from gradlab.results.dynamics.axes import SIGNED, height_of, label_of, step_axis
from gradlab.results.dynamics.figure import COLUMNS, LINE, add_colorbar, color_scale, colors_of, plot_map
from gradlab.results.dynamics.tables import Array, Table, thinned

DIFFERENCE: Colormap = LinearSegmentedColormap.from_list("difference", ["#08306b", "#8f8f8f", "#ffd56b"])
"""The colours of a difference: dark below, grey where there is none, light above, in print without colours, too."""

_RING: Any = {"marker": "o", "markersize": 5, "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": ""}
_FACTORS = [1.1, 1.2, 1.5, *(digit * 10.0**power for power in range(250) for digit in (2, 5, 10))]
"""The ends of scales of ratios."""

_DASHED: Any = {"color": "black", "linewidth": 0.8, "linestyle": (0, (4, 2))}
_DOTTED: Any = {"color": "black", "linewidth": 0.8, "linestyle": DOTTED}
_OUTLINED = [withStroke(linewidth=2, foreground="white", alpha=0.8)]


def compare_figure(
    pairs: Sequence[Pair],
    loss: Pair | None,
    names: Sequence[str],
    differences: Sequence[Difference],
    bit: int | None,
    figure: Figure,
) -> Figure:
    """Draw maps of both runs and of their difference, a row a statistic, and the loss below.

    Args:
        pairs: Statistics of layers.
        loss: That of the whole model; None if it was not recorded.
        names: What to call the two runs.
        differences: Where they part, the earliest first.
        bit: The first step at which they are not the same to the last bit; None if they are.
        figure: An empty figure, which gets the width of a page.

    Returns:
        The same figure.
    """
    heights = [height_of(len(pair.layers)) for pair in pairs] + [1.2] * (loss is not None)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH, 0.8 + sum(heights))
    axes = figure.subplots(len(heights), 3, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    for row, pair in zip(axes, pairs, strict=False):
        _plot_maps(pair, row)
        for found in differences:
            if found.index and found.statistic == pair.statistic:
                row[2].plot(found.step, pair.layers.index(found.layer) + 1, markeredgewidth=2.2, **_RING)
                row[2].plot(found.step, pair.layers.index(found.layer) + 1, **{**_RING, "markeredgecolor": "white"})
    if loss is not None:
        _plot_loss(loss, axes[-1], names)
    for ax, title in zip(axes[0], (*names, f"{names[1]} against {names[0]}"), strict=True):
        ax.set_title(title)
    _mark(axes, differences, bit)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    return figure


def _plot_maps(pair: Pair, row: Sequence[Axes]) -> None:
    """The two runs with one scale, and their difference, each with its colour bar."""
    tables = [Table(pair.steps, pair.layers, values, pair.blocks) for values in (pair.first, pair.second)]
    norm = _scale(pair)
    for ax, table in zip(row, tables, strict=False):
        mesh = plot_map(table, ax, norm, colors_of(pair.statistic))
    row[0].set_ylabel("layer")
    row[1].set_yticks([])
    row[2].set_yticks([])
    add_colorbar(mesh, row[:2], pair.statistic)
    values, scale, label = _difference(pair)
    mesh = plot_map(Table(pair.steps, pair.layers, values, pair.blocks), row[2], scale, DIFFERENCE)
    row[2].set_yticks([])
    bar = row[2].figure.colorbar(mesh, ax=row[2], aspect=14, pad=0.02, extend="both", format="{x:.3g}")
    bar.minorticks_off()
    bar.set_label(label)
    low, high = mesh.get_clim()
    bar.set_ticks([low, (low * high) ** 0.5, high] if isinstance(scale, LogNorm) else [low, 0, high])


def _scale(pair: Pair) -> Normalize:
    """The colour scale of both runs, logarithmic for all that has a size: they may lie far apart."""
    values = np.concatenate([pair.first, pair.second]).ravel()
    norm = color_scale(pair.statistic, values)
    if by_difference(pair.statistic) or pair.statistic in SIGNED or isinstance(norm, LogNorm):
        return norm
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = np.percentile(positive, [0.5, 99.5]) if positive.size else (0.1, 1.0)
    return LogNorm(low, max(high, 1.01 * low))


def _difference(pair: Pair) -> tuple[Array, Normalize, str]:
    """The difference of a pair, its colour scale around none, and its label."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if by_difference(pair.statistic) or pair.statistic in SIGNED:
            values = pair.second - pair.first
            finite = abs(values[np.isfinite(values)])
            most = float(np.percentile(finite, 99.5)) if finite.size else 1.0
            return values, Normalize(-most or -1.0, most or 1.0), "difference"
        values = pair.second / pair.first
        logs = abs(np.log(values))
    finite = logs[np.isfinite(logs)]
    most = float(np.exp(min(np.percentile(finite, 99.5), 600))) if finite.size else 1.0
    most = next((factor for factor in _FACTORS if factor >= most), most)
    return values, LogNorm(1 / most, most), "ratio"


def _plot_loss(pair: Pair, row: Sequence[Axes], names: Sequence[str]) -> None:
    """The losses of both, and their ratio."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = pair.second / pair.first
    limits = row[0].get_xlim()
    for ax, values in zip(row, (pair.first, pair.second, ratio), strict=True):
        drawn = thinned(Table(pair.steps, ["total"], np.where(np.isfinite(values), values, np.nan)), COLUMNS)
        ax.plot(drawn.steps, drawn.values[:, 0], color=LINE, linewidth=0.8)
        step_axis(ax, np.array(pair.steps, dtype=float))
    row[1].sharey(row[0])
    row[0].set_ylabel(label_of(pair.statistic))
    row[2].set_ylabel("ratio")
    if limits != (0.0, 1.0):
        row[0].set_xlim(limits)


def _mark(axes: Any, differences: Sequence[Difference], bit: int | None) -> None:
    """Lines where the runs part first, and where their last bits do, with a legend."""
    handles = []
    if differences:
        first = differences[0]
        for ax in axes.flat:
            ax.axvline(first.step, path_effects=_OUTLINED, **_DASHED)
        label = f"first difference: step {first.step:,}, {first.statistic} of {first.layer}"
        handles += [Line2D([], [], label=label, **_DASHED), Line2D([], [], label="first of a statistic", **_RING)]
    if bit is not None and bit > axes.flat[0].get_xlim()[0]:
        for ax in axes[:, 2]:
            ax.axvline(bit, path_effects=_OUTLINED, **_DOTTED)
        handles.append(Line2D([], [], label=f"last bits differ from step {bit:,} on", **_DOTTED))
    if handles:
        axes.flat[0].figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
