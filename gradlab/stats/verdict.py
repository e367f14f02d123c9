"""Significance tests for the comparisons that findings state, at a known rate of false alarms.

An estimate has a value, a standard error and degrees of freedom, and is compared by Student's t; comparisons that are
stated together share one rate (Holm 1979). Quantities measured over seeds are slightly skewed, so that t raises more
false alarms than its nominal rate; comparisons are therefore made at half of the stated rate, which simulations
confirm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

FALSE_ALARMS = 0.01
"""Probability that a verdict reports a difference where there is none."""

CONFIDENCE = 0.95
"""Probability that an interval contains the true value."""

SKEW_MARGIN = 2.0
"""Factor by which the p-values of Student's t are raised to allow for skew."""


class Verdict(StrEnum):
    """The outcome of a comparison, for the first of two values or for a slope."""

    LARGER = "larger"
    SMALLER = "smaller"
    ALIKE = "not significantly different"
    NOTHING = "no conclusion is possible"

    @property
    def speaks(self) -> bool:
        """Whether a significant difference was found."""
        return self in (Verdict.LARGER, Verdict.SMALLER)


@dataclass(frozen=True)
class Estimate:
    """A value with its uncertainty.

    Attributes:
        value: The estimate.
        error: Its standard error, NaN if unknown.
        freedom: The degrees of freedom of the error, infinite if it is known exactly.
        samples: The number of independent samples behind the estimate.
    """

    value: float
    error: float
    freedom: float
    samples: int

    @classmethod
    def of(cls, samples: ArrayLike) -> Self:
        """Estimate the mean of independent samples. None is dropped, and a non-finite one makes the error NaN."""
        x = np.asarray(samples, dtype=float).ravel()
        # An infinite sample has no deviation from the mean.
        finite = len(x) > 1 and bool(np.isfinite(x).all())
        error = float(x.std(ddof=1) / math.sqrt(len(x))) if finite else math.nan
        return cls(float(x.mean()) if len(x) else math.nan, error, len(x) - 1, len(x))

    @classmethod
    def mean(cls, value: float, error: float, samples: int) -> Self:
        """Return a mean whose standard error is already known from the given number of samples."""
        return cls(float(value), float(error), samples - 1, int(samples))

    @property
    def known(self) -> bool:
        """Whether there are at least two samples that differ, with a finite value and error."""
        return self.samples > 1 and self.freedom > 0 and math.isfinite(self.value) and 0 < self.error < math.inf

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the confidence interval of the true value by Student's t, NaN if the error is unknown."""
        if not self.known:
            return math.nan, math.nan
        half = self.error * critical(self.freedom, 1 - confidence)
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Comparison:
    """A difference, and the probability that chance alone makes one as large.

    Attributes:
        difference: The first value minus the second, or the slope of a trend.
        error: Its standard error, NaN if none is used.
        p: The two-sided p-value, NaN if the data do not allow a test.
    """

    difference: float
    error: float
    p: float

    def verdict(self, rate: float = FALSE_ALARMS) -> Verdict:
        """Return the verdict of this comparison on its own."""
        return holm([self], rate)[0]


NOTHING = Comparison(math.nan, math.nan, math.nan)
"""The comparison of data that do not allow a test."""


def critical(freedom: float, rate: float) -> float:
    """Return the two-sided critical value of Student's t: |t| exceeds it with probability `rate`."""
    from scipy.special import ndtri, stdtrit

    return float(-ndtri(rate / 2) if math.isinf(freedom) else -stdtrit(freedom, rate / 2))


def difference(one: Estimate, other: Estimate) -> Comparison:
    """Compare two independent estimates of unequal variances (Welch 1947; degrees of freedom: Satterthwaite 1946)."""
    if not (one.known and other.known):
        return NOTHING
    errors = one.error**2 + other.error**2
    freedom = errors**2 / (one.error**4 / one.freedom + other.error**4 / other.freedom)
    return _student(one.value - other.value, math.sqrt(errors), freedom or math.inf)


def from_constant(one: Estimate, constant: float) -> Comparison:
    """Compare an estimate with an exact value, such as a theoretical one."""
    return _student(one.value - constant, one.error, one.freedom) if one.known else NOTHING


def paired(one: ArrayLike, other: ArrayLike) -> Comparison:
    """Compare paired values, such as two measured with the same seed, by Student's t of their differences."""
    return from_constant(Estimate.of(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)), 0.0)


def sign_test(one: ArrayLike, other: ArrayLike) -> Comparison:
    """Compare paired values by the sign test: is the first larger more often than a fair coin shows heads?

    It makes no assumption about distributions. Ties are dropped. Fewer than eight pairs do not allow a test, since
    seven equal signs in a row occur by chance in more than 1 % of cases. The difference is the fraction of pairs in
    which the first is larger, minus 1/2.
    """
    from scipy.special import bdtr

    gaps = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    larger, smaller = int((gaps > 0).sum()), int((gaps < 0).sum())
    count = larger + smaller
    if not np.isfinite(gaps).all() or 2 * 0.5 ** len(gaps) > FALSE_ALARMS:
        return NOTHING
    if not count:
        return Comparison(0.0, math.nan, 1.0)
    return Comparison(larger / count - 0.5, math.nan, min(1.0, 2 * float(bdtr(min(larger, smaller), count, 0.5))))


def trend(x: ArrayLike, y: ArrayLike) -> Comparison:
    """Fit the slope of y over x by least squares, with its error from the residuals, as `scipy.stats.linregress`."""
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    # Of values that are all equal, rounding alone would make a slope.
    if len(across) < 3 or not np.isfinite(up).all() or np.ptp(across) == 0 or np.ptp(up) == 0:
        return NOTHING
    centred = across - across.mean()
    spread = float(centred @ centred)
    slope = float(centred @ up) / spread
    left = up - up.mean() - slope * centred
    error = math.sqrt(float(left @ left) / (len(across) - 2) / spread)
    # A residual that rounding alone explains is no measure of the error.
    return _student(slope, error, len(across) - 2) if error > 1e-12 * abs(slope) else NOTHING


def trend_of_known(x: ArrayLike, y: ArrayLike, errors: ArrayLike) -> Comparison:
    """Fit the slope of y over x by weighted least squares, given the standard error of every y."""
    across, up, error = (np.asarray(values, dtype=float) for values in (x, y, errors))
    if len(across) < 2 or not (np.isfinite(up).all() and (error > 0).all()) or np.ptp(across) == 0:
        return NOTHING
    weight = error**-2.0
    centred = across - np.average(across, weights=weight)
    spread = float((weight * centred**2).sum())
    return _student(float((weight * centred * up).sum()) / spread, spread**-0.5, math.inf)


def trend_of_means(x: ArrayLike, means: Sequence[Estimate]) -> Comparison:
    """Fit the slope of means over x by least squares, with the errors and degrees of freedom of Welch's test.

    The variances of the means may differ (Welch 1947; degrees of freedom: Satterthwaite 1946). For two means this is
    their `difference`.
    """
    across = np.asarray(x, dtype=float)
    if len(across) < 2 or not all(mean.known for mean in means) or np.ptp(across) == 0:
        return NOTHING
    weight = across - across.mean()
    weight /= float(weight @ weight)
    variances = np.square(weight * [mean.error for mean in means])
    freedom = variances.sum() ** 2 / float((variances**2 / [mean.freedom for mean in means]).sum())
    return _student(float(weight @ [mean.value for mean in means]), math.sqrt(variances.sum()), freedom)


def holm(comparisons: Sequence[Comparison], rate: float = FALSE_ALARMS) -> list[Verdict]:
    """Decide comparisons jointly, so that the probability of any false alarm is at most `rate` (Holm 1979).

    The smallest p-value is compared with rate/m, the next with rate/(m − 1), and so on; from the first that exceeds
    its bound, no difference is significant. Comparisons without a p-value are not counted.
    """
    known = sorted((i for i, one in enumerate(comparisons) if math.isfinite(one.p)), key=lambda i: comparisons[i].p)
    verdicts = [Verdict.NOTHING] * len(comparisons)
    speaking = True
    for place, i in enumerate(known):
        speaking = speaking and comparisons[i].p <= rate / (len(known) - place)
        verdicts[i] = _direction(comparisons[i]) if speaking else Verdict.ALIKE
    return verdicts


def _direction(comparison: Comparison) -> Verdict:
    return Verdict.LARGER if comparison.difference > 0 else Verdict.SMALLER


def _student(gap: float, error: float, freedom: float) -> Comparison:
    from scipy.special import ndtr, stdtr

    if not (math.isfinite(gap) and 0 < error < math.inf):
        return NOTHING
    t = -abs(gap) / error
    if math.isinf(freedom):
        return Comparison(gap, error, min(1.0, 2 * float(ndtr(t))))
    return Comparison(gap, error, min(1.0, SKEW_MARGIN * 2 * float(stdtr(freedom, t))))
