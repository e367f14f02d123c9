"""Arc-cosine kernels against closed forms, autograd and simulation."""

import math

import pytest
import torch

from gradlab import theory


@pytest.mark.parametrize("degrees", [1, 30, 90, 135, 179])
def test_one_hidden_layer_has_one_minus_theta_over_pi(degrees):
    theta = math.radians(degrees)
    rho = torch.tensor(math.cos(theta), dtype=torch.float64)
    assert theory.kappa0(rho).item() == pytest.approx(1 - theta / math.pi, abs=1e-12)
    assert theory.feedforward_gradient_correlation(rho, 1).item() == pytest.approx(1 - theta / math.pi, abs=1e-12)
    assert theory.kappa1(rho).item() == pytest.approx(
        (math.sin(theta) + (math.pi - theta) * math.cos(theta)) / math.pi, abs=1e-12
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 20])
def test_kernel_derivatives_are_those_of_autograd(depth):
    rho = torch.linspace(-0.95, 0.95, 9, dtype=torch.float64, requires_grad=True)
    k, slope, bend = theory.kernel_derivatives(rho, depth)
    (first,) = torch.autograd.grad(k.sum(), rho, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), rho)
    assert torch.allclose(slope, first, atol=1e-10)
    assert torch.allclose(bend, second, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_many_dimensions_leave_the_product_of_kappa0(depth):
    rho = k = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    product = torch.ones_like(rho)
    for _ in range(depth):
        product, k = product * theory.kappa0(k), theory.kappa1(k)
    assert torch.allclose(theory.feedforward_gradient_correlation(rho, depth), product)


def sampled_correlation(rho, depth, dimension, width=200, networks=150):
    """Estimate the inner product of input gradients over their mean square, by autograd on random nets."""
    generator = torch.Generator().manual_seed(depth)
    inputs = torch.zeros(2, dimension, dtype=torch.float64)
    inputs[0, 0], inputs[1, 0], inputs[1, 1] = 1.0, rho, math.sqrt(1 - rho**2)
    both, own = [], []
    for _ in range(networks):
        x = inputs.clone().requires_grad_()
        h = x
        for layer in range(depth):
            fan_in = dimension if layer == 0 else width
            # Drawn in float32, which takes a quarter of the time.
            weight = torch.randn(fan_in, width, generator=generator).double()
            h = (h @ weight * math.sqrt(2 / fan_in)).relu()
        (g,) = torch.autograd.grad((h @ torch.randn(width, generator=generator, dtype=torch.float64)).sum(), x)
        both.append(g[0] @ g[1])
        own.append(g.square().sum() / 2)
    both, own = torch.stack(both), torch.stack(own)
    ratio = both.mean() / own.mean()
    return ratio.item(), ((both - ratio * own).std() / own.mean() / math.sqrt(networks)).item()


@pytest.mark.parametrize(
    ("depth", "rho", "dimension"),
    [
        # Each depth once, and each dimension twice; all pairs are in the thorough tests.
        pytest.param(depth, rho, dimension, marks=() if (number + place) % 2 else pytest.mark.thorough)
        for number, (depth, rho) in enumerate([(1, 0.0), (2, 0.5), (4, -0.3), (8, 0.3)])
        for place, dimension in enumerate([2, 20])
    ],
)
def test_infinite_width_describes_200_neurons(depth, rho, dimension):
    value, error = sampled_correlation(rho, depth, dimension)
    expected = theory.feedforward_gradient_correlation(torch.tensor(rho), depth, dimension).item()
    assert abs(value - expected) <= 4 * error + 3 / 200


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_residual_recursion_is_its_own_derivative(beta):
    rho = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    k, slope = theory.residual_correlation(rho, 12, beta)
    (derivative,) = torch.autograd.grad(k.sum(), rho)
    assert torch.allclose(slope, derivative)
    one, _ = theory.residual_correlation(torch.ones(1, dtype=torch.float64), 12, beta)
    assert one.item() == pytest.approx(1.0)
