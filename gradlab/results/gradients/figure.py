"""Gradient norms against depth, and how much they grow from the last layer to the first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from gradlab.plots.marks import kind_marks, mark_handles, plot_marks
from gradlab.plots.networks import (
    common_weights,
    legend_columns,
    lone_marker,
    network_labels,
    network_styles,
    networks_of,
)
from gradlab.plots.style import COLUMN_WIDTH, KIND_DASHES, KIND_MARKERS, kind_colors, look

LABELS = {
    "grad_norm": "norm of the weight's gradient",
    "response_grad_rms": "RMS of the response's gradient",
}
"""What a figure can show, by column."""

_THEORY: dict[str, Any] = {"color": "black", "linestyle": (0, (1, 1.2)), "linewidth": 0.8}


def plot_gradients(frame: pd.DataFrame, ax: Axes, value: str = "grad_norm") -> Axes:
    """Draw norms against depth on a logarithmic axis, with theory where there is any.

    A line goes through the layers of the body of each network; all others have marks by their kinds. Over seeds both
    are of the geometric mean, the band of its standard error. Theory gives ratios between layers of one shape: it is
    drawn through the mean of each run of them.

    Args:
        frame: Layers of a gradients frame; its column body tells which are compared across depth, without one all are.
        ax: Where to draw.
        value: A column of `LABELS`.

    Returns:
        The axes drawn on.
    """
    frame = _marked(frame)
    marks = kind_marks(frame.loc[~frame["body"], "mark"])
    for network, style in network_styles(networks_of(frame)).items():
        drawn = frame[(frame["network"] == network) & (frame[value] > 0) & np.isfinite(frame[value])]
        plot_marks(_over_seeds(drawn[~drawn["body"]], value), ax, value, style["color"], marks)
        rows = drawn[drawn["body"]]
        logs = np.log(rows[value].astype(float)).groupby([rows["index"], rows["call"]])
        index = logs.mean().index.get_level_values(0).astype(float)
        mean, error = logs.mean().to_numpy(), (logs.std() / np.sqrt(logs.count())).fillna(0).to_numpy()
        ax.plot(index, np.exp(mean), marker="." if marks else lone_marker(index), **style)
        ax.fill_between(
            index, np.exp(mean - error), np.exp(mean + error), color=style["color"], alpha=0.25, linewidth=0
        )
        _plot_theory(rows, ax, value)
    if (frame[value] > 0).any() and np.isfinite(frame.loc[frame[value] > 0, value]).any():
        _log_axis(ax)
    ax.set_ylabel(LABELS[value])
    ax.set_xlabel("layer, in order of execution")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return ax


def _marked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns body, shortcut, and mark: what tells a layer from those of the body."""
    missing = {name: default for name, default in (("body", True), ("shortcut", False)) if name not in frame}
    frame = frame.assign(**missing)
    kinds = frame["kind"].astype(str)
    alike = kinds.isin(kinds[frame["body"]]) & ~frame["shortcut"]
    return frame.assign(mark=kinds.where(~alike, kinds + " of other shapes"))


def _over_seeds(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """A row a layer and call: its geometric mean."""
    logs = rows.assign(**{value: np.log(rows[value].astype(float))})
    means = logs.groupby(["index", "call", "mark", "shortcut"], sort=False)[value].mean().reset_index()
    return means.assign(**{value: np.exp(means[value])})


def _plot_theory(rows: pd.DataFrame, ax: Axes, value: str) -> None:
    """The predicted ratios of one network, through the geometric mean of each run of layers of one shape."""
    known = rows[rows["theory"].notna()].assign(
        value=np.log(rows[value].astype(float)), theory=np.log(rows["theory"].astype(float))
    )
    layers = known.groupby(["index", "numel"])[["value", "theory"]].mean().reset_index()
    for _, run in layers.groupby(layers["numel"].ne(layers["numel"].shift(fill_value=-1)).cumsum()):
        if len(run) > 1:
            shift = (run["value"] - run["theory"]).mean()
            ax.plot(run["index"].astype(float), np.exp(run["theory"] + shift), zorder=4, **_THEORY)


def plot_ratios(summary: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the first layer's norm over the last one's against depth, plain beside residual nets.

    Args:
        summary: A gradients summary: network, depth, first / last and its error as a factor; with series,
            network_kind and unit where they are known.
        ax: Where to draw; bars are of two standard errors. Initial weights are filled, trained ones open. The name
            of a family of networks stands at its deepest one.

    Returns:
        The axes drawn on.
    """
    rows = summary[summary["first / last"].notna()]
    initial = rows["weights"].astype(str).str.startswith("init")
    series_of = rows["series"].fillna(rows["network"])
    first = rows[~series_of.duplicated()]
    looks = {row.series: look(row.network_kind, row.unit) for row in first.assign(series=series_of).itertuples()}
    colors = dict(zip(looks, kind_colors(list(looks.values())), strict=True))
    for (series, at_init), line in rows.groupby([series_of, initial], sort=False):
        line = line.sort_values("depth")
        ratio = line["first / last"].to_numpy(dtype=float)
        factor = line["×/÷"].fillna(1).to_numpy(dtype=float) ** 2
        kind = looks[series]
        style = {"color": colors[series], "linestyle": KIND_DASHES[kind], "marker": KIND_MARKERS[kind]}
        if not at_init:
            # Open once trained; those are of any recipes, and no series.
            style |= {"markerfacecolor": "white", "linestyle": ""}
        bars = np.stack([ratio - ratio / factor, ratio * factor - ratio])
        ax.errorbar(line["depth"], ratio, bars, elinewidth=0.7, capsize=1.5, **style)
    for series, line in rows.groupby(series_of, sort=False):
        deepest = line.sort_values("depth", kind="stable").iloc[-1]
        place = float(deepest["depth"]), float(deepest["first / last"])
        ax.annotate(series, place, (5, 0), textcoords="offset points", va="center", color=colors[series], fontsize=8)
    depths = sorted(set(rows["depth"]))
    ax.axhline(1, color="0.6", linewidth=0.7, zorder=0)
    _log_axis(ax)
    ax.xaxis.set_major_locator(FixedLocator(depths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.26)
    ax.set_xlabel("depth (weighted layers)")
    ax.set_ylabel("first layer's / last layer's")
    return ax


def gradients_figure(frame: pd.DataFrame, summary: pd.DataFrame, figure: Figure, value: str = "grad_norm") -> Figure:
    """Draw norms against depth above and, for several networks, first-to-last ratios against their depth below.

    Args:
        frame: Layers of a gradients frame, as `plot_gradients` takes them.
        summary: Its summary.
        figure: An empty figure; it gets the width of a column.
        value: A column of `LABELS`.

    Returns:
        The same figure.
    """
    networks = networks_of(frame)
    labels = network_labels(networks)
    columns = legend_columns(labels)
    theory = bool(frame["theory"].notna().any())
    panels = 2 if len(networks) > 1 else 1
    common = common_weights(networks)
    marked = _marked(frame)
    others = marked[~marked["body"] & (marked[value] > 0)]
    kinds = mark_handles(others, kind_marks(marked.loc[~marked["body"], "mark"]))
    columns = max(columns, 2) if kinds else columns
    legend_rows = -(-(len(networks) + theory + len(kinds)) // columns) + bool(common)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 0.1 + (2.2, 3.7)[panels - 1] + 0.13 * legend_rows)
    upper, *lower = figure.subplots(panels, 1, squeeze=False, height_ratios=(1.3, 1)[:panels])[:, 0]
    plot_gradients(frame, upper, value)
    for ax in lower:
        plot_ratios(summary, ax)
    handles = [
        Line2D([], [], **{**style, "label": label})
        for style, label in zip(network_styles(networks).values(), labels, strict=True)
    ]
    if theory:
        handles.append(Line2D([], [], label="theory, infinite width", **_THEORY))
    handles += kinds
    title = f"weights: {common}" if common else None
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)
    return figure


def _log_axis(ax: Axes) -> None:
    """A logarithmic axis of a decade at least, its ticks written out where it spans less than two."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high / low < 10:
        middle = (low * high) ** 0.5
        ax.set_ylim(middle / 10**0.5, middle * 10**0.5)
    if high / low < 100:
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
