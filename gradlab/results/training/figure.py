"""Error curves of training: He et al. 2015, Fig. 6."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from gradlab.plots.networks import lone_marker, networks_of
from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH, depth_colors

TRAIN: dict[str, Any] = {"linewidth": 0.7, "linestyle": (0, (2.5, 1.2))}
TEST: dict[str, Any] = {"linewidth": 1.5, "linestyle": "-"}
"""As in the paper: training error dashed, test error bold."""

LEAST_TOP = 20.0
"""Percent that the axis reaches at least, as in the paper."""


def plot_errors(curves: pd.DataFrame, ax: Axes, colors: dict[Any, Any] | None = None) -> Axes:
    """Draw training error dashed and test error bold against optimizer steps.

    Args:
        curves: network, step, train_error, test_error (shares; missing where no test was made).
        ax: Where to draw.
        colors: By network.

    Returns:
        The axes drawn on.
    """
    networks = list(dict.fromkeys(curves["network"]))
    for network, color in (colors or depth_colors(networks)).items():
        rows = curves[curves["network"] == network]
        tested = rows.dropna(subset="test_error")
        ax.plot(rows["step"], 100 * rows["train_error"], color=color, **TRAIN)
        ax.plot(
            tested["step"],
            100 * tested["test_error"],
            color=color,
            marker=lone_marker(tested),
            label=network,
            **TEST,
        )
    ax.set_ylim(0, top_of_axis(curves))
    ax.set_xlim(0, max(curves["step"].max(), 1))
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_ylabel("error (%)")
    return ax


def top_of_axis(curves: pd.DataFrame) -> float:
    """Where the error axis ends, in percent: three quarters of every curve are seen, the first epochs may leave it."""
    highest = 100 * curves.groupby("network")[["train_error", "test_error"]].quantile(0.75).max().max()
    return float(min(100.0, max(LEAST_TOP, 1.15 * highest)))


def errors_figure(curves: pd.DataFrame, figure: Figure) -> Figure:
    """Draw the error curves of plain, residual and other networks, a panel each that there is (Fig. 6).

    Args:
        curves: network, step, train_error, test_error (shares), a row an epoch, with the facts of networks as columns.
        figure: An empty figure; it gets the width of a column for one panel, of a page for more.

    Returns:
        The same figure.
    """
    known = networks_of(curves)
    depths: dict[str, int] = known["network_depth"].fillna(0).astype(int).to_dict()
    panels: dict[str, list[str]] = {}
    for network, look in known["look"].items():
        panels.setdefault(look if look in ("plain", "residual") else "other", []).append(str(network))
    ordered = [(title, panels[title]) for title in ("plain", "residual", "other") if title in panels]
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH if len(ordered) == 1 else PAGE_WIDTH, 2.6)
    axes = figure.subplots(1, len(ordered), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (title, networks) in zip(axes, ordered, strict=True):
        networks = sorted(networks, key=lambda name: (depths[name], name))
        part = curves[curves["network"].isin(networks)]
        plot_errors(part, ax, _colors(networks, list(panels.values()), depths))
        _label_ends(ax, part, networks)
        if len(ordered) > 1:
            ax.set_title(title)
    axes[0].set_ylim(0, top_of_axis(curves))
    axes[0].set_xlim(0, max(curves["step"].max(), 1))
    for ax in axes[1:]:
        ax.set_ylabel("")
    figure.legend(handles=kinds_of_error(), loc="outside upper center", ncols=2)
    return figure


def kinds_of_error() -> list[Line2D]:
    """What a legend shows for training and test error, whatever their colour."""
    return [Line2D([], [], color="0.3", label=label, **style) for label, style in (("training", TRAIN), ("test", TEST))]


def _colors(networks: list[str], panels: list[list[str]], depths: dict[str, int]) -> dict[str, Any]:
    """A panel's colours: of the depth, the same in all panels, unless one of them has a depth twice."""
    if any(len({depths[name] for name in panel}) < len(panel) for panel in panels):
        return depth_colors(networks)
    shared = depth_colors(sorted(set(depths.values())))
    return {network: shared[depths[network]] for network in networks}


def _label_ends(ax: Axes, curves: pd.DataFrame, networks: list[str]) -> None:
    """Name the networks in a legend, the highest test error first, as the curves lie at their ends.

    Curves fall: above their ends there is room.
    """
    last = curves.groupby("network").tail(1).set_index("network")["test_error"].fillna(1)
    lines = {line.get_label(): line for line in ax.get_lines()}
    names = sorted(networks, key=lambda name: -last[name])
    ax.legend([lines[name] for name in names], names, loc="upper right")
