"""Lines along a training: quantiles over the layers, and every statistic of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullFormatter

from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH, depth_colors
from gradlab.results.dynamics.axes import SIGNED, label_of, step_axis
from gradlab.results.dynamics.figure import COLUMNS, LINE
from gradlab.results.dynamics.names import SHARES
from gradlab.results.dynamics.tables import Array, Table, thinned

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the layers: the ends of the 90 % band, those of the 50 % band, and the median."""

_BANDS = {"90 % of layers": 0.18, "50 % of layers": 0.4}
_NOT_FINITE = "not finite"
_MOST_IN_A_COLUMN = 4


def bands_figure(frame: pd.DataFrame, statistics: Sequence[str], figure: Figure) -> Figure:
    """Draw the median and the 50 % and 90 % bands of the layers against step, a row a statistic, a column a network.

    Args:
        frame: A dynamics frame.
        statistics: Which.
        figure: An empty figure; it gets the width of a column for one network, of a page for more.

    Returns:
        The same figure.
    """
    parts = {str(network): part for network, part in frame.groupby("network", sort=False, observed=True)}
    figure.set_size_inches(COLUMN_WIDTH if len(parts) == 1 else PAGE_WIDTH, 0.7 + 1.3 * len(statistics))
    axes = figure.subplots(len(statistics), len(parts), squeeze=False, sharex="col", sharey="row")
    for row, statistic in zip(axes, statistics, strict=True):
        for ax, part in zip(row, parts.values(), strict=True):
            if (table := Table.of(part, statistic)) is not None:
                _plot_bands(table, ax)
                _mark(part[(part["statistic"] == statistic) & (part["index"] > 0)], ax)
        _value_axis(row, statistic)
        row[0].set_ylabel(label_of(statistic))
    for ax, network in zip(axes[0], parts, strict=True):
        ax.set_title(network)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    handles: list[Line2D | Patch] = [Line2D([], [], color=LINE, label="median")]
    handles += [Patch(color=LINE, alpha=alpha, linewidth=0, label=name) for name, alpha in _BANDS.items()]
    figure.legend(handles=[*handles, *_marks(figure)], loc="outside lower center", ncols=4)
    return figure


def layer_figure(frame: pd.DataFrame, layer: str, figure: Figure) -> Figure:
    """Draw every statistic of one layer against step, a panel a statistic, a line a network.

    Args:
        frame: A dynamics frame.
        layer: The name of the layer, or `total` for the whole model.
        figure: An empty figure; it gets the width of a column for few statistics, of a page for more.

    Returns:
        The same figure.
    """
    rows = frame[frame["layer"] == layer]
    statistics = [str(name) for name in dict.fromkeys(rows["statistic"])]
    networks = [str(name) for name in dict.fromkeys(rows["network"])]
    colors = depth_colors(networks) if len(networks) > 1 else {networks[0]: LINE}
    across = 1 if len(statistics) <= _MOST_IN_A_COLUMN else 2
    down = -(-len(statistics) // across)
    figure.set_size_inches(COLUMN_WIDTH if across == 1 else PAGE_WIDTH, 0.7 + 1.05 * down)
    figure.suptitle(layer, x=0.01, ha="left", fontsize="medium")
    axes = figure.subplots(down, across, squeeze=False, sharex=True)
    for ax, statistic in zip(axes.T.flat, statistics, strict=False):
        for network, color in colors.items():
            _plot_series(rows[(rows["network"] == network) & (rows["statistic"] == statistic)], ax, color)
        _value_axis([ax], statistic)
        ax.set_title(label_of(statistic), fontsize="small")
    for ax in axes.T.flat[len(statistics) :]:
        ax.set_axis_off()
        axes[-2, -1].tick_params(labelbottom=True)
    figure.supxlabel("step", fontsize="medium")
    handles = [Line2D([], [], label=name, color=color) for name, color in colors.items()] * (len(networks) > 1)
    if handles := [*handles, *_marks(figure)]:
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def quantiles(table: Table) -> Table:
    """The quantiles of the layers at every step, of those with a finite value; a column each.

    Args:
        table: The values of a statistic.
    """
    values = np.where(np.isfinite(table.values), table.values, np.nan)
    found = np.full((len(table.steps), len(QUANTILES)), np.nan)
    there = ~np.isnan(values).all(axis=1)
    whole = there & ~np.isnan(values).any(axis=1)
    found[whole] = np.quantile(values[whole], QUANTILES, axis=1).T
    for place in np.flatnonzero(there & ~whole):
        found[place] = np.nanquantile(values[place], QUANTILES)
    return Table(table.steps, [f"{share:g}" for share in QUANTILES], found)


def _plot_bands(table: Table, ax: Axes) -> None:
    drawn = thinned(quantiles(table), COLUMNS)
    steps = np.array(drawn.steps, dtype=float)
    lowest, low, middle, high, highest = drawn.values.T
    if len(steps) < len(table.steps):
        # Of two points that share the records of an interval, both have the ends of the bands farthest out.
        lowest, low = (_over_pairs(values, np.fmin) for values in (lowest, low))
        high, highest = (_over_pairs(values, np.fmax) for values in (high, highest))
    for (start, stop), alpha in zip(((lowest, highest), (low, high)), _BANDS.values(), strict=True):
        ax.fill_between(steps, start, stop, color=LINE, alpha=alpha, linewidth=0)
    ax.plot(steps, middle, color=LINE, linewidth=0.9, marker="o" if len(steps) == 1 else None)
    step_axis(ax, np.array(table.steps, dtype=float))


def _over_pairs(values: Array, extreme: np.ufunc) -> Array:
    return np.repeat(extreme(values[::2], values[1::2]), 2)


def _plot_series(rows: pd.DataFrame, ax: Axes, color: Any) -> None:
    if rows.empty:
        return
    # The whole model's place is 0, where a table has none.
    table = Table.of(rows.assign(index=1), str(rows["statistic"].iloc[0]))
    assert table is not None
    drawn = thinned(table, COLUMNS)
    marker = "o" if len(drawn.steps) == 1 else None
    ax.plot(drawn.steps, drawn.values[:, 0], color=color, linewidth=0.8, marker=marker)
    _mark(rows, ax)
    step_axis(ax, np.array(table.steps, dtype=float))


def _mark(rows: pd.DataFrame, ax: Axes) -> None:
    """Crosses on the upper edge at steps with a value that is not finite."""
    steps = rows.loc[~np.isfinite(rows["value"]), "step"].unique()
    if len(steps):
        shown = steps[np.unique(np.linspace(0, len(steps) - 1, COLUMNS).astype(int))]
        edge = np.ones(len(shown))
        (crosses,) = ax.plot(shown, edge, "kx", markersize=3, label=_NOT_FINITE, transform=ax.get_xaxis_transform())
        crosses.set_clip_on(False)


def _marks(figure: Figure) -> list[Line2D]:
    """The entry of the legend for values that are not finite, where there are any."""
    lines = [line for ax in figure.axes for line in ax.get_lines() if line.get_label() == _NOT_FINITE]
    return [Line2D([], [], color="black", marker="x", linestyle="", markersize=3, label=_NOT_FINITE)] * bool(lines)


def _value_axis(row: Sequence[Axes], statistic: str) -> None:
    """From 0 to 1 for shares; logarithmic where all values have a size, and lie far enough apart.

    Args:
        row: The panels of the statistic, which share their axis: the values of all of them count.
        statistic: Which.
    """
    ax, lines = row[0], [line for each in row for line in each.get_lines()]
    if statistic in SHARES:
        ax.set_ylim(-0.02, 1.02)
        return
    drawn = [np.asarray(line.get_ydata(), float) for line in lines if line.get_label() != _NOT_FINITE]
    values = np.concatenate([*drawn, [0.0]])
    sizes = values[np.isfinite(values) & (values != 0)]
    if not sizes.size:
        ax.set_yticks([0])
    elif statistic not in SIGNED and sizes.min() > 0 and sizes.max() > 3 * sizes.min():
        ax.set_yscale("log")
        if sizes.max() < 300 * sizes.min():
            ax.yaxis.set_major_locator(FixedLocator([3.0**k * 10.0**p for p in range(-300, 300) for k in (0, 1)]))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
