"""The ratio of two noisy quantities, with an interval, or none where the denominator may be 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gradlab.stats.verdict import CONFIDENCE, FALSE_ALARMS, Estimate, Verdict, critical, from_constant

LEAST_EXAMPLES = 8
"""Of one set, from which on its gradient may be told from 0."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means.

    Attributes:
        value: NaN where it is not resolved.
        low: Lower end of its interval.
        high: Upper end.
        resolved: Whether the denominator is told from 0.
    """

    value: float
    low: float
    high: float
    resolved: bool


UNRESOLVED = Ratio(math.nan, math.nan, math.nan, False)


def ratio(above: ArrayLike, below: ArrayLike, *, confidence: float = CONFIDENCE, rate: float = FALSE_ALARMS) -> Ratio:
    """The mean of one quantity over that of another, of samples that belong together (Fieller 1954).

    The interval holds every r for which the mean of above − r·below is not told from 0, by Student's t. It is not
    symmetric, and would reach infinity where the denominator is not told from 0; there the ratio is unresolved.

    Args:
        above: (n,), samples of the numerator.
        below: (n,), those of the denominator, of the same seeds or sets.
        confidence: Share of intervals that hold the true ratio.
        rate: Share of denominators that are 0 and said not to be.
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
    """Whether |G|² is told from 0 by the norms of one set of examples alone.

    With |G|² = 0 its unbiased estimate has the variance 2 tr(Σ²)/(B (B − 1)), at most 2 tr(Σ)²/(B (B − 1)); by
    Cantelli's inequality it exceeds √(1/rate − 1) standard deviations with a probability of `rate` at most, however
    it is distributed. Below `LEAST_EXAMPLES` tr(Σ) itself is too uncertain for that.

    Args:
        variance: tr(Σ), as of `gradient_variance`.
        square: |G|², as of `true_gradient_square`.
        examples: B.
        rate: Share of false alarms.

    Returns:
        Larger, not told apart, or that nothing can be told.
    """
    if examples < LEAST_EXAMPLES or not (math.isfinite(variance) and math.isfinite(square)):
        return Verdict.NOTHING
    bound = math.sqrt((1 / rate - 1) * 2 / (examples * (examples - 1))) * variance
    return Verdict.LARGER if square > bound else Verdict.ALIKE
