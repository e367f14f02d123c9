"""The two claims of He et al. 2015 §4.2 on layer responses, held against a measurement.

"ResNets have generally smaller responses than their plain counterparts. [...] We also notice that the deeper
ResNet has smaller magnitudes of responses [...]. When there are more layers, an individual layer of ResNets
tends to modify the signal less."
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

EQUAL = 0.01
"""Relative difference of medians below which two networks are called equal."""

AT_INITIALIZATION = (
    "With batch statistics every response has a std of 1 at initialization (γ = 1, β = 0), whatever the network: "
    "the paper's claims are about trained networks."
)

_NAME = re.compile(r"(?P<prefix>.*?)(?P<family>plain|resnet)(?P<depth>\d+)(?:-[ABC])?(?P<suffix>.*)")


def claims(frame: pd.DataFrame, column: str, facts: Sequence[dict[str, Any]]) -> list[str]:
    """What the measurement says of the paper's two claims, in sentences with medians and quartiles.

    Only networks of one recipe, measured with batch normalization in one mode, are compared.

    Args:
        frame: A responses frame.
        column: `std`, or `predicted_std`.
        facts: For each network of the frame: network, name, recipe and bn; a recipe of None is unknown.

    Returns:
        Sentences; none when there is nothing to compare.
    """
    groups: dict[tuple[Any, ...], dict[tuple[str, int], str]] = defaultdict(dict)
    quartiles = {}
    unknown, named, trivial = [], [], False
    for fact in facts:
        network = fact["network"]
        values = frame.loc[frame["network"] == network, column].dropna()
        if fact.get("bn") == "batch" and not fact.get("trained", True) and (abs(values - 1) < EQUAL).all():
            trivial = True
            continue
        match = _NAME.fullmatch(str(fact.get("name", network)))
        if match is None or values.empty:
            continue
        named.append(network)
        if fact.get("recipe") is None:
            unknown.append(network)
            continue
        quartiles[network] = np.percentile(values, [25, 50, 75])
        key = (fact["recipe"], fact.get("bn"), match["prefix"], match["suffix"])
        groups[key].setdefault((match["family"], int(match["depth"])), network)
    sentences = []
    for group in groups.values():
        sentences += _plain_against_residual(group, quartiles) + _by_depth(group, quartiles)
    if not sentences and len(named) > 1:
        why = "they are of different recipes" if not unknown else f"nothing says how {_list(unknown)} was trained"
        sentences.append(f"The networks are not compared: {why}, and responses differ between recipes.")
    elif len(groups) > 1 or (unknown and sentences):
        sentences.append("Networks of different or unknown recipes are not compared with each other.")
    return [AT_INITIALIZATION, *sentences] if trivial else sentences


def _plain_against_residual(group: dict[tuple[str, int], str], quartiles: dict[str, np.ndarray]) -> list[str]:
    sentences = []
    for depth in sorted(depth for family, depth in group if family == "plain" and ("resnet", depth) in group):
        plain, residual = group["plain", depth], group["resnet", depth]
        ratio = quartiles[residual][1] / quartiles[plain][1]
        verdict = _verdict(ratio, "smaller responses than", "larger responses than", "as large responses as")
        sentences.append(
            f"At {depth} layers the residual net has {verdict} the plain net: median std "
            f"{_spread(quartiles[residual])} against {_spread(quartiles[plain])}, a ratio of {ratio:.2f}."
        )
    return sentences


def _by_depth(group: dict[tuple[str, int], str], quartiles: dict[str, np.ndarray]) -> list[str]:
    depths = sorted(depth for family, depth in group if family == "resnet")
    if len(depths) < 2:
        return []
    medians = [quartiles[group["resnet", depth]] for depth in depths]
    ratios = [after[1] / before[1] for before, after in pairwise(medians)]
    if all(ratio < 1 - EQUAL for ratio in ratios):
        verdict = "Deeper residual nets have smaller responses"
    elif all(ratio > 1 + EQUAL for ratio in ratios):
        verdict = "Deeper residual nets have larger responses"
    elif all(abs(ratio - 1) <= EQUAL for ratio in ratios):
        verdict = "Residual nets of all depths have equal responses"
    else:
        verdict = "Responses of residual nets do not change with depth in one direction"
    series = ", ".join(f"{_spread(median)} at {depth}" for depth, median in zip(depths, medians, strict=True))
    return [f"{verdict}: median std {series} layers."]


def _verdict(ratio: float, smaller: str, larger: str, equal: str) -> str:
    if abs(ratio - 1) <= EQUAL:
        return equal
    return smaller if ratio < 1 else larger


def _spread(quartiles: np.ndarray) -> str:
    low, median, high = quartiles
    return f"{median:.3f} (quartiles {low:.3f} to {high:.3f})"


def _list(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
