"""Whether deeper nets train worse: the degradation problem of He et al. 2015, §1 and §4.2, held against runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from gradlab.results.finding import Finding

_NAME = re.compile(r"(?P<family>plain|resnet)(?P<depth>\d+)(?P<suffix>.*)")
_DEGRADATION = (
    "He et al. 2015, §1 and §4.2: a deeper plain net has the higher training error, a deeper residual net the lower. "
    "Deepest against shallowest of one family and recipe; different from two standard errors on, the images of the "
    "last epoch taken as independent."
)
_PAIR = (
    "He et al. 2015, §4.2: residual nets train better than plain nets of equal depth. Of one recipe; different from "
    "two standard errors on, the images of the last epoch taken as independent."
)
_VARIANT = (
    "Residual nets with other shortcuts, scales or units against the original of equal depth and recipe, as He et al. "
    "2016, Tables 1 and 2, compare test errors. Here training errors, different from two standard errors on, the "
    "images of the last epoch taken as independent."
)
_FAMILY = {"plain": "plain", "resnet": "residual"}


def claims(runs: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What the training errors of the last epoch say, in sentences with numbers.

    Runs of one recipe and data are compared: within a family the deepest with the shallowest, and at each depth
    the residual net with the plain one, and residual nets of other units with the original. Errors count as
    different from two standard errors on, taking the images of the epoch as independent; what another seed would give
    is not in that.

    Args:
        runs: Of complete runs: network, error (a share), images (of the last epoch), key (recipe and data).
    """
    nets = [{**run, **match.groupdict()} for run in runs if (match := _NAME.fullmatch(run["network"]))]
    for net in nets:
        net["depth"] = int(net["depth"])
    sentences = []
    for _, family in _groups(nets, lambda net: (str(net["key"]), net["suffix"], net["family"])):
        depths = sorted(family, key=lambda net: net["depth"])
        if len(depths) > 1:
            sentences.append(Finding(_across_depth(depths), f"{_DEGRADATION} {_numbers(depths[0], depths[-1])}"))
    for _, pair in _groups(nets, lambda net: (str(net["key"]), net["suffix"], net["depth"])):
        by_family = {net["family"]: net for net in pair}
        if len(by_family) == 2:
            nets_of_depth = by_family["plain"], by_family["resnet"]
            sentences.append(Finding(_against_plain(*nets_of_depth), f"{_PAIR} {_numbers(*nets_of_depth)}"))
    for _, depth in _groups(nets, lambda net: (str(net["key"]), net["depth"], net["family"])):
        original, *variants = sorted(depth, key=lambda net: net["suffix"])
        if original["suffix"] == "" and original["family"] == "resnet":
            sentences += [
                Finding(_against_original(original, net), f"{_VARIANT} {_numbers(original, net)}") for net in variants
            ]
    return sentences


def _across_depth(nets: Sequence[Mapping[str, Any]]) -> str:
    first, last = nets[0], nets[-1]
    errors = ", ".join(f"{_percent(net['error'])} ({net['depth']})" for net in nets)
    start = f"{_FAMILY[last['family']].capitalize()} nets end with a training error of {errors}: "
    worse, plain = _sign(last, first), last["family"] == "plain"
    if worse == 0:
        return f"{start}depths {first['depth']} and {last['depth']} cannot be told apart."
    if worse > 0:
        return f"{start}the deepest trains worse than the shallowest, which is degradation and no overfitting."
    return f"{start}the deepest trains better than the shallowest, " + ("no degradation." if plain else "as it should.")


def _against_plain(plain: Mapping[str, Any], residual: Mapping[str, Any]) -> str:
    verdict = {-1: "lower than", 0: "not to be told from", 1: "higher than"}[_sign(residual, plain)]
    return (
        f"At depth {plain['depth']} the residual net's training error, {_percent(residual['error'])}, is {verdict} "
        f"the plain net's, {_percent(plain['error'])}."
    )


def _against_original(original: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
    verdict = {-1: "lower than", 0: "not to be told from", 1: "higher than"}[_sign(variant, original)]
    return (
        f"{variant['network']} ends with a training error of {_percent(variant['error'])}, {verdict} that of "
        f"{original['network']}, {_percent(original['error'])}."
    )


def _numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return (
        f"Here {abs(a['error'] - b['error']) / _deviation(a, b):.1f} standard errors of {_percent(_deviation(a, b))}."
    )


def _deviation(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """The standard error of the difference; above 0, so that errors of 0 can be compared."""
    variance = sum(max(net["error"] * (1 - net["error"]), 1 / net["images"]) / net["images"] for net in (a, b))
    return float(variance**0.5)


def _sign(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """1 where a's error is the larger beyond chance, -1 where b's is, 0 between."""
    difference = a["error"] - b["error"]
    return 0 if abs(difference) <= 2 * _deviation(a, b) else 1 if difference > 0 else -1


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _groups(nets: list[dict[str, Any]], key: Any) -> Any:
    return groupby(sorted(nets, key=key), key)
