"""The scatter of Jacobians' mean squares against nets that are drawn."""

import pytest
import torch

from gradlab.theory import relu_jacobian_deviation


@pytest.mark.parametrize(("width", "depth"), [(10, 3), (40, 6)])
def test_nets_that_are_drawn_scatter_as_much(width: int, depth: int) -> None:
    draws = 4000
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(draws, width, 1, generator=generator)
    jacobian = torch.eye(width).expand(draws, width, width)
    for _ in range(depth):
        weights = torch.randn(draws, width, width, generator=generator) * (2 / width) ** 0.5
        signal = weights @ signal
        jacobian = (signal > 0) * (weights @ jacobian)
        signal = signal.relu()
    squares = jacobian.double().square().sum((1, 2)) / width
    expected = relu_jacobian_deviation(width, depth)
    assert squares.mean().item() == pytest.approx(1, abs=4 * expected / draws**0.5)
    assert squares.std().item() == pytest.approx(expected, rel=0.08)


def test_a_wide_net_has_the_first_order() -> None:
    assert relu_jacobian_deviation(10**6, 20) ** 2 == pytest.approx(20e-6, rel=1e-3)
