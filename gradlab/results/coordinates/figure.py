"""Sizes of responses and of their changes against width and depth: Yang et al. 2022, arXiv:2203.03466."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from gradlab.plots.style import PAGE_WIDTH
from gradlab.results.grouping import counted

_PANELS = {
    "size": ("rms", "response at initialization"),
    "change": ("change", "its change after {}"),
    "update": ("update", "change by the layer's own weights"),
}
"""The column and title of each quantity."""

_WRONG = "#c0392b"
_MOST_NAMES = 6
"""The largest number of named lines per panel, since more names would overlap."""


def coordinates_figure(frame: pd.DataFrame, wrong: set[tuple[str, str, str]], figure: Figure) -> Figure:
    """Draw sizes, changes and own updates of responses, with one row of panels per axis and one line per layer.

    Args:
        frame: One row per axis, value, seed, step and layer, with rms, change and update; layers are in order of
            execution.
        wrong: The axis, layer and quantity of unexpected exponents, which are drawn in red and named.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    axes = list(dict.fromkeys(frame["axis"]))
    last = int(frame["step"].max())
    figure.set_layout_engine("constrained")
    figure.set_size_inches(PAGE_WIDTH, 2.1 * len(axes))
    panels = figure.subplots(len(axes), len(_PANELS), squeeze=False)
    for row, axis in zip(panels, axes, strict=True):
        for ax, (quantity, (column, title)) in zip(row, _PANELS.items(), strict=True):
            step = 0 if quantity == "size" else last
            values = frame[(frame["axis"] == axis) & (frame["step"] == step)].dropna(subset=column)
            _panel(values, column, [layer for a, layer, q in wrong if (a, q) == (axis, quantity)], ax)
            ax.set(xlabel=str(axis), title=title.format(counted(last, "step")))
        row[0].set_ylabel("root mean square")
    return figure


def _panel(frame: pd.DataFrame, column: str, wrong: Sequence[str], ax: Axes) -> None:
    layers = list(dict.fromkeys(frame["layer"]))
    colors = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(layers)))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    named = [layer for layer in layers if layer in wrong][:_MOST_NAMES]
    for layer, color in zip(layers, colors, strict=True):
        values = frame[frame["layer"] == layer].groupby("value")[column].median()
        values = values[np.isfinite(values) & (values > 0)]
        style = {"color": color, "linewidth": 0.8}
        if layer in wrong:
            style = {"color": _WRONG, "linewidth": 1.5, "zorder": 3}
        ax.plot(values.index, values, marker="o", markersize=2.5, **style)
        if layer in named and len(values):
            end = (values.index[-1], values.iloc[-1])
            ax.annotate(layer, end, (-3, 3), textcoords="offset points", ha="right", color=_WRONG, fontsize=6)
    values = sorted(set(frame["value"]))
    ax.set_xticks(values, [str(value) for value in values])
    ax.xaxis.set_minor_locator(NullLocator())
