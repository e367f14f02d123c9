"""The signal propagation plot: stream, branches, cosine and gradient against blocks (Brock et al. 2021, Fig. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from gradlab.plots.networks import common_weights, legend_columns, network_labels, network_styles, networks_of
from gradlab.plots.style import DOTTED, PAGE_WIDTH


@dataclass(frozen=True)
class Panel:
    """The panel of one quantity.

    Attributes:
        label: The label of the axis.
        column: The column of the frame.
        power: The power to which the column is raised.
        branches: Whether each branch has its own value.
        log: Whether the axis is logarithmic.
    """

    label: str
    column: str
    power: int = 1
    branches: bool = False
    log: bool = True


PANELS = {
    "stream_variance": Panel("variance of the stream", "stream_total_std", 2),
    "branch_variance": Panel("variance of the branch", "branch_std", 2, branches=True),
    "ratio": Panel("variance of branch / stream", "ratio", branches=True),
    "stream_mean_square": Panel("squared channel means of the stream", "stream_mean_square"),
    "cosine": Panel("cosine of branch and stream", "cosine", branches=True, log=False),
    "stream_grad_rms": Panel("RMS of the gradient on the stream", "stream_grad_rms"),
}
"""The panels in reading order."""

_THEORY: dict[str, Any] = {"linestyle": DOTTED, "linewidth": 1.0, "color": "black", "zorder": 4}
_MARKS = ("o", "^", "s", "D", "v")
_HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 0.8}


def plot_signal(frame: pd.DataFrame, ax: Axes, value: str = "stream_variance") -> Axes:
    """Draw one quantity against blocks, with one line per network, or per branch if blocks have several branches.

    Branches are distinguished by marks. For several seeds a line is the mean, with a band of its standard error.

    Args:
        frame: A signal frame, with the properties of its networks as columns (see `described`).
        ax: The axes.
        value: A key of `PANELS`.

    Returns:
        The axes drawn on.
    """
    panel, marks = PANELS[value], branch_marks(frame)
    styles = network_styles(networks_of(frame))
    for network, rows in frame.groupby("network", sort=False):
        style = styles[str(network)]
        groups = rows.groupby("branch", sort=False) if panel.branches else [("", _outputs(rows))]
        for branch, part in groups:
            mark = {"marker": marks[branch], "markevery": _every(part), **_HOLLOW} if branch in marks else {}
            _plot_line(part, ax, panel, {**style, **mark})
        if value == "stream_variance":
            _plot_theory(rows, ax)
    _set_axes(ax, frame, panel)
    return ax


def branch_marks(frame: pd.DataFrame) -> dict[str, str]:
    """Return a mark for each branch if blocks have several, or no marks if they have one."""
    branches = list(dict.fromkeys(filter(None, frame["branch"])))
    return {branch: _MARKS[place % len(_MARKS)] for place, branch in enumerate(branches)}


def signal_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw all quantities side by side.

    Args:
        frame: A signal frame, with the properties of its networks as columns (see `described`).
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    networks = networks_of(frame)
    labels, marks = network_labels(networks), branch_marks(frame)
    handles = [
        Line2D([], [], **{**style, "label": label})
        for style, label in zip(network_styles(networks).values(), labels, strict=True)
    ]
    handles += [
        Line2D([], [], color="0.35", linestyle="", marker=mark, label=branch, **_HOLLOW)
        for branch, mark in marks.items()
    ]
    if frame["theory"].notna().any():
        handles.append(Line2D([], [], label="theory, infinite width", **_THEORY))
    columns = min(len(handles), 2 * legend_columns(labels))
    common = common_weights(networks)
    figure.set_layout_engine("constrained", h_pad=0.04, w_pad=0.04)
    figure.set_size_inches(PAGE_WIDTH, 3.3 + 0.15 * (-(-len(handles) // columns) + bool(common)))
    for ax, value in zip(figure.subplots(2, 3, sharex=True).flat, PANELS, strict=True):
        plot_signal(frame, ax, value)
        # The label is above the axes, where there is room for it.
        ax.set_title(ax.get_ylabel())
        ax.set_ylabel("")
    for ax in figure.axes[:3]:
        ax.set_xlabel("")
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure


def _outputs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per block: that of its last branch, after which the stream is the block's output."""
    return rows.drop_duplicates(["index", *(["seed"] if "seed" in rows else [])], keep="last")


def _every(part: pd.DataFrame) -> int:
    """The interval between marks, so that a line has about ten."""
    return max(1, int(part["index"].nunique()) // 10)


def _plot_line(part: pd.DataFrame, ax: Axes, panel: Panel, style: dict[str, Any]) -> None:
    values = part[panel.column].astype(float) ** panel.power
    values = values.where(values > 0) if panel.log else values
    groups = values.groupby(part["index"])
    mean, error = groups.mean(), (groups.std() / np.sqrt(groups.count())).fillna(0)
    if mean.notna().any():
        lone = {"marker": "o"} if len(mean) == 1 and "marker" not in style else {}
        ax.plot(mean.index.astype(float), mean, **{**style, **lone})
        if error.any():
            low = (mean - error).where(mean > error, mean) if panel.log else mean - error
            ax.fill_between(mean.index.astype(float), low, mean + error, color=style["color"], alpha=0.25, linewidth=0)


def _plot_theory(rows: pd.DataFrame, ax: Axes) -> None:
    """Draw the predicted variance over channels, positions and examples."""
    known = _outputs(rows)
    known = known[known["theory"].notna()]
    if len(known):
        predicted = known.groupby("index")["theory"].mean() ** 2
        ax.plot(predicted.index.astype(float), predicted, **_THEORY)


def _set_axes(ax: Axes, frame: pd.DataFrame, panel: Panel) -> None:
    ax.set_ylabel(panel.label)
    ax.set_xlabel("block")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if panel.log and ax.lines:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        if high / low < 10:
            middle = (low * high) ** 0.5
            low, high = middle / 10**0.5, middle * 10**0.5
            ax.set_ylim(low, high)
        if high / low < 100:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_formatter(NullFormatter())
            if low > 1e-3:
                ax.yaxis.set_major_formatter("{x:g}")
            else:
                ax.yaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(9, 9)))
    elif not panel.log:
        ax.axhline(0, color="0.6", linewidth=0.7, zorder=0)
