"""Exponents of power laws against scipy, and the rate at which verdicts on them are false."""

import numpy as np
import pytest
from scipy import stats as reference

from gradlab.stats.scaling_exponent import beyond, exponent
from gradlab.stats.verdict import FALSE_ALARMS, Verdict, holm

SIZES = np.repeat([32.0, 64.0, 128.0, 256.0], 8)


def test_exponent_is_that_of_a_regression() -> None:
    values = SIZES**0.7 * np.exp(0.3 * np.random.default_rng(0).standard_normal(len(SIZES)))
    fit, found = reference.linregress(np.log(SIZES), np.log(values)), exponent(SIZES, values)
    assert (found.value, found.error, found.freedom) == pytest.approx((fit.slope, fit.stderr, len(SIZES) - 2))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_what_has_no_logarithm_has_no_exponent(bad: float) -> None:
    assert not exponent(SIZES, np.where(np.arange(len(SIZES)) == 3, bad, 1.0)).known


@pytest.mark.parametrize(("true", "verdict"), [(0.5, Verdict.LARGER), (0.0, Verdict.ALIKE), (-1.0, Verdict.SMALLER)])
def test_verdict_on_a_range(true: float, verdict: Verdict) -> None:
    values = SIZES**true * np.exp(0.1 * np.random.default_rng(1).standard_normal(len(SIZES)))
    assert holm([beyond(exponent(SIZES, values), -0.5, 0.0, 0.25)]) == [verdict]


@pytest.mark.parametrize("narrow", [1.0, 3.0], ids=["alike", "narrow networks spread more"])
def test_false_alarms_are_as_rare_as_stated(narrow: float) -> None:
    """At the very edge of the widened range, twenty layers a check, the spread equal or falling with width."""
    draw, trials, false = np.random.default_rng(2), 2000, 0
    spread = 0.2 * narrow ** -(np.log2(SIZES / 32) / 3)
    for _ in range(trials):
        layers = SIZES**0.25 * np.exp(spread * draw.standard_normal((20, len(SIZES))))
        verdicts = holm([beyond(exponent(SIZES, values), 0.0, 0.0, 0.25) for values in layers])
        false += any(verdict.speaks for verdict in verdicts)
    assert false / trials <= FALSE_ALARMS
