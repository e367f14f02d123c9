"""Correlation of gradients, and activation of neurons, against depth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.networks import networks_of
from gradlab.plots.style import COLUMN_WIDTH, KIND_DASHES, PAGE_WIDTH, kind_colors
from gradlab.results.shatter.figure import family_label, log_depth_axis

LEAST_CORRELATION = 1e-6
"""Lower end of the residual nets' correlation axis."""


def correlation_figure(layers: pd.DataFrame, summary: pd.DataFrame, figure: Figure) -> Figure:
    """Draw correlation at the fixed pair of inputs against depth, on log axes, beside the laws.

    Feedforward nets to the left, others to the right. Lines with bands of two standard errors: by counting
    paths. Points with error bars: by sampling, where that tells the correlation from 0. Crosses: the exact theory
    of infinite width. Both may be negative; their magnitude is drawn. Thin: the exact laws of independent coin
    flips; dotted: 1/(β√L), as the paper quotes it.

    Args:
        layers: A shatter result's frame of layers.
        summary: Its frame of statistics.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH, 2.7)
    axes = figure.subplots(1, 2)
    runs = list(layers.groupby(["network", "norm"], sort=False))
    known = networks_of(layers)
    sides = [[run for run in runs if (known["look"][run[0][0]] == "plain") == plain] for plain in (True, False)]
    for ax, side, title in zip(axes, sides, ("feedforward", "residual, looks linear"), strict=True):
        _plot_correlation(ax, side, summary, known)
        ax.set(title=title, xlabel="depth", yscale="log", ylabel="|correlation| of gradients")
        log_depth_axis(ax, layers["layer"].max())
        ax.set_ylim(top=2)
        if title != "feedforward":
            ax.set_ylim(bottom=max(LEAST_CORRELATION, ax.get_ylim()[0]))
    handles = [
        Line2D([], [], color="0.3", label="counting paths"),
        Line2D([], [], color="0.3", marker="o", linestyle="", label="sampled"),
        Line2D([], [], color="0.3", marker="x", markersize=5, linestyle="", label="infinite width"),
        Line2D([], [], color="0.3", linewidth=0.6, label="exact law of coin flips"),
        Line2D([], [], color="0.3", linewidth=0.8, linestyle=(0, (1, 1)), label="1/(β√L)"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure


def _plot_correlation(
    ax: Axes, runs: list[tuple[tuple[str, str], pd.DataFrame]], summary: pd.DataFrame, known: pd.DataFrame
) -> None:
    colors = kind_colors([known["look"][network] for (network, _), _ in runs])
    for ((network, norm), rows), color in zip(runs, colors, strict=True):
        look, label = known["look"][network], family_label(known.loc[network], norm)
        ax.plot(rows["layer"], rows["path_correlation"], color=color, linestyle=KIND_DASHES[look], label=label)
        low = (rows["path_correlation"] - 2 * rows["path_sem"]).clip(lower=rows["path_correlation"] / 10)
        ax.fill_between(
            rows["layer"], low, rows["path_correlation"] + 2 * rows["path_sem"], color=color, alpha=0.2, lw=0
        )
        ax.plot(rows["layer"], rows["law"], color=color, linewidth=0.6)
        ax.plot(rows["layer"], rows["asymptote"], color=color, linewidth=0.8, linestyle=(0, (1, 1)))
        chosen = (summary["network"] == network) & (summary["norm"] == norm)
        sampled = summary[chosen & (summary["statistic"] == "pair_correlation")]
        if look == "plain":
            ax.plot(sampled["depth"], sampled["theory"].abs(), "x", color=color, markersize=5)
        sampled = sampled[sampled["value"].abs() > 2 * sampled["sem"].fillna(0)]
        ax.errorbar(sampled["depth"], sampled["value"].abs(), 2 * sampled["sem"], color=color, fmt="o", elinewidth=0.7)
    if runs:
        ax.legend(loc="lower left")


def coactivation_figure(layers: pd.DataFrame, figure: Figure) -> Figure:
    """Draw activation and co-activation of every layer, and the neurons that never switch.

    Args:
        layers: A shatter result's frame of layers.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 4.2)
    axes = figure.subplots(3, 1, sharex=True)
    runs = list(layers.groupby(["network", "norm"], sort=False))
    known = networks_of(layers)
    colors = kind_colors([known["look"][network] for (network, _), _ in runs])
    for ((network, norm), rows), color in zip(runs, colors, strict=True):
        style = {"color": color, "linestyle": KIND_DASHES[known["look"][network]]}
        label = family_label(known.loc[network], norm)
        axes[0].plot(rows["layer"], rows["activation"], label=label, **style)
        axes[1].plot(rows["layer"], rows["coactivation"], **style)
        axes[2].plot(rows["layer"], rows["always_on"] + rows["always_off"], **style)
    axes[1].axhline(0.25, color="0.5", linewidth=0.6, linestyle=(0, (1, 1)))
    axes[1].annotate("coin flips", (1, 0.25), xytext=(2, -7), textcoords="offset points", fontsize=6, color="0.4")
    axes[0].set(ylabel="active", ylim=(0.3, 0.7))
    axes[1].set(ylabel="active at both", ylim=(0.2, 0.52))
    axes[2].set(ylabel="always on or off", xlabel="layer")
    for ax in axes:
        log_depth_axis(ax, layers["layer"].max())
    axes[2].set_ylim(bottom=-0.02, top=max(0.2, np.nanmax(layers["always_on"] + layers["always_off"]) * 1.1))
    figure.legend(loc="outside upper center", ncols=2)
    return figure
