"""Laws of gradient correlation against depth when neurons are active like independent coin flips.

These are Theorems 1 to 3 of Balduzzi et al. 2017, and the exact products behind their asymptotes. They hold at any
width, for two inputs at which each neuron is active independently with probability 1/2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CENTRED_EXPONENT = -1 / (2 * (1 - 1 / math.pi))
"""Power of depth with which correlation decays in residual nets with centring batch normalization, for any β."""


def feedforward_law(depth: Tensor) -> Tensor:
    """Compute the correlation 2^−L of feedforward nets, where each layer keeps half of its active paths (Theorem 1)."""
    return torch.exp2(-depth.double())


def residual_law(depth: Tensor, beta: float = 1.0) -> Tensor:
    """Compute the correlation in residual nets without normalization (Theorem 2).

    It is ((1 + β²/2)/(1 + β²))^L, or (3/4)^L for β = 1.
    """
    return ((1 + beta**2 / 2) / (1 + beta**2)) ** depth.double()


def residual_variance(depth: Tensor, beta: float = 1.0) -> Tensor:
    """Compute (1 + β²)^L, the growth of the gradients' variance without normalization (Theorem 2)."""
    return (1 + beta**2) ** depth.double()


def highway_law(depth: Tensor, carry: float, beta: float) -> Tensor:
    """Compute the correlation in highway nets γx + βWρ(x) with constant gates, a corollary of Theorem 2.

    A block multiplies the gradients' second moment by γ² + β² and their co-moment by γ² + β²/2, so that the correlation
    is ((γ² + β²/2)/(γ² + β²))^L, with γ = 1 that of residual nets. With γ² + β² = 1 the second moment does not change,
    and the correlation is (1 − β²/2)^L; if β² = c/L it tends to exp(−c/2) and no longer falls with depth.

    Args:
        depth: The number of blocks, of any shape.
        carry: The weight γ of the shortcut.
        beta: The weight β of the branch.
    """
    return ((carry**2 + beta**2 / 2) / (carry**2 + beta**2)) ** depth.double()


def normalized_highway_law(
    depth: Tensor, carry: float, beta: float, *, centred: bool = False, stem: float = 1.0
) -> Tensor:
    """Compute the correlation in highway nets γx + βWρ(norm(x)) with constant gates, as the product over blocks.

    Block l multiplies the gradients' second moment by γ² + β²/v and their co-moment by γ² + β²/(2v), where v is the
    variance that it divides by; the next block has the variance γ²v + β², or γ²v + β²(1 − 1/π) with centring. With
    γ = 1 it is `normalized_residual_law`. With γ² + β² = 1, v = 1 and without centring it is that without
    normalization, `highway_law`.

    Args:
        depth: The number of blocks, of any shape.
        carry: The weight γ of the shortcut.
        beta: The weight β of the branch.
        centred: Whether the normalization subtracts the mean.
        stem: The variance v over the inputs of the first block's input, or its mean square if not centred.
    """
    share = 1 - 1 / math.pi if centred else 1.0
    variance, product, products = stem, 1.0, [1.0]
    for _ in range(int(depth.max())):
        branch = beta**2 / variance
        product *= (carry**2 + branch / 2) / (carry**2 + branch)
        products.append(product)
        variance = carry**2 * variance + beta**2 * share
    return torch.tensor(products, dtype=torch.float64, device=depth.device)[depth.long()]


def normalized_residual_variance(depth: Tensor, beta: float = 1.0) -> Tensor:
    """Compute 1 + β²L, the growth of the gradients' variance with normalization (Theorem 3)."""
    return 1 + beta**2 * depth.double()


def normalized_residual_law(depth: Tensor, beta: float = 1.0, *, centred: bool = False, stem: float = 1.0) -> Tensor:
    """Compute the correlation in residual nets with normalization, as the exact product over blocks.

    Block l multiplies the gradients' second moment by 1 + β²s² and their co-moment by 1 + β²s²/2, where 1/s² is the
    variance that normalization divides by, v at the first block. Without centring (RMS), 1/s² = v + β²l, and the
    product is Γ(L+a+½)Γ(a+1)/(Γ(a+½)Γ(L+a+1)) with a = 1/β² for v = 1. The paper gives its asymptote 1/(β√L)
    (Theorem 3), which exceeds 1 where L < 1/β². With centring, only the fraction 1 − 1/π of a ReLU's mean square is
    variance about the mean, so 1/s² = v + β²(1 − 1/π)l, and correlation decays as L^−0.7335 for β²L far above v.

    Args:
        depth: The number of residual blocks, of any shape.
        beta: The weight of the residual branch, above 0.
        centred: Whether the normalization subtracts the mean.
        stem: The variance v over the inputs of the first block's input, or its mean square if not centred.

    Returns:
        A float64 tensor of depth's shape.
    """
    from scipy.special import poch

    share = 1 - 1 / math.pi if centred else 1.0
    start, power = (stem / beta**2 + 1) / share, -0.5 / share
    # Γ(x + power)/Γ(x) is taken at both ends, since logarithms of Γ lose digits where they nearly cancel.
    law = poch(start + depth.double().numpy(force=True), power) / poch(start, power)
    return torch.as_tensor(law, device=depth.device)


def paper_asymptote(depth: Tensor, beta: float = 1.0) -> Tensor:
    """Compute 1/(β√L), the form in which Theorem 3 is usually quoted."""
    return 1 / (beta * depth.double().sqrt())
