"""Claims of the literature on gradients across depth at initialization, compared with a measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

import pandas as pd

from gradlab.results.comparable import is_comparable, not_compared
from gradlab.results.finding import Finding
from gradlab.results.intervals import INTERVALS, and_p, factor_with_interval, told_by
from gradlab.results.label import description
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, from_constant, holm


@dataclass(frozen=True)
class Claim:
    """A claim of the literature.

    Attributes:
        key: The name in tables.
        words: The claim as a sentence without its full stop.
        source: The paper.
    """

    key: str
    words: str
    source: str


CLAIMS = {
    "he": Claim(
        "he",
        "In theory He initialization without normalization keeps the gradient's second moment constant",
        "He et al. 2015, arXiv:1502.01852",
    ),
    "batch norm": Claim(
        "batch norm",
        "In theory batch normalization without shortcuts makes the gradient's second moment grow with every layer "
        "towards the input, without padding by π/(π − 1) = 1.467",
        "Yang et al. 2019, arXiv:1902.08129",
    ),
    "residual": Claim(
        "residual",
        "In theory shortcuts let the gradient's second moment grow as a power of depth only",
        "De and Smith 2020, arXiv:2002.10444",
    ),
}
"""The claims by key."""


_PAIR = (
    "A plain and a residual net of one depth, both as initialized or both trained by one known recipe, neither near "
    "chance, measured alike; the logarithms of the ratios of the first layer's norm to the last's."
)
_PAIRED = (
    "Student’s t of the differences seed by seed (nets of one seed begin with equal weights, so what the weights do to "
    "both is in neither difference)"
)

Logarithms = Mapping[int, float]
"""The logarithms of the ratio of the first layer's norm to the last's, by seed."""


def findings(
    summary: pd.DataFrame, facts: Sequence[Mapping[str, Any]] = (), ratios: Sequence[Logarithms] = ()
) -> list[Finding]:
    """Findings on plain and residual nets at every depth, on each network and its claim, and on networks left out.

    Args:
        summary: A gradients summary.
        facts: The facts on each network in the record: description, recipe and near_chance, if they are known.
        ratios: The logarithms of ratios by seed, for each network.
    """
    known: list[tuple[Any, Any, Any]] = [*zip_longest(summary.to_dict("records"), facts, ratios, fillvalue={})]
    rows = [
        {"recipe": None, **fact, **row, "ratios": ratio, "bn": row["BN"], "trained": not _is_initial(row)}
        for row, fact, ratio in known
    ]
    labelled = [
        row | {"network": fact.get("network", row["network"])} for row, (_, fact, _) in zip(rows, known, strict=True)
    ]
    return [
        *_plain_against_residual(rows),
        *(_one_network(rows[0]) if len(rows) == 1 else []),
        *_against_theory(rows),
        *not_compared(labelled, "gradients of trained weights"),
    ]


def _one_network(row: dict[str, Any]) -> list[Finding]:
    """A finding on a network that cannot be compared with another."""
    if math.isnan(row["first / last"]):
        return []
    interval = "95 % interval" if math.isfinite(row["×/÷"]) else "of one seed, without an interval"
    sentence = (
        f"{row['network']} ({row['weights']}): the gradient is {factor_with_interval(_ratio(row))} times as large at "
        f"the first layer as at the last ({interval})."
    )
    return [Finding(sentence, f"Reported without a verdict for a single network's layers of one kind. {INTERVALS}")]


def _is_initial(row: Mapping[Any, Any]) -> bool:
    return str(row["weights"]).startswith("init")


def _plain_against_residual(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    pairs = [(plain, residual) for plain in rows for residual in rows if _counterparts(plain, residual)]
    # The deepest pair answers the main question.
    pairs.sort(key=lambda pair: -pair[0]["depth"])
    comparisons = [_compared(plain, residual) for plain, residual in pairs]
    return [
        Finding(
            _beside_plain(plain, residual, verdict),
            f"{_PAIR} {told_by(_PAIRED if _same_seeds(plain, residual) else 'Welch’s t over seeds', comparisons)}"
            f"{and_p(comparison, verdict)} {INTERVALS}",
        )
        for (plain, residual), comparison, verdict in zip(pairs, comparisons, holm(comparisons), strict=True)
    ]


def _beside_plain(plain: dict[str, Any], residual: dict[str, Any], verdict: Verdict) -> str:
    words = {Verdict.ALIKE: "not significantly different", Verdict.NOTHING: "with too few seeds for a conclusion"}
    sentence = (
        f"At {plain['depth']} layers ({plain['weights']}) the plain net's gradient is "
        f"{factor_with_interval(_ratio(plain))} times as large at its first layer as at its last, that of the residual "
        f"net ({residual['network']}) {factor_with_interval(_ratio(residual))} times, "
        f"{words.get(verdict, f'which is {verdict}')}"
    )
    if _same_seeds(plain, residual) and verdict is not Verdict.NOTHING:
        sentence += f", seed by seed by a factor {factor_with_interval(Estimate.of(_differences(plain, residual)))}"
    return f"{sentence} (95 % intervals)." if " to " in sentence else f"{sentence}."


def _compared(plain: dict[str, Any], residual: dict[str, Any]) -> Comparison:
    """The comparison seed by seed if both have the same seeds, or else of the means over seeds."""
    if _same_seeds(plain, residual):
        return from_constant(Estimate.of(_differences(plain, residual)), 0.0)
    return difference(_ratio(residual), _ratio(plain))


def _same_seeds(plain: dict[str, Any], residual: dict[str, Any]) -> bool:
    return len(plain["ratios"]) > 1 and plain["ratios"].keys() == residual["ratios"].keys()


def _differences(plain: dict[str, Any], residual: dict[str, Any]) -> list[float]:
    return [residual["ratios"][seed] - logarithm for seed, logarithm in plain["ratios"].items()]


def _counterparts(plain: dict[str, Any], residual: dict[str, Any]) -> bool:
    """Whether two networks are a plain net and its residual counterpart, measured in the same way."""
    kinds = tuple(description(row).get("kind") for row in (plain, residual))
    forms = [(known.get("form"), known.get("width")) for known in map(description, (plain, residual))]
    alike = all(plain[key] == residual[key] for key in ("depth", "BN")) and forms[0] == forms[1]
    known = not any(math.isnan(row["first / last"]) for row in (plain, residual))
    return alike and known and kinds == ("plain", "residual") and is_comparable(plain, residual)


def _against_theory(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """One sentence per claim, with all networks to which it applies."""
    known = [row for row in rows if row["claim"] in CLAIMS and not math.isnan(row["growth a layer"])]
    known.sort(key=lambda row: list(CLAIMS).index(row["claim"]))
    comparisons = [from_constant(_growth(row), math.log(row["theory"])) for row in known]
    verdicts = dict(zip((id(row) for row in known), holm(comparisons), strict=True))
    sentences = []
    for key, group in groupby(known, key=lambda row: str(row["claim"])):
        claim = CLAIMS[key]
        measured = "; ".join(_measured(row, verdicts[id(row)]) for row in group)
        intervals = " (with 95 % intervals)" if " to " in measured else ""
        sentence = (
            f"{claim.words} ({claim.source}). Here it grows per layer by{intervals}: {measured}. Theory is of "
            "infinite width, away from the loss."
        )
        rule = (
            f"{claim.source}, of networks as initialized; the slope of the logarithm over layers of one shape. "
            f"{told_by('Student’s t over seeds', comparisons)} {INTERVALS}"
        )
        sentences.append(Finding(sentence, rule))
    return sentences


def _measured(row: dict[str, Any], verdict: Verdict) -> str:
    beside = {
        Verdict.LARGER: "more than in theory",
        Verdict.SMALLER: "less than in theory",
        Verdict.ALIKE: "not significantly different from theory",
        Verdict.NOTHING: "too few seeds to compare with theory",
    }[verdict]
    return f"{row['network']} {factor_with_interval(_growth(row), 4)}, {beside}, {row['theory']:.3f}"


def _growth(row: dict[str, Any]) -> Estimate:
    """The logarithm of the growth per layer, without a standard error for a single seed."""
    return _logarithm(row["growth a layer"], row["±"] / row["growth a layer"], row)


def _ratio(row: dict[str, Any]) -> Estimate:
    """The logarithm of the ratio of the first layer's norm to the last's."""
    return _logarithm(row["first / last"], math.log(row["×/÷"]), row)


def _logarithm(value: float, error: float, row: dict[str, Any]) -> Estimate:
    return Estimate.mean(math.log(value), error, int(row["seeds"]))
