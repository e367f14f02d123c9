"""Rules of `gradlab.stats.verdict` against their nominal rates by simulation, and against scipy's closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as oracle

from gradlab.stats import ratio as ratios
from gradlab.stats import verdict as v
from gradlab.stats.verdict import Comparison, Estimate, Verdict

COUNTS = (2, 3, 5, 20)
RUNS = 2400
SPREADS = {"normal": 0.0, "log-normal": 0.25}


def samples(kind: str, n: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Draw samples of mean 0, shape (RUNS, n)."""
    z = np.random.default_rng(seed).standard_normal((RUNS, n))
    spread = SPREADS[kind]
    return scale * (z if kind == "normal" else np.exp(spread * z) - math.exp(spread**2 / 2))


def at_most(share: float, runs: int = RUNS) -> float:
    """Return the limit that a share of false alarms at the nominal rate exceeds once in a thousand tests."""
    return float(oracle.binom.ppf(0.999, runs, share)) / runs


def false_alarms(comparisons: list[Comparison]) -> float:
    return float(np.mean([one.verdict().speaks for one in comparisons]))


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_two_estimates(n: int, kind: str, scale: float) -> None:
    pairs = zip(samples(kind, n, 1), samples(kind, n, 2, scale), strict=True)
    assert false_alarms([v.difference(Estimate.of(x), Estimate.of(y)) for x, y in pairs]) <= at_most(0.01)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("kind", SPREADS)
def test_an_estimate_and_theory(n: int, kind: str) -> None:
    assert false_alarms([v.from_constant(Estimate.of(x), 0.0) for x in samples(kind, n, 3)]) <= at_most(0.01)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("kind", SPREADS)
def test_values_of_the_same_seeds(n: int, kind: str) -> None:
    common = samples("normal", n, 4, 10.0)
    pairs = zip(samples(kind, n, 5) + common, samples(kind, n, 6) + common, strict=True)
    assert false_alarms([v.paired(x, y) for x, y in pairs]) <= at_most(0.01)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 20, 55])
def test_positions(n: int) -> None:
    pairs = zip(samples("log-normal", n, 7), samples("log-normal", n, 8), strict=True)
    assert false_alarms([v.sign_test(x, y) for x, y in pairs]) <= at_most(0.01)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("kind", SPREADS)
def test_no_trend(n: int, kind: str) -> None:
    depths = 20.0 + 12 * np.arange(n)
    assert false_alarms([v.trend(depths, y) for y in samples(kind, n, 9)]) <= at_most(0.01)


@pytest.mark.parametrize("n", COUNTS)
def test_no_trend_of_known_errors(n: int) -> None:
    depths, errors = 20.0 + 12 * np.arange(n), np.linspace(0.5, 2, n)
    chosen = samples("normal", n, 10) * errors
    assert false_alarms([v.trend_of_known(depths, y, errors) for y in chosen]) <= at_most(0.01)


@pytest.mark.parametrize("n", COUNTS)
def test_joint_comparisons_share_the_rate(n: int) -> None:
    drawn = [v.from_constant(Estimate.of(x), 0.0) for x in samples("normal", n, 11)]
    families = [v.holm(drawn[k : k + 6]) for k in range(0, RUNS, 6)]
    assert np.mean([any(one.speaks for one in family) for family in families]) <= at_most(0.01, len(families))


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize(("kind", "slack"), [("normal", 0.0), ("log-normal", 0.01)])
def test_intervals_have_their_nominal_coverage(n: int, kind: str, slack: float) -> None:
    intervals = np.array([Estimate.of(x).interval() for x in samples(kind, n, 12)])
    covered = float(((intervals[:, 0] < 0) & (intervals[:, 1] > 0)).mean())
    least = oracle.binom.ppf(0.001, RUNS, 0.95 - slack) / RUNS
    assert least <= covered <= oracle.binom.ppf(0.999, RUNS, 0.95) / RUNS


@pytest.mark.parametrize("n", COUNTS)
def test_two_standard_errors_cover_less(n: int) -> None:
    """Bars of two standard errors, which intervals replace, cover 70 % at 2 seeds and 88 % at 5."""
    covered = float(np.mean([abs(x.mean()) < 2 * x.std(ddof=1) / math.sqrt(n) for x in samples("normal", n, 12)]))
    assert covered < {2: 0.72, 3: 0.84, 5: 0.90, 20: 0.95}[n]


@pytest.mark.parametrize(("n", "gap"), [(3, 25.0), (5, 6.0), (20, 1.6)])
def test_real_differences_are_found(n: int, gap: float) -> None:
    pairs = zip(samples("normal", n, 13)[:500] + gap, samples("normal", n, 14)[:500], strict=True)
    seen = [v.difference(Estimate.of(x), Estimate.of(y)).verdict() for x, y in pairs]
    assert np.mean([one is Verdict.LARGER for one in seen]) > 0.9
    assert Verdict.SMALLER not in seen


def test_student_and_welch_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    for n, m in ((2, 2), (3, 7), (20, 5)):
        x, y = draw.normal(size=n), draw.normal(1, 3, size=m)
        expected = oracle.ttest_ind(x, y, equal_var=False).pvalue
        found = v.difference(Estimate.of(x), Estimate.of(y))
        assert found.p == pytest.approx(min(1, 2 * expected), rel=1e-9)
        assert v.from_constant(Estimate.of(x), 0.3).p == pytest.approx(
            min(1, 2 * oracle.ttest_1samp(x, 0.3).pvalue), rel=1e-9
        )
        interval = oracle.ttest_1samp(x, 0).confidence_interval(0.95)
        assert Estimate.of(x).interval() == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_trends_and_signs_are_those_of_scipy() -> None:
    draw = np.random.default_rng(1)
    for n in (3, 8, 20):
        x, y = np.arange(n), draw.normal(size=n)
        line = oracle.linregress(x, y)
        found = v.trend(x, y)
        assert (found.difference, found.error) == pytest.approx((line.slope, line.stderr), rel=1e-9)
        assert found.p == pytest.approx(min(1, 2 * line.pvalue), rel=1e-8)
        if n > 7:
            assert v.sign_test(x, y).p == pytest.approx(oracle.binomtest(int((x > y).sum()), n).pvalue)


def test_equal_values_have_no_trend() -> None:
    """Their mean is rounded, so that residuals and slope are not 0."""
    tau = np.random.default_rng(0).random(20)
    assert {v.trend(tau, np.full(20, value)).verdict() for value in (100.0, 0.1, 97.3, 0.0)} == {Verdict.NOTHING}


def test_a_trend_over_two_depths_of_known_errors_is_their_difference() -> None:
    found = v.trend_of_known([20, 56], [0.10, 0.12], [0.003, 0.004])
    assert found.difference * 36 == pytest.approx(0.02)
    assert found.p == pytest.approx(2 * oracle.norm.sf(0.02 / 0.005))


def test_holm_steps_down() -> None:
    told = v.holm([Comparison(1, 1, p) for p in (0.004, 0.002, 0.9, math.nan)])
    assert told == [Verdict.LARGER, Verdict.LARGER, Verdict.ALIKE, Verdict.NOTHING]
    assert v.holm([Comparison(1, 1, p) for p in (0.004, 0.004, 0.9)])[0] is Verdict.ALIKE
    assert v.holm([]) == []


@pytest.mark.parametrize("x", [[], [1.0], [1.0, 1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_data_give_no_verdict(x: list[float]) -> None:
    one, other = Estimate.of(x), Estimate.of([5.0, 6.0])
    assert v.difference(one, other).verdict() is Verdict.NOTHING
    assert v.from_constant(one, 0.0).verdict() is Verdict.NOTHING
    assert v.paired(x, np.zeros(len(x))).verdict() is Verdict.NOTHING
    assert all(map(math.isnan, one.interval()))
    assert not ratios.ratio(np.ones(len(x)), x).resolved


def test_equal_values_do_not_differ_and_few_positions_give_no_verdict() -> None:
    assert v.sign_test(np.ones(9), np.ones(9)).verdict() is Verdict.ALIKE
    assert v.sign_test(np.ones(8), np.zeros(8)).verdict() is Verdict.LARGER
    assert v.sign_test(np.ones(7), np.zeros(7)).verdict() is Verdict.NOTHING


def test_lines_of_two_points_and_exact_ones_have_no_error() -> None:
    assert v.trend([1, 2], [3, 4]).verdict() is Verdict.NOTHING
    assert v.trend([1, 2, 3], [3, 4, 5]).verdict() is Verdict.NOTHING
    assert v.trend([2, 2, 2], [3, 4, 6]).verdict() is Verdict.NOTHING


@pytest.mark.parametrize("n", COUNTS)
def test_resolved_ratios_have_their_nominal_coverage(n: int) -> None:
    """The denominator is almost always significantly nonzero, and is correlated with the numerator."""
    below = 1000 + samples("normal", n, 15)
    above = 3000 + 2 * (below - 1000) + samples("normal", n, 16)
    found = [ratios.ratio(a, b) for a, b in zip(above, below, strict=True)]
    resolved = [one for one in found if one.resolved]
    assert len(resolved) > 0.9 * RUNS
    covered = np.mean([one.low < 3 < one.high for one in resolved])
    assert covered >= oracle.binom.ppf(0.001, len(resolved), 0.95) / len(resolved)


@pytest.mark.parametrize("n", COUNTS)
def test_a_denominator_of_zero_is_unresolved(n: int) -> None:
    above = 100 + samples("normal", n, 17)
    found = [ratios.ratio(a, b).resolved for a, b in zip(above, samples("normal", n, 18), strict=True)]
    assert np.mean(found) <= at_most(0.01)


def test_a_noise_scale_of_one_set_needs_a_gradient_beyond_its_noise() -> None:
    draw = np.random.default_rng(2)
    told = ratios.gradient_of_one_set
    for examples, width in ((8, 1), (16, 1), (64, 50)):
        g = draw.normal(size=(400, examples, width))
        mean = np.square(g.mean(1)).sum(1)
        variance = g.var(1, ddof=1).sum(1)
        speaks = [told(s, q, examples).speaks for s, q in zip(variance, mean - variance / examples, strict=True)]
        assert np.mean(speaks) <= at_most(0.01, 400)
    assert told(1.0, 10.0, 128) is Verdict.LARGER
    assert told(1.0, 10.0, 7) is told(math.nan, 1.0, 9) is Verdict.NOTHING
