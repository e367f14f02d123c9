"""Expected autocorrelations against closed forms and simulation."""

import math

import pytest
import torch

from gradlab.stats import autocorrelation, brown_noise, pooled_autocorrelation, white_noise
from gradlab.theory import brown_noise_acf, brown_noise_pooled_acf, expected_autocorrelation, white_noise_acf


@pytest.mark.parametrize("points", [3, 10, 256])
def test_white_noise_has_its_exact_acf(points):
    by_quadrature = expected_autocorrelation(torch.eye(points), points - 1)
    assert torch.allclose(by_quadrature, white_noise_acf(points, points - 1), atol=1e-10)


def test_values_of_brown_noise_to_twelve_digits():
    """The values are from the trapezoidal rule with 2,701 points, an independent quadrature."""
    recorded = {1: 0.9714999003171, 2: 0.9436393052212165, 3: 0.9164015825446026}
    acf = brown_noise_acf(256, 3)
    assert {lag: acf[lag].item() for lag in recorded} == pytest.approx(recorded, abs=1e-12)
    # The eigenvalues' shares of the signal's energy sum to 1.
    assert acf[0].item() == pytest.approx(1, abs=1e-14)


def test_white_noise_by_simulation():
    acf = autocorrelation(white_noise(20_000, 12, torch.Generator().manual_seed(0)))
    error = acf.std(0) / math.sqrt(20_000)
    assert ((acf.mean(0) - white_noise_acf(12, 11)).abs() <= 4.5 * error).all()


def test_brownian_motion():
    expected = brown_noise_acf(256, 20)
    assert expected[1].item() == pytest.approx(0.9715, abs=5e-5)
    runs = brown_noise(4000, 256, torch.Generator().manual_seed(0))
    acf = autocorrelation(runs, 20)
    assert ((acf.mean(0) - expected).abs() <= 4.5 * acf.std(0) / math.sqrt(4000) + 1e-12).all()
    assert torch.allclose(pooled_autocorrelation(runs, 20), brown_noise_pooled_acf(256, 20), atol=0.02)


def test_the_pooled_law_is_the_ratio_of_expectations():
    points, lags = 2000, 400
    time = torch.arange(1, points + 1, dtype=torch.float64)
    covariance = torch.minimum(time[:, None], time)
    centred = covariance - covariance.mean(0) - covariance.mean(1)[:, None] + covariance.mean()
    ratio = torch.stack([centred.diagonal(lag).sum() for lag in range(lags + 1)]) / centred.diagonal().sum()
    assert torch.allclose(ratio, brown_noise_pooled_acf(points, lags), atol=5e-3)


def test_expected_acf_of_a_signal_of_one_shape_is_that_of_the_shape():
    shape = torch.linspace(-1, 2, 30, dtype=torch.float64) ** 3
    expected = expected_autocorrelation(shape[:, None] * shape, 10)
    assert torch.allclose(expected, autocorrelation(shape, 10), atol=1e-8)
    assert torch.equal(expected_autocorrelation(torch.ones(9, 9), 3), torch.ones(4, dtype=torch.float64))
