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
