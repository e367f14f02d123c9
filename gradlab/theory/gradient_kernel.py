"""Covariance of the input gradients of infinitely wide nets along a line of inputs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradlab.theory.arc_cosine import kappa0, kappa0_slope, kappa1


def feedforward_gradient_kernel(
    x: Tensor, depth: int, norm: Literal["none", "center"] = "none", bias: bool = True
) -> Tensor:
    """Compute E[g(x_i) g(x_j)] of an infinitely wide ReLU net with scalar inputs, up to a constant factor.

    The pre-activations z and their derivatives t along the line are jointly Gaussian in every layer. Their covariances
    after a ReLU follow by differentiating k̂ = √(ac) κ₁(b/√(ac)) with respect to the two inputs. The normalization
    `center` subtracts the mean over the line from z alone, since the mean is frozen in the backward pass; it is absent
    before the first and the last ReLU. The result is exact for N → ∞; at width N the error is of order depth/N. Batch
    normalization has no such limit on a line, since the std of a neuron over its inputs does not average out.

    Args:
        x: The inputs, shape (M,).
        depth: The number of ReLU layers.
        norm: The normalization, `none` or `center`.
        bias: Whether the first layer has a bias, with the variance of its weights.

    Returns:
        A float64 matrix of shape (M, M).
    """
    x = x.double()
    state = x[:, None] * x[None, :] + float(bias)
    mixed = x[None, :].expand(len(x), -1)  # (i, j): covariance of t_i and z_j
    tangent = torch.ones_like(state)
    for layer in range(1, depth + 1):
        if norm == "center" and 1 < layer < depth:
            state = state - state.mean(0, keepdim=True)
            state = state - state.mean(1, keepdim=True)
            mixed = mixed - mixed.mean(1, keepdim=True)
        state, mixed, tangent = _relu(state, mixed, tangent)
    return tangent


def _relu(state: Tensor, mixed: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Propagate the three covariances through a ReLU and new weights of variance 2/N."""
    std = state.diagonal().clamp(min=0).sqrt()
    product = (std[:, None] * std[None, :]).clamp(min=torch.finfo(torch.float64).tiny)
    own = mixed.diagonal()
    rho = (state / product).clamp(-1, 1)
    rho.fill_diagonal_(1.0)
    zero, one = kappa0(rho), kappa1(rho)
    rest = one - rho * zero
    ratio = std[None, :] / std[:, None].clamp(min=torch.finfo(torch.float64).tiny)  # (i, j): √(c/a)
    # At ρ = ±1 the slope is infinite but its factor is 0, and the limit of the product is 0.
    slope = kappa0_slope(rho).nan_to_num(posinf=0.0)
    off = mixed - rho * ratio * own[:, None]
    new_mixed = rest * ratio * own[:, None] + zero * mixed
    new_tangent = zero * tangent + (slope * off * off.T + rest * own[:, None] * own[None, :]) / product
    new_tangent.diagonal().copy_(tangent.diagonal())
    return product * one, new_mixed, new_tangent
