"""Correlation over networks by hand, and standard errors of statistics derived from it."""

import math

import pytest
import torch

from gradlab import stats


def test_gradient_correlation_is_uncentred():
    gradients = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    both, first, second = (1 * 2 - 3) / 2, (1 + 9) / 2, (4 + 1) / 2
    assert stats.gradient_covariance(gradients)[0, 1].item() == both
    assert stats.gradient_correlation(gradients)[0, 1].item() == pytest.approx(both / math.sqrt(first * second))
    huge = gradients.double() * 1e200
    assert torch.allclose(stats.gradient_correlation(huge), stats.gradient_correlation(gradients))


def test_jackknife_of_a_mean_is_its_standard_error():
    samples = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = stats.jackknife(lambda s: s.mean(0), samples)
    assert value == samples.mean()
    assert error.item() == pytest.approx(stats.standard_error(samples).item())
    assert stats.jackknife(lambda s: s.mean(0), samples[:1])[1].isnan()


@pytest.mark.parametrize("power", [-0.5, -0.7335])
def test_fits_recover_their_law(power):
    layers = torch.arange(1, 200, dtype=torch.float64)
    assert stats.power_exponent(power * layers.log() + 1, 8).item() == pytest.approx(power)
    assert stats.log_rate(power * layers, 8).item() == pytest.approx(power)


def test_no_fit_through_a_correlation_of_zero():
    log_correlation = torch.tensor([-1.0, -2.0, -torch.inf], dtype=torch.float64)
    assert stats.log_rate(log_correlation, 1).isnan()
    assert stats.power_exponent(log_correlation, 1).isnan()
