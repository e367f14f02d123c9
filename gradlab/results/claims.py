"""The two claims of He et al. 2015 §4.2 on layer responses, held against a measurement.

"ResNets have generally smaller responses than their plain counterparts. [...] We also notice that the deeper
ResNet has smaller magnitudes of responses [...]. When there are more layers, an individual layer of ResNets
tends to modify the signal less."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pandas as pd

from gradlab.results.finding import Finding

EQUAL = 0.01
"""Relative difference of medians below which two networks are called equal."""

AT_INITIALIZATION = Finding(
    "With batch statistics every normalized response has a std of 1 at initialization (γ = 1, β = 0), whatever the "
    "network: the paper's claims are about trained networks.",
    f"Weights as initialized, batch statistics, and |std − 1| < {EQUAL} in at least half of the layers.",
)

_SMALLER_THAN_PLAIN = "He et al. 2015, §4.2: “ResNets have generally smaller responses than their plain counterparts.”"
_SMALLER_WITH_DEPTH = "He et al. 2015, §4.2: “the deeper ResNet has smaller magnitudes of responses.”"
_COMPARABLE = (
    "Compared are networks of one known recipe and one mode of batch normalization, as He et al. 2015, §4.2, do; "
    "responses differ by recipe."
)

_NAME = re.compile(r"(?P<prefix>.*?)(?P<family>plain|resnet)(?P<depth>\d+)(?:-(?P<option>[ABC]))?(?P<suffix>.*)")


@dataclass(frozen=True)
class _Network:
    """A network that can be compared with others of its kind and recipe."""

    name: str
    family: str
    depth: int
    kind: tuple[str, str]
    option: str
    recipe: Hashable
    quartiles: tuple[float, float, float]

    @property
    def median(self) -> float:
        return self.quartiles[1]

    def __str__(self) -> str:
        low, median, high = self.quartiles
        return f"{median:.3f} (quartiles {low:.3f} to {high:.3f})"


def claims(frame: pd.DataFrame, column: str, facts: Sequence[dict[str, Any]]) -> list[Finding]:
    """What the measurement says of the paper's two claims, in sentences with medians and quartiles.

    Only networks of one recipe, measured with batch normalization in one mode, are compared; those near
    chance are not, since they are probably not what they are called.

    Args:
        frame: A responses frame.
        column: `std`, or `predicted_std`.
        facts: For each network of the frame: network, name, recipe (None where unknown), bn and near_chance.

    Returns:
        Sentences with their rules; none when there is nothing to compare.
    """
    sentences: list[Finding] = []
    unknown, networks = [], []
    for fact in facts:
        values = frame.loc[frame["network"] == fact["network"], column].dropna()
        match = _NAME.fullmatch(str(fact.get("name", fact["network"])))
        if fact.get("bn") == "batch" and not fact.get("trained", True) and (abs(values - 1) < EQUAL).mean() >= 0.5:
            sentences = [AT_INITIALIZATION]
        elif match is None or values.empty or fact.get("near_chance"):
            continue
        elif fact.get("recipe") is None:
            unknown.append(fact["network"])
        else:
            networks.append(_network(fact, match, values))
    compared: list[Finding] = []
    for group in _groups(networks, lambda n: (n.kind, n.recipe)):
        compared += _plain_against_residual(group)
        for option in _groups([n for n in group if n.family == "resnet"], lambda n: n.option):
            compared += _by_depth(option)
    recipes = {network.recipe for network in networks}
    if unknown and len(unknown) + len(networks) > 1:
        sentence = f"Nothing says how {_list(unknown)} came about: not compared, since responses differ by recipe."
        compared.append(Finding(sentence, _COMPARABLE))
    if len(recipes) > 1:
        sentence = "Networks of different recipes or modes of batch normalization are not compared."
        compared.append(Finding(sentence, _COMPARABLE))
    return sentences + compared


def _network(fact: dict[str, Any], match: re.Match[str], values: pd.Series) -> _Network:
    low, median, high = np.percentile(values, [25, 50, 75])
    return _Network(
        name=fact["network"],
        family=match["family"],
        depth=int(match["depth"]),
        kind=(match["prefix"], match["suffix"]),
        option=match["option"] or "",
        recipe=(fact["recipe"], fact.get("bn")),
        quartiles=(low, median, high),
    )


def _groups(networks: Iterable[_Network], key: Callable[[_Network], Hashable]) -> list[list[_Network]]:
    """The networks that share a key, in their own order."""
    ordered = sorted(networks, key=lambda network: repr(key(network)))
    return [list(group) for _, group in groupby(ordered, key)]


def _plain_against_residual(group: list[_Network]) -> list[Finding]:
    pairs = [(p, r) for p in group for r in group if (p.family, r.family) == ("plain", "resnet") and p.depth == r.depth]
    sentences = []
    for plain, residual in sorted(pairs, key=lambda pair: pair[0].depth):
        ratio = residual.median / plain.median
        verdict = "as large responses as" if abs(ratio - 1) <= EQUAL else ("smaller" if ratio < 1 else "larger")
        verdict += "" if "as large" in verdict else " responses than"
        alone = sum(r.depth == residual.depth for _, r in pairs) == 1
        sentence = (
            f"At {plain.depth} layers the residual net {'' if alone else f'({residual.name}) '}has {verdict} the plain "
            f"net: median std {residual} against {plain}, a ratio of {ratio:.2f}."
        )
        rule = f"Ratio of median stds, residual to plain, at equal depth and recipe: {_beside_one(ratio)}."
        sentences.append(Finding(sentence, f"{_SMALLER_THAN_PLAIN} {rule}"))
    return sentences


def _by_depth(networks: list[_Network]) -> list[Finding]:
    ordered = sorted(networks, key=lambda network: network.depth)
    if len({network.depth for network in ordered}) < 2:
        return []
    ratios = [after.median / before.median for before, after in pairwise(ordered) if after.depth > before.depth]
    if all(ratio < 1 - EQUAL for ratio in ratios):
        verdict = "Deeper residual nets have smaller responses"
    elif all(ratio > 1 + EQUAL for ratio in ratios):
        verdict = "Deeper residual nets have larger responses"
    elif all(abs(ratio - 1) <= EQUAL for ratio in ratios):
        verdict = "Residual nets of all depths have equal responses"
    else:
        verdict = "Responses of residual nets do not change with depth in one direction"
    series = ", ".join(f"{network} at {network.depth}" for network in ordered)
    steps = ", ".join(map(_beside_one, ratios))
    rule = f"Ratio of median stds, each depth to the one before, of one recipe: {steps}."
    return [Finding(f"{verdict}: median std {series} layers.", f"{_SMALLER_WITH_DEPTH} {rule}")]


def _beside_one(ratio: float) -> str:
    """Where a ratio lies: below, above, or within `EQUAL` of 1."""
    if abs(ratio - 1) <= EQUAL:
        return f"|{ratio:.3f} − 1| ≤ {EQUAL}"
    return f"{ratio:.3f} < {1 - EQUAL:.2f}" if ratio < 1 else f"{ratio:.3f} > {1 + EQUAL:.2f}"


def _list(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
