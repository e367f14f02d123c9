"""The paper's laws: gradient correlation against depth when neurons are active as independent coin flips.

Balduzzi et al. 2017, Theorems 1 to 3, and the exact products behind the asymptotes that they quote. They hold
at any width, for two inputs at which each neuron is active with chance 1/2 and independently.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CENTRED_EXPONENT = -1 / (2 * (1 - 1 / math.pi))
"""Power of depth at which correlation falls in residual nets whose batch normalization centres, at any β."""


def feedforward_law(depth: Tensor) -> Tensor:
    """2^−L: a layer keeps half of its active paths (Theorem 1)."""
    return torch.exp2(-depth.double())


def residual_law(depth: Tensor, beta: float = 1.0) -> Tensor:
    """((1 + β²/2)/(1 + β²))^L, (3/4)^L for β = 1: residual nets without normalization (Theorem 2)."""
    return ((1 + beta**2 / 2) / (1 + beta**2)) ** depth.double()


def residual_variance(depth: Tensor, beta: float = 1.0) -> Tensor:
    """(1 + β²)^L, 2^L for β = 1: growth of the gradients' variance without normalization (Theorem 2)."""
    return (1 + beta**2) ** depth.double()


def normalized_residual_variance(depth: Tensor, beta: float = 1.0) -> Tensor:
    """1 + β²L: growth of the gradients' variance with normalization (Theorem 3)."""
    return 1 + beta**2 * depth.double()


def normalized_residual_law(depth: Tensor, beta: float = 1.0, *, centred: bool = False, stem: float = 1.0) -> Tensor:
    """Correlation in residual nets with normalization, the exact product over blocks.

    Block l multiplies the gradients' second moment by 1 + β²s², and their co-moment by 1 + β²s²/2, where 1/s²
    is the variance that normalization divides by, v at the first block. If it does not centre (RMS),
    1/s² = v + β²l and the product is Γ(L+a+½)Γ(a+1)/(Γ(a+½)Γ(L+a+1)) with a = 1/β² for v = 1, for which the
    paper quotes its asymptote 1/(β√L) (Theorem 3); that exceeds 1 where L < 1/β². If it centres, only the share
    1 − 1/π of a ReLU's output variance is variance about the mean, 1/s² = v + β²(1 − 1/π)l, and correlation
    falls as L^−0.7335 in the end, for β²L far above v.

    Args:
        depth: Residual blocks, any shape.
        beta: Weight of the residual branch, above 0.
        centred: Whether the normalization subtracts the mean.
        stem: v, the variance over the inputs of what enters the first block, or the mean square if not centred.

    Returns:
        Of depth's shape, float64.
    """
    from scipy.special import poch

    share = 1 - 1 / math.pi if centred else 1.0
    start, power = (stem / beta**2 + 1) / share, -0.5 / share
    # Γ(x + power)/Γ(x) at both ends: logarithms of Γ lose their digits where many blocks nearly cancel.
    law = poch(start + depth.double().numpy(force=True), power) / poch(start, power)
    return torch.as_tensor(law, device=depth.device)


def paper_asymptote(depth: Tensor, beta: float = 1.0) -> Tensor:
    """1/(β√L), as Theorem 3 is usually quoted."""
    return 1 / (beta * depth.double().sqrt())
