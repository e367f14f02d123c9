"""How fast gradients grow from the loss to the input at initialization: the literature's laws, in closed form.

All are ratios of second moments, the squares of norms, in the limit of infinite width. With batch statistics they
take many examples a batch as well, and gradients that do not line up over the batch: what lines up with a
constant or with the response itself is taken out by batch normalization, as it is near the loss of a small net.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def he_growth(fan_out: float, weight_variance: float) -> float:
    """Growth a layer of the gradient's second moment in a ReLU net without normalization: n̂·Var[w]/2.

    He et al. 2015b (arXiv:1502.01852), Eq. 13. It is 1 for n̂·Var[w] = 2 (Eq. 14), and with weights of variance
    2/n it is n̂/n: 1 where a layer has as many outputs as inputs. It is about the gradient of a response, example by
    example; that of a weight sums over examples and positions, which line up more from layer to layer.

    Args:
        fan_out: n̂ = k²·d, connections that leave one input; with zero padding those inside, on average over a map.
        weight_variance: Var[w].
    """
    return fan_out * weight_variance / 2


def batch_norm_relu_growth(coverage: float = 1.0) -> float:
    """Growth a layer of the gradient's second moment through weights, batch normalization and ReLU: π/(π − 1) ≈ 1.467.

    Yang et al. 2019 (arXiv:1902.08129), who show that it explodes whatever the activation, and give this value for
    ReLU and large batches; the variance of the weights cancels. A ReLU's output has the variance 1/2 − 1/(2π) over
    the batch. With weights of variance 2/N that of a response before normalization is twice this, 1 − 1/π, by
    which normalization divides the gradient's second moment; ReLU passes half of it, and the weights double it.

    Zero padding makes the mean vary over a map, which is variance too. With q_t the share of positions at which tap
    t of the kernel lies inside, the mean of taps is q·E[z²] − q²·E[z]² before, and q of the gradient comes back:
    π/(π − ρ) with ρ = Σ q_t²/Σ q_t.

    Args:
        coverage: ρ, see `tap_coverage`; 1 without padding.
    """
    return math.pi / (math.pi - coverage)


def tap_coverage(size: int, kernel: int = 3, dimensions: int = 2) -> float:
    """ρ = Σ q_t²/Σ q_t over the shares of positions at which each tap lies inside the map; see `taps_inside`."""
    inside = taps_inside(size, kernel, dimensions)
    return float(inside.square().sum() / inside.sum())


def taps_inside(size: int, kernel: int = 3, dimensions: int = 2) -> Tensor:
    """q_t: share of positions at which each tap of a zero-padded convolution lies inside its map.

    Args:
        size: Positions of the map along each dimension; the convolution, of stride 1, keeps it.
        kernel: Taps along each dimension, an odd number.
        dimensions: Of the map.

    Returns:
        (kernel^dimensions,), float64.
    """
    line = torch.tensor(
        [max(size - abs(t), 0) / size for t in range(-(kernel // 2), kernel // 2 + 1)], dtype=torch.float64
    )
    return torch.cartesian_prod(*[line] * dimensions).view(-1, dimensions).prod(1)


def residual_gradient_moments(blocks: int, beta: float = 1.0) -> Tensor:
    """Second moments of the gradient along a residual net with batch normalization at the head of each branch.

    The recursion of variances of De and Smith 2020 (arXiv:2002.10444, §3), for x_l = x_{l−1} + β·W relu(BN(x_{l−1}))
    with W of variance 2/N. Over the batch the variance of x adds up, v_l = v_{l−1} + β²·(1 − 1/π) from v_0 = 1;
    normalization divides by it, so block l's branch is scaled down by √v, and the gradient passes block l with

        E|∂x_{l−1}|² = E|∂x_l|² · (1 + β²/v_{l−1})

    The product grows as L^(π/(π − 1)), a power of depth, against (π/(π − 1))^L without shortcuts. Without ReLU the
    variance grows by 1 a block instead, and the gradient's moment as L, which is how the paper states it.

    Args:
        blocks: L.
        beta: Weight of the residual branches.

    Returns:
        (L,), float64: at the output of blocks 1 to L, relative to the last.
    """
    block = torch.arange(1, blocks, dtype=torch.float64)
    variance = 1 + beta**2 * (1 - 1 / math.pi) * block
    logs = torch.log1p(beta**2 / variance)
    return torch.cat([logs.flip(0).cumsum(0).flip(0), logs.new_zeros(1)]).exp()
