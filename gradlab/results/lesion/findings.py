"""Findings on lesions: what deleting and reordering costs, and which paths carry the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from gradlab.results.comparable import is_comparable, not_compared
from gradlab.results.finding import Finding
from gradlab.results.grouping import counted
from gradlab.results.intervals import INTERVALS, and_p, factor_with_interval, told_by, with_interval
from gradlab.results.label import description
from gradlab.results.lesion.paths import effective_paths
from gradlab.stats.path_gradients import COVERED
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, from_constant, holm, trend

OVER_IMAGES = (
    "The increase of an image's error, averaged over the deletions of one part at a time, is compared over images."
)
OVER_ORDERS = "The error of random orders is fitted against their Kendall tau."
PATHS = (
    "Veit et al. 2016 (1605.06431), §5: the number of paths of each length times the mean norm of the gradient on one "
    f"of them; the lengths leave out at most {(1 - COVERED) / 2:.1%} at each end."
)

Facts = Mapping[str, Any]


def findings(frame: pd.DataFrame, paths: pd.DataFrame, networks: Sequence[Facts]) -> list[Finding]:
    """Return sentences with numbers on each network, and on pairs of a residual and a plain one.

    Args:
        frame: A lesion frame.
        paths: The sampled paths.
        networks: The facts on each network in the record.
    """
    known = [facts for facts in networks if "increase" in facts and not facts.get("near_chance")]
    found = [*_comparisons(known), *_deletions(frame, known)]
    found += _several(frame)
    found += _orders(frame)
    found += _paths(paths)
    return [*found, *(not_compared(networks, "the costs of lesions") if known else [])]


def _increase(facts: Facts) -> Estimate:
    """The mean increase of the error, in percentage points."""
    return Estimate.mean(100 * facts["increase"], 100 * _number(facts["increase_sem"]), int(facts["images"]))


def _number(value: float | None) -> float:
    """A number that a file may have as missing."""
    return math.nan if value is None else value


def _deletions(frame: pd.DataFrame, networks: Sequence[Facts]) -> list[Finding]:
    """The cost of deleting one part of each network."""
    comparisons = [from_constant(_increase(facts), 0.0) for facts in networks]
    found = []
    for facts, comparison, verdict in zip(networks, comparisons, holm(comparisons), strict=True):
        rows = frame[frame["network"] == facts["network"]]
        deleted, intact = rows[rows["study"] == "delete"], rows["error"].iloc[0]
        worst = deleted.loc[deleted["error"].idxmax()]
        name = " ".join(filter(None, (worst["block"], worst["branch"])))
        resized = " (which changes the shape)" if pd.notna(worst["resized"]) and worst["resized"] else ""
        what = f"{facts['network']}: deleting one {facts['part']} of {len(deleted)}"
        cost = _cost(_increase(facts), intact, verdict)
        sentence = f"{what} {cost}; the error is {worst['error']:.1%} at most, without {name}{resized}."
        rule = f"{OVER_IMAGES} {told_by('Student t', comparisons)}{and_p(comparison, verdict)} {INTERVALS}"
        found.append(Finding(sentence, rule))
    return found


def _cost(increase: Estimate, intact: float, verdict: Verdict) -> str:
    """What a deletion does to the error of the intact network, on average."""
    points = f"{with_interval(increase, 2)} percentage points"
    if verdict.speaks:
        return f"changes the error of {intact:.1%} by {points} on average"
    if verdict is Verdict.NOTHING and increase.value:
        return f"changes the error of {intact:.1%} by {points} on average, without a test, as no two images differ"
    return f"does not significantly change the error of {intact:.1%} on average ({points})"


def _comparisons(networks: Sequence[Facts]) -> list[Finding]:
    """The costs in plain and in residual networks, compared."""
    kinds: dict[str, list[Facts]] = {"plain": [], "residual": []}
    for facts in networks:
        kinds.get(str(description(facts).get("kind")), []).append(facts)
    pairs = [(one, other) for one, other in product(*kinds.values()) if is_comparable(one, other)]
    comparisons = [difference(_increase(one), _increase(other)) for one, other in pairs]
    found = []
    for (plain, residual), comparison, verdict in zip(pairs, comparisons, holm(comparisons), strict=True):
        costs = [f"{with_interval(_increase(facts), 2)}" for facts in (plain, residual)]
        words = {
            Verdict.LARGER: "raises the error more than",
            Verdict.SMALLER: "raises the error less than",
            Verdict.ALIKE: "raises the error not significantly differently from",
        }.get(verdict, "cannot be compared with")
        sentence = (
            f"Deleting a {plain['part']} of {plain['network']} {words} deleting a {residual['part']} of "
            f"{residual['network']}: by {costs[0]} percentage points, against {costs[1]}."
        )
        rule = f"{OVER_IMAGES} {told_by('Welch t', comparisons)}{and_p(comparison, verdict)} {INTERVALS}"
        found.append(Finding(sentence, rule))
    return found


def _several(frame: pd.DataFrame) -> list[Finding]:
    """The error with the largest number of random parts deleted."""
    found = []
    for network, rows in frame[frame["study"] == "several"].groupby("network", sort=False):
        most = rows["count"].max()
        errors = rows.loc[rows["count"] == most, "error"]
        estimate = Estimate.of(100 * errors.to_numpy(float))
        error = with_interval(estimate, 1, most=100, least=0)
        # One choice has an error, and no interval.
        intervals = "" if math.isnan(estimate.interval()[0]) else f" {INTERVALS}"
        sentence = f"{network}: with {counted(most, 'random part')} deleted, the error is {error} %."
        found.append(Finding(sentence, f"Mean over {counted(len(errors), 'random choice')}.{intervals}"))
    return found


def _orders(frame: pd.DataFrame) -> list[Finding]:
    """Whether the error depends on the order of blocks."""
    orders = frame[frame["study"] == "reorder"]
    names = list(dict.fromkeys(orders["network"]))
    fits: list[Comparison] = []
    for name in names:
        rows = orders[orders["network"] == name]
        fits.append(trend(rows["tau"].to_numpy(float), 100 * rows["error"].to_numpy(float)))
    found = []
    for name, fit, verdict in zip(names, fits, holm(fits), strict=True):
        rows = orders[orders["network"] == name]
        least = orders.loc[rows["tau"].idxmin()]
        if verdict is Verdict.NOTHING:
            found.append(_without_slope(name, rows["error"], least))
            continue
        far = f"at a tau of {least['tau']:.2f}, the lowest, the error is {least['error']:.1%}"
        sentence = (
            f"{name}: the error falls by {-fit.difference / 10:.2g} percentage points for each 0.1 of Kendall tau with "
            f"the original order of blocks; {far}."
            if verdict is Verdict.SMALLER
            else f"{name}: the error does not significantly fall with Kendall tau of the order of blocks; {far}."
        )
        rule = f"{OVER_ORDERS} {told_by('Student t of the slope', fits)}{and_p(fit, verdict)}"
        found.append(Finding(sentence, rule))
    return found


def _without_slope(name: str, errors: pd.Series[float], least: pd.Series[Any]) -> Finding:
    """What orders show that do not allow a slope: that their errors are equal, or nothing."""
    orders, tau = counted(len(errors), "random order"), f"{least['tau']:.2f}"
    if len(errors) > 1 and errors.nunique() == 1:
        sentence = f"the error is {errors.iloc[0]:.1%} in all {orders} of blocks, down to a Kendall tau of {tau}"
    else:
        sentence = f"with blocks in an order of Kendall tau {tau}, the error is {least['error']:.1%}"
    return Finding(f"{name}: {sentence}.", f"Of {orders}, which allow no slope.")


def _paths(paths: pd.DataFrame) -> list[Finding]:
    """The decay of the gradient with the length of a path, and the effective paths."""
    found = []
    for network, rows in paths.groupby("network", sort=False):
        effective = effective_paths(rows)
        if not math.isfinite(effective.depth.value):
            continue
        depth = with_interval(effective.depth, 1, most=effective.modules, least=0)
        found.append(
            Finding(
                f"{network}: paths through {effective.shortest} to {effective.longest} of "
                f"{counted(effective.modules, 'residual module')}, {effective.paths:.2%} of all paths, carry "
                f"{effective.part:.1%} of the gradient magnitude; the effective depth is {depth} modules.",
                f"{PATHS} The effective depth is the mean length weighted so. {INTERVALS}",
            )
        )
        found.append(_decay(str(network), effective.decay))
    return found


def _decay(network: str, decay: Estimate) -> Finding:
    """How the gradient on a path changes with its length."""
    sets = counted(decay.samples, "set")
    rule = f"Least squares of the log norm against length, for each of {sets} of sampled paths of every length."
    if math.isnan(decay.value):
        sentence = "on paths of all lengths but one it is 0, for some of the examples, so that no factor is given"
        return Finding(f"{network}: the gradient on a path has no rate per residual module: {sentence}.", rule)
    factor = factor_with_interval(decay)
    sentence = f"{network}: the gradient on a path changes by a factor of {factor} per residual module."
    return Finding(sentence, f"{rule}{f' {INTERVALS}' if ' to ' in factor else ''}")
