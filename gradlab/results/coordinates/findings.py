"""Findings of a coordinate check: the layers that scale differently from the parametrization."""

from __future__ import annotations

import pandas as pd

from gradlab.results.coordinates.slopes import AS_EXPECTED, MARGIN, NO_CHANGE, NO_EXPECTATION, NOT_FINITE, WRONG
from gradlab.results.finding import Finding
from gradlab.results.grouping import counted
from gradlab.stats.verdict import FALSE_ALARMS

NAMES = {"mup": "μP", "standard": "the standard parametrization"}

_WORDS = {
    "size": "its response at initialization",
    "branch": "what it adds to its input at initialization",
    "change": "the change of its response",
    "update": "the change that its own weights make",
}

_SOURCES = {
    "width": "Yang et al. 2022, arXiv:2203.03466: coordinate check.",
    "depth": "Yang et al. 2023, arXiv:2310.02244: responses and their changes are of one size at any depth.",
}
_TEST = (
    "Exponents by least squares on logarithms over all networks; Student's t against the expected range widened "
    f"by {MARGIN:g} on both sides; all verdicts of the check are false in at most {FALSE_ALARMS:.0%} of cases "
    "(Holm 1979)."
)


def findings(table: pd.DataFrame, parametrization: str) -> list[Finding]:
    """One sentence per axis if all exponents are as expected, or else one per quantity that is not.

    Args:
        table: The table of exponents from `slopes`.
        parametrization: The parametrization: `mup` or `standard`.
    """
    found: list[Finding] = []
    for axis, of_axis in table.groupby("axis", sort=False):
        rule = f"{_SOURCES[str(axis)]} {_TEST}"
        what = NAMES[parametrization] if axis == "width" else "a limit of infinite depth"
        judged = of_axis[of_axis["verdict"] != NO_EXPECTATION]
        wrong = judged[judged["verdict"].isin(WRONG)]
        if wrong.empty:
            found.append(Finding(_all_right(judged, str(axis), what), rule))
            continue
        layers = list(dict.fromkeys(wrong["layer"]))
        do = "does" if len(layers) == 1 else "do"
        named = f"{len(layers)} of {counted(judged['layer'].nunique(), 'layer')} {do} not scale with {axis}"
        first = f"it is {layers[0]}" if len(layers) == 1 else f"the first of them is {layers[0]}"
        found.append(Finding(f"{named} as {what} predicts; {first}.", rule))
        found += [Finding(_one(row, str(axis)), rule) for _, row in wrong.iterrows()]
    return found


def _all_right(judged: pd.DataFrame, axis: str, what: str) -> str:
    layers, told = judged["layer"].nunique(), judged[judged["verdict"] == AS_EXPECTED]
    if told.empty:
        return (
            f"No conclusion is possible on the scaling of {counted(layers, 'layer')} with {axis}: more seeds or sizes "
            "are needed."
        )
    outside = (told["exponent"] - told["exponent"].clip(told["low"], told["high"])).abs().max()
    untold = len(judged) - len(told)
    if untold:
        within = f"{len(told)} exponents are" if len(told) > 1 else "one exponent is"
        return (
            f"None of {counted(layers, 'layer')} is found to scale with {axis} differently from {what}; {within} "
            f"within {outside:.2f} of its own, and on {untold} no conclusion is possible: more seeds or sizes are "
            "needed."
        )
    begin = "The only layer scales" if layers == 1 else f"All {layers} layers scale"
    return f"{begin} with {axis} as {what} predicts, within {outside:.2f} of its exponents."


def _one(row: pd.Series, axis: str) -> str:
    subject = f"{row['layer']} ({row['kind']}): {_WORDS[row['quantity']]}"
    if row["verdict"] == NOT_FINITE:
        return f"{subject} is not finite at every {axis}."
    if row["verdict"] == NO_CHANGE:
        return f"{subject} is exactly 0 at every {axis}."
    low, high = row["low"], row["high"]
    expected = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    law = f"{axis}^({row['exponent']:.2f} ± {row['error']:.2f})"
    return f"{subject} scales as {law}, which is {row['verdict']}: expected is {expected}."
