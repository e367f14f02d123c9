"""The density of the singular values of a Jacobian (Pennington et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.networks import common_weights, legend_columns, network_labels, network_styles, networks_of
from gradlab.plots.style import COLUMN_WIDTH, DOTTED

_DECADES = 2.5
"""The length of the axis below the largest singular value, in powers of ten."""

_BINS = 25

_THEORY: dict[str, Any] = {"color": "black", "linestyle": DOTTED, "linewidth": 1.0, "zorder": 4}


def plot_jacobian(frame: pd.DataFrame, facts: Sequence[Mapping[str, Any]], ax: Axes) -> Axes:
    """Draw the density of log10 of the singular values over seeds, examples and probes, with theory dotted.

    Args:
        frame: A jacobian frame, with the properties of its networks as columns (see `described`).
        facts: The facts on each network in the record.
        ax: The axes, which leave out singular values that are much smaller than the largest.

    Returns:
        The axes drawn on.
    """
    high = float(np.log10(frame["singular_value"].max())) + 0.1
    edges = np.linspace(high - _DECADES, high, _BINS + 1)
    laws = {fact["network"]: fact.get("law") for fact in facts}
    for network, style in network_styles(networks_of(frame)).items():
        rows = frame[frame["network"] == network]
        seen = rows[rows["singular_value"] > 0]
        shares, _ = np.histogram(np.log10(seen["singular_value"]), edges, weights=seen["weight"])
        density = shares / rows["weight"].sum() / np.diff(edges)
        ax.stairs(density, 10**edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.1)
        if law := laws.get(network):
            ax.plot(law["singular_value"], law["density"], **_THEORY)
    ax.set_xscale("log")
    ax.set_xlim(10 ** edges[0], 10 ** edges[-1])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("singular value of the Jacobian")
    ax.set_ylabel("density per decade")
    return ax


def jacobian_figure(frame: pd.DataFrame, facts: Sequence[Mapping[str, Any]], figure: Figure) -> Figure:
    """Draw the density with a legend.

    Args:
        frame: A jacobian frame, with the properties of its networks as columns (see `described`).
        facts: The facts on each network in the record.
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
    if any(fact.get("law") for fact in facts):
        handles.append(Line2D([], [], label="theory, infinite width", **_THEORY))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 2.2 + 0.15 * (-(-len(handles) // columns) + bool(common)))
    plot_jacobian(frame, facts, figure.subplots())
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure
