"""How input gradients correlate, against depth (after Balduzzi et al. 2017, arXiv:1702.08591)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from gradlab.plots.networks import networks_of
from gradlab.plots.style import COLUMN_WIDTH, KIND_DASHES, KIND_MARKERS, kind_colors

_LABELS = {
    "relative_effective_rank": "relative effective rank",
    "relative_effective_rank_raw": "relative effective rank (raw rows)",
    "mean_cosine": "mean cosine",
    "mean_abs_cosine": "mean absolute cosine",
    "row_norm_variation": "variation of norms",
    "segment_lag1": "segment ACF at lag 1",
}

_NOISE = {"relative_effective_rank": 1.0, "mean_cosine": 0.0, "segment_lag1": 0.0}
"""The panels of the figure, and what Gaussian noise has there."""


def plot_against_depth(frame: pd.DataFrame, ax: Axes, statistic: str) -> Axes:
    """Draw one statistic against depth, a line a family, bars of two standard errors.

    Args:
        frame: An input-gradients frame, with the facts of its networks as columns where they are known.
        ax: Where to draw.
        statistic: Its name in the frame.

    Returns:
        The axes drawn on.
    """
    rows = frame[frame["statistic"] == statistic]
    series_of = _series(frame)
    for series, style in _styles(frame).items():
        line = rows[rows["network"].map(series_of) == series].sort_values("depth")
        bars = (2 * line["sem"]).fillna(0)
        ax.errorbar(line["depth"], line["value"], bars, elinewidth=0.7, capsize=1.5, **style)
    ax.set_xscale("log")
    depths = sorted(set(frame["depth"]))
    ax.xaxis.set_major_locator(FixedLocator(depths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([str(depth) for depth in depths])
    ax.margins(x=0.12)
    ax.set_xlabel("depth (weighted layers)")
    ax.set_ylabel(_LABELS.get(statistic, statistic))
    return ax


def input_gradients_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw relative effective rank, mean cosine and, where it was measured, lag 1 of the segments against depth.

    Args:
        frame: An input-gradients frame.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    styles = _styles(frame)
    columns = 2 if len(styles) > 1 and max(map(len, styles)) <= 26 else 1
    panels = [name for name in _NOISE if name in set(frame["statistic"])]
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 0.2 + 1.5 * len(panels) + 0.13 * -(-len(styles) // columns))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, statistic in zip(all_axes, panels, strict=True):
        plot_against_depth(frame, ax, statistic)
        ax.axhline(_NOISE[statistic], color="0.6", linewidth=0.7, zorder=0)
        ax.set_ylim(bottom=min(-0.06, ax.get_ylim()[0]), top=max(1.06, ax.get_ylim()[1]))
        ax.label_outer()
    label: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    all_axes[0].annotate("Gaussian noise", (1, _NOISE[panels[0]]), (-1, 2), fontsize=6, color="0.4", **label)
    handles = [Line2D([], [], **style, label=family) for family, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    return figure


def _series(frame: pd.DataFrame) -> dict[str, str]:
    """The series of each network, with its weights; a network of which nothing is known is a series of its own."""
    return {
        str(row.Index): str(row.Index) if row.series is None else f"{row.series}@{row.weights}"
        for row in networks_of(frame).itertuples()
    }


def _styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each series."""
    networks = networks_of(frame)
    looks = dict(zip(_series(frame).values(), networks["look"], strict=True))
    return {
        series: {"color": color, "linestyle": KIND_DASHES[kind], "marker": KIND_MARKERS[kind]}
        for (series, kind), color in zip(looks.items(), kind_colors(list(looks.values())), strict=True)
    }
