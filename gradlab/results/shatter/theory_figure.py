"""Correlation of gradients against depth, beside exact theory."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.networks import networks_of
from gradlab.plots.style import KIND_DASHES, PAGE_WIDTH, kind_colors
from gradlab.results.shatter.figure import log_depth_axis

LEAST_CORRELATION = 1e-5
"""Lower end of the axis of correlation; feedforward nets go on to 1e-38."""


def theory_figure(layers: pd.DataFrame, summary: pd.DataFrame, figure: Figure) -> Figure:
    """Draw what was measured as points and lines, and exact theory in black over it.

    To the left the autocorrelation at lag 1, with bars of two standard errors, beside that of infinite width. To
    the right the correlation of an average pair of inputs by counting paths, layer by layer, beside the law of
    independent coin flips.

    Args:
        layers: A shatter result's frame of layers.
        summary: Its frame of statistics.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.06)
    figure.set_size_inches(PAGE_WIDTH, 2.6)
    left, right = figure.subplots(1, 2)
    looks = networks_of(summary)["look"]
    styles: dict[str, dict[str, Any]] = {
        str(name): {"color": color, "linestyle": KIND_DASHES[look]}
        for (name, look), color in zip(looks.items(), kind_colors(list(looks)), strict=True)
    }
    _plot_lag1(left, summary[summary["statistic"] == "lag1"], styles)
    _plot_paths(right, layers, styles)
    for ax in (left, right):
        ax.set_xlabel("depth")
        log_depth_axis(ax, summary["depth"].max())
    handles = [Line2D([], [], marker="o", label=name, **style) for name, style in styles.items()]
    handles.append(Line2D([], [], color="black", linewidth=0.8, linestyle=(0, (1, 1)), label="exact theory"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _plot_lag1(ax: Axes, summary: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    for network, rows in summary.groupby("network", sort=False):
        style = styles[str(network)]
        ax.errorbar(rows["depth"], rows["value"], 2 * rows["sem"], color=style["color"], fmt="o", elinewidth=0.8)
        # No line of width 0: matplotlib before 3.11 refuses its dashes.
        if rows["theory"].isna().any():
            ax.plot(rows["depth"], rows["value"], linewidth=0.8, **style)
        ax.plot(rows["depth"], rows["theory"], color="black", linewidth=0.8, linestyle=(0, (1, 1)), zorder=3)
    ax.set(title="lag-1 autocorrelation, infinite width", ylabel="autocorrelation at lag 1", ylim=(-0.12, 1.06))


def _plot_paths(ax: Axes, layers: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    # Without normalization inputs grow alike with depth: no law of coin flips speaks of those.
    for network, rows in layers[layers["norm"].isin(["bn", "rms"])].groupby("network", sort=False):
        ax.plot(rows["layer"], rows["mean_path_correlation"], **styles[str(network)])
        ax.plot(rows["layer"], rows["law"], color="black", linewidth=0.8, linestyle=(0, (1, 1)), zorder=3)
    ax.set(title="average pair of inputs, coin flips", ylabel="correlation by counting paths", yscale="log")
    ax.set_ylim(LEAST_CORRELATION, 1.5)
