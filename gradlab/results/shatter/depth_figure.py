"""Correlation of gradients, and activation of neurons, against depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.coinciding import mark_coinciding
from gradlab.plots.networks import lone_marker, networks_of, series_styles
from gradlab.plots.style import COLUMN_WIDTH, DOTTED, PAGE_WIDTH
from gradlab.results.margins import margins
from gradlab.results.shatter.figure import family_label, log_depth_axis

LEAST_CORRELATION = 1e-6
"""The lower end of the axis of correlation for residual nets."""

_LAW: dict[str, Any] = {"linewidth": 0.6, "linestyle": "-"}
_ASYMPTOTE: dict[str, Any] = {"linewidth": 0.8, "linestyle": DOTTED}
_LIMIT: dict[str, Any] = {"marker": "x", "markersize": 5, "linestyle": ""}


def correlation_figure(layers: pd.DataFrame, summary: pd.DataFrame, figure: Figure) -> Figure:
    """Draw correlation at the fixed pair of inputs against depth, on logarithmic axes, with the laws.

    Feedforward nets are on the left, and others on the right. Lines with bands are by counting paths, and points with
    error bars by sampling if that distinguishes the correlation from 0. Bands and bars are 95 % intervals by Student's
    t. Crosses are the exact theory of infinite width. Both may be negative, and their magnitude is drawn. Thin lines
    are the exact law of independent coin flips, which applies to an average pair of inputs, and dotted lines its
    asymptote 1/(β√L), as quoted in the paper.

    Args:
        layers: The frame of layers of a shatter result.
        summary: The frame of statistics of the result.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH, 2.7)
    known, styles = networks_of(layers), _styles(layers)
    plain = layers["network"].map(known["look"]) == "plain"
    sides = {"feedforward": layers[plain], "residual, looks linear": layers[~plain]}
    sides = {title: rows for title, rows in sides.items() if len(rows)}
    for ax, (title, rows) in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides.items(), strict=True):
        for (network, norm), run in rows.groupby(["network", "norm"], sort=False):
            chosen = (summary["network"] == network) & (summary["norm"] == norm)
            sampled = summary[chosen & (summary["statistic"] == "pair_correlation")]
            _plot_correlation(ax, run, sampled, styles[network, norm])
        ax.set(title=title, xlabel="depth", yscale="log", ylabel="|correlation| of gradients")
        log_depth_axis(ax, layers["layer"].max())
        ax.set_ylim(top=2)
        if title != "feedforward":
            ax.set_ylim(bottom=max(LEAST_CORRELATION, ax.get_ylim()[0]))
        ax.legend(loc="lower left")
    handles = [
        Line2D([], [], color="0.3", label="counting paths"),
        Line2D([], [], color="0.3", marker="o", linestyle="", label="sampled"),
        Line2D([], [], color="0.3", label="infinite width", **_LIMIT),
        Line2D([], [], color="0.3", label="law of coin flips, average pair", **_LAW),
        Line2D([], [], color="0.3", label="1/(β√L)", **_ASYMPTOTE),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure


def _plot_correlation(ax: Axes, run: pd.DataFrame, sampled: pd.DataFrame, style: dict[str, Any]) -> None:
    color, counted = style["color"], run["path_correlation"]
    ax.plot(run["layer"], counted, **{**style, "marker": lone_marker(run)})
    margin = margins(run["path_sem"], run["seeds"])
    ax.fill_between(
        run["layer"], (counted - margin).clip(lower=counted / 10), counted + margin, color=color, alpha=0.2, lw=0
    )
    ax.plot(run["layer"], run["law"], color=color, **_LAW)
    ax.plot(run["layer"], run["asymptote"], color=color, **_ASYMPTOTE)
    # For linear nets theory is 1, as their lines show.
    if style["marker"] == "s":
        ax.plot(sampled["depth"], sampled["theory"].abs(), color=color, **_LIMIT)
    bars = margins(sampled["sem"], sampled["seeds"])
    told = sampled["value"].abs().to_numpy() > np.nan_to_num(bars)
    ax.errorbar(
        sampled["depth"][told],
        sampled["value"][told].abs(),
        bars[told],
        color=color,
        linestyle="",
        marker=style["marker"],
        elinewidth=0.7,
    )


def coactivation_figure(layers: pd.DataFrame, figure: Figure) -> Figure:
    """Draw activation and co-activation of every layer, and the neurons that never switch.

    Lines that coincide have markers.

    Args:
        layers: The frame of layers of a shatter result.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.02)
    figure.set_size_inches(COLUMN_WIDTH, 4.2)
    axes = figure.subplots(3, 1, sharex=True)
    styles = _styles(layers)
    lines: list[list[Line2D]] = [[], [], []]
    for run, rows in layers.groupby(["network", "norm"], sort=False):
        values = rows["activation"], rows["coactivation"], rows["always_on"] + rows["always_off"]
        for ax, of_axes, value in zip(axes, lines, values, strict=True):
            of_axes += ax.plot(rows["layer"], value, **{**styles[run], "marker": lone_marker(rows)})  # type: ignore[index]
    axes[1].axhline(0.25, color="0.5", linewidth=0.6, linestyle=DOTTED)
    axes[1].annotate("coin flips", (1, 0.25), xytext=(2, -7), textcoords="offset points", fontsize=6, color="0.4")
    axes[0].set(ylabel="active", ylim=_widened(0.3, 0.7, layers["activation"]))
    axes[1].set(ylabel="active at both", ylim=_widened(0.2, 0.52, layers["coactivation"]))
    axes[2].set(ylabel="always on or off", xlabel="layer")
    axes[2].set_ylim(bottom=-0.02, top=max(0.2, np.nanmax(layers["always_on"] + layers["always_off"]) * 1.1))
    for ax, of_axes in zip(axes, lines, strict=True):
        log_depth_axis(ax, layers["layer"].max())
        mark_coinciding(of_axes, [style["marker"] for style in styles.values()])
    figure.legend(handles=[Line2D([], [], **style) for style in styles.values()], loc="outside upper center", ncols=2)
    return figure


def _widened(low: float, high: float, fractions: pd.Series) -> tuple[float, float]:
    """The ends of an axis, moved outwards if fractions would be cut off."""
    found = fractions.dropna()
    return min([low, *(found - 0.02)]), max([high, *(found + 0.02)])


def _styles(layers: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """Colour, dash, marker and label of each family and norm."""
    known = networks_of(layers)
    runs = list(layers[["network", "norm"]].drop_duplicates().itertuples(index=False, name=None))
    labels = [family_label(known.loc[network], norm) for network, norm in runs]
    styles = series_styles({label: known["look"][network] for label, (network, _) in zip(labels, runs, strict=True)})
    return {run: {**styles[label], "label": label} for label, run in zip(labels, runs, strict=True)}
