"""Whether deeper nets have higher training errors: the degradation problem of He et al. 2015, §1 and §4.2, in runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

from gradlab.results.finding import Finding
from gradlab.results.intervals import and_p, told_by
from gradlab.results.label import counterpart_key, description
from gradlab.stats.verdict import Comparison, Verdict, holm, trend_of_known

_DEGRADATION = (
    "He et al. 2015, §1 and §4.2: a deeper plain net has the higher training error, a deeper residual net the lower. "
    "The slope of the error over depth, all depths of one family and recipe weighted by their errors; in one direction "
    "if no two depths differ significantly in the other direction."
)
_PAIR = "He et al. 2015, §4.2: residual nets train better than plain nets of equal depth. Of one recipe."
_VARIANT = (
    "Residual nets with other shortcuts, scales or units against the original of equal depth and recipe, as He et al. "
    "2016, Tables 1 and 2, compare test errors. Here training errors, of one seed each, which is taken to move "
    "either by half a point (one standard deviation)."
)
SEED_SPREAD = 0.005
"""The standard deviation of a variant's error over seeds; differences of about 1 % are not significant."""

_IMAGES = "the images of the last epoch taken as independent; another seed may differ by more"

Net = Mapping[str, Any]


@dataclass(frozen=True)
class _Claim:
    """A comparison, and the sentence for its verdict."""

    nets: tuple[Net, ...]
    comparison: Comparison
    source: str

    def finding(self, verdict: Verdict, together: Sequence[Comparison]) -> Finding:
        """The sentence, with its rule."""
        if self.source is _DEGRADATION:
            sentence = _across_depth(self.nets, verdict)
        else:
            one, other = self.nets
            sentence = (_against_plain if self.source is _PAIR else _against_original)(one, other, verdict)
        test = f"the normal approximation to counts, {_IMAGES}"
        return Finding(sentence, f"{self.source} {told_by(test, together)}{and_p(self.comparison, verdict)}")


def findings(runs: Sequence[Net]) -> list[Finding]:
    """The findings on the training errors of the last epoch, in sentences with numbers.

    Runs of one recipe and data set are compared: within a family the trend over all depths, at each depth the residual
    net with the plain one, and residual nets of other units with the original. The standard errors do not include the
    variation between seeds. A run near chance, which has learnt almost nothing, is not compared.

    Args:
        runs: The facts on complete runs: network, description, error (a fraction), images (of the last epoch), key
            (recipe and data), and classes if they are known.
    """
    named = [_described(run) for run in runs if description(run).get("kind") in ("plain", "residual")]
    nets = [net for net in named if _learnt(net)]
    found = [*_trends(nets), *_pairs(nets), *_variants(nets)]
    together = [one.comparison for one in found]
    return [
        *(one.finding(verdict, together) for one, verdict in zip(found, holm(together), strict=True)),
        *_not_learnt([net for net in named if not _learnt(net)]),
    ]


def _described(run: Net) -> dict[str, Any]:
    """A run with the facts by which it is compared."""
    known = description(run)
    facts = {name: known[name] for name in ("depth", "kind", "series", "family")}
    return {**run, **facts, "form": counterpart_key(run, apart=("shortcut",)), "original": _is_original(known)}


def _is_original(known: Mapping[str, Any]) -> bool:
    """Whether a residual net is the original of He et al. 2015, with which variants are compared."""
    return bool(known["family"] == "resnet" and known["series"] == known["family"])


def _trends(nets: list[dict[str, Any]]) -> list[_Claim]:
    found = []
    for _, family in _groups(nets, lambda net: (str(net["key"]), net["series"])):
        depths = sorted(family, key=lambda net: net["depth"])
        if len(depths) > 1:
            found.append(_Claim(tuple(depths), _slope(depths), _DEGRADATION))
    return found


def _pairs(nets: list[dict[str, Any]]) -> list[_Claim]:
    found = []
    for _, group in _groups(nets, lambda net: (str(net["key"]), repr(net["form"]), net["depth"])):
        alike = list(group)
        plain = [net for net in alike if net["kind"] == "plain"]
        found += [_two(one, other, _PAIR) for one in plain for other in alike if other["kind"] == "residual"]
    return found


def _variants(nets: list[dict[str, Any]]) -> list[_Claim]:
    found = []
    for _, depth in _groups(nets, lambda net: (str(net["key"]), net["depth"], net["family"])):
        original, *others = sorted(depth, key=lambda net: (not net["original"], net["series"]))
        if original["original"]:
            found += [_two(original, net, _VARIANT, SEED_SPREAD) for net in others]
    return found


def _two(one: Net, other: Net, source: str, seed_spread: float = 0.0) -> _Claim:
    """The comparison of the errors of two nets."""
    shares, errors = _errors([one, other])
    return _Claim((one, other), trend_of_known([0, 1], shares, [math.hypot(e, seed_spread) for e in errors]), source)


def _slope(nets: Sequence[Net]) -> Comparison:
    """The comparison of the slope of the error over depth with 0."""
    return trend_of_known([net["depth"] for net in nets], *_errors(nets))


def _errors(nets: Sequence[Net]) -> tuple[list[float], list[float]]:
    """The errors of the nets, and their standard errors, which exceed 0 so that errors of 0 can be compared."""
    shares = [float(net["error"]) for net in nets]
    variances = [max(p * (1 - p), 1 / net["images"]) / net["images"] for p, net in zip(shares, nets, strict=True)]
    return shares, [math.sqrt(variance) for variance in variances]


def _across_depth(nets: Sequence[Net], verdict: Verdict) -> str:
    errors = ", ".join(f"{_percent(net['error'])} ({net['depth']})" for net in nets)
    start = f"{nets[0]['kind'].capitalize()} nets end with a training error of {errors}: "
    plain = nets[0]["kind"] == "plain"
    if verdict is Verdict.NOTHING:
        return f"{start}no conclusion is possible."
    if not verdict.speaks:
        return f"{start}there is no significant trend over depth."
    pairs = [(a, b) for a, b in combinations(nets, 2) if a["depth"] < b["depth"]]
    steps = holm([_slope(pair) for pair in pairs])
    if any(step.speaks and step is not verdict for step in steps):
        return f"{start}it does not change with depth in one direction."
    if verdict is Verdict.LARGER:
        return f"{start}deeper nets train worse, which is degradation and not overfitting."
    return f"{start}deeper nets train better, " + ("no degradation." if plain else "as expected.")


def _against_plain(plain: Net, residual: Net, verdict: Verdict) -> str:
    return (
        f"At depth {plain['depth']} the residual net's training error, {_percent(residual['error'])}, is "
        f"{_than(verdict)} the plain net's, {_percent(plain['error'])}."
    )


def _against_original(original: Net, variant: Net, verdict: Verdict) -> str:
    return (
        f"{variant['network']} ends with a training error of {_percent(variant['error'])}, {_than(verdict)} that of "
        f"{original['network']}, {_percent(original['error'])}."
    )


def _than(verdict: Verdict) -> str:
    return {Verdict.LARGER: "higher than", Verdict.SMALLER: "lower than"}.get(
        verdict, "not significantly different from"
    )


def _learnt(net: Net) -> bool:
    """Whether the accuracy of a net is more than twice chance."""
    classes = net.get("classes")
    return not classes or 1 - net["error"] > min(2 / classes, (1 + 1 / classes) / 2)


def _not_learnt(nets: Sequence[Net]) -> list[Finding]:
    return [
        Finding(
            f"{net['network']} ends with a training error of {_percent(net['error'])}, near chance: it is not "
            "compared with others.",
            "A net whose accuracy is at most twice chance has not learnt; for two classes, at most 3/4.",
        )
        for net in nets
    ]


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _groups(nets: list[dict[str, Any]], key: Any) -> Any:
    return groupby(sorted(nets, key=key), key)
