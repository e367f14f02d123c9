"""A comparison of networks on one page: stream, gradient, effective rank and errors."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.plots.networks import fitting_columns, networks_of, series_styles, shaded_styles
from gradlab.plots.style import KIND_DASHES, PAGE_WIDTH
from gradlab.results.margins import margins

CURVES = {"stream_std": "std of the stream", "gradient_norm": "gradient norm at a response"}
"""The statistics that are drawn against relative depth, and the titles of their panels."""

_MARKS = "o^sDvP"

_DASHED: dict[str, Any] = {"linestyle": KIND_DASHES["plain"], "linewidth": 0.9}


def compare_figure(frame: pd.DataFrame, figure: Figure) -> Figure:
    """Draw the measurements at initialization side by side, and the errors of trainings if there are any.

    Args:
        frame: The frame of a comparison, with the properties of its networks as columns (see `described`).
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    styles = _styles(frame)
    errors = frame[frame["statistic"].isin(("train_error", "test_error"))]
    figure.set_layout_engine("constrained", h_pad=0.04, w_pad=0.04)
    rows = -(-len(styles) // fitting_columns([*styles], PAGE_WIDTH, 4))
    columns = -(-len(styles) // rows)
    figure.set_size_inches(PAGE_WIDTH, 2.1 + 0.15 * rows)
    axes = figure.subplots(1, 3 if errors.empty else 4)
    for ax, (statistic, title) in zip(axes, CURVES.items(), strict=False):
        _plot_curves(frame[frame["statistic"] == statistic], ax, styles)
        ax.set_title(title)
        ax.set(xlabel="relative depth", yscale="log")
        _short_of_a_decade(ax)
    _plot_ranks(frame[frame["statistic"] == "relative_effective_rank"], axes[2], styles)
    if errors["place"].nunique() == 1:
        _plot_last_errors(errors, axes[3], styles)
    elif not errors.empty:
        _plot_errors(errors, axes[3], styles)
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    # A legend is filled by columns, and this one is read by rows, as one family of three depths.
    by_row = [handle for column in range(columns) for handle in handles[column::columns]]
    figure.legend(handles=by_row, loc="outside upper center", ncols=columns)
    return figure


def _styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A hue per kind of network in shades by depth; if all are of different series, a mark for each as well."""
    networks = networks_of(frame)
    if networks["series"].nunique() < len(networks):
        return shaded_styles(networks)
    styles = series_styles(networks["look"].to_dict())
    return {
        name: style | {"markevery": 0.25, "marker": mark}
        for (name, style), mark in zip(styles.items(), cycle(_MARKS), strict=False)
    }


def _plot_curves(rows: pd.DataFrame, ax: Axes, styles: dict[str, dict[str, Any]]) -> None:
    """Draw the mean over seeds with bands of 95 %."""
    for network, own in rows.groupby("network", sort=False):
        style, place, value = styles[str(network)], own["place"].to_numpy(), own["value"].to_numpy(dtype=float)
        ax.plot(place, value, **style)
        half = margins(own["sem"], own["seeds"])
        low = (value - half).clip(min=value / 10)
        ax.fill_between(place, low, value + half, color=style["color"], alpha=0.2, linewidth=0)


def _short_of_a_decade(ax: Axes) -> None:
    """Write the ticks of a short logarithmic axis as plain numbers, since it has too few powers of ten.

    Of the ticks within a decade, those at 2, 3, 4 and 6 lie far enough apart for their numbers not to overlap.
    """
    low, high = ax.get_ylim()
    if high < 10 * low:
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2346" else "")


def _plot_ranks(rows: pd.DataFrame, ax: Axes, styles: dict[str, dict[str, Any]]) -> None:
    """Mark the effective ranks with their intervals, the first network on top."""
    half = margins(rows["sem"], rows["seeds"])
    for place, (row, error) in enumerate(zip(rows.itertuples(), half, strict=True)):
        color, marker = styles[str(row.network)]["color"], styles[str(row.network)].get("marker", "o")
        ax.errorbar(row.value, place, xerr=error, color=color, marker=marker, linestyle="", elinewidth=1.0)
    ax.set_title("effective rank / noise")
    ax.set(yticks=range(len(rows)), yticklabels=rows["network"], xlabel="1 is as shattered as noise")
    ax.tick_params(axis="y", labelsize=6)
    ax.set_xlim(right=max(1.02, ax.get_xlim()[1]))
    ax.set_ylim(len(rows) - 0.5, -0.5)


def _plot_errors(errors: pd.DataFrame, ax: Axes, styles: dict[str, dict[str, Any]]) -> None:
    """Draw training errors dashed and test errors solid against epochs."""
    for network, style in styles.items():
        for statistic, dash in (("train_error", _DASHED), ("test_error", {"linestyle": "-"})):
            rows = errors[(errors["network"] == network) & (errors["statistic"] == statistic)]
            ax.plot(rows["place"], 100 * rows["value"], color=style["color"], **dash)
    ax.set_title("error (%): training dashed")
    ax.set(xlabel="epoch", xlim=(0, None), ylim=(0, 105 * errors["value"].max()))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_last_errors(errors: pd.DataFrame, ax: Axes, styles: dict[str, dict[str, Any]]) -> None:
    """Mark the errors of a single epoch, those of training hollow, with the networks as beside the effective ranks."""
    for place, (network, style) in enumerate(styles.items()):
        own = errors[errors["network"] == network].set_index("statistic")["value"]
        for statistic, filling in (("test_error", style["color"]), ("train_error", "white")):
            mark = {"marker": style.get("marker", "o"), "color": style["color"], "markerfacecolor": filling}
            if statistic in own:
                ax.plot([100 * own[statistic]], [place], linestyle="", **mark)
    ax.set_title("error: training hollow")
    after = f"after epoch {errors['place'].iloc[0]:g} (%)"
    ax.set(xlabel=after, yticks=range(len(styles)), yticklabels=[], ylim=(len(styles) - 0.5, -0.5))
