"""Correlation of input gradients against depth (after Balduzzi et al. 2017, arXiv:1702.08591)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from gradlab.plots.networks import common_weights, networks_of, series_styles
from gradlab.plots.style import COLUMN_WIDTH, DOTTED
from gradlab.results.margins import margins

_LABELS = {
    "relative_effective_rank": "relative effective rank",
    "relative_effective_rank_raw": "relative effective rank (raw rows)",
    "mean_cosine": "mean cosine",
    "mean_abs_cosine": "mean absolute cosine",
    "row_norm_variation": "variation of norms",
    "segment_lag1": "segment ACF at lag 1",
    "token_relative_effective_rank": "rel. eff. rank of tokens",
    "token_mean_cosine": "mean cosine of tokens",
}

_NOISE = {"relative_effective_rank": 1.0, "mean_cosine": 0.0, "segment_lag1": 0.0, "token_mean_cosine": 0.0}
"""The panels of the figure, and the values for Gaussian noise."""

_NOISE_LINE: dict[str, Any] = {"color": "0.45", "linewidth": 0.9, "linestyle": DOTTED}

_BESIDE = 1.012
"""The factor in depth from one series to the next."""


def plot_against_depth(frame: pd.DataFrame, ax: Axes, statistic: str) -> Axes:
    """Draw one statistic against depth, with one line per family and bars of 95 % intervals (Student's t).

    Args:
        frame: An input-gradients frame, with the properties of its networks as columns if they are known.
        ax: The axes.
        statistic: The name of the statistic in the frame.

    Returns:
        The axes drawn on.
    """
    rows = frame[frame["statistic"] == statistic]
    series_of, styles = _series(frame), _styles(frame)
    for place, (series, style) in enumerate(styles.items()):
        line = rows[rows["network"].map(series_of) == series].sort_values("depth")
        # Bars at one depth are drawn side by side.
        beside = _BESIDE ** (place - (len(styles) - 1) / 2)
        bars = np.nan_to_num(margins(line["sem"], line["seeds"].where(line["seeds"] > 1, line["batches"])))
        ax.errorbar(line["depth"] * beside, line["value"], bars, elinewidth=0.7, capsize=1.5, **style)
    depths = sorted(set(frame["depth"]))
    room = max(1.1, (depths[-1] / depths[0]) ** 0.12)
    ax.set_xlim(depths[0] / room, depths[-1] * room)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(depths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([str(depth) for depth in depths])
    ax.set_xlabel("depth (weighted layers)")
    ax.set_ylabel(_LABELS.get(statistic, statistic))
    return ax


def input_gradients_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw relative effective rank, mean cosine, lag 1 of segments and mean cosine of tokens, if measured.

    Args:
        frame: An input-gradients frame.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    styles = _styles(frame)
    columns = 2 if max(map(len, styles)) <= 26 else 1
    panels = [name for name in _NOISE if name in set(frame["statistic"])]
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 0.3 + 1.5 * len(panels) + 0.13 * -(-(len(styles) + 1) // columns))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, statistic in zip(all_axes, panels, strict=True):
        plot_against_depth(frame, ax, statistic)
        ax.axhline(_NOISE[statistic], zorder=1, **_NOISE_LINE)
        ax.set_ylim(bottom=min(-0.06, ax.get_ylim()[0]), top=max(1.06, ax.get_ylim()[1]))
        ax.label_outer()
    handles = [Line2D([], [], **style, label=family) for family, style in styles.items()]
    handles.append(Line2D([], [], label="Gaussian noise", **_NOISE_LINE))
    common = common_weights(networks_of(frame))
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure


def _series(frame: pd.DataFrame) -> dict[str, str]:
    """The series of each network, with its weights if they differ; an unknown network is its own series."""
    networks = networks_of(frame)
    common = common_weights(networks)
    return {
        str(row.Index): str(row.Index)
        if row.series is None
        else str(row.series)
        if common
        else f"{row.series}@{row.weights}"
        for row in networks.itertuples()
    }


def _styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each series."""
    networks = networks_of(frame)
    return series_styles(dict(zip(_series(frame).values(), networks["look"], strict=True)))
