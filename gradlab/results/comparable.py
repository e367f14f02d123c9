"""The networks that are comparable, at initialization or trained by one known recipe, and the reasons if not.

Two trained networks differ at least as much by their training as by their architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradlab.results.finding import Finding
from gradlab.results.grouping import listed
from gradlab.results.label import description
from gradlab.results.training.recipes import without_seed

Facts = Mapping[str, Any]
"""The facts on one network in a record."""

RULE = (
    "Compared are networks as initialized, or trained by one known recipe for one length, whose batch normalization is "
    "in one mode, and that are not near chance."
)


def is_candidate(facts: Facts) -> bool:
    """Whether a network can have counterparts, and the origin of its weights is known."""
    return description(facts).get("kind") in ("plain", "residual") and "recipe" in facts


def is_comparable(one: Facts, other: Facts) -> bool:
    """Whether two networks are comparable, without regard to facts that a probe does not know."""
    if one.get("near_chance") or other.get("near_chance"):
        return False
    if "recipe" not in one or "recipe" not in other:
        return True
    if not (_is_trained(one) or _is_trained(other)):
        return True
    same = _is_trained(one) and _is_trained(other) and without_seed(one["recipe"]) == without_seed(other["recipe"])
    return same and one["recipe"] is not None


def not_compared(networks: Sequence[Facts], what: str) -> list[Finding]:
    """One sentence for every reason for which some networks are not compared.

    Args:
        networks: The facts on each network: network, description, recipe, and trained, bn and near_chance if known.
        what: The quantities that differ by recipe, as a plural noun.
    """
    known = [facts for facts in networks if is_candidate(facts)]
    near = [facts["network"] for facts in known if facts.get("near_chance")]
    others = [facts for facts in known if not facts.get("near_chance")]
    unknown = [facts["network"] for facts in others if _is_trained(facts) and facts["recipe"] is None]
    told = [facts for facts in others if facts["network"] not in unknown]
    if len(known) < 2:
        return []
    said = []
    if near:
        said.append(f"{listed(near)} {'is' if len(near) == 1 else 'are'} near chance and not compared.")
    if unknown:
        said.append(
            f"The weights of {listed(unknown)} have unknown recipes and are not compared: {what} differ by recipe."
        )
    if reasons := _differences(told):
        said.append(f"Networks {' or '.join(reasons)} are not compared: {'; '.join(map(listed, _alike(told)))}.")
    return [Finding(sentence, RULE) for sentence in said]


def _differences(networks: Sequence[Facts]) -> list[str]:
    """The differences between networks of known origin."""
    recipes = {without_seed(facts["recipe"]) for facts in networks if _is_trained(facts)}
    modes = {facts.get("bn") for facts in networks} - {None, "none"}
    return [
        *(["of different recipes or lengths of training"] if len(recipes) > 1 else []),
        *(["with and without training"] if len({_is_trained(facts) for facts in networks}) > 1 else []),
        *(["with different modes of batch normalization"] if len(modes) > 1 else []),
    ]


def _alike(networks: Sequence[Facts]) -> list[list[str]]:
    """The names of networks, grouped by recipe and mode."""
    groups: dict[Any, list[str]] = {}
    for facts in networks:
        trained = _is_trained(facts)
        key = (trained, without_seed(facts["recipe"]) if trained else None, facts.get("bn"))
        groups.setdefault(key, []).append(facts["network"])
    return [*groups.values()]


def _is_trained(facts: Facts) -> bool:
    return bool(facts.get("trained", True))
