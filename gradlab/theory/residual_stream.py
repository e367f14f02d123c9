"""Variance of a residual stream and of its gradient by block, depending on the normalization and scale of branches.

A branch is characterized by two numbers: v, the variance of its output for an input of variance 1, and χ, the factor by
which it multiplies the second moment of a gradient. For two layers with weights of variance 1/n around an activation φ
they are E[φ²] and E[φ′²] (see `mean_square`), both 1/2 for ReLU. All results are limits of infinite width, for
gradients that are independent of the weights, as at initialization. With d channels, the gradients of L perceptrons are
larger by a fraction of about L/(4·d) with normalization before the branch, and of up to L/d with normalization after
it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pre_norm_variance(branches: int, branch: float, start: float = 1.0, scale: float = 1.0) -> Tensor:
    """Compute q₀ + λ²·v·l, the variance of the stream after l branches x + λ·F(N(x)).

    Each branch has an input of variance 1, so each adds the same amount (Xiong et al. 2020, arXiv:2002.04745, Lemma 2;
    De and Smith 2020, arXiv:2002.10444, §3, with batch normalization). λ = 1/√L bounds it by q₀ + v (depth-μP), and
    λ = 1/L keeps it nearly constant (CompleteP).

    Args:
        branches: The number L of branches.
        branch: The variance v of a branch.
        start: The variance q₀ of the first branch's input.
        scale: The scale λ of the branches.

    Returns:
        The variances after branches 1 to L, float64 of shape (L,).
    """
    return start + scale**2 * branch * torch.arange(1, branches + 1, dtype=torch.float64)


def pre_norm_gradient(branches: int, branch: float, slope: float, start: float = 1.0, scale: float = 1.0) -> Tensor:
    """Compute the second moment of the gradient in a stream of branches x + λ·F(N(x)), relative to that after the last.

    Normalization divides by the root of the stream's variance q, so that G_{l−1} = G_l·(1 + λ²χ/q_{l−1}): a power of
    depth, q_L/q_l if χ = v (ReLU). For the last layers, whose gradients the final normalization has divided by √q_L,
    this is the decay as 1/√L of Xiong et al. 2020 (arXiv:2002.04745, Theorem 1).

    Args:
        branches: The number L of branches.
        branch: The variance v of a branch.
        slope: The gradient factor χ of a branch.
        start: The variance q₀ of the first branch's input.
        scale: The scale λ of the branches.

    Returns:
        The moments after branches 1 to L, float64 of shape (L,).
    """
    variance = pre_norm_variance(branches, branch, start, scale)
    return _from_the_last(torch.log1p(scale**2 * slope / variance[:-1]))


def post_norm_gradient(branches: int, branch: float, slope: float, stream: float = 1.0) -> Tensor:
    """Compute the second moment of the gradient after each normalization of N(α·x + F(x)), relative to the last.

    N divides by √(α² + v), so that G_{l−1} = G_l·(α² + χ)/(α² + v), exponential in depth unless χ = v (Xiong et al.
    2020, arXiv:2002.04745, §3.3, with α = 1). If tokens have become similar, attention has χ < v, and the gradient
    vanishes as 2^(−l). DeepNorm's α = (2L)^(1/4) makes each factor 1 + O(1/√L), and with its β, for which v and χ are
    of order β⁴ = 1/(8L), 1 + O(L^(−3/2)) (Wang et al. 2022, arXiv:2203.00555, §4).

    Args:
        branches: The number L of branches.
        branch: The variance v of a branch.
        slope: The gradient factor χ of a branch.
        stream: The scale α of the stream.

    Returns:
        The moments after branches 1 to L, float64 of shape (L,).
    """
    factor = math.log((stream**2 + slope) / (stream**2 + branch))
    return _from_the_last(torch.full((branches - 1,), factor, dtype=torch.float64))


def unnormalized_variance(branches: int, branch: float, start: float = 1.0, scale: float = 1.0) -> Tensor:
    """Compute q₀·(1 + λ²v)^l, the variance of the stream after l branches x + λ·F(x) that scale with their input.

    This applies to branches of ReLU or linear layers. It is 2^l with He initialization (De and Smith 2020,
    arXiv:2002.10444, §3), at most e^v·q₀ with λ = 1/√L, as in the limit of depth-μP (arXiv:2310.02244), and e^{v/L}·q₀
    with λ = 1/L. SkipInit, ReZero (arXiv:2003.04887) and Fixup (arXiv:1901.09321) start at λ = 0 or v = 0, which gives
    q₀ at every depth. The gradient's second moment grows as (1 + λ²χ)^l towards the input.

    Args:
        branches: The number L of branches.
        branch: The variance v of a branch.
        start: The variance q₀ of the first branch's input.
        scale: The scale λ of the branches.

    Returns:
        The variances after branches 1 to L, float64 of shape (L,).
    """
    depth = torch.arange(1, branches + 1, dtype=torch.float64)
    return start * torch.exp(depth * math.log1p(scale**2 * branch))


def deepnorm_constants(blocks: int) -> tuple[float, float]:
    """Return α = (2L)^(1/4) and β = (8L)^(−1/4) of an encoder-only or decoder-only model (arXiv:2203.00555, Fig. 2)."""
    return (2 * blocks) ** 0.25, (8 * blocks) ** -0.25


def _from_the_last(logs: Tensor) -> Tensor:
    """Return the product of factors from each branch to the last, which is 1 for the last."""
    return torch.cat([logs.flip(0).cumsum(0).flip(0), logs.new_zeros(1)]).exp()
