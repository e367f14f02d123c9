"""Mean-field theory of signals in deep fully connected nets (Schoenholz et al. 2016, arXiv:1611.01232)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.theory.dual_activation import Function, dual_activation, mean_square, mean_square_slope

_STEPS = 10_000
"""Largest number of iterations towards a fixed point."""


def variance_fixed_point(function: Function, weight: float, bias: float = 0.0) -> float:
    """Compute q*, the variance of pre-activations in deep layers: q = σ_w²·E[φ(√q z)²] + σ_b² (§2).

    Args:
        function: The activation φ.
        weight: The variance σ_w², which is n times that of the weights.
        bias: The variance σ_b² of the biases.

    Returns:
        The limit from q = 1, infinite if the variance grows without bound.
    """
    q = 1.0
    for _ in range(_STEPS):
        after = weight * float(mean_square(function, q)) + bias
        if not math.isfinite(after) or after > 1e12:
            return math.inf
        if abs(after - q) <= 1e-10 * after:
            return after
        q = after
    return q


def gradient_factor(function: Function, weight: float, bias: float = 0.0) -> float:
    """Compute χ₁ = σ_w²·E[φ′(√q* z)²], the growth per layer of second moments of gradients and differences (§2, §4).

    Below 1, inputs converge and gradients vanish (order); above 1, inputs diverge and gradients explode (chaos).
    """
    return weight * float(mean_square_slope(function, variance_fixed_point(function, weight, bias)))


def correlation_fixed_point(function: Function, weight: float, bias: float = 0.0) -> float:
    """Compute c*, the correlation of pre-activations at two inputs in deep layers, 1 in the ordered phase (§2)."""
    q, c = variance_fixed_point(function, weight, bias), 0.5
    if gradient_factor(function, weight, bias) <= 1:
        return 1.0
    for _ in range(_STEPS):
        after = correlation_map(function, c, q, weight, bias)
        if abs(after - c) <= 1e-10:
            return after
        c = after
    return c


def correlation_map(function: Function, correlation: float, variance: float, weight: float, bias: float = 0.0) -> float:
    """Compute the correlation after one more layer, for pre-activations of variance q at both inputs (§2)."""
    kernel = variance * torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    pair = dual_activation(function, kernel, terms=80)
    return float(weight * pair[0, 1] + bias) / float(weight * pair[0, 0] + bias)


def depth_scale(function: Function, weight: float, bias: float = 0.0) -> float:
    """Compute ξ_c, the number of layers over which the distance of a correlation from c* falls by a factor e (§3).

    1/ξ_c = −log(σ_w²·E[φ′(u₁)·φ′(u₂)]) at c*, which is −log χ₁ in the ordered phase. ξ_c is infinite at the edge of
    chaos, where the correlation converges as a power of depth. Signals, and hence training, reach about 6·ξ_c layers.
    """
    q, c = variance_fixed_point(function, weight, bias), correlation_fixed_point(function, weight, bias)

    def slope(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (found,) = torch.autograd.grad(function(z).sum(), z)
        return found

    kernel = q * torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64)
    rate = weight * float(dual_activation(slope, kernel, terms=80)[0, 1])
    return math.inf if rate >= 1 - 1e-9 else -1 / math.log(rate)
