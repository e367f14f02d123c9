"""Singular values of the input-output Jacobian of deep nets (Pennington et al. 2017, arXiv:1711.04735)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.theory.dual_activation import Function
from gradlab.theory.mean_field import variance_fixed_point

_STEPS, _NEWTON = 60, 5
_ABOVE = 1e-4
"""Height above the real axis, relative to the place on it, at which a density is read."""


def jacobian_mean_square(function: Function, weight: float, depth: int, bias: float = 0.0) -> float:
    """Compute the mean squared singular value χ^L of J = D_L W_L ⋯ D_1 W_1 for infinite width.

    Args:
        function: The activation φ, with D = diag φ′(√q* z).
        weight: σ_w², the width times the variance of the weights; of orthogonal ones the square of their scale.
        depth: The number of layers L.
        bias: σ_b².
    """
    return (weight * float(_slopes(function, weight, bias)[0])) ** depth


def jacobian_square_variance(
    function: Function, weight: float, depth: int, bias: float = 0.0, *, orthogonal: bool = False
) -> float:
    """Compute the variance of the squared singular values, χ^{2L}·L·(μ₂/μ₁² − 1 − s₁).

    Here μ_k = E[φ′(√q* z)^{2k}], and s₁ is −1 for Gaussian and 0 for orthogonal weights. Only with orthogonal weights,
    and with a φ that is nearly linear where it is used, does it not grow with depth (dynamical isometry).

    Args:
        function: The activation φ.
        weight: σ_w².
        depth: The number of layers L.
        bias: σ_b².
        orthogonal: Whether the weights are orthogonal instead of Gaussian.
    """
    first, second = _slopes(function, weight, bias)
    mean = (weight * float(first)) ** (2 * depth)
    return mean * depth * (float(second / first**2) - 1 + (0 if orthogonal else 1))


def jacobian_spectrum(
    places: Tensor, function: Function, weight: float, depth: int, bias: float = 0.0, *, orthogonal: bool = False
) -> Tensor:
    """Compute the density of the squared singular values of the Jacobian for infinite width.

    With M_A(z) = E[λ/(z − λ)] over the eigenvalues λ of A, and S_A(m) = (1 + m)/(m M_A⁻¹(m)), the S-transform of J·Jᵀ
    is S_{W·Wᵀ}^L · S_{D²}^L, and that of W·Wᵀ is 1/(σ_w² (1 + m)) for Gaussian weights and 1/σ_w² for orthogonal ones.
    With m = M_{D²}(y) for a complex y this is an equation for y at every z, which is solved by Newton's method from far
    above the real axis downwards. The density is −Im G/π, G = (1 + m)/z, just above the axis. It leaves out a share of
    singular values that are 0, which ReLU nets have.

    Args:
        places: Squared singular values λ > 0, of any shape.
        function: The activation φ.
        weight: σ_w².
        depth: The number of layers L.
        bias: σ_b².
        orthogonal: Whether the weights are orthogonal instead of Gaussian.

    Returns:
        A float64 tensor of the shape of `places`.
    """
    values, shares = _slope_distribution(function, weight, bias)
    places = places.double()
    mean = jacobian_mean_square(function, weight, depth, bias)
    heights = torch.logspace(math.log10(1e4), math.log10(_ABOVE), _STEPS, dtype=torch.float64)
    start = places + 1j * heights[0] * places.clamp(min=mean)
    # Far from the axis m is about E[λ]/z for both J·Jᵀ and D².
    y = (values * shares).sum() * start / mean
    for height in heights:
        # From above the whole spectrum down to a small part of each place.
        z = places + 1j * height * torch.maximum(places, mean * torch.ones_like(places) * min(1.0, float(height)))
        for _ in range(_NEWTON):
            y = y - _distance(y, z, values, shares, weight, depth, orthogonal)
    m = _moments(y, values, shares)[0]
    density: Tensor = (-((1 + m) / z).imag / math.pi).clamp(min=0)
    return density


def _distance(
    y: Tensor, z: Tensor, values: Tensor, shares: Tensor, weight: float, depth: int, orthogonal: bool
) -> Tensor:
    """Newton's step towards z(y) = (1 + m)/m / S_{J·Jᵀ}(m) = z at m = M_{D²}(y), in logarithms."""
    m, slope = _moments(y, values, shares)
    # Of one layer 1/S is σ_w²·(1 + m) · m·y/(1 + m), without the first (1 + m) for orthogonal weights.
    factor = m * y * weight / (1 + m) if orthogonal else m * y * weight
    logs = torch.log((1 + m) / m) + depth * torch.log(factor)
    derivative = slope * (1 / (1 + m) - 1 / m) + depth * (slope / m + 1 / y - (slope / (1 + m) if orthogonal else 0))
    gap = logs - torch.log(z)
    # A logarithm is known up to whole turns.
    gap = gap - 2j * math.pi * torch.round(gap.imag / (2 * math.pi))
    return gap / derivative


def _moments(y: Tensor, values: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """M_{D²}(y) = Σ p d/(y − d) and its derivative."""
    inverse = 1 / (y[..., None] - values)
    weighted = shares * values
    return (weighted * inverse).sum(-1), -(weighted * inverse.square()).sum(-1)


def _slopes(function: Function, weight: float, bias: float) -> tuple[Tensor, Tensor]:
    """μ₁ and μ₂, the means of φ′² and φ′⁴ at the fixed point of the variance."""
    values, shares = _slope_distribution(function, weight, bias)
    return (values * shares).sum(), (values.square() * shares).sum()


def _slope_distribution(function: Function, weight: float, bias: float) -> tuple[Tensor, Tensor]:
    """The squared slopes φ′(√q* z)² on a grid of z, and the probability of each; equal ones together."""
    q = variance_fixed_point(function, weight, bias)
    # The kink of ReLU lies halfway between two of them.
    places = torch.linspace(-8, 8, 200, dtype=torch.float64)
    shares = torch.softmax(-places.square() / 2, 0)
    with torch.enable_grad():
        z = (math.sqrt(q if math.isfinite(q) and q > 0 else 1.0) * places).requires_grad_()
        (slopes,) = torch.autograd.grad(function(z).sum(), z)
    squares, which = slopes.detach().square().unique(return_inverse=True)
    return squares, torch.zeros_like(squares).index_add(0, which, shares)
