"""Correlation of gradients against depth, with exact theory."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.networks import lone_marker, networks_of, series_styles
from gradlab.plots.style import DOTTED, PAGE_WIDTH
from gradlab.results.margins import margins
from gradlab.results.shatter.figure import log_depth_axis

LEAST_CORRELATION = 1e-5
"""The smallest lower end of the axis of correlation, since feedforward nets decay to 1e-38."""

_THEORY: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": DOTTED, "zorder": 3}


def theory_figure(layers: pd.DataFrame, summary: pd.DataFrame, figure: Figure) -> Figure:
    """Draw measurements as points and lines, and exact theory in black over them.

    On the left is the autocorrelation at lag 1, with bars of its 95 % interval (Student's t), and its value at infinite
    width. On the right is the correlation of an average pair of inputs by counting paths, layer by layer, with the law
    of independent coin flips.

    Args:
        layers: The frame of layers of a shatter result.
        summary: The frame of statistics of the result.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.06)
    figure.set_size_inches(PAGE_WIDTH, 2.6)
    left, right = figure.subplots(1, 2)
    styles = series_styles(networks_of(summary)["look"].to_dict())
    _plot_lag1(left, summary[summary["statistic"] == "lag1"], styles)
    _plot_paths(right, layers, styles)
    for ax, shallowest in ((left, summary["depth"].min()), (right, 1)):
        ax.set_xlabel("depth")
        log_depth_axis(ax, summary["depth"].max(), shallowest)
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    handles.append(Line2D([], [], label="exact theory", **_THEORY))
    columns = 6 if max(map(len, styles)) <= 18 else 3
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), columns))
    return figure


def _plot_lag1(ax: Axes, summary: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    for network, rows in summary.groupby("network", sort=False):
        style = styles[str(network)]
        # With theory, its line takes the place of one through the points.
        line = style if rows["theory"].isna().any() else {**style, "linestyle": ""}
        bars = margins(rows["sem"], rows["seeds"])
        ax.errorbar(rows["depth"], rows["value"], bars, elinewidth=0.8, linewidth=0.8, **line)
        ax.plot(rows["depth"], rows["theory"], **_THEORY)
    lowest = summary[["value", "theory"]].min().min()
    ax.set(title="lag-1 autocorrelation, infinite width", ylabel="autocorrelation at lag 1")
    # Points are never cut off, as the wide bars of few nets are.
    ax.set_ylim(-0.12 if math.isnan(lowest) else min(-0.12, lowest - 0.05), 1.06)


def _plot_paths(ax: Axes, layers: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    ax.set(title="average pair of inputs, coin flips", ylabel="correlation by counting paths", yscale="log")
    # Without normalization, inputs become more similar with depth, so the law of coin flips does not apply.
    normalized = layers[layers["norm"].isin(["bn", "rms"])]
    if normalized.empty:
        ax.text(0.5, 0.5, "the law is of batch-normalized nets", ha="center", transform=ax.transAxes, color="0.4")
    for network, rows in normalized.groupby("network", sort=False):
        ax.plot(rows["layer"], rows["mean_path_correlation"], **{**styles[str(network)], "marker": lone_marker(rows)})
        ax.plot(rows["layer"], rows["law"], **_THEORY)
    lowest = normalized[["mean_path_correlation", "law"]].min().min()
    ax.set_ylim(max(LEAST_CORRELATION, 0.5 * lowest) if lowest > 0 else LEAST_CORRELATION, 1.5)
