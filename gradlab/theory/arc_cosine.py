"""Arc-cosine kernels and their iteration over depth, for networks of infinite width."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kappa0(rho: Tensor) -> Tensor:
    """Compute 1 − θ/π, θ = arccos ρ: twice the probability that a ReLU is active at both inputs.

    This is the arc-cosine kernel of order n = 0 of Cho and Saul 2009.
    """
    return 1 - torch.arccos(rho.double().clamp(-1, 1)) / math.pi


def kappa1(rho: Tensor) -> Tensor:
    """Compute (sin θ + (π − θ) cos θ)/π, the uncentred correlation after a ReLU (Cho and Saul 2009, Eq. 6, n = 1)."""
    rho = rho.double().clamp(-1, 1)
    return (1 - rho.square()).sqrt() / math.pi + rho * kappa0(rho)


def kappa0_slope(rho: Tensor) -> Tensor:
    """Compute dκ₀/dρ = 1/(π √(1 − ρ²)), which is infinite at ±1; dκ₁/dρ is κ₀."""
    return 1 / (math.pi * (1 - rho.double().square()).sqrt())


def feedforward_gradient_correlation(rho: Tensor, depth: int, dimension: float = math.inf) -> Tensor:
    """Compute the correlation of input gradients at two inputs of an infinitely wide ReLU net without normalization.

    With the kernel k, κ₁ iterated `depth` times, R = [d·k′ + ρ(k − ρk′) − ρ(1 − ρ²)k″]/d is the mean inner product
    of the gradients divided by their mean square; for d → ∞ it is k′ = Π κ₀(κ₁ˡ(ρ)). It holds for He initialization
    without biases; at width N the error is of order depth/N.

    Args:
        rho: The cosine of the angle between the inputs, inside (−1, 1), of any shape.
        depth: The number of ReLU layers.
        dimension: The dimension d of the inputs.

    Returns:
        A float64 tensor of rho's shape.
    """
    k, slope, bend = kernel_derivatives(rho, depth)
    rho = rho.double()
    finite = rho * (k - rho * slope) - rho * (1 - rho.square()) * bend
    return slope + finite / dimension


def kernel_derivatives(rho: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate κ₁ `depth` times and return it with its first and second derivatives with respect to ρ."""
    k = rho.double()
    slope, bend = torch.ones_like(k), torch.zeros_like(k)
    for _ in range(depth):
        first, second = kappa0(k), kappa0_slope(k)
        k, slope, bend = kappa1(k), first * slope, second * slope.square() + first * bend
    return k, slope, bend


def residual_correlation(rho: Tensor, depth: int, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Compute the correlations of states and of input gradients in an infinitely wide residual net, not normalized.

    Blocks x ← x + βW relu(x) with W ~ N(0, 2/N) give k ← (k + β²κ₁(k))/(1 + β²). The correlation of the gradients is
    the derivative dk/dρ, in the limit of many input dimensions.

    Returns:
        Two float64 tensors of rho's shape.
    """
    k, slope = rho.double(), torch.ones_like(rho, dtype=torch.float64)
    for _ in range(depth):
        slope = slope * (1 + beta**2 * kappa0(k)) / (1 + beta**2)
        k = (k + beta**2 * kappa1(k)) / (1 + beta**2)
    return k, slope
