"""The properties of networks in a record, as columns of a frame and as keys by which networks are compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from gradlab.errors import UsageError

COLUMNS = ("weights", "family", "network_kind", "unit", "normalization", "network_depth", "series")
"""The columns that `described` adds: the weights in words, the family of the network (`resnet`), the connection of its
layers (`plain`, `residual`, …), the kind of its repeated part, its normalization, its depth as counted in the paper,
and its name without the depth. They are missing if the record does not give them."""

RESIDUAL_BRANCHES = ("shortcut", "beta")
"""The options that only residual nets have; a plain net without them may be a counterpart."""


def description(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of a network's architecture in the record; empty if there is none.

    Args:
        facts: The entry of one network in a record.
    """
    return facts.get("description") or {}


def with_descriptions(networks: Iterable[Any]) -> list[Any]:
    """The entries of a record; in records without descriptions, networks are described by their names.

    Args:
        networks: The entries, each with network, and name if it differs.
    """
    return [
        {**facts, "description": _by_name(str(facts.get("name", facts["network"])))}
        if isinstance(facts, dict) and "description" not in facts
        else facts
        for facts in networks
    ]


def _by_name(name: str) -> dict[str, Any] | None:
    """The description of a network by the grammar of names; None if it is not one of gradlab's."""
    # Loading torch is slow, and most records do not need it.
    from gradlab.models import describe

    try:
        return describe(name).to_dict()
    except UsageError:
        return None


def described(frame: pd.DataFrame, networks: Iterable[Any]) -> pd.DataFrame:
    """A frame with the properties of its networks as columns; see `COLUMNS`.

    Args:
        frame: A frame with the column network.
        networks: The entries of a record, each with network (its label), and weights_label and description if known.
    """
    known = {facts["network"]: _columns(facts) for facts in networks if isinstance(facts, dict)}
    missing = dict.fromkeys(COLUMNS)
    codes, labels = pd.factorize(frame["network"])
    added = pd.DataFrame([known.get(network, missing) for network in labels], columns=list(COLUMNS))
    added = added.astype({name: "Int64" if name == "network_depth" else object for name in COLUMNS})
    if isinstance(frame["network"].dtype, pd.CategoricalDtype):
        # A long frame, whose texts are stored once.
        added = added.astype({name: "category" for name in COLUMNS if name != "network_depth"})
    added = added.take(codes).set_axis(frame.index)
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
    """A key that is equal for a plain and a residual net if they differ only by shortcuts.

    Args:
        facts: The entry of one network in a record.
        apart: The options in which the two may differ.

    Returns:
        The key, which is equal for counterparts of any depth.
    """
    known = description(facts)
    options = {name: value for name, value in known.get("options", {}).items() if name not in apart}
    bottleneck = known.get("block") == "bottleneck"
    facts_alike = [known.get(name) for name in ("form", "unit", "normalization", "width")]
    return (*facts_alike, bottleneck, repr(sorted(options.items())))
