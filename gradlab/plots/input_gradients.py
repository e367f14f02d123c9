"""How input gradients correlate, against depth (after Balduzzi et al. 2017, arXiv:1702.08591)."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from gradlab.plots.theme import COLUMN_WIDTH, FAMILY_DASHES, depth_colors

_LABELS = {
    "relative_effective_rank": "relative effective rank",
    "relative_effective_rank_raw": "relative effective rank (raw rows)",
    "mean_cosine": "mean cosine",
    "mean_abs_cosine": "mean absolute cosine",
    "row_norm_variation": "variation of norms",
    "segment_lag1": "autocorrelation at lag 1",
}

_NAME = re.compile(r"(?P<prefix>.*?)(?P<family>plain|resnet)\d+(?P<suffix>[^@]*)(?P<weights>.*)")


def plot_against_depth(frame: pd.DataFrame, ax: Axes, statistic: str) -> Axes:
    """Draw one statistic against depth, a line a family, bars of two standard errors.

    Args:
        frame: An input-gradients frame.
        ax: Where to draw.
        statistic: Its name in the frame.

    Returns:
        The axes drawn on.
    """
    rows = frame[frame["statistic"] == statistic]
    for family, style in _styles(frame).items():
        line = rows[[_family(network) == family for network in rows["network"]]].sort_values("depth")
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
    """Draw relative effective rank above mean cosine, against depth.

    Args:
        frame: An input-gradients frame.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    styles = _styles(frame)
    columns = 2 if len(styles) > 1 and max(map(len, styles)) <= 26 else 1
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 3.4 + 0.13 * -(-len(styles) // columns))
    upper, lower = figure.subplots(2, 1, sharex=True)
    plot_against_depth(frame, upper, "relative_effective_rank")
    upper.set_xlabel("")
    upper.axhline(1, color="0.6", linewidth=0.7, zorder=0)
    upper.annotate(
        "Gaussian noise", (1, 1), (-1, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", fontsize=6, color="0.4",
    )  # fmt: skip
    upper.set_ylim(bottom=0)
    plot_against_depth(frame, lower, "mean_cosine")
    lower.axhline(0, color="0.6", linewidth=0.7, zorder=0)
    handles = [Line2D([], [], **style, label=family) for family, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    return figure


def _family(network: str) -> str:
    """A network's name without its depth; a name of another form is a family of its own."""
    match = _NAME.fullmatch(network)
    return network if match is None else f"{match['prefix']}{match['family']}{match['suffix']}{match['weights']}"


def _styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour for each kind of weights and suffix, shared by plain and residual; the dash tells those apart."""
    families = list(dict.fromkeys(map(_family, frame["network"])))
    keys = {family: re.sub(r"plain|resnet", "", family) for family in families}
    colors = depth_colors(list(dict.fromkeys(keys.values())))
    return {
        family: {
            "color": colors[key],
            "linestyle": FAMILY_DASHES["plain" if "plain" in family else "residual"],
            "marker": "s" if "plain" in family else "o",
        }
        for family, key in keys.items()
    }
