"""What input gradients on images show: plain against residual nets, each family against depth, and what is linear."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.grouping import listed
from gradlab.results.intervals import INTERVALS, told_by, with_interval
from gradlab.results.label import counterpart_key, description
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, holm

STATISTICS = {
    "relative_effective_rank": "relative effective rank",
    "mean_cosine": "mean cosine",
    "segment_lag1": "autocorrelation between two images at lag 1",
}
"""What networks are told apart by."""

NEAR_NOISE = 0.8
"""Relative effective rank from which on it is said to be near that of noise."""

_PAIR = (
    "Balduzzi et al. 2017, §1, of a plain and a residual net of one depth and recipe, neither near chance. Nearer to "
    "noise is the higher rank, the lower cosine, the lower autocorrelation."
)
_DEPTHS = "Balduzzi et al. 2017, §1, of one family and recipe, deepest to shallowest."
_UNITS = "over seeds, or over the batches of one set of weights"

Facts = Mapping[str, Any]
"""The entry of one network in a record."""


@dataclass(frozen=True)
class _Beside:
    """Two networks and what tells them apart, statistic by statistic."""

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
        frame: Of input gradients.
        facts: What the record says of each network: network, and where they are known description, weights_label,
            recipe, trained, near_chance, images and batches.
        estimate: Of a network and statistic.
    """
    known = {str(fact["network"]): fact for fact in facts}
    networks = [known[name] for name in dict.fromkeys(frame["network"]) if name in known]
    networks = [net for net in networks if description(net).get("depth") and not net.get("near_chance")]
    measured = [name for name in STATISTICS if name in set(frame["statistic"])]

    def beside(first: str, second: str) -> _Beside:
        pairs = {name: (estimate(first, name), estimate(second, name)) for name in measured}
        return _Beside(first, second, pairs)

    pairs = [beside(*_names(pair)) for pair in _pairs(networks) if _comparable(*pair)]
    depths = [beside(*_names(pair)) for pair in _depths(networks) if _comparable(*pair)]
    together = [comparison for one in (*pairs, *depths) for comparison in one.comparisons]
    verdicts = iter(holm(together))
    found = []
    for one in (*pairs, *depths):
        told = {name: next(verdicts) for name in one.estimates}
        about, source = (_plain_beside_residual, _PAIR) if one in pairs else (_across_depth, _DEPTHS)
        rule = f"{source} {told_by(f'Welch’s t {_UNITS}', together)} {INTERVALS}"
        found.append(Finding(about(one, told, known) + _saturated(one, frame, known), rule))
    return [*found, *_linear(frame)]


def _pairs(networks: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """Plain nets and their residual ones, depth by depth."""
    kinds = {kind: [net for net in networks if description(net).get("kind") == kind] for kind in ("plain", "residual")}
    pairs = [
        (plain, residual)
        for plain in kinds["plain"]
        for residual in kinds["residual"]
        if _depth(plain) == _depth(residual) and _alike(plain) == _alike(residual)
    ]
    return sorted(pairs, key=lambda pair: _depth(pair[0]))


def _depths(networks: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """The deepest and the shallowest net of each series."""
    series: dict[tuple[str, str | None], list[Facts]] = {}
    for net in networks:
        series.setdefault((description(net)["series"], net.get("weights_label")), []).append(net)
    return [(max(nets, key=_depth), min(nets, key=_depth)) for nets in series.values() if len({*map(_depth, nets)}) > 1]


def _alike(network: Facts) -> Hashable:
    return counterpart_key(network), network.get("weights_label")


def _depth(network: Facts) -> int:
    depth: int = description(network)["depth"]
    return depth


def _names(pair: tuple[Facts, Facts]) -> tuple[str, str]:
    return pair[0]["network"], pair[1]["network"]


def _comparable(one: Facts, other: Facts) -> bool:
    """Whether both are as initialized, or of one known recipe; facts that a probe does not have are not asked for."""
    if "recipe" not in one or "recipe" not in other:
        return True
    if not one.get("trained", True) and not other.get("trained", True):
        return True
    same: bool = one["recipe"] is not None and one["recipe"] == other["recipe"]
    return same


def _plain_beside_residual(one: _Beside, told: Mapping[str, Verdict], _: Mapping[str, Facts]) -> str:
    nearer: list[str] = []
    further: list[str] = []
    for name, verdict in told.items():
        if verdict.speaks:
            rising = (verdict is Verdict.LARGER) == (name == "relative_effective_rank")
            (nearer if rising else further).append(STATISTICS[name])
    start = f"The input gradients of {one.first} are "
    if nearer and further:
        start += f"nearer to noise than those of {one.second} by {listed(nearer)}, further from it by {listed(further)}"
    elif nearer or further:
        where = "nearer to noise than" if nearer else "further from noise than"
        start += f"{where} those of {one.second} by {listed(nearer or further)}"
    elif all(verdict is Verdict.NOTHING for verdict in told.values()):
        start = f"Nothing can be told of the input gradients of {one.first} and {one.second}"
    else:
        start += f"not told apart from those of {one.second}"
    numbers = [
        f"{STATISTICS[name]} {with_interval(pair[0])} against {with_interval(pair[1])}"
        for name, pair in one.estimates.items()
    ]
    return f"{start}: {', '.join(numbers)}."


def _across_depth(one: _Beside, told: Mapping[str, Verdict], known: Mapping[str, Facts]) -> str:
    deep, shallow = (description(known[name]) for name in (one.first, one.second))
    words = {
        Verdict.LARGER: "rises",
        Verdict.SMALLER: "falls",
        Verdict.ALIKE: "is not told apart",
        Verdict.NOTHING: "says nothing, with so few seeds",
    }
    parts = [
        f"{STATISTICS[name]} {words[told[name]]}: {with_interval(pair[1])} to {with_interval(pair[0])}"
        for name, pair in one.estimates.items()
    ]
    series = f"{deep['series']}@{known[one.first].get('weights_label')}"
    return f"From {shallow['depth']} to {deep['depth']} layers, of {series}, the {'; '.join(parts)}."


def _saturated(one: _Beside, frame: pd.DataFrame, known: Mapping[str, Facts]) -> str:
    """That ranks are near the greatest that so many images can have."""
    ranks = one.estimates.get("relative_effective_rank")
    if ranks is None or min(rank.value for rank in ranks) < NEAR_NOISE:
        return ""
    images, rows = known.get(one.first, {}).get("images"), frame[frame["network"] == one.first]
    at = f"at {round(images / rows['batches'].iloc[0])} images a batch " if images else ""
    return f" Both ranks are near that of noise, {at}the rank can hardly be larger and tells little."


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
