"""The look of networks in every figure: colours by depth or series, dashes by kind, and labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gradlab.plots.style import KIND_DASHES, KIND_MARKERS, PAPER, depth_colors, kind_colors, look, shades

_LINE, _LETTER = 3.7, 0.6
"""The width of a legend's line with the spaces beside it, and of a letter, in em."""


def networks_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The networks of a frame in order, one per row, with their properties.

    Args:
        frame: A frame with the column network, and with the columns of the properties of networks if they are known.

    Returns:
        A frame indexed by network with the columns weights, family, network_kind, unit, normalization, network_depth
        and series, which are None if they are unknown, and look, the style of its kind.
    """
    columns = ["network", "weights", "family", "network_kind", "unit", "normalization", "network_depth", "series"]
    networks = frame.drop_duplicates("network").reindex(columns=columns).astype(object).set_index("network")
    networks = networks.where(networks.notna(), None)
    looks = [look(row.network_kind, row.unit) for row in networks.itertuples()]
    return networks.assign(look=looks)


def network_styles(networks: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """One colour per depth, common to a plain net and its residual counterpart; the dash shows the kind.

    Args:
        networks: The networks from `networks_of`.
    """
    keys: dict[str, Hashable] = {str(row.Index): _depth_and_rest(row) for row in networks.itertuples()}
    if len(set(zip(keys.values(), networks["look"], strict=True))) < len(networks):
        keys = {name: (*_depth_and_rest(networks.loc[name]), str(networks["weights"][name])) for name in keys}  # type: ignore[misc]
    if len(set(zip(keys.values(), networks["look"], strict=True))) < len(networks):
        keys = {name: (networks["network_depth"][name] or 0, name) for name in keys}
    colors = depth_colors(sorted(dict.fromkeys(keys.values())))  # type: ignore[type-var]
    return {name: {"color": colors[key], **_line(networks["look"][name])} for name, key in keys.items()}


def _line(kind: str) -> dict[str, Any]:
    """The dash of a kind; dashed lines are drawn above solid ones, so that both are visible if they coincide."""
    return {"linestyle": KIND_DASHES[kind], "zorder": 2.0 if kind == "residual" else 2.2}


def _depth_and_rest(row: Any) -> tuple[int, str]:
    """A network's depth, and its name without family and depth."""
    if row.look == "other":
        return row.network_depth or 0, str(row.series)
    return row.network_depth or 0, str(row.series).partition(str(row.family))[2]


def shaded_styles(networks: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """One hue per kind of network, in shades by series and depth that darken with depth; the dash shows the kind.

    Args:
        networks: The networks from `networks_of`.
    """
    depths = networks["network_depth"].map(lambda depth: depth or 0)
    series = networks["series"].fillna(pd.Series(networks.index, networks.index))
    ordered = networks.assign(depth=depths, series=pd.Categorical(series, series.unique())).sort_values(
        ["series", "depth"], kind="stable"
    )
    styles: dict[str, dict[str, Any]] = {}
    for kind, alike in ordered.groupby("look", sort=False):
        for name, color in zip(alike.index, shades(str(kind), len(alike)), strict=True):
            styles[str(name)] = {"color": color, **_line(str(kind))}
    return {str(name): styles[str(name)] for name in networks.index}


def series_styles(looks: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of several series against depth.

    Args:
        looks: The style of each series, by its name.
    """
    colors = kind_colors(list(looks.values()))
    return {
        name: {"color": color, **_line(kind), "marker": KIND_MARKERS[kind]}
        for (name, kind), color in zip(looks.items(), colors, strict=True)
    }


def lone_marker(points: Sized) -> str | None:
    """A dot if a line has a single point, which would be invisible without it; otherwise no marker."""
    return "o" if len(points) == 1 else None


def network_labels(networks: pd.DataFrame) -> list[str]:
    """The names of networks, without the weights if they are common, since the title gives them."""
    weights = common_weights(networks)
    return [str(name).removesuffix(f"@{weights}") if weights else str(name) for name in networks.index]


def network_handles(networks: pd.DataFrame, axes: Iterable[Axes]) -> list[Line2D]:
    """The legend entries for networks: their lines as drawn, with markers if any of the axes has them.

    Args:
        networks: The networks from `networks_of`.
        axes: The axes, whose lines are labelled with the networks.
    """
    lines = [line for ax in axes for line in ax.get_lines()]
    handles = []
    for network, label in zip(networks.index, network_labels(networks), strict=True):
        own = [line for line in lines if line.get_label() == network]
        handle = Line2D([], [])
        handle.update_from(next((line for line in own if line.get_marker() not in ("None", "", None)), own[0]))
        handle.set_label(label)
        handles.append(handle)
    return handles


def common_weights(networks: pd.DataFrame) -> str | None:
    """The weights common to all networks, if there are several networks whose weights have the same name."""
    weights = set(networks["weights"])
    return weights.pop() if len(weights) == 1 and len(networks) > 1 else None


def legend_columns(labels: list[str]) -> int:
    """The number of columns of a legend with these labels at the width of a column of text."""
    longest = max(map(len, labels))
    return 3 if longest <= 10 and len(labels) > 5 else 2 if longest <= 26 and len(labels) > 1 else 1


def fitting_columns(labels: Sequence[str], width: float, most: int) -> int:
    """The number of columns, at most so many, with which a legend is not wider than its figure.

    Args:
        labels: The labels, which fill the legend by columns.
        width: The width of the figure, in inches.
        most: The largest number of columns.
    """
    em = PAPER["legend.fontsize"] / 72
    return next((count for count in range(min(most, len(labels)), 1, -1) if _width(labels, count) * em <= width), 1)


def _width(labels: Sequence[str], columns: int) -> float:
    """The width of a legend in em: of each column, its line, the spaces beside it, and its longest label."""
    parts = np.array_split(np.array([len(label) for label in labels]), columns)
    return sum(_LINE + _LETTER * int(part.max()) for part in parts)
