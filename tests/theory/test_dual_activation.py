"""Moments of activations against closed forms and scipy's quadrature."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats

from gradlab import theory

FUNCTIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "linear": lambda z: z}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
def test_mean_square_by_quadrature(name, variance):
    def integrand(z):
        return float(FUNCTIONS[name](torch.tensor(z * math.sqrt(variance)))) ** 2 * stats.norm.pdf(z)

    expected = sum(integrate.quad(integrand, *ends)[0] for ends in ((-12, 0), (0, 12)))
    assert float(theory.mean_square(FUNCTIONS[name], variance)) == pytest.approx(expected, rel=2e-5)


def test_slopes_in_closed_form():
    """ReLU passes one half, a line all; of tanh² the derivative is (1 − tanh²)²."""
    assert float(theory.mean_square_slope(F.relu)) == pytest.approx(0.5, abs=2e-3)
    assert float(theory.mean_square_slope(lambda z: 3 * z, 2.0)) == pytest.approx(9)
    expected = theory.gaussian_mean(lambda z: (1 - z.tanh().square()).square(), 0.7)
    assert float(theory.mean_square_slope(torch.tanh, 0.7)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("rho", [-1.0, -0.5, 0.0, 0.3, 0.9, 0.99, 1.0])
def test_dual_of_relu_is_the_arc_cosine_kernel(rho):
    """Cho and Saul 2009: E[relu(u)·relu(v)] = √(q_u q_v)·κ₁(ρ)/2, for inputs of different variance too."""
    kernel = torch.tensor([[1.0, 2 * rho], [2 * rho, 4.0]], dtype=torch.float64)
    found = theory.dual_activation(F.relu, kernel)
    assert float(found[0, 1]) == pytest.approx(float(theory.kappa1(torch.tensor(rho))), abs=3e-4)
    assert float(found[1, 1]) == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_dual_activation_by_simulation(name):
    kernel = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    draws = torch.randn(4_000_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, v = (draws @ torch.linalg.cholesky(kernel).T).unbind(1)
    products = FUNCTIONS[name](u) * FUNCTIONS[name](v)
    error = float(products.std()) / math.sqrt(len(products))
    found = float(theory.dual_activation(FUNCTIONS[name], kernel)[0, 1])
    assert abs(found - float(products.mean())) < 3 * error
