"""Second moments of an activation for Gaussian inputs, at one input and between two inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""An elementwise activation."""

_LIMIT, _POINTS = 12.0, 4801
"""Range of the integrals in standard deviations, and number of points, which include 0, the kink of ReLU."""


def gaussian_mean(function: Function, variance: Tensor | float = 1.0) -> Tensor:
    """Compute E[f(z)] for z ~ N(0, q) by the trapezoidal rule, with an error of about 1e-6.

    Args:
        function: The function f, which is applied elementwise.
        variance: The variance q, of any shape.

    Returns:
        A float64 tensor of q's shape.
    """
    place, weight = _grid()
    q = torch.as_tensor(variance, dtype=torch.float64)
    return (function(q.sqrt()[..., None] * place) * weight).sum(-1)


def mean_square(function: Function, variance: Tensor | float = 1.0) -> Tensor:
    """Compute E[φ(z)²] for z ~ N(0, q): q/2 for ReLU, and 0.4252 for GELU at q = 1."""
    return gaussian_mean(lambda z: function(z).square(), variance)


def mean_square_slope(function: Function, variance: Tensor | float = 1.0) -> Tensor:
    """Compute E[φ′(z)²] for z ~ N(0, q), the factor of a gradient's second moment: 1/2 for ReLU.

    The derivative is torch's, also at the kink of φ, which is one point of the integral.
    """

    def slope(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        (found,) = torch.autograd.grad(function(z).sum(), z)
        return found.square()

    with torch.enable_grad():
        return gaussian_mean(slope, variance)


def dual_activation(function: Function, kernel: Tensor, terms: int = 40) -> Tensor:
    """Compute E[φ(u)·φ(v)] for all pairs of jointly Gaussian inputs (Daniely et al. 2016, arXiv:1602.05897, §4).

    With the normalized Hermite polynomials h_n and c_n(q) = E[φ(√q z) h_n(z)], it is Σ c_n(q_u) c_n(q_v) ρⁿ. The sum of
    all further terms at ρ = 1, known from E[φ²], is assigned to the last power.

    Args:
        function: The activation φ.
        kernel: The covariance of the inputs, shape (T, T).
        terms: The number of powers of ρ.

    Returns:
        A float64 matrix of shape (T, T).
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
    """Return the points and weights of integrals over a standard normal variable."""
    place = torch.linspace(-_LIMIT, _LIMIT, _POINTS, dtype=torch.float64)
    density = torch.exp(-place.square() / 2)
    return place, density / density.sum()
