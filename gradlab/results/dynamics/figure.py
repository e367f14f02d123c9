"""Layers along a training: layer × step in colour, with the error curves under the same axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH
from gradlab.results.dynamics.axes import SIGNED, height_of, label_of, layer_axis, step_axis
from gradlab.results.dynamics.names import SHARES
from gradlab.results.dynamics.tables import Array, Table, thinned
from gradlab.results.training.figure import kinds_of_error, plot_errors

COLUMNS = 1000
"""Up to so many steps are drawn; of more, two columns share the records of an interval, with its extremes."""

LINE = "#1f3b73"
"""The colour of a single curve."""

_RESPONSES = {"response_std", "response_max"}


def plot_layers_by_step(frame: pd.DataFrame, ax: Axes, norm: Normalize | None = None) -> QuadMesh:
    """Draw one statistic of one network in colour, layers upward in order of execution, steps to the right.

    A record fills the time up to the next one. Steps lie on a log axis where they were recorded so.

    Args:
        frame: Rows of a dynamics frame, of one network and statistic.
        ax: Where to draw.
        norm: Of the colours; by default that of these rows alone.

    Returns:
        What was drawn, for a colour bar.
    """
    statistic = str(frame["statistic"].iloc[0])
    table = Table.of(frame, statistic)
    assert table is not None
    return plot_map(table, ax, norm or color_scale(statistic, table.values), colors_of(statistic))


def colors_of(statistic: str) -> str:
    """The colour map of a statistic."""
    return "magma" if statistic in _RESPONSES else "RdBu_r" if statistic in SIGNED else "viridis"


def plot_map(table: Table, ax: Axes, norm: Normalize, colors: str | Colormap) -> QuadMesh:
    """Draw a table in colour; on a log scale exact zeros are white, and what is not finite is hatched.

    Args:
        table: Of any number of steps.
        ax: Where to draw.
        norm: Of the colours.
        colors: The colour map.

    Returns:
        What was drawn, for a colour bar.
    """
    drawn = thinned(table, COLUMNS)
    steps = np.array(drawn.steps, dtype=float)
    last = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)
    edges = np.append(steps, last), np.arange(len(drawn.layers) + 1) + 0.5
    values = np.ma.masked_invalid(drawn.values.T)
    # Thousands of cells would make a vector file slow to show.
    mesh = ax.pcolormesh(*edges, values, norm=norm, cmap=colors, rasterized=True)
    if isinstance(norm, LogNorm) and (zero := drawn.values.T == 0).any():
        ax.pcolormesh(*edges, np.ma.masked_array(zero, ~zero), cmap=ListedColormap(["white"]), rasterized=True)
    ax.set_facecolor("0.85")
    ax.patch.set(hatch="xxxxx", edgecolor="0.5", linewidth=0)
    ax.grid(False)
    step_axis(ax, steps)
    ax.set_xlim(steps[0], last)
    layer_axis(ax, drawn.layers, drawn.blocks)
    return mesh


def dynamics_figure(frame: pd.DataFrame, errors: pd.DataFrame, statistics: Sequence[str], figure: Figure) -> Figure:
    """Draw heat maps of each statistic and the error curves under the same step axis, a column a network.

    The colours of a statistic mean the same in every column. Gradients have a log scale.

    Args:
        frame: A dynamics frame.
        errors: network, step, train_error, test_error (shares); may be empty.
        statistics: Which, from above.
        figure: An empty figure; it gets the width of a column for one network, of a page for more.

    Returns:
        The same figure.
    """
    parts = {str(network): part for network, part in frame.groupby("network", sort=False, observed=True)}
    tables = {statistic: [Table.of(part, statistic) for part in parts.values()] for statistic in statistics}
    losses = {network: Table.of_total(part, "loss") for network, part in parts.items()}
    below = len(errors) > 0 or any(losses.values())
    layers = max((len(table.layers) for row in tables.values() for table in row if table), default=1)
    heights = [height_of(layers)] * len(statistics) + [1.45] * below
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH if len(parts) == 1 else PAGE_WIDTH, 0.6 + sum(heights))
    axes = figure.subplots(
        len(heights), len(parts), squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights}
    )
    for row, (statistic, found) in zip(axes, tables.items(), strict=False):
        _plot_row(row, statistic, found)
    for ax, (network, loss), *maps in zip(axes[-1] if below else (), losses.items(), *tables.values(), strict=below):
        _plot_below(ax, loss, errors[errors["network"] == network], next(filter(None, maps), loss))
    if len(errors):
        # The first steps are seen as well: a log axis is mostly of these.
        top = 105 * errors[["train_error", "test_error"]].max().max()
        for ax in axes[-1]:
            ax.set_ylim(0, min(100, top))
    for ax, network in zip(axes[0], parts, strict=True):
        ax.set_title(network)
    if len(errors):
        axes[-1][0].set_ylabel("error (%)")
        figure.legend(handles=kinds_of_error(), loc="outside lower center", ncols=2)
    elif below:
        axes[-1][0].set_ylabel("loss")
    for ax in axes[-1]:
        ax.set_xlabel("step")
    return figure


def _plot_row(row: Sequence[Axes], statistic: str, tables: Sequence[Table | None]) -> None:
    """The maps of one statistic, with one scale and one colour bar."""
    norm = color_scale(statistic, np.concatenate([table.values.ravel() for table in tables if table]))
    for ax, table in zip(row, tables, strict=True):
        if table is None:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=ax.transAxes, color="0.4")
        else:
            mesh = plot_map(table, ax, norm, colors_of(statistic))
    row[0].set_ylabel("layer")
    add_colorbar(mesh, row, statistic)


def color_scale(statistic: str, values: Array) -> Normalize:
    """The colour scale of one statistic: between its 0.5 and 99.5 percentiles, log for all that has a size.

    Stds of responses are linear, unless they lie more than a thousand apart; shares go from 0 to 1.

    Args:
        statistic: Its name.
        values: Of any shape.
    """
    values = values[np.isfinite(values)]
    if statistic in SHARES:
        return Normalize(0, 1)
    if statistic in SIGNED:
        largest = float(np.percentile(abs(values), 99.5)) if len(values) else 1.0
        return Normalize(-largest or -1.0, largest or 1.0)
    positive = values[values > 0]
    if positive.size == 0:
        return LogNorm(0.1, 1)
    low, high = np.percentile(positive, [0.5, 99.5])
    if statistic == "response_std" and high <= 1000 * low:
        return Normalize(0, np.percentile(values, 99.5))
    return LogNorm(low, max(high, 1.01 * low))


def add_colorbar(mesh: QuadMesh, row: Sequence[Axes], statistic: str) -> None:
    """Add a colour bar beside a row, open where values may lie beyond it, with few ticks as plain numbers.

    Args:
        mesh: What was drawn in the row.
        row: The axes.
        statistic: The statistic.
    """
    low, high = mesh.get_clim()
    log = isinstance(mesh.norm, LogNorm)
    ticks = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)) if log else MaxNLocator(5)
    extend = "neither" if statistic in SHARES else "max" if statistic == "response_std" and not log else "both"
    bar = row[0].figure.colorbar(mesh, ax=list(row), aspect=14, pad=0.01, extend=extend, ticks=ticks, format="{x:g}")
    bar.minorticks_off()
    bar.set_label(label_of(statistic))


def _plot_below(ax: Axes, loss: Table | None, curves: pd.DataFrame, above: Table | None) -> None:
    """Error curves, where there are any, else the loss, over the steps of the maps above."""
    limits = ax.get_xlim()
    if len(curves):
        plot_errors(curves, ax, {curves["network"].iloc[0]: LINE})
    elif loss is not None:
        drawn = thinned(loss, COLUMNS)
        ax.plot(drawn.steps, drawn.values[:, 0], color=LINE, linewidth=0.8)
    ax.set_ylabel("")
    if above is not None:
        step_axis(ax, np.array(above.steps, dtype=float))
        ax.set_xlim(limits)
