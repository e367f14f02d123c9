"""What networks look like in every figure against layers: a colour a depth, a dash a family, labels without repeats."""

from __future__ import annotations

import re
from collections.abc import Sized
from typing import Any

from gradlab.plots.theme import FAMILY_DASHES, depth_colors


def network_styles(networks: list[str]) -> dict[str, dict[str, Any]]:
    """One colour a depth, shared by a plain net and its residual counterpart; the dash tells the family."""
    keys = {network: re.sub(r"plain|resnet", "", network.partition("@")[0]) for network in networks}
    if len(set(zip(keys.values(), ("plain" in n for n in networks), strict=True))) < len(networks):
        keys = {network: network.replace("plain", "resnet") for network in networks}
    ordered = sorted(dict.fromkeys(keys.values()), key=_by_depth)
    colors = depth_colors(ordered)
    return {
        network: {
            "color": colors[key],
            "linestyle": FAMILY_DASHES["plain" if "plain" in network.partition("@")[0] else "residual"],
        }
        for network, key in keys.items()
    }


def lone_marker(points: Sized) -> str | None:
    """A dot where a line has a single point, which would not be seen; else no marker."""
    return "o" if len(points) == 1 else None


def network_labels(networks: list[str]) -> list[str]:
    """The networks' names, without the weights where all have the same: the title says them then."""
    return [network.partition("@")[0] for network in networks] if common_weights(networks) else networks


def common_weights(networks: list[str]) -> str | None:
    """The weights that all networks have, if they are the same by name and there are several networks."""
    weights = {network.partition("@")[2] for network in networks}
    return weights.pop() if len(weights) == 1 else None


def legend_columns(labels: list[str]) -> int:
    """In how many columns labels stand at the width of a column of text."""
    longest = max(map(len, labels))
    return 3 if longest <= 10 and len(labels) > 5 else 2 if longest <= 26 and len(labels) > 1 else 1


def _by_depth(key: str) -> tuple[int, str]:
    depth = re.search(r"\d+", key)
    return (int(depth[0]) if depth else 0), key
