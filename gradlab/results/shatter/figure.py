"""Autocorrelation and gradient signals along a line of inputs: Balduzzi et al. 2017, Fig. 1 and 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from gradlab.plots.coinciding import mark_coinciding
from gradlab.plots.networks import networks_of
from gradlab.plots.style import DOTTED, KIND_COLORS, KIND_DASHES, PAGE_WIDTH, depth_colors
from gradlab.results.margins import margins

NOISE_STYLES: dict[str, dict[str, Any]] = {
    "brown": {"color": "#7a4a1e", "linestyle": DOTTED, "linewidth": 0.9},
    "white": {"color": "0.55", "linestyle": DOTTED, "linewidth": 0.9},
}

_MARKS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
"""The markers of depths, for lines that coincide."""


def plot_acf(frame: pd.DataFrame, ax: Axes, noise: Mapping[str, Sequence[float]] | None = None) -> Axes:
    """Draw the autocorrelation of one network against lag, with one line per depth and a 95 % interval (Student's t).

    Lines of several depths that coincide have markers.

    Args:
        frame: The rows of one network in a shatter frame.
        ax: The axes.
        noise: The expected autocorrelations of `brown` and `white` noise, which are also drawn.

    Returns:
        The axes drawn on.
    """
    dashes = KIND_DASHES[networks_of(frame)["look"].iloc[0]]
    lines = []
    for depth, color in depth_colors(sorted(set(frame["depth"]))).items():
        rows = frame[frame["depth"] == depth]
        lines += ax.plot(rows["lag"], rows["acf"], color=color, linestyle=dashes, label=f"{depth}")
        margin = margins(rows["acf_sem"], rows["seeds"])
        ax.fill_between(rows["lag"], rows["acf"] - margin, rows["acf"] + margin, color=color, alpha=0.2, linewidth=0)
    for kind, values in (noise or {}).items():
        ax.plot(range(len(values)), values, zorder=1.5, **NOISE_STYLES[kind])
    ax.set_xlim(0, frame["lag"].max())
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    ax.set_ylim(*_acf_limits(frame))
    mark_coinciding(lines, [_MARKS[place % len(_MARKS)] for place in range(len(lines))])
    return ax


def _acf_limits(frame: pd.DataFrame) -> tuple[float, float]:
    """The ends of an axis of autocorrelation on which all lines of a frame are seen."""
    return min(-0.25, 1.05 * frame["acf"].min()), 1.04


def acf_figure(frame: pd.DataFrame, noise: Mapping[str, Sequence[float]], figure: Figure) -> Figure:
    """Draw the autocorrelation of every network, with one panel per network.

    Args:
        frame: A shatter frame.
        noise: The expected autocorrelations of `brown` and `white` noise.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    networks = list(dict.fromkeys(frame["network"]))
    columns = min(4, len(networks))
    rows = -(-len(networks) // columns)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH * max(columns, 2) / 4, 0.35 + 1.55 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colors = depth_colors(sorted(set(frame["depth"])))
    for ax, network in zip(axes.flat, networks, strict=False):
        part = frame[frame["network"] == network]
        plot_acf(part, ax, noise)
        ax.set_title(panel_title(part))
    # The panels share this axis, and each has set it for its own lines.
    axes[0, 0].set_ylim(*_acf_limits(frame))
    for ax in list(axes.flat)[len(networks) :]:
        ax.set_visible(False)
    for ax in list(axes.flat)[: len(networks)][-columns:]:
        ax.set_xlabel("lag")
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("autocorrelation")
    handles = [
        Line2D([], [], color=color, marker=_mark(axes.flat, depth), label=_depth(depth))
        for depth, color in colors.items()
    ]
    handles += [Line2D([], [], label=f"{kind} noise", **NOISE_STYLES[kind]) for kind in noise]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if columns > 2 else 2)
    return figure


def _mark(axes: Iterable[Axes], depth: int) -> str:
    """The marker of the lines of a depth in any of the panels."""
    lines = [line for ax in axes for line in ax.get_lines() if line.get_label() == f"{depth}"]
    return next((str(line.get_marker()) for line in lines if line.get_marker() != "None"), "None")


def panel_title(frame: pd.DataFrame) -> str:
    """The network, with its norms if they are not in its name."""
    return family_label(networks_of(frame).iloc[0], *dict.fromkeys(frame["norm"]))


def family_label(network: pd.Series, *norms: str) -> str:
    """The name of a family, with the norms of its feedforward nets if the name does not give them.

    Args:
        network: A row of `networks_of`.
        norms: The norms of the nets.
    """
    open_norms = network["look"] == "plain" and network["normalization"] is None
    return f"{network.name} ({', '.join(norms)})" if open_norms and all(norms) else str(network.name)


def log_depth_axis(ax: Axes, deepest: int, shallowest: int = 1) -> None:
    """Set a logarithmic axis of layers, with powers of 2 as plain numbers."""
    ax.set_xscale("log")
    ax.set_xticks([2**power for power in range(int(deepest).bit_length()) if 2**power >= 0.93 * shallowest])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.minorticks_off()
    ax.set_xlim(0.93 * shallowest, 1.1 * max(deepest, 2))


def signals_figure(
    gradients: Mapping[tuple[str, int], np.ndarray],
    x: np.ndarray,
    figure: Figure,
    looks: Mapping[str, str] | None = None,
) -> Figure:
    """Draw gradient signals above and, for several runs, their covariance over seeds below (Fig. 1).

    Shown are the shallowest and the deepest feedforward net of one family, the deepest net of up to two or three other
    families, beginning with a residual one, and brown and white noise of as many runs.

    Args:
        gradients: The gradients, (S, M), by network and depth.
        x: The inputs, (M,).
        figure: An empty figure; it gets the width of a page.
        looks: The style of each family: `plain` families come first, looks-linear ones last.

    Returns:
        The same figure.
    """
    runs, points = next(iter(gradients.values())).shape
    signals = _chosen(gradients, looks or {}) | _noise(runs, points)
    # A single signal has no covariance over runs.
    rows = 1 if runs == 1 else 2
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH, 1.45 if rows == 1 else 2.75)
    axes = figure.subplots(rows, len(signals), height_ratios=(1, 1.25)[:rows], squeeze=False)
    for ax, title, signal in zip(axes[0], signals, signals.values(), strict=True):
        ax.plot(x, signal[0] / np.abs(signal[0]).max(), color=KIND_COLORS["residual"], linewidth=0.7)
        ax.set(title=title, ylim=(-1.1, 1.1), xlim=(x[0], x[-1]), yticks=[-1, 0, 1])
    axes[0, 0].set_ylabel("gradient / largest")
    for ax in axes[:, 1:].flat:
        ax.set_yticklabels([])
    for ax in axes[-1]:
        ax.set_xlabel("input")
    if rows == 2:
        _plot_covariances(list(axes[1]), signals, x)
    return figure


def _plot_covariances(axes: list[Axes], signals: Mapping[str, np.ndarray], x: np.ndarray) -> None:
    places = [0, 0.5 * len(x), len(x)]
    labels = [f"{value:g}".replace("-", "−") for value in (x[0], 0.5 * (x[0] + x[-1]), x[-1])]
    for ax, signal in zip(axes, signals.values(), strict=True):
        seaborn.heatmap(
            _correlation(signal), vmin=-1, vmax=1, cmap="vlag", square=True, cbar=False, rasterized=True, ax=ax
        )
        ax.set_xticks(places, labels=labels, rotation=0)
        ax.set_yticks(places, labels=labels if ax is axes[0] else [])
    axes[0].set_ylabel("input")
    mesh = axes[-1].collections[0]
    axes[0].figure.colorbar(mesh, ax=axes, shrink=0.9, aspect=15, label="covariance, normalized")


def _chosen(gradients: Mapping[tuple[str, int], np.ndarray], looks: Mapping[str, str]) -> dict[str, np.ndarray]:
    families = list(dict.fromkeys(network for network, _ in gradients))
    # The families in the paper come first, and one family of each style before a second one.
    seen = {
        name: [looks.get(one) for one in families[:place]].count(looks.get(name)) for place, name in enumerate(families)
    }
    families.sort(key=lambda name: (seen[name], looks.get(name) != "plain", looks.get(name) == "looks-linear"))
    keys = []
    for network in families:
        depths = sorted(depth for other, depth in gradients if other == network)
        both = network == families[0] and looks.get(network) == "plain"
        keys += [(network, depth) for depth in dict.fromkeys((depths[0], depths[-1]) if both else depths[-1:])]
    # A page has legible space for five columns and the noise.
    return {f"{network}\n{_depth(depth) if depth else ''}": gradients[network, depth] for network, depth in keys[:4]}


def _depth(depth: int) -> str:
    """A depth in words, which is unknown for a user's function."""
    return f"depth {depth}" if depth else "gradient"


def _noise(runs: int, points: int) -> dict[str, np.ndarray]:
    white = np.random.default_rng(0).standard_normal((runs, points))
    return {"brown noise\n": white.cumsum(1), "white noise\n": white}


def _correlation(signals: np.ndarray) -> np.ndarray:
    """The second moments over seeds of signals scaled to unit energy, scaled to a diagonal of 1."""
    unit = signals / np.sqrt((signals**2).sum(1, keepdims=True))
    covariance = unit.T @ unit
    std = np.sqrt(covariance.diagonal())
    return np.asarray(covariance / np.maximum(np.outer(std, std), np.finfo(float).tiny))
