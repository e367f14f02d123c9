"""Layers along a training: layer × step in colour, with the error curves under the same axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH
from gradlab.results.dynamics.tables import Table, thinned, total_series
from gradlab.results.training.figure import kinds_of_error, plot_errors

LABELS = {
    "grad_norm": "gradient norm",
    "response_std": "std of response",
    "relative": "gradient / weight norm",
    "response_mean": "mean of response",
    "response_max": "largest |response|",
    "non_finite_fraction": "not finite",
    "zero_fraction": "share of zeros",
    "dead_units": "share of dead units",
    "saturated_fraction": "share of saturated",
    "response_grad_rms": "RMS of ∂loss/∂response",
    "grad_rms": "RMS of gradient",
    "weight_norm": "weight norm",
    "update_norm": "update norm",
    "update_ratio": "update / weight norm",
    "update_cosine": "cos(update, −gradient)",
    "angular_update": "angle of update",
}
_SHARES = {"non_finite_fraction", "zero_fraction", "dead_units", "saturated_fraction"}
_SIGNED = {"response_mean", "update_cosine"}
_RESPONSES = {"response_std", "response_max"}

MOST_NAMES = 20
"""Up to so many layers have their names beside the map."""

MOST_BLOCKS = 40
"""Up to so many blocks have lines between them."""

COLUMNS = 1000
"""Up to so many steps are drawn; of more, each column shows several."""


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
    drawn = thinned(table, COLUMNS)
    steps = np.array(drawn.steps, dtype=float)
    last = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)
    mesh = ax.pcolormesh(
        np.append(steps, last),
        np.arange(len(drawn.layers) + 1) + 0.5,
        np.ma.masked_invalid(drawn.values.T),
        norm=norm or shared_norm(frame),
        cmap="magma" if statistic in _RESPONSES else "RdBu_r" if statistic in _SIGNED else "viridis",
        # Thousands of cells would make a vector file slow to show.
        rasterized=True,
    )
    ax.set_facecolor("0.85")
    ax.grid(False)
    _name_layers(ax, frame, drawn.layers)
    _step_axis(ax, steps)
    ax.set_xlim(steps[0], last)
    return mesh


def _name_layers(ax: Axes, frame: pd.DataFrame, layers: Sequence[str]) -> None:
    """Names of layers where they are few, else numbers; lines where a block ends."""
    if len(layers) <= MOST_NAMES:
        ax.set_yticks(range(1, len(layers) + 1), labels=layers, fontsize=5)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    if "block" not in frame:
        return
    blocks = frame.drop_duplicates("layer").set_index("layer")["block"].reindex(list(layers)).tolist()
    ends = [place for place, (block, after) in enumerate(pairwise(blocks), 1) if block != after]
    if 0 < len(ends) <= MOST_BLOCKS:
        ax.hlines(np.array(ends) + 0.5, *ax.get_xlim(), colors="white", linewidths=0.3)


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
    networks = list(dict.fromkeys(frame["network"]))
    below = len(errors) > 0 or bool(((frame["statistic"] == "loss") & (frame["index"] == 0)).any())
    count = len(statistics) + below
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH if len(networks) == 1 else PAGE_WIDTH, 0.6 + 1.45 * count)
    axes = figure.subplots(count, len(networks), squeeze=False, sharex="col")
    for row, statistic in zip(axes, statistics, strict=False):
        part = frame[(frame["statistic"] == statistic) & (frame["index"] > 0)]
        norm = shared_norm(part)
        for ax, network in zip(row, networks, strict=True):
            if (rows := part[part["network"] == network]).empty:
                ax.set_axis_off()
                ax.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=ax.transAxes, color="0.4")
                continue
            mesh = plot_layers_by_step(rows, ax, norm)
        row[0].set_ylabel("layer")
        _colorbar(mesh, row, statistic)
    for ax, network in zip(axes[-1] if below else (), networks, strict=below):
        _plot_below(ax, frame[frame["network"] == network], errors, network)
    for ax, network in zip(axes[0], networks, strict=True):
        ax.set_title(network)
    if len(errors):
        axes[-1][0].set_ylabel("error (%)")
        figure.legend(handles=kinds_of_error(), loc="outside lower center", ncols=2)
    elif below:
        axes[-1][0].set_ylabel("loss")
    for ax in axes[-1]:
        ax.set_xlabel("step")
    return figure


def shared_norm(frame: pd.DataFrame) -> Normalize:
    """The colour scale of one statistic: between its 0.5 and 99.5 percentiles, log for all that has a size.

    Stds of responses are linear, unless they lie more than a thousand apart; shares go from 0 to 1.

    Args:
        frame: Rows of a dynamics frame, of one statistic.
    """
    values = frame.loc[np.isfinite(frame["value"]), "value"]
    statistic = frame["statistic"].iloc[0]
    if statistic in _SHARES:
        return Normalize(0, 1)
    if statistic in _SIGNED:
        largest = float(np.percentile(values.abs(), 99.5)) if len(values) else 1.0
        return Normalize(-largest or -1.0, largest or 1.0)
    positive = values[values > 0]
    wide = len(positive) and np.percentile(positive, 99.5) > 1000 * np.percentile(positive, 0.5)
    if statistic == "response_std" and not wide:
        return Normalize(0, np.percentile(values, 99.5) if len(values) else 1)
    values = positive
    if values.empty:
        return LogNorm(0.1, 1)
    low, high = np.percentile(values, [0.5, 99.5])
    return LogNorm(low, max(high, 1.01 * low))


def _colorbar(mesh: QuadMesh, row: Sequence[Axes], statistic: str) -> None:
    """A colour bar beside a row, open where values may lie beyond it; few ticks, as plain numbers."""
    low, high = mesh.get_clim()
    log = isinstance(mesh.norm, LogNorm)
    ticks = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)) if log else MaxNLocator(5)
    extend = "neither" if statistic in _SHARES else "max" if statistic == "response_std" and not log else "both"
    bar = row[0].figure.colorbar(mesh, ax=list(row), aspect=14, pad=0.01, extend=extend, ticks=ticks, format="{x:g}")
    bar.minorticks_off()
    bar.set_label(LABELS[statistic])


def _plot_below(ax: Axes, frame: pd.DataFrame, errors: pd.DataFrame, network: str) -> None:
    """Error curves, where there are any, else the loss."""
    limits = ax.get_xlim()
    curves = errors[errors["network"] == network] if len(errors) else errors
    if len(curves):
        plot_errors(curves, ax, {network: "#1f3b73"})
        # The first steps are seen as well: a log axis is mostly of these.
        ax.set_ylim(0, 100 * min(1.0, 1.05 * errors[["train_error", "test_error"]].max().max()))
    elif not len(errors):
        ax.plot(*total_series(frame, "loss"), color="#1f3b73", linewidth=0.8)
    ax.set_ylabel("")
    _step_axis(ax, np.sort(frame["step"].unique()).astype(float))
    ax.set_xlim(limits)


def _step_axis(ax: Axes, steps: np.ndarray[Any, Any]) -> None:
    """A log axis, linear below step 1, where the steps lie ever farther apart; else a linear one."""
    if len(steps) > 2 and steps[-1] - steps[-2] > 3 * (steps[1] - steps[0]):
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
