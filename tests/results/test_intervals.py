"""Numbers with their intervals, in words."""

import math

from gradlab.results.intervals import WithError, factor_with_interval, with_interval
from gradlab.stats.verdict import Estimate


def test_an_interval_ends_at_the_largest_value_that_there_can_be() -> None:
    lag1 = Estimate.mean(0.95, 0.01, 2)
    assert with_interval(lag1) == "0.950 (0.823 to 1.077)"
    assert with_interval(lag1, most=1) == "0.950 (0.823 to 1.000)"
    assert with_interval(Estimate.mean(-0.95, 0.01, 2), most=1) == "-0.950 (-1.000 to -0.823)"
    error = Estimate.mean(33.3, 22.0, 3)
    assert with_interval(error, 1, most=100, least=0) == "33.3 (0.0 to 100.0)"
    assert with_interval(Estimate.mean(0.9, 0.1, 2), least=0) == "0.900 (0.000 to 2.171)"
    correlation = Estimate.mean(math.log(0.9), 0.1, 5)
    assert factor_with_interval(correlation, most=1).endswith(" to 1)")
    assert factor_with_interval(Estimate.mean(math.log(0.9), math.nan, 1), most=1) == "0.9"


def test_a_number_prints_with_its_error_and_is_the_number() -> None:
    number = WithError(-0.0004, 0.02)
    assert str(number) == repr(number) == "0.000 ± 0.020"
    assert str(WithError(0.5, math.nan)) == "0.500"
    assert sorted([WithError(0.5, 0.1), WithError(0.1, 0.2)])[0] == 0.1
