"""Findings on rectifiers along a line: how often they switch, beside coin flips and infinite width."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.intervals import INTERVALS, and_p, told_by, with_interval
from gradlab.stats.verdict import Estimate, Verdict, difference, from_constant, holm

COIN_FLIPS = 0.5
"""The switch rate of independent coin flips."""

RATE = "Fraction of neighbouring inputs at which a neuron of the last layer switches, one value for each net."


def findings(last: pd.DataFrame) -> list[Finding]:
    """Return sentences with numbers.

    Args:
        last: The rows of the last layers of an activations frame.
    """
    rates = {str(network): Estimate.of(rows["switch_rate"]) for network, rows in last.groupby("network", sort=False)}
    return [*_ranked(rates), *_theory(last, rates)]


def _ranked(rates: dict[str, Estimate]) -> list[Finding]:
    """The networks by their rates, and which neighbours differ."""
    ordered = sorted(rates, key=lambda network: -rates[network].value)
    comparisons = [difference(rates[one], rates[other]) for one, other in pairwise(ordered)]
    verdicts = holm(comparisons)
    listed = "; ".join(f"{network} {with_interval(rates[network], most=1, least=0)}" for network in ordered)
    found = [
        Finding(
            f"In the last layer a neuron switches between neighbouring inputs in this fraction of cases (coin flips: "
            f"{COIN_FLIPS}): {listed}.",
            f"{RATE} {INTERVALS}",
        )
    ]
    for (one, other), comparison, verdict in zip(pairwise(ordered), comparisons, verdicts, strict=True):
        if verdict is Verdict.NOTHING:
            continue
        sentence = (
            f"Neurons switch more often in {one} than in {other}."
            if verdict.speaks
            else f"Neurons of {one} and {other} do not switch significantly differently often."
        )
        found.append(Finding(sentence, f"{RATE} {told_by('Welch t', comparisons)}{and_p(comparison, verdict)}"))
    return found


def _theory(last: pd.DataFrame, rates: dict[str, Estimate]) -> list[Finding]:
    """Agreement with infinite width, where there is a limit."""
    known = last.groupby("network", sort=False)["theory"].first().dropna()
    comparisons = [from_constant(rates[str(network)], float(value)) for network, value in known.items()]
    found = []
    for (network, value), comparison, verdict in zip(known.items(), comparisons, holm(comparisons), strict=True):
        agreement = {
            Verdict.ALIKE: "not significantly different from",
            Verdict.LARGER: "more than",
            Verdict.SMALLER: "less than",
        }.get(verdict)
        if agreement is not None:
            rate = with_interval(rates[str(network)], most=1, least=0)
            found.append(
                Finding(
                    f"{network}: the switch rate {rate} is {agreement} that of infinite width, {value:.3f}.",
                    f"{RATE} {told_by('Student t', comparisons)}{and_p(comparison, verdict)}",
                )
            )
    return found
