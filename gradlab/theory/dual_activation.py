"""Second moments of an activation of Gaussian inputs, at one input and between two."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""An activation, element by element."""

_LIMIT, _POINTS = 12.0, 4801
"""Range of the integrals in standard deviations, and their points: 0, where a ReLU bends, is one of them."""


def gaussian_mean(function: Function, variance: Tensor | float = 1.0) -> Tensor:
    """E[f(z)] for z ~ N(0, q), by the trapezoidal rule, good to some 1e-6.

    Args:
        function: f; at each of the integral's points.
        variance: q, any shape.

    Returns:
        Of q's shape, float64.
    """
    place, weight = _grid()
    q = torch.as_tensor(variance, dtype=torch.float64)
    return (function(q.sqrt()[..., None] * place) * weight).sum(-1)


def mean_square(function: Function, variance: Tensor | float = 1.0) -> Tensor:
    """E[φ(z)²], z ~ N(0, q): 1/2 of q for ReLU, 0.4252 for GELU at q = 1."""
    return gaussian_mean(lambda z: function(z).square(), variance)


def mean_square_slope(function: Function, variance: Tensor | float = 1.0) -> Tensor:
    """E[φ′(z)²], z ~ N(0, q): what the activation leaves of a gradient's second moment; 1/2 for ReLU.

    The derivative is torch's own; where φ bends, at one point of the integral, it counts as torch has it.
    """

    def slope(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        (found,) = torch.autograd.grad(function(z).sum(), z)
        return found.square()

    with torch.enable_grad():
        return gaussian_mean(slope, variance)


def dual_activation(function: Function, kernel: Tensor, terms: int = 40) -> Tensor:
    """E[φ(u)·φ(v)] for jointly Gaussian inputs, all pairs of them (Daniely et al. 2016, arXiv:1602.05897, §4).

    With h_n the normalized Hermite polynomials and c_n(q) = E[φ(√q z) h_n(z)], it is Σ c_n(q_u) c_n(q_v) ρⁿ. The sum of
    all further terms at ρ = 1, known from E[φ²], is put on the last power.

    Args:
        function: φ.
        kernel: (T, T), covariance of the inputs.
        terms: Powers of ρ.

    Returns:
        (T, T), float64.
    """
    variance = kernel.diagonal().double()
    rho = (kernel.double() / (variance[:, None] * variance[None, :]).sqrt().clamp(min=1e-300)).clamp(-1, 1)
    place, weight = _grid()
    values = function(variance.sqrt()[:, None] * place) * weight  # (T, points)
    result, power = torch.zeros_like(rho), torch.ones_like(rho)
    left = mean_square(function, variance)
    before, polynomial = torch.zeros_like(place), torch.ones_like(place)
    for n in range(terms):
        coefficient = values @ polynomial  # (T,)
        result += coefficient[:, None] * coefficient[None, :] * power
        left = left - coefficient.square()
        power = power * rho
        before, polynomial = polynomial, (place * polynomial - math.sqrt(n) * before) / math.sqrt(n + 1)
    rest = left.clamp(min=0).sqrt()
    return result + rest[:, None] * rest[None, :] * power


def _grid() -> tuple[Tensor, Tensor]:
    """Points and weights of the integral over a standard normal variable."""
    place = torch.linspace(-_LIMIT, _LIMIT, _POINTS, dtype=torch.float64)
    density = torch.exp(-place.square() / 2)
    return place, density / density.sum()
