"""Numbers with their uncertainties in words: estimates in findings, and the rules of verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from gradlab.stats.verdict import CONFIDENCE, FALSE_ALARMS, Comparison, Estimate, Verdict

INTERVALS = f"Intervals hold the true mean in {CONFIDENCE:.0%} of cases (Student's t)."

LEAST_P = 1e-12
"""The smallest p that a rule gives, since no test is accurate that far in the tails."""


def with_interval(estimate: Estimate, digits: int = 3, most: float = math.inf, least: float | None = None) -> str:
    """The value with its interval, or alone if there is none.

    Args:
        estimate: The estimate.
        digits: The digits after the point.
        most: The largest value that the quantity can have, as 1 for a correlation: the interval ends there.
        least: The smallest value that it can have, as 0 for an error, where the interval begins; None means −`most`.
    """
    least = -most if least is None else least
    low, high = (min(max(end, least), most) if math.isfinite(end) else end for end in estimate.interval())
    value = _rounded(estimate.value, digits)
    return value if math.isnan(low) else f"{value} ({_rounded(low, digits)} to {_rounded(high, digits)})"


def factor_with_interval(estimate: Estimate, digits: int = 3, most: float = math.inf) -> str:
    """The exponential of a logarithm with its interval, which ends at the largest value that there can be."""
    low, high = estimate.interval()
    high = min(high, math.log(most)) if math.isfinite(high) else high
    value = f"{math.exp(estimate.value):.{digits}g}"
    if math.isnan(low):
        return value
    return f"{value} ({_exp(low):.{digits}g} to {_exp(high):.{digits}g})"


def where_given(numbers: str) -> str:
    """The remark that numbers in words have an interval, empty if none has, as those of one seed."""
    return " (95 % interval)" if " to " in numbers else ""


class WithError(float):
    """A number of a table that prints with its standard error, `0.310 ± 0.020`, and sorts as the number that it is.

    Attributes:
        error: The standard error; NaN if there is none.
    """

    error: float

    def __new__(cls, value: float, error: float) -> Self:
        """Return the number; a float is immutable, so its error comes with it."""
        number = super().__new__(cls, value)
        number.error = error
        return number

    def __str__(self) -> str:
        value = _rounded(self, 3)
        return value if math.isnan(self.error) or math.isnan(self) else f"{value} ± {self.error:.3f}"

    __repr__ = __str__


def told_by(test: str, comparisons: Sequence[Comparison]) -> str:
    """The rule of verdicts that are made together, as a sentence."""
    counted = sum(math.isfinite(one.p) for one in comparisons)
    together = f", {counted} comparisons taken together (Holm)," if counted > 1 else ","
    return f"A difference is stated by {test}{together} falsely in at most {FALSE_ALARMS:.0%} of cases."


def and_p(comparison: Comparison, verdict: Verdict) -> str:
    """The outcome of one comparison, as a sentence; empty if there was none."""
    if not math.isfinite(comparison.p):
        return f" Here {verdict}."
    p = f"= {comparison.p:.2g}" if comparison.p > LEAST_P else f"< {LEAST_P:g}"
    return f" Here p {p}: {verdict}."


def _rounded(value: float, digits: int) -> str:
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}"  # the sum turns −0 into 0


def _exp(power: float) -> float:
    return math.exp(power) if power < 700 else math.inf
