"""Curves of two nets each, training loss and test error: He et al. 2016, Fig. 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from gradlab.plots.networks import lone_marker
from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH, depth_colors
from gradlab.results.training.figure import TEST, TRAIN, set_steps, top_of_axis

OTHER, ORIGINAL = depth_colors(["other", "original"]).values()
"""The colours of both nets."""


def loss_and_error_figure(curves: pd.DataFrame, panels: Mapping[str, Mapping[str, str]], figure: Figure) -> Figure:
    """Draw training loss dashed on a logarithmic axis and test error solid, against optimizer steps.

    Args:
        curves: One row per epoch: network, step, train_loss, train_error and test_error (fractions, missing without a
            test).
        panels: For each panel by its title, the two networks by their labels in the legend, the original first.
        figure: An empty figure; it gets the width of a column for one panel, of a page for two.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH if len(panels) == 1 else PAGE_WIDTH, 2.6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    drawn = curves[curves["network"].isin([name for nets in panels.values() for name in nets.values()])]
    losses = [ax.twinx() for ax in axes]
    for ax, loss_ax, (title, nets) in zip(axes, losses, panels.items(), strict=True):
        handles = _panel(ax, loss_ax, drawn, nets)
        ax.set_title(title)
        # On the axes that are drawn last, or losses would cross it.
        loss_ax.legend(handles=handles, loc="upper right")
        _set_losses(loss_ax, drawn, labelled=loss_ax is losses[-1])
    axes[0].set_ylim(0, top_of_axis(drawn))
    axes[0].yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes[0].set_ylabel("test error (%)")
    losses[-1].set_ylabel("training loss (nats)")
    kinds = (("training loss", TRAIN), ("test error", TEST))
    legend = [Line2D([], [], color="0.3", label=label, **style) for label, style in kinds]
    figure.legend(handles=legend, loc="outside upper center", ncols=2)
    return figure


def _panel(ax: Axes, loss_ax: Axes, curves: pd.DataFrame, nets: Mapping[str, str]) -> list[Line2D]:
    """Draw the networks of one panel; the returned lines are those of its legend."""
    handles = []
    for (label, network), color in zip(nets.items(), (ORIGINAL, OTHER), strict=True):
        rows = curves[curves["network"] == network]
        tested = rows.dropna(subset="test_error")
        loss_ax.plot(rows["step"], rows["train_loss"], color=color, marker=lone_marker(rows), **TRAIN)
        look: dict[str, Any] = {"color": color, "marker": lone_marker(tested), **TEST}
        handles += ax.plot(tested["step"], 100 * tested["test_error"], label=label, **look)
    set_steps(ax, curves[curves["network"].isin(nets.values())])
    return handles


def _set_losses(ax: Axes, curves: pd.DataFrame, *, labelled: bool) -> None:
    """Set the logarithmic axis of losses, of all panels alike."""
    losses = curves["train_loss"][curves["train_loss"] > 0]
    ax.set_yscale("log")
    ax.set_ylim(0.7 * float(losses.min()), 1.4 * float(losses.max()))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}") if labelled else NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="y", which="minor", length=0)
    ax.spines["right"].set_visible(True)
    ax.grid(visible=False)
