"""Arc-cosine kernels and what depth makes of them: networks of infinite width."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kappa0(rho: Tensor) -> Tensor:
    """1 − θ/π, θ = arccos ρ: twice the chance that a ReLU is active at both inputs (Cho and Saul 2009, n = 0)."""
    return 1 - torch.arccos(rho.double().clamp(-1, 1)) / math.pi


def kappa1(rho: Tensor) -> Tensor:
    """(sin θ + (π − θ) cos θ)/π: correlation after a ReLU, not centred (Cho and Saul 2009, Eq. 6, n = 1)."""
    rho = rho.double().clamp(-1, 1)
    return (1 - rho.square()).sqrt() / math.pi + rho * kappa0(rho)


def kappa0_slope(rho: Tensor) -> Tensor:
    """dκ₀/dρ = 1/(π √(1 − ρ²)): infinite at ±1; dκ₁/dρ is κ₀."""
    return 1 / (math.pi * (1 - rho.double().square()).sqrt())


def feedforward_gradient_correlation(rho: Tensor, depth: int, dimension: float = math.inf) -> Tensor:
    """Correlation of input gradients at two inputs of a ReLU net of infinite width, without normalization.

    With k the kernel, κ₁ iterated `depth` times, R = [d·k′ + ρ(k − ρk′) − ρ(1 − ρ²)k″]/d is the mean inner
    product of the gradients over their mean square; for d → ∞ it is k′ = Π κ₀(κ₁ˡ(ρ)). It holds for He
    initialization without biases; at width N the error is of order depth/N.

    Args:
        rho: Cosine of the angle between the inputs, any shape, inside (−1, 1).
        depth: ReLU layers.
        dimension: d of the inputs.

    Returns:
        Of rho's shape, float64.
    """
    k, slope, bend = kernel_derivatives(rho, depth)
    rho = rho.double()
    finite = rho * (k - rho * slope) - rho * (1 - rho.square()) * bend
    return slope + finite / dimension


def kernel_derivatives(rho: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """κ₁ iterated `depth` times, with its first and second derivative with respect to ρ."""
    k = rho.double()
    slope, bend = torch.ones_like(k), torch.zeros_like(k)
    for _ in range(depth):
        first, second = kappa0(k), kappa0_slope(k)
        k, slope, bend = kappa1(k), first * slope, second * slope.square() + first * bend
    return k, slope, bend


def residual_correlation(rho: Tensor, depth: int, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Correlation of states, and of input gradients, in a residual net of infinite width without normalization.

    x ← x + βW relu(x), W ~ N(0, 2/N): k ← (k + β²κ₁(k))/(1 + β²). The gradients' correlation is the derivative
    dk/dρ, the limit of many input dimensions.

    Returns:
        Two float64 tensors of rho's shape.
    """
    k, slope = rho.double(), torch.ones_like(rho, dtype=torch.float64)
    for _ in range(depth):
        slope = slope * (1 + beta**2 * kappa0(k)) / (1 + beta**2)
        k = (k + beta**2 * kappa1(k)) / (1 + beta**2)
    return k, slope
