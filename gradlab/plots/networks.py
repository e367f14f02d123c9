"""What networks look like in every figure: a colour a depth or a series, a dash a kind, labels without repeats."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sized
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gradlab.plots.style import KIND_DASHES, KIND_MARKERS, depth_colors, kind_colors, look, shades


def networks_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The networks of a frame, a row each in their order, with what it says of them.

    Args:
        frame: It has the column network, and those of the facts of networks where they are known.

    Returns:
        Indexed by network; columns weights, family, network_kind, unit, normalization, network_depth and series, None
        where the frame does not say; look is how a network of its kind is drawn.
    """
    columns = ["network", "weights", "family", "network_kind", "unit", "normalization", "network_depth", "series"]
    networks = frame.drop_duplicates("network").reindex(columns=columns).astype(object).set_index("network")
    networks = networks.where(networks.notna(), None)
    looks = [look(row.network_kind, row.unit) for row in networks.itertuples()]
    return networks.assign(look=looks)


def network_styles(networks: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """One colour a depth, shared by a plain net and its residual counterpart; the dash tells the kind.

    Args:
        networks: As `networks_of` returns them.
    """
    keys: dict[str, Hashable] = {str(row.Index): _depth_and_rest(row) for row in networks.itertuples()}
    if len(set(zip(keys.values(), networks["look"], strict=True))) < len(networks):
        keys = {name: (*_depth_and_rest(networks.loc[name]), str(networks["weights"][name])) for name in keys}  # type: ignore[misc]
    if len(set(zip(keys.values(), networks["look"], strict=True))) < len(networks):
        keys = {name: (networks["network_depth"][name] or 0, name) for name in keys}
    colors = depth_colors(sorted(dict.fromkeys(keys.values())))  # type: ignore[type-var]
    return {name: {"color": colors[key], **_line(networks["look"][name])} for name, key in keys.items()}


def _line(kind: str) -> dict[str, Any]:
    """The dash of a kind, broken lines above solid ones: where two coincide, both are seen."""
    return {"linestyle": KIND_DASHES[kind], "zorder": 2.0 if kind == "residual" else 2.2}


def _depth_and_rest(row: Any) -> tuple[int, str]:
    """A network's depth, and what its name says besides family and depth."""
    if row.look == "other":
        return row.network_depth or 0, str(row.series)
    return row.network_depth or 0, str(row.series).partition(str(row.family))[2]


def shaded_styles(networks: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """One hue a kind of networks, in shades by series and depth, deeper ones darker; the dash tells the kind.

    Args:
        networks: As `networks_of` returns them.
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
        looks: How each series is drawn, by its name.
    """
    colors = kind_colors(list(looks.values()))
    return {
        name: {"color": color, **_line(kind), "marker": KIND_MARKERS[kind]}
        for (name, kind), color in zip(looks.items(), colors, strict=True)
    }


def lone_marker(points: Sized) -> str | None:
    """A dot where a line has a single point, which would not be seen; else no marker."""
    return "o" if len(points) == 1 else None


def network_labels(networks: pd.DataFrame) -> list[str]:
    """The networks' names, without the weights where all have the same: the title says them then."""
    weights = common_weights(networks)
    return [str(name).removesuffix(f"@{weights}") if weights else str(name) for name in networks.index]


def network_handles(networks: pd.DataFrame, axes: Iterable[Axes]) -> list[Line2D]:
    """What a legend says of networks: their lines as drawn, with markers where one of the axes has them.

    Args:
        networks: As `networks_of` returns them.
        axes: Their lines have the networks for labels.
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
    """The weights that all networks have, if they are the same by name and there are several networks."""
    weights = set(networks["weights"])
    return weights.pop() if len(weights) == 1 and len(networks) > 1 else None


def legend_columns(labels: list[str]) -> int:
    """In how many columns labels stand at the width of a column of text."""
    longest = max(map(len, labels))
    return 3 if longest <= 10 and len(labels) > 5 else 2 if longest <= 26 and len(labels) > 1 else 1
