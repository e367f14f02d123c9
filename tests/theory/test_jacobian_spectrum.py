"""The law of the Jacobian's singular values against closed forms, and against matrices drawn at random."""

import math

import pytest
import torch

from gradlab.theory.jacobian_spectrum import jacobian_mean_square, jacobian_spectrum, jacobian_square_variance


def linear(x: torch.Tensor) -> torch.Tensor:
    return 1.0 * x


def test_one_gaussian_layer_is_the_marchenko_pastur_law() -> None:
    places = torch.linspace(0.1, 3.9, 39, dtype=torch.float64)
    expected = (places * (4 - places)).sqrt() / (2 * math.pi * places)
    torch.testing.assert_close(jacobian_spectrum(places, linear, 1.0, 1), expected, rtol=2e-3, atol=0)


def test_one_gaussian_layer_of_relu_has_half_of_it_and_zeros() -> None:
    """Half of the rows: √((λ₊ − λ)(λ − λ₋))/(2π·2·λ) at unit scale, with half of the values 0."""
    places = torch.linspace(0.3, 5.5, 27, dtype=torch.float64)
    low, high = (1 - 0.5**0.5) ** 2 * 2, (1 + 0.5**0.5) ** 2 * 2
    expected = ((high - places).clamp(min=0) * (places - low).clamp(min=0)).sqrt() / (2 * math.pi * 2 * places)
    found = jacobian_spectrum(places, torch.relu, 2.0, 1)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=1e-4)


def test_moments() -> None:
    assert jacobian_mean_square(torch.relu, 2.0, 7) == pytest.approx(1)
    assert jacobian_mean_square(linear, 0.5, 3) == pytest.approx(0.125)
    # L·(1/p − 1 − s₁) with p = 1/2.
    assert jacobian_square_variance(torch.relu, 2.0, 3) == pytest.approx(6)
    assert jacobian_square_variance(torch.relu, 2.0, 3, orthogonal=True) == pytest.approx(3)
    assert jacobian_square_variance(linear, 1.0, 9, orthogonal=True) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("weight", "orthogonal", "function"), [(2.0, False, torch.relu), (2.0, True, torch.relu), (1.2, False, torch.tanh)]
)
def test_random_matrices(weight: float, orthogonal: bool, function) -> None:
    """Of four layers of 400 neurons: shares of singular values above some places, and their mean."""
    from gradlab.theory.mean_field import variance_fixed_point

    generator = torch.Generator().manual_seed(0)
    deviation = math.sqrt(variance_fixed_point(function, weight))
    found = []
    for _ in range(3):
        matrix = torch.eye(400, dtype=torch.float64)
        for _ in range(4):
            layer = torch.randn(400, 400, dtype=torch.float64, generator=generator)
            layer = torch.linalg.qr(layer)[0] if orthogonal else layer / 20
            z = (deviation * torch.randn(400, dtype=torch.float64, generator=generator)).requires_grad_()
            (slope,) = torch.autograd.grad(function(z).sum(), z)
            matrix = slope[:, None] * (math.sqrt(weight) * layer @ matrix)
        found.append(torch.linalg.svdvals(matrix).square())
    values = torch.cat(found)
    places = torch.logspace(-5, math.log10(1.7 * values.max().item()), 500, dtype=torch.float64)
    density = jacobian_spectrum(places, function, weight, 4, orthogonal=orthogonal)
    for place in (0.1, 1.0, 3.0):
        above = places >= place
        expected = torch.trapezoid(density[above], places[above]).item()
        assert (values >= place).double().mean().item() == pytest.approx(expected, abs=0.02)
    assert torch.trapezoid(density * places, places).item() == pytest.approx(
        jacobian_mean_square(function, weight, 4), rel=0.01
    )
