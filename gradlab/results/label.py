"""What a network is: facts that its record holds, as columns of a frame and as keys to compare networks by."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from gradlab.errors import UsageError

COLUMNS = ("weights", "family", "network_kind", "unit", "normalization", "network_depth", "series")
"""The columns that `described` adds: the weights in words, the family of networks (`resnet`), how its layers are
connected (`plain`, `residual`, …), what a repeated part is, how it normalizes, the depth as its paper counts it, and
the name without that depth. They are missing where the record does not say."""

RESIDUAL_BRANCHES = ("shortcut", "beta")
"""Options that only a residual net has; a plain net without them may be its counterpart."""


def description(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the record says of the architecture of a network; empty where it says nothing.

    Args:
        facts: The entry of one network in a record.
    """
    return facts.get("description") or {}


def with_descriptions(networks: Iterable[Any]) -> list[Any]:
    """The entries of a record, where it was written before records described networks: as their names say.

    Args:
        networks: Each with network, and name where that is another.
    """
    return [
        {**facts, "description": _by_name(str(facts.get("name", facts["network"])))}
        if isinstance(facts, dict) and "description" not in facts
        else facts
        for facts in networks
    ]


def _by_name(name: str) -> dict[str, Any] | None:
    """What the grammar of names says of a network; None where it is none of ours."""
    # Loading torch is slow, and most records need no second look.
    from gradlab.models import describe

    try:
        return describe(name).to_dict()
    except UsageError:
        return None


def described(frame: pd.DataFrame, networks: Iterable[Any]) -> pd.DataFrame:
    """A frame with the facts of its networks as columns; see `COLUMNS`.

    Args:
        frame: It has the column network.
        networks: The entries of a record, each with network (its label) and, where they are known, weights_label and
            description.
    """
    known = {facts["network"]: _columns(facts) for facts in networks if isinstance(facts, dict)}
    missing = dict.fromkeys(COLUMNS)
    added = pd.DataFrame(
        [known.get(network, missing) for network in frame["network"]], index=frame.index, columns=list(COLUMNS)
    )
    added = added.astype({name: "Int64" if name == "network_depth" else object for name in COLUMNS})
    kept = [name for name in COLUMNS if name not in frame or added[name].notna().any()]
    return frame.assign(**{name: added[name] for name in kept})


def _columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    known = description(facts)
    return {
        "weights": facts.get("weights_label"),
        "family": known.get("family"),
        "network_kind": known.get("kind"),
        "unit": known.get("unit"),
        "normalization": known.get("normalization"),
        "network_depth": known.get("depth"),
        "series": known.get("series"),
    }


def counterpart_key(facts: Mapping[str, Any], apart: Sequence[str] = RESIDUAL_BRANCHES) -> Hashable:
    """What a plain and a residual net have in common if one is the other with or without shortcuts.

    Args:
        facts: The entry of one network in a record.
        apart: Options in which the two may differ.

    Returns:
        Equal for counterparts of any depth.
    """
    known = description(facts)
    options = {name: value for name, value in known.get("options", {}).items() if name not in apart}
    bottleneck = known.get("block") == "bottleneck"
    facts_alike = [known.get(name) for name in ("form", "unit", "normalization", "width")]
    return (*facts_alike, bottleneck, repr(sorted(options.items())))
