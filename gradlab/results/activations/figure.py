"""Rasters of active neurons, runs of activity, and switch rates by layer (Balduzzi et al. 2017, Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.networks import fitting_columns, networks_of, series_styles
from gradlab.plots.style import DOTTED, PAGE_WIDTH
from gradlab.results.margins import margins

_COINS: dict[str, Any] = {"color": "0.45", "linewidth": 0.9, "linestyle": DOTTED}
_WIDTH_LIMIT: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": DOTTED, "zorder": 3}


def plot_raster(raster: np.ndarray, x: np.ndarray, ax: Axes) -> Axes:
    """Mark the inputs at which neurons are active, ordered by the mean of these inputs.

    Args:
        raster: Whether each neuron is active at each input, (N, M).
        x: The inputs, (M,).
        ax: The axes.
    """
    active = raster.sum(1)
    centres = np.where(active > 0, raster @ x / np.maximum(active, 1), x[0])
    ax.imshow(
        ~raster[np.argsort(centres, kind="stable")],
        cmap="gray",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(x[0], x[-1], len(raster), 0),
        rasterized=True,
    )
    ax.grid(False)
    ax.set(xlabel="input", yticks=[0, len(raster)])
    return ax


def plot_runs(runs: pd.DataFrame, ax: Axes, style: Mapping[str, Any]) -> Axes:
    """Draw the number of runs of activity for each neuron by their length, beside that of coin flips.

    Args:
        runs: The rows of one network in a frame of runs.
        ax: The axes.
        style: The style of the network.
    """
    # Lengths are joined in groups that double in size, so that rare long runs can be seen.
    group = np.floor(np.log2(runs["length"].astype(float)))
    joined = runs.groupby(group)[["runs", "coin_flips"]].sum()
    ax.bar(joined.index, joined["runs"], width=0.85, color=style["color"], linewidth=0)
    shown = joined["coin_flips"] > 1e-4
    ax.plot(joined.index[shown], joined["coin_flips"][shown], marker="o", markersize=2.5, **_COINS)
    labels = [f"{2 ** int(power)}" for power in joined.index]
    ax.set_xticks(list(joined.index)[::2], labels=labels[::2])
    # Of many inputs there are more short runs.
    top = max(100.0, 1.5 * joined.to_numpy(float).max())
    ax.set(xlabel="length of a run, from", yscale="log", ylim=(1e-3, top))
    return ax


def plot_switch_rates(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the fraction of neighbouring inputs at which a neuron switches by layer, with 95 % intervals over nets."""
    for network, style in _styles(frame).items():
        rows = frame[frame["network"] == network].groupby("layer")["switch_rate"]
        mean, count = rows.mean(), rows.count()
        half = np.nan_to_num(margins(rows.sem(), count))
        ax.plot(mean.index, mean, label=network, **{**style, "marker": "o" if len(mean) == 1 else None})
        ax.fill_between(mean.index, mean - half, mean + half, color=style["color"], alpha=0.2, linewidth=0)
        theory = frame[frame["network"] == network].groupby("layer")["theory"].first()
        ax.plot(theory.index, theory, **_WIDTH_LIMIT)
    ax.axhline(0.5, **_COINS)
    ax.set(xlabel="layer", ylabel="switch rate", yscale="log")
    ax.set_xlim(left=1)
    return ax


def activations_figure(
    frame: pd.DataFrame, runs: pd.DataFrame, rasters: Mapping[str, np.ndarray], x: np.ndarray, figure: Figure
) -> Figure:
    """Draw rasters and runs of the last layer, one column per network, and the switch rates of all layers below.

    Args:
        frame: An activations frame, with the properties of networks as columns if they are known.
        runs: The frame of runs.
        rasters: The activity of the last layer by network, (N, M).
        x: The inputs, (M,).
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    styles = _styles(frame)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH, 5.2)
    grid = figure.add_gridspec(3, len(styles), height_ratios=(1.2, 1, 1.1))
    lengths = []
    for place, (network, style) in enumerate(styles.items()):
        ax = plot_raster(rasters[network], x, figure.add_subplot(grid[0, place]))
        ax.set_title(network)
        below = plot_runs(runs[runs["network"] == network], figure.add_subplot(grid[1, place]), style)
        lengths.append(below)
        if place:
            ax.set_yticklabels([])
            below.set_yticklabels([])
        else:
            ax.set_ylabel("neuron")
            below.set_ylabel("runs per neuron")
    # Only the first panel has numbers, which are those of all.
    top = max(ax.get_ylim()[1] for ax in lengths)
    for ax in lengths:
        ax.set_ylim(top=top)
    plot_switch_rates(frame, figure.add_subplot(grid[2, :]))
    handles = [Line2D([], [], label=network, **{**style, "marker": None}) for network, style in styles.items()]
    handles += [Line2D([], [], label="coin flips", **_COINS), Line2D([], [], label="infinite width", **_WIDTH_LIMIT)]
    across = fitting_columns([str(handle.get_label()) for handle in handles], PAGE_WIDTH, 6)
    figure.legend(handles=handles, loc="outside lower center", ncols=across)
    return figure


def _styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return series_styles(networks_of(frame)["look"].to_dict())
