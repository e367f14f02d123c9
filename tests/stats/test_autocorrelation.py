"""Autocorrelation against a loop, closed forms and invariants."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradlab.stats import (
    autocorrelation,
    expected_autocorrelation,
    half_life,
    is_constant,
    pooled_autocorrelation,
)


def loop(signal, lag):
    mean = math.fsum(signal) / len(signal)
    deviations = [value - mean for value in signal]
    return math.fsum(a * b for a, b in zip(deviations, deviations[lag:], strict=False)) / math.fsum(
        a * a for a in deviations
    )


# Slow examples on a busy machine are not failures.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
signals = st.lists(st.integers(-1000, 1000), min_size=4, max_size=40).filter(lambda values: len(set(values)) > 1)


@unhurried
@given(signals)
def test_equals_a_plain_loop(values):
    acf = autocorrelation(torch.tensor(values))
    assert acf.tolist() == pytest.approx([loop(values, lag) for lag in range(len(values))], abs=1e-12)


@unhurried
@given(signals, st.floats(0.01, 100), st.booleans(), st.floats(-10, 10))
def test_is_invariant_to_affine_maps_and_reversal(values, scale, flipped, shift):
    signal = torch.tensor(values, dtype=torch.float64)
    mapped = (-scale if flipped else scale) * signal.flip(0) + shift
    assert torch.allclose(autocorrelation(mapped), autocorrelation(signal), atol=1e-8)


@unhurried
@given(signals)
def test_sums_to_minus_one_half_over_all_lags(values):
    assert autocorrelation(torch.tensor(values))[1:].sum().item() == pytest.approx(-0.5, abs=1e-10)


def test_is_batched():
    batch = torch.randn(3, 2, 30, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([autocorrelation(row, 7) for row in batch.flatten(0, 1)]).view(3, 2, 8)
    assert torch.equal(autocorrelation(batch, 7), expected)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
def test_a_constant_signal_has_autocorrelation_one(value):
    signal = torch.full((50,), value)
    assert is_constant(signal)
    assert torch.equal(autocorrelation(signal, 5), torch.ones(6, dtype=torch.float64))
    assert torch.equal(pooled_autocorrelation(signal[None], 5), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(("noise", "constant"), [(0.9e-7, True), (1.2e-7, False)])
def test_the_threshold_of_constancy(noise, constant):
    signal = torch.ones(100, dtype=torch.float64)
    signal[::2] += 2 * noise
    assert bool(is_constant(signal)) is constant


def test_pooling_weights_by_variance():
    first, second = torch.tensor([1.0, 2, 1, 2]), torch.tensor([30.0, 20, 10, 0])
    pooled = pooled_autocorrelation(torch.stack([first, second]), 1)[1].item()
    numerators = [loop(s.tolist(), 1) * s.var(correction=0).item() for s in (first, second)]
    assert pooled == pytest.approx(sum(numerators) / sum(s.var(correction=0).item() for s in (first, second)))


def test_gradients_whose_squares_overflow():
    signal = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(autocorrelation(signal * 1e300), autocorrelation(signal))


@pytest.mark.parametrize("lags", [-1, 10, 11])
def test_lags_out_of_range(lags):
    with pytest.raises(ValueError, match="lags 0 to 9"):
        autocorrelation(torch.arange(10.0), lags)
    with pytest.raises(ValueError, match="lags 0 to 9"):
        expected_autocorrelation(torch.eye(10), lags)


@pytest.mark.parametrize(
    ("acf", "lag"),
    [([1, 0.75, 0.25], 1.5), ([1, 0.5], 1.0), ([1, 0.0], 0.5), ([1, 0.9, 0.6], math.inf), ([1.0, 1.0], math.inf)],
)
def test_half_life(acf, lag):
    assert half_life(torch.tensor(acf)).item() == pytest.approx(lag)
