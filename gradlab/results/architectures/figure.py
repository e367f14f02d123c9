"""Multiply-adds of networks by stage (He et al. 2015, Table 1)."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from gradlab.plots.style import COLUMN_WIDTH

GIGA = 1e9


def architectures_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw the multiply-adds of networks as bars of their stages, with the paper's numbers as marks.

    Args:
        frame: One row per network and stage in order: network, stage, multiply_adds, and paper_multiply_adds of the
            whole network (missing if the paper has none).
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    frame = frame.assign(network=frame["network"].str.rpartition("/")[2])
    networks = list(dict.fromkeys(frame["network"]))
    stages = list(dict.fromkeys(frame["stage"]))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH, 0.95 + 0.2 * len(networks))
    ax = figure.subplots()
    colors = mpl.colormaps["viridis"]([0.95 - 0.9 * place / max(1, len(stages) - 1) for place in range(len(stages))])
    values = frame.pivot_table("multiply_adds", "network", "stage", aggfunc="sum").loc[networks, stages] / GIGA
    ends = values.cumsum(axis=1)
    for stage, color in zip(stages, colors, strict=True):
        ax.barh(networks, values[stage], 0.62, ends[stage] - values[stage], color=color, label=stage)
    paper = frame.groupby("network", sort=False)["paper_multiply_adds"].first().reindex(networks) / GIGA
    ax.plot(paper, networks, "|", color="black", markersize=9, markeredgewidth=1.2, label="paper")
    ax.set(xlabel="multiply-adds for one image (10⁹)", xlim=(0, None))
    ax.invert_yaxis()
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=4, handlelength=1.2, columnspacing=1.2)
    return figure
