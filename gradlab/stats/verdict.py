"""Whether measurements differ: every comparison that a finding states, with its rate of false alarms.

An estimate has a value, a standard error and degrees of freedom, and is compared by Student's t; several comparisons
that stand together share one rate (Holm 1979). What is measured over seeds is a little skewed, and t then errs more
often than it says: comparisons are made at half of the rate that is stated, which simulations hold it to.
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
"""Share of verdicts that speak of a difference where there is none."""

CONFIDENCE = 0.95
"""Share of intervals that hold the true value."""

SKEW_MARGIN = 2.0
"""By what p-values of Student's t are raised; see above."""


class Verdict(StrEnum):
    """What a comparison tells of the first of two, or of a slope."""

    LARGER = "larger"
    SMALLER = "smaller"
    ALIKE = "not told apart"
    NOTHING = "nothing can be told"

    @property
    def speaks(self) -> bool:
        """Whether a difference was found."""
        return self in (Verdict.LARGER, Verdict.SMALLER)


@dataclass(frozen=True)
class Estimate:
    """A value that chance may have moved.

    Attributes:
        value: The estimate.
        error: Its standard error; NaN where it is not known.
        freedom: Degrees of freedom of the error; infinite where it is known exactly.
        samples: Of how many independent values it is.
    """

    value: float
    error: float
    freedom: float
    samples: int

    @classmethod
    def of(cls, samples: ArrayLike) -> Self:
        """The mean of independent samples; a sample that is not finite makes it NaN, and none is dropped."""
        x = np.asarray(samples, dtype=float).ravel()
        # One that is infinite has no deviation from its mean.
        finite = len(x) > 1 and bool(np.isfinite(x).all())
        error = float(x.std(ddof=1) / math.sqrt(len(x))) if finite else math.nan
        return cls(float(x.mean()) if len(x) else math.nan, error, len(x) - 1, len(x))

    @classmethod
    def mean(cls, value: float, error: float, samples: int) -> Self:
        """A mean whose standard error is already known from so many samples."""
        return cls(float(value), float(error), samples - 1, int(samples))

    @property
    def known(self) -> bool:
        """Whether there are samples enough, that they differ, and that all is finite."""
        return self.samples > 1 and self.freedom > 0 and math.isfinite(self.value) and 0 < self.error < math.inf

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Where the true value lies, by Student's t; NaN where that is not known."""
        if not self.known:
            return math.nan, math.nan
        half = self.error * critical(self.freedom, 1 - confidence)
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Comparison:
    """A difference, and how likely chance alone makes one as large.

    Attributes:
        difference: The first less the second; of a trend its slope.
        error: Its standard error; NaN where none is used.
        p: Two-sided; NaN where nothing can be told.
    """

    difference: float
    error: float
    p: float

    def verdict(self, rate: float = FALSE_ALARMS) -> Verdict:
        """What it tells on its own."""
        return holm([self], rate)[0]


NOTHING = Comparison(math.nan, math.nan, math.nan)
"""The comparison of too little."""


def critical(freedom: float, rate: float) -> float:
    """How many standard errors Student's t exceeds, in either direction, with a probability of `rate`."""
    from scipy.special import ndtri, stdtrit

    return float(-ndtri(rate / 2) if math.isinf(freedom) else -stdtrit(freedom, rate / 2))


def difference(one: Estimate, other: Estimate) -> Comparison:
    """Two independent estimates, of unlike variances: Welch 1947, degrees of freedom after Satterthwaite 1946."""
    if not (one.known and other.known):
        return NOTHING
    errors = one.error**2 + other.error**2
    freedom = errors**2 / (one.error**4 / one.freedom + other.error**4 / other.freedom)
    return _student(one.value - other.value, math.sqrt(errors), freedom or math.inf)


def from_constant(one: Estimate, constant: float) -> Comparison:
    """An estimate and an exact value, such as that of theory."""
    return _student(one.value - constant, one.error, one.freedom) if one.known else NOTHING


def paired(one: ArrayLike, other: ArrayLike) -> Comparison:
    """Values that belong together two by two, such as those of one seed: Student's t of their differences."""
    return from_constant(Estimate.of(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)), 0.0)


def sign_test(one: ArrayLike, other: ArrayLike) -> Comparison:
    """Values that belong together, position by position: is one the larger more often than a coin shows heads?

    It asks nothing of distributions. Equal values count for neither. Of fewer than eight positions nothing can be
    told, since a coin shows heads seven times in a row in more than 1 % of cases. The difference is the share at which
    the first is larger, less a half.
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
    """The slope of y over x by least squares, with the error that the residuals give; as `scipy.stats.linregress`."""
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(across) < 3 or not np.isfinite(up).all() or np.ptp(across) == 0:
        return NOTHING
    centred = across - across.mean()
    spread = float(centred @ centred)
    slope = float(centred @ up) / spread
    left = up - up.mean() - slope * centred
    error = math.sqrt(float(left @ left) / (len(across) - 2) / spread)
    # What is left by rounding alone is no error.
    return _student(slope, error, len(across) - 2) if error > 1e-12 * abs(slope) else NOTHING


def trend_of_known(x: ArrayLike, y: ArrayLike, errors: ArrayLike) -> Comparison:
    """The slope of y over x by weighted least squares where the standard error of every y is known."""
    across, up, error = (np.asarray(values, dtype=float) for values in (x, y, errors))
    if len(across) < 2 or not (np.isfinite(up).all() and (error > 0).all()) or np.ptp(across) == 0:
        return NOTHING
    weight = error**-2.0
    centred = across - np.average(across, weights=weight)
    spread = float((weight * centred**2).sum())
    return _student(float((weight * centred * up).sum()) / spread, spread**-0.5, math.inf)


def holm(comparisons: Sequence[Comparison], rate: float = FALSE_ALARMS) -> list[Verdict]:
    """Verdicts of comparisons that stand together: none is false in all but `rate` of cases (Holm 1979).

    The least p is held against rate/m, the next against rate/(m − 1), and so on; from the first that is larger on,
    none speaks. Comparisons that nothing can be told of do not count.
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
