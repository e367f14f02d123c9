"""Layer-response std against depth: He et al. 2015, Fig. 7."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.plots.coinciding import mark_coinciding
from gradlab.plots.layers import label_layers, room_for_names
from gradlab.plots.marks import kind_marks, mark_handles, plot_marks
from gradlab.plots.networks import (
    common_weights,
    legend_columns,
    lone_marker,
    network_handles,
    network_labels,
    network_styles,
    networks_of,
)
from gradlab.plots.style import COLUMN_WIDTH, KIND_MARKERS

_RING: dict[str, Any] = {"marker": "o", "linestyle": "", "markerfacecolor": "white", "markeredgewidth": 0.9}

LOG_FROM = 30.0
"""The ratio of largest to smallest std above which the axis is logarithmic."""


def plot_responses(frame: pd.DataFrame, ax: Axes, *, order: str = "execution") -> Axes:
    """Draw the response std of every layer, with one line per network, and marks by kind if kinds differ.

    Projections of shortcuts are not on the line, and their marks are hollow. In order of execution, layers are named if
    they are few and equal in all networks; if they are many, the parts of the networks are named.

    Args:
        frame: A responses frame; `predicted_std` is drawn if no std was measured.
        ax: The axes.
        order: The order of layers: `execution`, with a ring at every downsampling layer, or `magnitude`.

    Returns:
        The axes drawn on.
    """
    value = "std" if (frame["count"] + frame["non_finite"]).any() else "predicted_std"
    frame = _marked(frame)
    marks = _marks(frame)
    networks, lines = networks_of(frame), []
    for network, style in network_styles(networks).items():
        drawn = frame[frame["network"] == network]
        rows = drawn[~drawn["shortcut"]]
        if order == "magnitude":
            ranked = rows[value].dropna().sort_values(ascending=False)
            lines += ax.plot(range(1, len(ranked) + 1), ranked, marker=lone_marker(ranked), label=network, **style)
            continue
        lines += ax.plot(rows["index"], rows[value], marker=lone_marker(rows), label=network, **style)
        if marks:
            plot_marks(drawn, ax, value, style["color"], marks)
            continue
        downsampling = rows[(rows["stride"] > 1)]
        ax.plot(downsampling["index"], downsampling[value], color=style["color"], zorder=3, **_RING)
    values = frame.loc[frame[value] > 0, value]
    if len(values) and values.max() / values.min() > LOG_FROM:
        ax.set_yscale("log")
    elif len(values):
        ax.set_ylim(0, 1.06 * values.max())
    measured = "std of response" if value == "std" else "predicted std of response"
    ax.set_ylabel(measured)
    ax.set_xlabel("layer, in order of execution" if order == "execution" else "layer, ranked by magnitude")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if order == "execution":
        label_layers(ax, frame)
    if order == "magnitude" or not marks:
        mark_coinciding(lines, [KIND_MARKERS[look] for look in networks["look"]])
    return ax


def _marked(frame: pd.DataFrame) -> pd.DataFrame:
    shortcut = frame.get("shortcut", False)
    return frame.assign(shortcut=shortcut, mark=frame["kind"].astype(str))


def _marks(marked: pd.DataFrame) -> dict[str, str]:
    """The marks of the kinds, if there are several kinds or shortcuts; otherwise the line suffices."""
    several = marked["mark"].nunique() > 1 or marked["shortcut"].any()
    return kind_marks(marked["mark"]) if several else {}


def responses_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw both panels of Fig. 7: the original order above, ranked by magnitude below.

    Args:
        frame: A responses frame.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    networks = networks_of(frame)
    labels = network_labels(networks)
    columns = legend_columns(labels)
    marked = _marked(frame)
    marks = _marks(marked)
    kinds = mark_handles(marked, marks) if marks else []
    columns = max(columns, 2) if kinds else columns
    legend_rows = -(-(len(networks) + (len(kinds) or 1)) // columns) + bool(common_weights(networks))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 3.5 + 0.13 * legend_rows + room_for_names(frame))
    upper, lower = figure.subplots(2, 1)
    plot_responses(frame, upper)
    plot_responses(frame, lower, order="magnitude")
    handles = network_handles(networks, [upper, lower]) + kinds
    if not marks and (frame["stride"] > 1).any():
        handles.append(Line2D([], [], color="0.35", label="downsampling", **_RING))
    common = common_weights(networks)
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure
