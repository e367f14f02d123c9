"""Findings on input gradients of images: plain and residual nets, each family against depth, and linear networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradlab.results.comparable import Facts, is_comparable, not_compared
from gradlab.results.finding import Finding
from gradlab.results.grouping import listed
from gradlab.results.intervals import INTERVALS, told_by, with_interval
from gradlab.results.label import counterpart_key, description
from gradlab.results.training.recipes import without_seed
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, holm

STATISTICS = {
    "relative_effective_rank": "relative effective rank",
    "mean_cosine": "mean cosine",
    "segment_lag1": "autocorrelation between two inputs at lag 1",
}
"""The statistics by which networks are compared."""

RANK = "relative_effective_rank"

NEAR_NOISE = 0.8
"""The relative effective rank above which it is said to be near that of noise."""

_PAIR = (
    "Balduzzi et al. 2017, §1, of a plain and a residual net of one depth and recipe, neither near chance. Nearer to "
    "noise is the higher rank, the lower cosine, the lower autocorrelation."
)
_DEPTHS = "Balduzzi et al. 2017, §1, of one family and recipe, deepest to shallowest."
_UNITS = "over seeds, or over the batches of one set of weights"


@dataclass(frozen=True)
class _Beside:
    """Two networks and their comparisons, statistic by statistic."""

    first: str
    second: str
    estimates: dict[str, tuple[Estimate, Estimate]]

    @property
    def comparisons(self) -> list[Comparison]:
        return [difference(*pair) for pair in self.estimates.values()]


def findings(
    frame: pd.DataFrame,
    facts: Sequence[Mapping[str, Any]],
    estimate: Callable[[str, str], Estimate],
) -> list[Finding]:
    """Sentences with numbers; verdicts share one rate of false alarms.

    Args:
        frame: An input-gradients frame.
        facts: The facts on each network in the record: network, and description, weights_label, recipe, trained,
            near_chance, images and batches if they are known.
        estimate: A function of network and statistic that returns the estimate.
    """
    known = {str(fact["network"]): fact for fact in facts}
    networks = [known[name] for name in dict.fromkeys(frame["network"]) if name in known]
    named = [net for net in networks if description(net).get("depth")]
    measured = [name for name in STATISTICS if name in set(frame["statistic"])]

    def beside(first: str, second: str) -> _Beside:
        pairs = {name: (estimate(first, name), estimate(second, name)) for name in measured}
        return _Beside(first, second, pairs)

    pairs = [beside(*_names(pair)) for pair in _pairs(named)]
    depths = [beside(*_names(pair)) for pair in _depths(named)]
    together = [comparison for one in (*pairs, *depths) for comparison in one.comparisons]
    verdicts = iter(holm(together))
    found = []
    for one in (*pairs, *depths):
        told = {name: next(verdicts) for name in one.estimates}
        about, source = (_plain_beside_residual, _PAIR) if one in pairs else (_across_depth, _DEPTHS)
        rule = f"{source} {told_by(f'Welch’s t {_UNITS}', together)} {INTERVALS}"
        found.append(Finding(about(one, told, known), rule))
    # The deepest pair and the first family over depth answer the main question.
    answer = [*found[:1], *found[len(pairs) : len(pairs) + 1]] if pairs and depths else []
    if not found and len(networks) == 1:
        found = _one_network(networks[0]["network"], measured, estimate)
    return [
        *answer,
        *(one for one in found if one not in answer),
        *_saturated(frame, networks, estimate),
        *_linear(frame),
        *not_compared(named, "input gradients of trained networks"),
    ]


def _pairs(networks: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """Pairs of plain nets and their residual counterparts, the deepest first."""
    kinds = {kind: [net for net in networks if description(net).get("kind") == kind] for kind in ("plain", "residual")}
    pairs = [
        (plain, residual)
        for plain in kinds["plain"]
        for residual in kinds["residual"]
        if _depth(plain) == _depth(residual) and _alike(plain) == _alike(residual) and is_comparable(plain, residual)
    ]
    return sorted(pairs, key=lambda pair: -_depth(pair[0]))


def _depths(networks: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """The deepest and the shallowest net of each series and recipe."""
    series: dict[Hashable, list[Facts]] = {}
    for net in networks:
        if is_comparable(net, net):
            key = (description(net)["series"], net.get("weights_label"), without_seed(net.get("recipe")))
            series.setdefault(key, []).append(net)
    return [(max(nets, key=_depth), min(nets, key=_depth)) for nets in series.values() if len({*map(_depth, nets)}) > 1]


def _alike(network: Facts) -> Hashable:
    return counterpart_key(network), network.get("weights_label")


def _depth(network: Facts) -> int:
    depth: int = description(network)["depth"]
    return depth


def _names(pair: tuple[Facts, Facts]) -> tuple[str, str]:
    return pair[0]["network"], pair[1]["network"]


def _plain_beside_residual(one: _Beside, told: Mapping[str, Verdict], _: Mapping[str, Facts]) -> str:
    nearer: list[str] = []
    further: list[str] = []
    for name, verdict in told.items():
        if verdict.speaks:
            rising = (verdict is Verdict.LARGER) == (name == RANK)
            (nearer if rising else further).append(STATISTICS[name])
    start = f"The input gradients of {one.first} are "
    if nearer and further:
        start += f"nearer to noise than those of {one.second} by {listed(nearer)}, further from it by {listed(further)}"
    elif nearer or further:
        where = "nearer to noise than" if nearer else "further from noise than"
        start += f"{where} those of {one.second} by {listed(nearer or further)}"
    elif all(verdict is Verdict.NOTHING for verdict in told.values()):
        start = f"No conclusion is possible on the input gradients of {one.first} and {one.second}"
    else:
        start += f"not significantly different from those of {one.second}"
    numbers = [
        f"{STATISTICS[name]} {_shown(name, pair[0])} against {_shown(name, pair[1])}"
        for name, pair in one.estimates.items()
    ]
    return f"{start}: {', '.join(numbers)}."


def _across_depth(one: _Beside, told: Mapping[str, Verdict], known: Mapping[str, Facts]) -> str:
    deep, shallow = (description(known[name]) for name in (one.first, one.second))
    words = {
        Verdict.LARGER: "rises",
        Verdict.SMALLER: "falls",
        Verdict.ALIKE: "does not differ significantly",
        Verdict.NOTHING: "has too few seeds for a conclusion",
    }
    parts = [
        f"{STATISTICS[name]} {words[told[name]]}: {_shown(name, pair[1])} to {_shown(name, pair[0])}"
        for name, pair in one.estimates.items()
    ]
    weights = known[one.first].get("weights_label")
    series = f"{deep['series']}@{weights}" if weights else deep["series"]
    parts_of = "blocks" if deep.get("block") == "transformer" else "layers"
    return f"From {shallow['depth']} to {deep['depth']} {parts_of}, of {series}, the {'; '.join(parts)}."


def _shown(name: str, estimate: Estimate) -> str:
    """A statistic with its interval, which ends where the statistic does: a rank at 0, a correlation at −1 and 1."""
    return with_interval(estimate, least=0) if name == RANK else with_interval(estimate, most=1)


def _one_network(network: str, measured: Sequence[str], estimate: Callable[[str, str], Estimate]) -> list[Finding]:
    """A finding on a network that cannot be compared with another."""
    found = {name: estimate(network, name) for name in measured}
    if not found:
        return []
    numbers = ", ".join(f"the {STATISTICS[name]} is {_shown(name, one)}" for name, one in found.items())
    rule = "Reported without a verdict for a single network."
    # One seed, or one batch, has a value and no interval.
    if all(math.isnan(one.interval()[0]) for one in found.values()):
        return [Finding(f"{network}: {numbers}.", rule)]
    return [Finding(f"{network}: {numbers} (95 % intervals).", f"{rule} {INTERVALS}")]


def _saturated(
    frame: pd.DataFrame, networks: Sequence[Facts], estimate: Callable[[str, str], Estimate]
) -> list[Finding]:
    """The finding on networks whose rank is near the largest possible for the number of images."""
    near: dict[int, list[str]] = {}
    for net in networks:
        value, batches = estimate(net["network"], RANK).value, frame.loc[frame["network"] == net["network"], "batches"]
        if value >= NEAR_NOISE:
            near.setdefault(round(net.get("images", 0) / batches.iloc[0]), []).append(f"{net['network']} ({value:.3f})")
    return [
        Finding(
            f"Near the rank of noise{f' at {images} images per batch' if images else ''}: {listed(names)}. There the "
            "effective rank can hardly be larger, and is not informative.",
            f"The effective rank, relative to that of Gaussian noise in as many images, is at least {NEAR_NOISE}.",
        )
        for images, names in near.items()
    ]


def _linear(frame: pd.DataFrame) -> list[Finding]:
    linear = frame[(frame["statistic"] == "mean_cosine") & (frame["theory"] == 1)]
    return [
        Finding(
            f"{row.network} is a linear function as initialized: its input gradients are all equal (mean cosine "
            f"{row.value:.6f}).",
            "Looks-linear weights as initialized (Balduzzi et al. 2017, §5): the exact mean cosine is 1.",
        )
        for row in linear.itertuples()
    ]
