"""Lesions and paths: Veit et al. 2016 (arXiv:1605.06431), Fig. 3, 5 and 6."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.errors import UsageError
from gradlab.plots.networks import fitting_columns, network_labels, network_styles, networks_of
from gradlab.plots.style import COLUMN_WIDTH, DOTTED, PAGE_WIDTH
from gradlab.results.margins import interval_of, margins

Styles = Mapping[str, dict[str, Any]]
"""The style of each network."""

_RESIZED: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 3.4, "markerfacecolor": "white"}
_INTACT: dict[str, Any] = {"linewidth": 0.8, "linestyle": DOTTED}
_POINTS: dict[str, Any] = {"linestyle": "", "markersize": 3, "markeredgewidth": 0.6}
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def plot_deletions(frame: pd.DataFrame, ax: Axes, styles: Styles | None = None) -> Axes:
    """Draw the error with each part deleted, against its place from the first (0) to the last (1).

    Hollow marks are residual modules whose shortcut changes the shape, and dotted lines the error of the intact
    networks.

    Args:
        frame: A lesion frame, with the properties of networks as columns if they are known.
        ax: The axes.
        styles: The style of each network; by default those of the networks in the frame.

    Returns:
        The axes drawn on.
    """
    for network, style in _own(styles, frame):
        rows = frame[(frame["network"] == network) & (frame["study"] == "delete")]
        places = (rows["index"].astype(float) - 1) / max(1, len(rows) - 1)
        ax.plot(places, 100 * rows["error"], label=network, **style)
        resized = rows["resized"].fillna(False).astype(bool)
        ax.plot(places[resized], 100 * rows["error"][resized], color=style["color"], **_RESIZED)
        _plot_intact(frame, ax, network, style)
    ax.set(xlabel="deleted module or layer, first to last", xticks=[0, 0.25, 0.5, 0.75, 1])
    return _error_axis(ax)


def plot_several(frame: pd.DataFrame, ax: Axes, styles: Styles | None = None) -> Axes:
    """Draw the error with several random parts deleted, as means with 95 % intervals over random choices."""
    for network, style in _own(styles, frame):
        rows = frame[(frame["network"] == network) & (frame["study"] == "several")]
        counts = sorted(set(rows["count"]))
        errors = [100 * rows.loc[rows["count"] == count, "error"].astype(float) for count in counts]
        means = [values.mean() for values in errors]
        # Where all choices have one error there is no interval.
        low, high = np.clip([interval_of(values) for values in errors], 0, 100).T
        ax.plot(counts, means, label=network, marker=_marker(frame, network), **style)
        ax.fill_between(counts, low, high, color=style["color"], alpha=0.18, linewidth=0)
        _plot_intact(frame, ax, network, style)
    ax.set(xlabel="number of parts deleted")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _error_axis(ax)


def plot_orders(frame: pd.DataFrame, ax: Axes, styles: Styles | None = None) -> Axes:
    """Draw the error of random orders of blocks against their Kendall tau, one mark each."""
    for network, style in _own(styles, frame):
        rows = frame[(frame["network"] == network) & (frame["study"] == "reorder")]
        marks = {"color": style["color"], "marker": _marker(frame, network), "markerfacecolor": "none"}
        ax.plot(rows["tau"], 100 * rows["error"], label=network, **marks, **_POINTS)
        _plot_intact(frame, ax, network, style)
    ax.set(xlabel="Kendall tau of the order of blocks")
    ax.invert_xaxis()
    return _error_axis(ax)


def plot_lengths(lengths: pd.DataFrame, ax: Axes, styles: Styles | None = None) -> Axes:
    """Draw the fraction of paths of each length."""
    for network, style in _own(styles, lengths):
        rows = lengths[lengths["network"] == network]
        ax.plot(rows["length"], rows["paths"], label=network, **style)
    ax.set(ylabel="fraction of paths")
    return _length_axis(ax)


def plot_norms(lengths: pd.DataFrame, ax: Axes, styles: Styles | None = None) -> Axes:
    """Draw the mean norm of the gradient on a path of each length, with 95 % intervals over sampled paths."""
    for network, style in _own(styles, lengths):
        rows = lengths[(lengths["network"] == network) & (lengths["gradient_norm"] > 0)]
        ax.plot(rows["length"], rows["gradient_norm"], label=network, **style)
        half = margins(rows["gradient_norm_sem"], rows["samples"])
        low = (rows["gradient_norm"] - half).clip(lower=rows["gradient_norm"] / 10)
        ax.fill_between(
            rows["length"], low, rows["gradient_norm"] + half, color=style["color"], alpha=0.18, linewidth=0
        )
    ax.set(ylabel="gradient norm on a path", yscale="log")
    return _length_axis(ax)


def plot_gradient(lengths: pd.DataFrame, ax: Axes, styles: Styles | None = None) -> Axes:
    """Draw the part of the gradient magnitude on all paths of each length, with 95 % intervals over samples."""
    for network, style in _own(styles, lengths):
        rows = lengths[lengths["network"] == network]
        ax.plot(rows["length"], rows["gradient"], label=network, **style)
        half = np.nan_to_num(margins(rows["gradient_sem"], rows["samples"]))
        low, high = (rows["gradient"] - half).clip(lower=0), (rows["gradient"] + half).clip(upper=1)
        ax.fill_between(rows["length"], low, high, color=style["color"], alpha=0.18, linewidth=0)
    ax.set(ylabel="part of the gradient")
    return _length_axis(ax)


Panel = Callable[[pd.DataFrame, Axes, Styles], Axes]

LESIONS: dict[str, tuple[Panel, ...]] = {
    "lesion": (plot_deletions, plot_several, plot_orders),
    "deletion": (plot_deletions,),
    "several": (plot_several, plot_orders),
    "paths": (),
}
PATHS: dict[str, tuple[Panel, ...]] = {
    "lesion": (plot_lengths, plot_norms, plot_gradient),
    "paths": (plot_lengths, plot_norms, plot_gradient),
}
"""The panels of each figure that show lesions, and those that show paths."""

_STUDIES: dict[Panel, str] = {plot_deletions: "delete", plot_several: "several", plot_orders: "reorder"}


def lesion_figure(frame: pd.DataFrame, lengths: pd.DataFrame, figure: Figure, which: str = "lesion") -> Figure:
    """Draw the panels of one figure; `lesion` leaves out those without data.

    Args:
        frame: A lesion frame, with the properties of networks as columns if they are known.
        lengths: One row per network and path length.
        figure: An empty figure; it gets the width of a column for `deletion`, else that of a page.
        which: A key of `LESIONS`.

    Returns:
        The same figure.

    Raises:
        UsageError: If there is nothing to draw.
    """
    studies = set(frame["study"])
    panels = [(panel, frame) for panel in LESIONS[which] if _STUDIES[panel] in studies]
    panels += [(panel, lengths) for panel in PATHS.get(which, ()) if len(lengths)]
    if not panels:
        raise UsageError(f"the figure {which!r} has no data: its study was left out, or no network has it")
    columns = 1 if which == "deletion" else len(panels) if len(panels) < 4 else 3
    rows = -(-len(panels) // columns)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.04)
    shown = networks_of(pd.concat([rows for _, rows in panels]) if which != "paths" else lengths)
    labels = network_labels(shown)
    styles = _styles(frame)
    names = {name: style for name, style in styles.items() if name in shown.index}
    drawn = {panel for panel, _ in panels}
    marked = bool(drawn & {plot_several, plot_orders})
    handles = [
        Line2D([], [], label=label, marker=_marker(frame, name) if marked else "", **style)
        for (name, style), label in zip(names.items(), labels, strict=True)
    ]
    if drawn & {plot_deletions, plot_several, plot_orders}:
        handles.append(Line2D([], [], label="intact", color="0.35", **_INTACT))
    if plot_deletions in drawn and frame["resized"].fillna(False).any():
        handles.append(Line2D([], [], label="changes the shape", color="0.35", **_RESIZED))
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    across = fitting_columns([str(handle.get_label()) for handle in handles], width, 2 if columns == 1 else 6)
    more = max(0, -(-len(handles) // across) - (2 if columns == 1 else 1))
    figure.set_size_inches(width, 0.35 + 1.9 * rows + 0.13 * more)
    for ax, (panel, data) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        panel(data, ax, styles)
    for ax in figure.axes[len(panels) :]:
        ax.set_visible(False)
    for ax in figure.axes[1 : len(LESIONS[which])]:
        ax.set_ylabel("")
    figure.legend(handles=handles, loc="outside upper center", ncols=across)
    return figure


def _styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return network_styles(networks_of(frame))


def _own(styles: Styles | None, frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """The networks of a frame, each with its style."""
    named = set(frame["network"])
    return [(name, style) for name, style in (styles or _styles(frame)).items() if name in named]


def _marker(frame: pd.DataFrame, network: str) -> str:
    """The marker of a network, by its place in the frame."""
    return _MARKS[list(networks_of(frame).index).index(network) % len(_MARKS)]


def _plot_intact(frame: pd.DataFrame, ax: Axes, network: str, style: dict[str, Any]) -> None:
    intact = frame.loc[(frame["network"] == network) & (frame["study"] == "intact"), "error"]
    error = 100 * float(intact.iloc[0])
    ax.axhline(error, color=style["color"], zorder=1, **_INTACT)
    if frame["network"].nunique() > 1:
        # It ends in the style of its network, since networks of one depth may have one colour.
        ax.plot([0.92, 1], [error, error], transform=ax.get_yaxis_transform(), **style)


def _error_axis(ax: Axes) -> Axes:
    ax.set(ylabel="test error (%)", ylim=(0, 100))
    return ax


def _length_axis(ax: Axes) -> Axes:
    ax.set(xlabel="path length (modules)")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax
