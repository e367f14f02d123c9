"""Growth of gradients from the loss to the input at initialization: laws from the literature in closed form.

All are ratios of second moments (squared norms) in the limit of infinite width. With batch statistics they also
assume many examples per batch, and gradients that are not aligned over the batch: batch normalization removes the
components along a constant and along the response itself, which are large near the loss of a small net.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def he_growth(fan_out: float, weight_variance: float) -> float:
    """Compute the growth per layer of the gradient's second moment in a ReLU net without normalization: n̂·Var[w]/2.

    This is Eq. 13 of He et al. 2015b (arXiv:1502.01852). It is 1 for n̂·Var[w] = 2 (Eq. 14), and n̂/n with weights of
    variance 2/n: 1 where a layer has as many outputs as inputs. It describes the gradient of a response at a single
    example; the gradient of a weight sums over examples and positions, whose alignment increases from layer to layer.

    Args:
        fan_out: The number n̂ = k²·d of connections that leave one input; with zero padding, the average over a map of
            those that stay inside.
        weight_variance: The variance Var[w] of the weights.
    """
    return fan_out * weight_variance / 2


def batch_norm_relu_growth(coverage: float = 1.0) -> float:
    """Compute the growth per layer of the gradient's second moment with batch norm and ReLU: π/(π − 1) ≈ 1.467.

    Yang et al. 2019 (arXiv:1902.08129) show that gradients explode for any activation, and give this value for ReLU
    and large batches; the variance of the weights cancels. A ReLU's output has the variance 1/2 − 1/(2π) over the
    batch. With weights of variance 2/N, a response before normalization has twice this variance, 1 − 1/π, by which
    normalization divides the gradient's second moment; ReLU passes half of it, and the weights double it.

    Zero padding makes the mean vary over a map, which adds variance. If tap t of the kernel lies inside the map at a
    fraction q_t of the positions, it contributes q_t·E[z²] − q_t²·E[z]² to the variance and passes q_t of the
    gradient, which gives π/(π − ρ) with ρ = Σ q_t²/Σ q_t.

    Args:
        coverage: The coverage ρ, see `tap_coverage`; 1 without padding.
    """
    return math.pi / (math.pi - coverage)


def tap_coverage(size: int, kernel: int = 3, dimensions: int = 2) -> float:
    """Compute the coverage ρ = Σ q_t²/Σ q_t from the fractions q_t of `taps_inside`."""
    inside = taps_inside(size, kernel, dimensions)
    return float(inside.square().sum() / inside.sum())


def taps_inside(size: int, kernel: int = 3, dimensions: int = 2) -> Tensor:
    """Compute the fraction q_t of positions at which each tap of a zero-padded convolution lies inside the map.

    Args:
        size: The size of the map along each dimension, which the convolution of stride 1 preserves.
        kernel: The number of taps along each dimension, which is odd.
        dimensions: The number of dimensions of the map.

    Returns:
        The fractions, float64 of shape (kernel^dimensions,).
    """
    line = torch.tensor(
        [max(size - abs(t), 0) / size for t in range(-(kernel // 2), kernel // 2 + 1)], dtype=torch.float64
    )
    return torch.cartesian_prod(*[line] * dimensions).view(-1, dimensions).prod(1)


def residual_gradient_moments(blocks: int, beta: float = 1.0) -> Tensor:
    """Compute second moments of the gradient in a residual net with batch normalization at the start of each branch.

    This follows the recursion of variances of De and Smith 2020 (arXiv:2002.10444, §3) for
    x_l = x_{l−1} + β·W relu(BN(x_{l−1})) with W of variance 2/N. The variance of x over the batch accumulates,
    v_l = v_{l−1} + β²·(1 − 1/π) from v_0 = 1. Normalization divides by it, so the branch of block l is scaled down by
    √v, and the gradient passes block l with

        E|∂x_{l−1}|² = E|∂x_l|² · (1 + β²/v_{l−1})

    The product grows as L^(π/(π − 1)), a power of depth, compared with (π/(π − 1))^L without shortcuts. Without ReLU
    the variance grows by 1 per block and the gradient's moment as L, which is how the paper states it.

    Args:
        blocks: The number L of blocks.
        beta: The weight of the residual branches.

    Returns:
        The moments at the outputs of blocks 1 to L relative to the last, float64 of shape (L,).
    """
    block = torch.arange(1, blocks, dtype=torch.float64)
    variance = 1 + beta**2 * (1 - 1 / math.pi) * block
    logs = torch.log1p(beta**2 / variance)
    return torch.cat([logs.flip(0).cumsum(0).flip(0), logs.new_zeros(1)]).exp()
