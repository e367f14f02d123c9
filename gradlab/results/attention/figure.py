"""Entropy and largest logit of attention against layers, with one dot per head."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.plots.networks import common_weights, legend_columns, network_labels, network_styles, networks_of
from gradlab.plots.style import COLUMN_WIDTH

LABELS = {
    "relative_entropy": "relative entropy",
    "entropy": "entropy of attention (nats)",
    "largest_logit": "largest logit",
}
"""The axis labels by column."""


def plot_attention(frame: pd.DataFrame, ax: Axes, value: str = "relative_entropy") -> Axes:
    """Draw one statistic against layers: one dot per head, and a line through their mean, or through the largest logit.

    Args:
        frame: An attention frame, with the properties of its networks as columns (see `described`).
        ax: The axes.
        value: A column of `LABELS`.

    Returns:
        The axes drawn on.
    """
    for network, style in network_styles(networks_of(frame)).items():
        rows = frame[frame["network"] == network]
        groups = rows.groupby("index")[value]
        line = groups.max() if value == "largest_logit" else groups.mean()
        ax.plot(rows["index"], rows[value], ".", color=style["color"], markersize=3, alpha=0.45, markeredgewidth=0)
        ax.plot(line.index, line, marker="o" if len(line) == 1 else None, **style)
    ax.set_ylabel(LABELS[value])
    ax.set_xlabel("attention layer")
    ax.set_xlim(left=0)
    if value == "relative_entropy":
        ax.set_ylim(0, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return ax


def attention_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw relative entropy above and the largest logit below.

    Args:
        frame: An attention frame, with the properties of its networks as columns (see `described`).
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    networks = networks_of(frame)
    labels = network_labels(networks)
    columns, common = legend_columns(labels), common_weights(networks)
    handles = [
        Line2D([], [], **{**style, "label": label})
        for style, label in zip(network_styles(networks).values(), labels, strict=True)
    ]
    handles.append(Line2D([], [], color="0.35", linestyle="", marker=".", label="single heads"))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 3.2 + 0.15 * (-(-len(handles) // columns) + bool(common)))
    upper, lower = figure.subplots(2, 1, sharex=True)
    plot_attention(frame, upper).set_xlabel("")
    plot_attention(frame, lower, "largest_logit")
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure
