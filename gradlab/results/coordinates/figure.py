"""Sizes of responses and of their changes against width and depth: Yang et al. 2022, arXiv:2203.03466."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.plots.style import PAGE_WIDTH

_TITLES = {"rms": "response at initialization", "change": "its change after {} steps"}


def coordinates_figure(frame: pd.DataFrame, wrong: set[tuple[str, str]], figure: Figure) -> Figure:
    """Draw a panel each for sizes and changes, and a row of them for width and for depth; a line a layer.

    Args:
        frame: A row an axis, value, seed, step and layer, with rms and change; layers in order of execution.
        wrong: Axis and layer of what scales otherwise than expected: drawn in red, and named.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    axes = list(dict.fromkeys(frame["axis"]))
    last = int(frame["step"].max())
    figure.set_layout_engine("constrained")
    figure.set_size_inches(PAGE_WIDTH, 0.4 + 2.1 * len(axes))
    panels = figure.subplots(len(axes), 2, squeeze=False)
    for row, axis in zip(panels, axes, strict=True):
        of_axis = frame[frame["axis"] == axis]
        for ax, quantity, step in zip(row, _TITLES, (0, last), strict=True):
            _panel(of_axis[of_axis["step"] == step], quantity, {layer for a, layer in wrong if a == axis}, ax)
            ax.set(xlabel=str(axis), title=_TITLES[quantity].format(last))
        row[0].set_ylabel("root mean square")
    handles = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=6.5)
    return figure


def _panel(frame: pd.DataFrame, quantity: str, wrong: set[str], ax: Axes) -> None:
    layers = list(dict.fromkeys(frame["layer"]))
    colors = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(layers)))
    for layer, color in zip(layers, colors, strict=True):
        values = frame[frame["layer"] == layer].groupby("value")[quantity].agg(lambda x: np.exp(np.log(x).mean()))
        values = values[np.isfinite(values) & (values > 0)]
        flawed = layer in wrong
        style = {"color": "#c0392b", "linewidth": 1.5, "label": layer} if flawed else {"color": color, "linewidth": 0.8}
        ax.plot(values.index, values, marker="o", markersize=2.5, zorder=3 if flawed else 2, **style)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
