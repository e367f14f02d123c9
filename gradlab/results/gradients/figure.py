"""Gradient norms against depth, and their growth from the last layer to the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from gradlab.plots.layers import common_layers, label_layers, room_for_names, stages
from gradlab.plots.marks import kind_marks, mark_handles, plot_marks
from gradlab.plots.networks import (
    common_weights,
    legend_columns,
    lone_marker,
    network_labels,
    networks_of,
    shaded_styles,
)
from gradlab.plots.style import COLUMN_WIDTH, DOTTED, KIND_MARKERS
from gradlab.results.margins import interval_of, margins

LABELS = {
    "grad_norm": "norm of the weight's gradient",
    "response_grad_rms": "RMS of the response's gradient",
}
"""The axis labels of the quantities that can be drawn, by column."""

_THEORY: dict[str, Any] = {"linestyle": DOTTED, "linewidth": 1.3}
_LOWER_HEIGHT, _NAME_HEIGHT = 1.1, 8.0
"""The approximate height of the axes of ratios, in inches, and of the name of a series, in points."""

_LONG_NAME = 14

_BEGINNING: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 7, "markeredgewidth": 0.8}


def plot_gradients(frame: pd.DataFrame, ax: Axes, value: str = "grad_norm") -> Axes:
    """Draw norms against depth on a logarithmic axis, with theory in the colour of each network if there is any.

    A line connects the layers of the body of each network; all other layers have marks by kind. For several seeds, both
    show the geometric mean; the band is its 95 % interval by Student's t. Theory gives ratios between layers of one
    shape and is drawn through the mean of each sequence of such layers. If networks differ in their layers, a stroke
    marks the beginning of each stage of a network.

    Args:
        frame: The layers of a gradients frame; its column body marks those compared across depth, by default all.
        ax: The axes.
        value: A column of `LABELS`.

    Returns:
        The axes drawn on.
    """
    frame = _marked(frame)
    marks = kind_marks(frame.loc[~frame["body"], "mark"])
    # On a logarithmic axis both seaborn's means and these intervals are of logarithms.
    ax.set_yscale("log")
    for network, style in shaded_styles(networks_of(frame)).items():
        drawn = frame[(frame["network"] == network) & (frame[value] > 0) & np.isfinite(frame[value])]
        plot_marks(_over_seeds(drawn[~drawn["body"]], value), ax, value, style["color"], marks)
        body = drawn[drawn["body"]].astype({"index": float, value: float})
        for _, rows in body.groupby("call"):
            seaborn.lineplot(
                rows,
                x="index",
                y=value,
                ax=ax,
                estimator="mean",
                errorbar=interval_of,
                err_kws={"alpha": 0.25, "linewidth": 0},
                marker="o",
                markersize=3.2 if lone_marker(rows["index"].unique()) else 2.1,
                markeredgewidth=0,
                linewidth=0.8,
                **style,
            )
        _plot_theory(body, ax, value, style["color"])
        if not common_layers(frame):
            _plot_beginnings(drawn[drawn["body"]], ax, value, style["color"])
    if (frame[value] > 0).any() and np.isfinite(frame.loc[frame[value] > 0, value]).any():
        _log_axis(ax)
    else:
        ax.text(0.5, 0.5, "no gradient above 0", ha="center", va="center", transform=ax.transAxes, color="0.4")
        ax.set_xlim(right=frame["index"].max() + 1)
    ax.set_ylabel(LABELS[value])
    ax.set_xlabel("layer, in order of execution")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    label_layers(ax, frame)
    return ax


def _marked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns body, shortcut, and mark, which distinguishes a layer from those of the body."""
    missing = {name: default for name, default in (("body", True), ("shortcut", False)) if name not in frame}
    frame = frame.assign(**missing)
    kinds = frame["kind"].astype(str)
    alike = kinds.isin(kinds[frame["body"]]) & ~frame["shortcut"]
    return frame.assign(mark=kinds.where(~alike, kinds + " of other shapes"))


def _over_seeds(rows: pd.DataFrame, value: str, *more: str) -> pd.DataFrame:
    """One row per layer and call, with the geometric mean."""
    logs = rows.assign(**{value: np.log(rows[value].astype(float))})
    means = logs.groupby(["index", "call", "mark", "shortcut", *more], sort=False)[value].mean().reset_index()
    return means.assign(**{value: np.exp(means[value])})


def _plot_beginnings(rows: pd.DataFrame, ax: Axes, value: str, color: Any) -> None:
    """Draw a stroke through the first layer of each stage of one network except the first stage."""
    layers = _over_seeds(rows, value, "layer").drop_duplicates("index").sort_values("index")
    first = [place for place, _ in stages(list(layers["layer"]))[1:]] if len(layers) else []
    ax.plot(layers["index"].iloc[first].astype(float), layers[value].iloc[first], color=color, zorder=3, **_BEGINNING)


def _plot_theory(rows: pd.DataFrame, ax: Axes, value: str, color: Any) -> None:
    """Draw the predicted ratios of one network through the geometric mean of each sequence of layers of one shape."""
    known = rows[rows["theory"].notna()].assign(
        value=np.log(rows[value].astype(float)), theory=np.log(rows["theory"].astype(float))
    )
    layers = known.groupby(["index", "numel"])[["value", "theory"]].mean().reset_index()
    for _, run in layers.groupby(layers["numel"].ne(layers["numel"].shift(fill_value=-1)).cumsum()):
        if len(run) > 1:
            shift = (run["value"] - run["theory"]).mean()
            ax.plot(run["index"].astype(float), np.exp(run["theory"] + shift), color=color, zorder=4, **_THEORY)


def plot_ratios(summary: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the ratio of the first layer's norm to the last one's against depth, for plain and residual nets.

    Bars are 95 % intervals by Student's t. Markers of initial weights are filled, and those of trained weights open.
    The name of a series of networks is next to its deepest one.

    Args:
        summary: A gradients summary: network, depth, first / last, its error as a factor and seeds, with the properties
            of networks if they are known.
        ax: The axes.

    Returns:
        The axes drawn on.
    """
    networks = networks_of(summary)
    styles = shaded_styles(networks)
    rows = summary[summary["first / last"].notna()]
    ends: dict[str, tuple[float, float, str]] = {}
    for series, line in rows.groupby(rows["series"].fillna(rows["network"]), sort=False):
        line = line.sort_values("depth", kind="stable")
        deepest = line.iloc[-1]
        style = styles[deepest["network"]]
        # Trained networks may have different recipes, so they form no series.
        initial = line[_initial(line)]
        ax.plot(initial["depth"], initial["first / last"], color=style["color"], linestyle=style["linestyle"])
        _plot_points(line, ax, styles, networks["look"])
        ends[str(series)] = float(deepest["depth"]), float(deepest["first / last"]), style["color"]
    ax.axhline(1, color="0.6", linewidth=0.7, zorder=0)
    _log_axis(ax)
    _name_ends(ax, ends)
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(rows["depth"]))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.26)
    ax.set_xlabel("depth (weighted layers)")
    ax.set_ylabel("first layer's / last layer's")
    return ax


def _plot_points(line: pd.DataFrame, ax: Axes, styles: Mapping[str, Any], looks: Mapping[str, str]) -> None:
    """Draw the ratios of one series with their intervals, each in the colour of its network, trained ones open."""
    columns = line["network"], line["depth"], line["first / last"], _bars(line).T, _initial(line)
    for network, depth, ratio, bars, initial in zip(*columns, strict=True):
        style: dict[str, Any] = {"color": styles[network]["color"], "marker": KIND_MARKERS[looks[network]]}
        style["markerfacecolor"] = style["color"] if initial else "white"
        ax.errorbar(depth, ratio, bars[:, None], elinewidth=0.7, capsize=1.5, **style)


def _initial(rows: pd.DataFrame) -> pd.Series:
    """Whether each network has initial weights."""
    return rows["weights"].astype(str).str.startswith("init")


def _name_ends(ax: Axes, ends: dict[str, tuple[float, float, str]]) -> None:
    """Write the names of series next to their deepest networks, one above the other if these are close.

    Args:
        ax: The axes, whose y axis is logarithmic.
        ends: Depth, value and colour by name.
    """
    low, high = np.log(ax.get_ylim())
    height = 72 * _LOWER_HEIGHT / (high - low)
    last = -np.inf
    for name, (depth, value, color) in sorted(ends.items(), key=lambda end: end[1][1]):
        place = (np.log(value) - low) * height
        last = max(place, last + _NAME_HEIGHT)
        # There is room for a short name to the right of the deepest networks, and for a long one to the left.
        side = -1 if len(name) > _LONG_NAME and depth > min(other for other, *_ in ends.values()) else 1
        ax.annotate(
            name,
            (depth, value),
            (5 * side, last - place),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=color,
        )


def _bars(rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """The lower and upper lengths (2, rows) of the intervals of ratios, 0 if they are unknown."""
    ratio = rows["first / last"].to_numpy(dtype=float)
    factor = np.exp(np.nan_to_num(margins(np.log(rows["×/÷"].astype(float)), rows["seeds"])))
    return np.stack([ratio - ratio / factor, ratio * factor - ratio])


def gradients_figure(frame: pd.DataFrame, summary: pd.DataFrame, figure: Figure, value: str = "grad_norm") -> Figure:
    """Draw norms against depth above and, for networks of several depths, first-to-last ratios below.

    Args:
        frame: The layers of a gradients frame, as in `plot_gradients`.
        summary: The summary of the frame.
        figure: An empty figure; it gets the width of a column.
        value: A column of `LABELS`.

    Returns:
        The same figure.
    """
    networks = networks_of(frame)
    handles = _handles(frame, networks, value)
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    common = common_weights(networks)
    known = summary[summary["first / last"].notna()]
    depths = known.groupby(known["series"].fillna(known["network"]))["depth"].nunique()
    # Without a series of several depths there is nothing to see against depth.
    panels = 2 if len(depths) and depths.max() > 1 else 1
    legend_rows = -(-len(handles) // columns) + bool(common)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 0.1 + (2.2, 3.7)[panels - 1] + 0.13 * legend_rows + room_for_names(frame))
    upper, *lower = figure.subplots(panels, 1, squeeze=False, height_ratios=(1.3, 1)[:panels])[:, 0]
    plot_gradients(frame, upper, value)
    for ax in lower:
        plot_ratios(summary, ax)
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure


def _handles(frame: pd.DataFrame, networks: pd.DataFrame, value: str) -> list[Line2D]:
    """The legend entries: networks, theory, beginnings of stages, and the kinds of layers outside the lines."""
    styles = shaded_styles(networks).values()
    handles = [
        Line2D([], [], **{**style, "label": label})
        for style, label in zip(styles, network_labels(networks), strict=True)
    ]
    if frame["theory"].notna().any():
        handles.append(Line2D([], [], color="0.35", label="theory, infinite width", **_THEORY))
    if not common_layers(frame):
        handles.append(Line2D([], [], color="0.35", label="a stage begins", **_BEGINNING))
    marked = _marked(frame)
    others = marked[~marked["body"] & (marked[value] > 0)]
    return handles + mark_handles(others, kind_marks(marked.loc[~marked["body"], "mark"]))


def _log_axis(ax: Axes) -> None:
    """Set a logarithmic axis of at least one decade, with ticks as plain numbers if it spans less than two."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high / low < 10:
        middle = (low * high) ** 0.5
        ax.set_ylim(middle / 10**0.5, middle * 10**0.5)
    if high / low < 100:
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
