"""What input gradients on images show: plain against residual nets, each family against depth, and what is linear."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.intervals import INTERVALS, listed, told_by, with_interval
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, holm

STATISTICS = {
    "relative_effective_rank": "relative effective rank",
    "mean_cosine": "mean cosine",
    "segment_lag1": "autocorrelation between two images at lag 1",
}
"""What networks are told apart by."""

NEAR_NOISE = 0.8
"""Relative effective rank from which on it is said to be near that of noise."""

_NAME = re.compile(r"(?P<prefix>.*?)(?P<family>plain|resnet)(?P<depth>\d+)(?P<suffix>.*)")
_PAIR = (
    "Balduzzi et al. 2017, §1, of a plain and a residual net of one depth and recipe, neither near chance. Nearer to "
    "noise is the higher rank, the lower cosine, the lower autocorrelation."
)
_DEPTHS = "Balduzzi et al. 2017, §1, of one family and recipe, deepest to shallowest."
_UNITS = "over seeds, or over the batches of one set of weights"


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
        facts: What the record says of each network: network, and where they are known recipe, trained, near_chance,
            images and batches.
        estimate: Of a network and statistic.
    """
    known = {str(fact["network"]): fact for fact in facts}
    networks = [name for name in dict.fromkeys(frame["network"]) if not known.get(name, {}).get("near_chance")]
    families: dict[tuple[str, ...], dict[int, str]] = {}
    for network in networks:
        if match := _NAME.fullmatch(network):
            key = (match["family"], match["prefix"], match["suffix"])
            families.setdefault(key, {})[int(match["depth"])] = network
    measured = [name for name in STATISTICS if name in set(frame["statistic"])]

    def beside(first: str, second: str) -> _Beside:
        pairs = {name: (estimate(first, name), estimate(second, name)) for name in measured}
        return _Beside(first, second, pairs)

    pairs = [beside(*pair) for pair in _pairs(families) if _comparable(*(known.get(n, {}) for n in pair))]
    depths = [beside(*pair) for pair in _depths(families) if _comparable(*(known.get(n, {}) for n in pair))]
    together = [comparison for one in (*pairs, *depths) for comparison in one.comparisons]
    verdicts = iter(holm(together))
    found = []
    for one in (*pairs, *depths):
        told = {name: next(verdicts) for name in one.estimates}
        about, source = (_plain_beside_residual, _PAIR) if one in pairs else (_across_depth, _DEPTHS)
        rule = f"{source} {told_by(f'Welch’s t {_UNITS}', together)} {INTERVALS}"
        found.append(Finding(about(one, told) + _saturated(one, frame, known), rule))
    return [*found, *_linear(frame)]


def _pairs(families: Mapping[tuple[str, ...], Mapping[int, str]]) -> list[tuple[str, str]]:
    """Plain nets and their residual ones, depth by depth."""
    pairs = []
    for (family, prefix, suffix), plain in families.items():
        for (other, other_prefix, other_suffix), residual in families.items():
            if (family, other, prefix) == ("plain", "resnet", other_prefix) and _without_branches(
                other_suffix
            ) == _without_branches(suffix):
                pairs += [(plain[depth], residual[depth]) for depth in sorted(plain.keys() & residual.keys())]
    return pairs


def _depths(families: Mapping[tuple[str, ...], Mapping[int, str]]) -> list[tuple[str, str]]:
    """The deepest and the shallowest net of each family."""
    return [(nets[max(nets)], nets[min(nets)]) for nets in families.values() if len(nets) > 1]


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both are as initialized, or of one known recipe; facts that a probe does not have are not asked for."""
    if "recipe" not in one or "recipe" not in other:
        return True
    if not one.get("trained", True) and not other.get("trained", True):
        return True
    same: bool = one["recipe"] is not None and one["recipe"] == other["recipe"]
    return same


def _plain_beside_residual(one: _Beside, told: Mapping[str, Verdict]) -> str:
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


def _across_depth(one: _Beside, told: Mapping[str, Verdict]) -> str:
    deep, shallow = (_NAME.fullmatch(name) for name in (one.first, one.second))
    assert deep is not None
    assert shallow is not None
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
    family = f"{deep['prefix']}{deep['family']}N{deep['suffix']}"
    return f"From {shallow['depth']} to {deep['depth']} layers, of {family}, the {'; '.join(parts)}."


def _saturated(one: _Beside, frame: pd.DataFrame, known: Mapping[str, Mapping[str, Any]]) -> str:
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


def _without_branches(suffix: str) -> str:
    """A name's suffix without what only residual branches have: shortcut option and β."""
    return re.sub(r"^-[ABC]|-beta=[^@]*", "", suffix)
