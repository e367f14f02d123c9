"""Growth per layer against brute-force least squares."""

import math

import numpy as np
import pytest
import torch

from gradlab import stats


def brute_force(log_norms, index, shape):
    """Slope and its error by the normal equations, with an indicator for every shape."""
    shapes = sorted(set(shape.tolist()))
    design = np.column_stack([index, *[(shape == s) for s in shapes]]).astype(float)
    solution, *_ = np.linalg.lstsq(design, log_norms, rcond=None)
    residuals = log_norms - design @ solution
    variance = residuals @ residuals / (len(index) - design.shape[1])
    return solution[0], math.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])


def test_growth_of_one_seed_is_least_squares_with_a_level_for_each_shape():
    generator = torch.Generator().manual_seed(0)
    index, shape = torch.arange(1, 13), torch.tensor([0] * 5 + [1] * 6 + [2])
    norms = -0.1 * index + 3.0 * shape + 0.05 * torch.randn(12, generator=generator, dtype=torch.float64)
    growth, error = stats.growth_a_layer(norms[None], index, shape)
    slope, expected = brute_force(norms.numpy(), index.numpy(), shape.numpy())
    assert growth.item() == pytest.approx(-slope, rel=1e-10)
    assert error.item() == pytest.approx(expected, rel=1e-10)


def test_growth_of_several_seeds_has_the_error_over_seeds():
    index, shape = torch.arange(8), torch.zeros(8, dtype=torch.long)
    norms = torch.tensor([[-0.1], [-0.2], [-0.3]]) * index
    growth, error = stats.growth_a_layer(norms, index, shape)
    assert growth.item() == pytest.approx(0.2)
    assert error.item() == pytest.approx(0.1 / math.sqrt(3))


@pytest.mark.parametrize("shape", [[0], [0, 1, 2]])
def test_nothing_to_fit_is_nan(shape):
    growth, error = stats.growth_a_layer(torch.ones(2, len(shape)), torch.arange(len(shape)), torch.tensor(shape))
    assert growth.isnan()
    assert error.isnan()
