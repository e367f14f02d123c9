"""Findings of a shatter measurement, compared with the laws of Balduzzi et al. 2017."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.intervals import INTERVALS, and_p, factor_with_interval, told_by, where_given, with_interval
from gradlab.results.label import description
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, from_constant, holm

Families = Mapping[str, Mapping[str, Any]]
"""The properties of each family, by its name."""

NARROW = 10
"""The width below which measurements are not compared with the laws, which are for wide nets."""

DEEP = 8
"""The number of layers from which there is a finding on whether a net shatters."""

_SIDE_BY_SIDE = (
    "Balduzzi et al. 2017, §2 and Fig. 2: correlation falls with depth faster in feedforward than in residual nets. "
    "Reported at every depth at which ff and another family were measured."
)
_PATHS = (
    "Reported without a verdict for the greatest depth. The paths counted are active at two fixed inputs, a quarter of "
    "the line from either end, the backward weights averaged analytically as in the proofs of Balduzzi et al. 2017, "
    "Theorems 1 to 3; the error is the jackknife's over seeds, of the logarithm."
)
_UNNORMALIZED = (
    "The deepest of the feedforward nets without normalization. Balduzzi et al. 2017, Theorem 1, takes neurons to be "
    f"active independently at two inputs; without normalization they are not. Said from {DEEP} layers on, of nets "
    "whose gradient is not constant, where the interval of lag 1 lies above 1/2."
)


def nearest_noise(acf: pd.DataFrame, noise: Mapping[str, Sequence[float]]) -> str:
    """The position of an autocorrelation between brown and white noise, in words.

    The position is the weight of brown noise in a mixture of both expected autocorrelations, at lag 1 and by least
    squares over lags 1 to 20. The result is white or brown if both weights agree, and `between` otherwise.

    Args:
        acf: The rows of one network and depth: lag and acf.
        noise: The expected autocorrelations of `brown` and `white` noise from lag 0 on.
    """
    rows = acf[(acf["lag"] >= 1) & (acf["lag"] <= 20)]
    if rows.empty:
        return "–"
    if (acf["n_constant"] == acf["seeds"]).all():
        return "constant"
    lags = rows["lag"].to_numpy()
    brown, white = (np.asarray(noise[kind])[lags] for kind in ("brown", "white"))
    above, span = rows["acf"].to_numpy() - white, brown - white
    weights = above[0] / span[0], float(above @ span / (span @ span))
    if max(weights) < 0.1:
        return "white"
    if min(weights) < 0.9:
        return "between"
    return "brown" if max(weights) < 1.1 else "smoother than brown"


def findings(
    summary: pd.DataFrame,
    acf: pd.DataFrame | None = None,
    width: int | None = None,
    facts: Iterable[Mapping[str, Any]] = (),
) -> list[Finding]:
    """Sentences with numbers on the families that shatter, the rate of decay, and the laws.

    Args:
        summary: A shatter summary frame.
        acf: The autocorrelations, whose n_constant is the number of nets with a constant gradient.
        width: The width of the nets; None if it is unknown.
        facts: The facts on each family in the record: network and description.
    """
    constant = _constant(acf)
    families = {one["network"]: description(one) for one in facts}
    found = _residual_against_feedforward(summary, constant, families) + _paths(summary)
    if width is not None and width < NARROW:
        narrow = f"With {width} neuron{'s' if width > 1 else ''} per layer nothing is compared with the laws"
        return [*found, Finding(f"{narrow}, which are for wide nets.", f"Laws are compared from a width of {NARROW}.")]
    return found + _decays(summary, families) + _unnormalized(summary, constant, families)


def _constant(acf: pd.DataFrame | None) -> dict[tuple[str, int], int]:
    """The number of nets of a family and depth with a constant gradient."""
    if acf is None or acf.empty:
        return {}
    first = acf.drop_duplicates(["network", "depth"])
    return {(row.network, row.depth): int(row.n_constant) for row in first.itertuples()}


def _estimate(row: pd.Series) -> Estimate:
    return Estimate.mean(row["value"], row["sem"], row["seeds"])


def _residual_against_feedforward(
    summary: pd.DataFrame, constant: Mapping[tuple[str, int], int], families: Families
) -> list[Finding]:
    lag1 = summary[summary["statistic"] == "lag1"]
    plain = [name for name, known in families.items() if _is_feedforward(known) and name == known["family"]]
    pairs: list[tuple[int, pd.Series, pd.Series]] = []
    for depth in sorted(set(lag1["depth"])):
        rows = lag1[lag1["depth"] == depth]
        (feedforward,) = [row for _, row in rows.iterrows() if row["network"] in plain] or [None]
        if feedforward is not None:
            pairs += [(depth, feedforward, row) for _, row in rows.iterrows() if row["network"] not in plain]
    comparisons = [difference(_estimate(other), _estimate(ff)) for _, ff, other in pairs]
    verdicts = holm(comparisons)
    findings = [] if pairs else _deepest(lag1, constant)
    # The greatest depth answers the main question.
    for depth in sorted({depth for depth, _, _ in pairs}, reverse=True):
        here = [place for place, pair in enumerate(pairs) if pair[0] == depth]
        ff = pairs[here[0]][1]
        others = "; ".join(_beside(pairs[place][2], verdicts[place], constant) for place in here)
        told = f"{with_interval(_estimate(ff), most=1)}{_constants(ff, constant)} in ff ({ff['norm']}); {others}"
        sentence = _of_neighbours(depth, told)
        rule = f"{_SIDE_BY_SIDE} {told_by('Welch’s t over seeds', comparisons)} {INTERVALS}"
        findings.append(Finding(sentence, rule))
    return findings


def _deepest(lag1: pd.DataFrame, constant: Mapping[tuple[str, int], int]) -> list[Finding]:
    """The findings on families without a feedforward net to compare with."""
    rows = [row for _, row in lag1[lag1["depth"] == lag1["depth"].max()].iterrows()]
    if not rows:
        return []
    told = "; ".join(_beside(row, Verdict.NOTHING, constant) for row in rows)
    sentence = _of_neighbours(rows[0]["depth"], told)
    return [Finding(sentence, f"Reported without a verdict for the greatest depth. {INTERVALS}")]


def _of_neighbours(depth: int, told: str) -> str:
    start = f"At depth {depth} gradients of neighbouring inputs have a lag-1 autocorrelation"
    return f"{start}{where_given(told)} of {told}."


def _beside(row: pd.Series, verdict: Verdict, constant: Mapping[tuple[str, int], int]) -> str:
    """The autocorrelation at lag 1 of another family, and its comparison with that of ff."""
    number = f"{with_interval(_estimate(row), most=1)} in {row['network']}{_constants(row, constant)}"
    return number if verdict is Verdict.NOTHING else f"{number}, {verdict}"


def _constants(row: pd.Series, constant: Mapping[tuple[str, int], int]) -> str:
    """A remark on constant gradients, if there are any."""
    count = constant.get((row["network"], row["depth"]), 0)
    if not count:
        return ""
    which = "all" if count == row["seeds"] else f"{count} of {row['seeds']}"
    return f" ({which} constant, which counts as 1)"


def _paths(summary: pd.DataFrame) -> list[Finding]:
    """The finding on the correlation of the fixed pair by path counting, which varies much between nets."""
    rows = summary[(summary["statistic"] == "path_correlation") & (summary["depth"] == summary["depth"].max())]
    known = rows[np.isfinite(rows["value"]) & (rows["value"] > 0)]
    measured = [f"{factor_with_interval(_log(row), most=1)} in {row['network']}" for _, row in known.iterrows()]
    if not measured:
        return []
    start = f"At depth {known['depth'].iloc[0]}, counting co-active paths, gradients at a fixed pair correlate"
    told = ", ".join(measured)
    return [Finding(f"{start}{where_given(told)} by {told}.", f"{_PATHS} {INTERVALS}")]


def _log(row: pd.Series) -> Estimate:
    """The logarithm of a value, to first order in its error."""
    return Estimate.mean(math.log(row["value"]), row["sem"] / row["value"], row["seeds"])


def _decays(summary: pd.DataFrame, families: Families) -> list[Finding]:
    names = ("decay_exponent", "decay_log_factor")
    rows = [row for _, row in summary[summary["statistic"].isin(names)].iterrows() if math.isfinite(row["value"])]
    comparisons = [from_constant(_estimate(row), row["theory"]) for row in rows]
    return [
        _decay(row, summary, _is_feedforward(families.get(row["network"], {})), comparison, verdict, comparisons)
        for row, comparison, verdict in zip(rows, comparisons, holm(comparisons), strict=True)
    ]


def _decay(
    row: pd.Series,
    summary: pd.DataFrame,
    feedforward: bool,
    comparison: Comparison,
    verdict: Verdict,
    together: Sequence[Comparison],
) -> Finding:
    """The finding on two fits, for the fixed pair and for an average pair, and on the law for the latter."""
    same = summary[(summary["network"] == row["network"]) & (summary["depth"] == row["depth"])].set_index("statistic")
    power = row["statistic"] == "decay_exponent"
    theorem = 3 if power else 1 if feedforward else 2
    fixed = same.loc[f"pair_{row['statistic']}"] if f"pair_{row['statistic']}" in same.index else None
    law = f"{row['theory']:.3f}" if power else f"{math.exp(row['theory']):.3f}"
    coins = f"neurons are active at {same.loc['coactivation', 'value']:.3f} of pairs, coins at 0.250"
    at_pair = "" if fixed is None else f"of gradients at a fixed pair falls {_rate(fixed, power)}, "
    sentence = (
        f"{row['network']} ({row['norm']}): over layers {int(row['from_layer'])} to {row['depth']}, counting co-active "
        f"paths, the correlation {at_pair}of an average pair {'falls ' if fixed is None else ''}{_rate(row, power)}; "
        f"the law of coin flips, which is of an average pair, has {law}: {_beside_law(verdict)} ({coins})"
        f"{_limit(row) if power else ''}."
    )
    rule = (
        f"Balduzzi et al. 2017, Theorem {theorem}: least squares of correlation ~ {'L^p' if power else 'r^L'} over the "
        "layers named, with the jackknife's error over seeds, beside the same fit to the exact law of independent coin "
        f"flips. {told_by('Student’s t over seeds', together)}{and_p(comparison, verdict)} {INTERVALS}"
    )
    return Finding(sentence, rule)


def _rate(row: pd.Series, power: bool) -> str:
    if power:
        return f"as L^p with p = {with_interval(_estimate(row))}"
    return f"by a factor {factor_with_interval(_estimate(row))} a layer"


def _beside_law(verdict: Verdict) -> str:
    return {
        Verdict.LARGER: "the measured fall is slower",
        Verdict.SMALLER: "the measured fall is faster",
        Verdict.ALIKE: "the two are not significantly different",
        Verdict.NOTHING: "there are too few seeds for a conclusion",
    }[verdict]


def _limit(row: pd.Series) -> str:
    """The limit of the law at great depth, and its difference from the measured nets."""
    if row["norm"] == "bn":
        return (
            "; at great depth that law tends to -0.734, since batch normalization centres, where the usual -1/2 is for "
            "normalization without centring"
        )
    return "; at great depth that law tends to -1/2, but uncentred inputs grow alike with depth, and so do neurons"


def _is_feedforward(known: Mapping[str, Any]) -> bool:
    """Whether a family consists of feedforward nets with ReLUs, to which Theorem 1 applies."""
    return known.get("kind") == "plain" and known.get("unit") == "relu"


def _unnormalized(summary: pd.DataFrame, constant: Mapping[tuple[str, int], int], families: Families) -> list[Finding]:
    rows = summary[(summary["statistic"] == "lag1") & (summary["norm"] == "none")]
    findings = []
    for network, part in rows.groupby("network", sort=False):
        known = families.get(str(network), {})
        deepest = part.loc[part["depth"].idxmax()]
        if deepest["depth"] < DEEP or not _is_feedforward(known):
            continue
        estimate, dead = _estimate(deepest), _constants(deepest, constant)
        start = (
            f"{network}: lag-1 autocorrelation at depth {deepest['depth']} is {with_interval(estimate, most=1)}{dead}"
        )
        if dead:
            reason = "where no neuron switches along the line, no conclusion on shattering is possible"
        elif not known["options"].get("bias", 1):
            reason = "without bias and norm the gradient is a single step at 0, at any depth"
        elif estimate.interval()[0] > 0.5:
            reason = "a feedforward net without normalization does not shatter as one with it does"
        else:
            reason = "there are too few nets to conclude whether it shatters"
        findings.append(Finding(f"{start}: {reason}.", f"{_UNNORMALIZED} {INTERVALS}"))
    return findings
