"""Error curves of training: He et al. 2015, Fig. 6."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from gradlab.plots.networks import lone_marker, networks_of
from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH, depth_colors
from gradlab.results.training.measures import ERROR, Measure

TRAIN: dict[str, Any] = {"linewidth": 0.7, "linestyle": (0, (2.5, 1.2))}
TEST: dict[str, Any] = {"linewidth": 1.5, "linestyle": "-"}
"""As in the paper: training error dashed, test error bold."""

PAPERS_TOP = 20.0
"""The end of the paper's axis, in percent."""


def plot_errors(curves: pd.DataFrame, ax: Axes, colors: dict[Any, Any] | None = None, measure: Measure = ERROR) -> Axes:
    """Draw training error dashed and test error bold against optimizer steps.

    Args:
        curves: The columns network, step, and those of the measure (missing without a test).
        ax: The axes.
        colors: The colours by network.
        measure: What is drawn, the error or the loss.

    Returns:
        The axes drawn on.
    """
    train, test = measure.columns
    networks = list(dict.fromkeys(curves["network"]))
    for network, color in (colors or depth_colors(networks)).items():
        rows = curves[curves["network"] == network]
        tested = rows.dropna(subset=test)
        lone: dict[str, Any] = {"marker": lone_marker(rows), "markerfacecolor": "white"}
        ax.plot(rows["step"], measure.factor * rows[train], color=color, **lone, **TRAIN)
        ax.plot(
            tested["step"],
            measure.factor * tested[test],
            color=color,
            marker=lone_marker(tested),
            label=network,
            **TEST,
        )
    _set_limits(ax, curves, measure)
    set_steps(ax, curves)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=measure is ERROR))
    ax.set_ylabel(measure.label)
    return ax


def set_steps(ax: Axes, curves: pd.DataFrame) -> None:
    """Set the horizontal axis: steps, from 0 to the last one of the curves."""
    ax.set_xlabel("step")
    ax.set_xlim(0, _last_step(curves))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _set_limits(ax: Axes, curves: pd.DataFrame, measure: Measure) -> None:
    """Both axes from 0: steps to the last one, errors as in the paper, losses up to the highest."""
    highest = curves[[*measure.columns]].max().max()
    ax.set_ylim(0, top_of_axis(curves) if measure is ERROR else 1.05 * highest)
    ax.set_xlim(0, _last_step(curves))


def top_of_axis(curves: pd.DataFrame) -> float:
    """The end of the error axis, in percent: that of the paper if all curves end well within it.

    Otherwise three quarters of every curve are visible. The first epochs may be outside, as they are in the paper.
    """
    errors = 100 * curves.set_index("network")[["train_error", "test_error"]]
    if errors.groupby("network").last().max().max() < 0.9 * PAPERS_TOP:
        return PAPERS_TOP
    highest = errors.groupby("network").quantile(0.75).max().max()
    return float(min(100.0, max(PAPERS_TOP, 1.15 * highest)))


def of_one_length(curves: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The curves of the most common length, or the longest of equally common ones.

    Args:
        curves: A frame with the columns network and step.

    Returns:
        The rows of the networks of that length, and the last step of each of the others, which are not comparable.
    """
    last = curves.groupby("network", sort=False)["step"].max()
    counts = last.value_counts()
    length = counts[counts == counts.max()].index.max()
    others = {str(network): int(step) for network, step in last[last != length].items()}
    return curves[~curves["network"].isin(others)], others


def errors_figure(curves: pd.DataFrame, figure: Figure, measure: Measure = ERROR) -> Figure:
    """Draw the curves of plain, residual and other networks, with one panel for each kind (Fig. 6).

    Trainings of different lengths are not comparable: those of the most common length are drawn, and the others are
    named below.

    Args:
        curves: The columns network, step, and those of the measure, with one row per epoch, and the properties of
            networks as columns.
        figure: An empty figure; it gets the width of a column for one panel, of a page for more.
        measure: What is drawn, the error or the loss.

    Returns:
        The same figure.
    """
    curves, others = of_one_length(curves)
    known = networks_of(curves)
    depths: dict[str, int] = known["network_depth"].map(lambda depth: depth or 0).to_dict()
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
        plot_errors(part, ax, _colors(networks, list(panels.values()), depths), measure)
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        ax.legend([lines[name] for name in networks], networks, loc="upper right")
        if len(ordered) > 1:
            ax.set_title(title)
    _set_limits(axes[0], curves, measure)
    for ax in axes[1:]:
        ax.set_ylabel("")
    figure.legend(handles=kinds_of_error(), loc="outside upper center", ncols=2)
    if others:
        named = ", ".join(f"{network} ({step:,} steps)" for network, step in others.items())
        figure.supxlabel(fill(f"Not drawn, of another length: {named}.", 66 * len(ordered)), fontsize=6, color="0.3")
    return figure


def _last_step(curves: pd.DataFrame) -> float:
    """The end of the axis of steps, which leaves space for a single point."""
    lone = curves.groupby("network").size().min() == 1
    return float(max(curves["step"].max(), 1)) * (1.1 if lone else 1.0)


def kinds_of_error() -> list[Line2D]:
    """The legend entries for training and test error, in any colour."""
    return [Line2D([], [], color="0.3", label=label, **style) for label, style in (("training", TRAIN), ("test", TEST))]


def _colors(networks: list[str], panels: list[list[str]], depths: dict[str, int]) -> dict[str, Any]:
    """The colours of networks: by depth and equal in all panels, unless a panel has two networks of one depth."""
    if any(len({depths[name] for name in panel}) < len(panel) for panel in panels):
        return depth_colors(networks)
    shared = depth_colors(sorted(set(depths.values())))
    return {network: shared[depths[network]] for network in networks}
