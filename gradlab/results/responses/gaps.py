"""The difference between the std predicted from running statistics and the measured one, and its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.grouping import listed

GAP_WORTH_TELLING = 0.005
"""The mean relative difference between predicted and measured std above which it is reported."""

PADDED_CROPS = ("gradlab ", "akamaster/", "junyuseu/")
"""The beginnings of the names of recipes with padded random crops."""


def gaps(frame: pd.DataFrame, facts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """One sentence for all networks whose predictions have errors with the same reason.

    Args:
        frame: A responses frame.
        facts: The facts on each network of the frame: network, recipe, trained, bn and near_chance.
    """
    off: dict[str, dict[str, pd.Series]] = {}
    for fact in facts:
        rows = frame[frame["network"] == fact["network"]].set_index("layer")
        gap = (rows["predicted_std"] / rows["std"] - 1).abs()
        if gap.notna().any() and gap.mean() >= GAP_WORTH_TELLING and not fact.get("near_chance"):
            off.setdefault(_cause(fact), {})[fact["network"]] = gap
    rule = f"Mean of |predicted / measured − 1| over layers ≥ {GAP_WORTH_TELLING}, of each network."
    return [Finding(_sentence(networks, cause), rule) for cause, networks in off.items()]


def _sentence(off: Mapping[str, pd.Series], cause: str) -> str:
    means = [gap.mean() for gap in off.values()]
    mean = " to ".join(dict.fromkeys(f"{share:.1%}" for share in (min(means), max(means))))
    worst = max(off, key=lambda network: off[network].max())
    where = f"{off[worst].idxmax()}{f' of {worst}' if len(off) > 1 else ''}"
    return (
        f"{listed([*off])}: the std predicted from running statistics is off by {mean} on average and by up to "
        f"{off[worst].max():.0%}, at {where}: {cause}."
    )


def _cause(fact: Mapping[str, Any]) -> str:
    if not fact.get("trained", True):
        return "they are still 0 and 1"
    if fact.get("bn") != "eval":
        return "they are not those of these inputs"
    crops = ", such as padded random crops" if str(fact.get("recipe")).startswith(PADDED_CROPS) else ""
    return f"they come from other inputs than these{crops}"
