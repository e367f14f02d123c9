"""Singular values of Jacobians by Lanczos quadrature against those of the whole matrix."""

import math

import pytest
import torch

import gradlab as gl
from gradlab.stats.jacobian import jacobian_products, jacobian_spectrum_of


def function(x: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((8, 6), (5, 8)))
    return second @ torch.tanh(first @ x.double())


X = torch.linspace(-1, 1, 6)


def test_products_are_those_of_the_matrix() -> None:
    forward, transposed, outputs = jacobian_products(function, X)
    matrix = torch.autograd.functional.jacobian(function, X).double()
    assert outputs == 5
    u, v = torch.arange(5).double(), torch.arange(6).double()
    torch.testing.assert_close(forward(v), matrix @ v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transposed(u), matrix.mT @ u, rtol=1e-5, atol=1e-5)


def test_as_many_steps_as_outputs_give_every_singular_value() -> None:
    matrix = torch.autograd.functional.jacobian(function, X).double()
    found = jacobian_spectrum_of(function, X, probes=3, steps=10)
    for squares in found.squares:
        torch.testing.assert_close(
            squares.sort().values, torch.linalg.svdvals(matrix).square().sort().values, rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(found.weights.sum(1), torch.ones(3, dtype=torch.float64))


def test_the_trace_is_within_its_error() -> None:
    weights = torch.randn(300, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / math.sqrt(300)
    found = jacobian_spectrum_of(lambda x: weights @ x, torch.zeros(300, dtype=torch.float64), probes=8, steps=20)
    exact = weights.square().sum().item() / 300
    assert abs(found.mean_square - exact) < 4 * found.standard_error
    # Moments of the Marchenko-Pastur law: 1, 2, 5.
    for power, moment in ((1, 1), (2, 2), (3, 5)):
        mean = (found.squares**power * found.weights).sum(1).mean().item()
        assert mean == pytest.approx(moment, rel=0.15)


def test_any_model_one_example() -> None:
    model = gl.build("resnet20@init").eval()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    matrix = torch.autograd.functional.jacobian(model, x).reshape(10, -1).double()
    found = jacobian_spectrum_of(model, x, probes=2, steps=10)
    expected = torch.linalg.svdvals(matrix).square().sort().values
    torch.testing.assert_close(found.squares[0].sort().values, expected, rtol=1e-3, atol=1e-5 * expected.max().item())
