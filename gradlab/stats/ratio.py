"""The ratio of two noisy quantities with a confidence interval, unless the denominator may be 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gradlab.stats.verdict import CONFIDENCE, FALSE_ALARMS, Estimate, Verdict, critical, from_constant

LEAST_EXAMPLES = 8
"""Smallest number of examples in a set for which a test may find its gradient nonzero."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means.

    Attributes:
        value: The ratio, NaN if it is not resolved.
        low: The lower end of its confidence interval.
        high: The upper end of its confidence interval.
        resolved: Whether the denominator differs significantly from 0.
    """

    value: float
    low: float
    high: float
    resolved: bool


UNRESOLVED = Ratio(math.nan, math.nan, math.nan, False)


def ratio(above: ArrayLike, below: ArrayLike, *, confidence: float = CONFIDENCE, rate: float = FALSE_ALARMS) -> Ratio:
    """Estimate the ratio of two means from paired samples, with Fieller's confidence interval (Fieller 1954).

    The interval contains every r for which the mean of above − r·below does not differ significantly from 0 by
    Student's t. It is not symmetric. If the denominator does not differ significantly from 0, the interval would be
    unbounded, and the ratio is unresolved.

    Args:
        above: Samples of the numerator, shape (n,).
        below: Samples of the denominator for the same seeds or sets, shape (n,).
        confidence: The probability that the interval contains the true ratio.
        rate: The probability that a denominator of 0 is found to be nonzero.
    """
    one, other = (np.asarray(samples, dtype=float).ravel() for samples in (above, below))
    top, bottom = Estimate.of(one), Estimate.of(other)
    if not from_constant(bottom, 0.0).verdict(rate).speaks or not math.isfinite(top.value):
        return UNRESOLVED
    t2 = critical(bottom.freedom, 1 - confidence) ** 2
    covariance = float(np.cov(one, other)[0, 1]) / len(one)
    # Roots of (a − r b)² = t² (var a − 2 r cov + r² var b).
    square = bottom.value**2 - t2 * bottom.error**2
    middle = top.value * bottom.value - t2 * covariance
    root = math.sqrt(max(middle**2 - square * (top.value**2 - t2 * top.error**2), 0.0))
    return Ratio(top.value / bottom.value, (middle - root) / square, (middle + root) / square, True)


def gradient_of_one_set(variance: float, square: float, examples: int, rate: float = FALSE_ALARMS) -> Verdict:
    """Test whether |G|² exceeds 0, from the norms of a single set of examples.

    If |G|² = 0, its unbiased estimate has the variance 2 tr(Σ²)/(B (B − 1)), at most 2 tr(Σ)²/(B (B − 1)). By
    Cantelli's inequality it exceeds √(1/rate − 1) standard deviations with probability at most `rate`, whatever its
    distribution. Below `LEAST_EXAMPLES` examples, tr(Σ) itself is too uncertain for this test.

    Args:
        variance: The estimate of tr(Σ) from `gradient_variance`.
        square: The estimate of |G|² from `true_gradient_square`.
        examples: The number B of examples.
        rate: The probability of a false alarm.

    Returns:
        `Verdict.LARGER`, `Verdict.ALIKE` or `Verdict.NOTHING`.
    """
    if examples < LEAST_EXAMPLES or not (math.isfinite(variance) and math.isfinite(square)):
        return Verdict.NOTHING
    bound = math.sqrt((1 / rate - 1) * 2 / (examples * (examples - 1))) * variance
    return Verdict.LARGER if square > bound else Verdict.ALIKE
