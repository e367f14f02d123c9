"""Variance of a residual stream and of its gradient, block by block, by where branches are normalized and scaled.

A branch is described by two numbers: v, the variance of its output for an input of variance 1, and χ, the second
moment of the gradient that it hands back for one of 1. With weights of variance 1/n in two layers about an activation φ
they are E[φ²] and E[φ′²] (see `mean_square`); both are 1/2 for ReLU. All are limits of infinite width, for gradients
that are independent of the weights that they pass, as they are at initialization. At d channels the gradients of L
perceptrons are larger by a share of some L/(4·d) with normalization before the branch, and of up to L/d behind it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pre_norm_variance(branches: int, branch: float, start: float = 1.0, scale: float = 1.0) -> Tensor:
    """q₀ + λ²·v·l: variance of the stream behind l branches x + λ·F(N(x)).

    Each reads an input of variance 1, so each adds the same (Xiong et al. 2020, arXiv:2002.04745, Lemma 2; De and Smith
    2020, arXiv:2002.10444, §3, with batch normalization). λ = 1/√L bounds it by q₀ + v (depth-μP), λ = 1/L leaves it
    (CompleteP).

    Args:
        branches: L.
        branch: v.
        start: q₀, of what enters the first branch.
        scale: λ.

    Returns:
        (L,), float64: behind branches 1 to L.
    """
    return start + scale**2 * branch * torch.arange(1, branches + 1, dtype=torch.float64)


def pre_norm_gradient(branches: int, branch: float, slope: float, start: float = 1.0, scale: float = 1.0) -> Tensor:
    """Second moment of the gradient along a stream of branches x + λ·F(N(x)), relative to that behind the last.

    Normalization divides by the root of the stream's variance q, so that G_{l−1} = G_l·(1 + λ²χ/q_{l−1}): a power of
    depth, q_L/q_l where χ = v (ReLU). Against the last layers, whose gradients the final normalization has divided by
    √q_L, this is the decay as 1/√L of Xiong et al. 2020 (arXiv:2002.04745, Theorem 1).

    Args:
        branches: L.
        branch: v.
        slope: χ.
        start: q₀.
        scale: λ.

    Returns:
        (L,), float64: behind branches 1 to L.
    """
    variance = pre_norm_variance(branches, branch, start, scale)
    return _from_the_last(torch.log1p(scale**2 * slope / variance[:-1]))


def post_norm_gradient(branches: int, branch: float, slope: float, stream: float = 1.0) -> Tensor:
    """Second moment of the gradient behind each normalization of N(α·x + F(x)), relative to that behind the last.

    N divides by √(α² + v): G_{l−1} = G_l·(α² + χ)/(α² + v), exponential in depth unless χ = v (Xiong et al. 2020,
    arXiv:2002.04745, §3.3; α = 1). Attention hands back less than it takes where tokens have become alike, and the
    gradient vanishes as 2^(−l). DeepNorm's α = (2L)^(1/4) brings each factor to 1 + O(1/√L), and with its β, for which
    v and χ are of order β⁴ = 1/(8L), to 1 + O(L^(−3/2)) (Wang et al. 2022, arXiv:2203.00555, §4).

    Args:
        branches: L.
        branch: v.
        slope: χ.
        stream: α.

    Returns:
        (L,), float64: behind branches 1 to L.
    """
    factor = math.log((stream**2 + slope) / (stream**2 + branch))
    return _from_the_last(torch.full((branches - 1,), factor, dtype=torch.float64))


def unnormalized_variance(branches: int, branch: float, start: float = 1.0, scale: float = 1.0) -> Tensor:
    """q₀·(1 + λ²v)^l: variance of the stream behind l branches x + λ·F(x) that scale with their input.

    For branches of ReLU or linear layers. It is 2^l with He's initialization (De and Smith 2020, arXiv:2002.10444, §3);
    at most e^v·q₀ with λ = 1/√L, of which depth-μP (arXiv:2310.02244) makes its limit; e^{v/L}·q₀ with λ = 1/L.
    SkipInit, ReZero (arXiv:2003.04887) and Fixup (arXiv:1901.09321) begin at λ = 0 or v = 0: q₀ at every depth. The
    gradient's second moment grows as (1 + λ²χ)^l towards the input.

    Args:
        branches: L.
        branch: v.
        start: q₀.
        scale: λ.

    Returns:
        (L,), float64: behind branches 1 to L.
    """
    depth = torch.arange(1, branches + 1, dtype=torch.float64)
    return start * torch.exp(depth * math.log1p(scale**2 * branch))


def deepnorm_constants(blocks: int) -> tuple[float, float]:
    """α = (2L)^(1/4) and β = (8L)^(−1/4) of an encoder or a decoder alone (arXiv:2203.00555, Fig. 2)."""
    return (2 * blocks) ** 0.25, (8 * blocks) ** -0.25


def _from_the_last(logs: Tensor) -> Tensor:
    """Products of factors from each branch to the last, whose own is 1."""
    return torch.cat([logs.flip(0).cumsum(0).flip(0), logs.new_zeros(1)]).exp()
