"""Covariance and correlation of gradients at pairs of inputs, over random weights."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_covariance(gradients: Tensor) -> Tensor:
    """Compute the covariance of the gradients at every pair of inputs, over networks drawn at random.

    The mean is not subtracted: it is exactly 0, since a network and its negative are equally likely.

    Args:
        gradients: Gradients of shape (S, M), one row per network.

    Returns:
        A float64 matrix of shape (M, M), with divisor S.
    """
    gradients = gradients.double()
    return gradients.T @ gradients / gradients.shape[0]


def gradient_correlation(gradients: Tensor) -> Tensor:
    """Compute the correlation of the gradients at every pair of inputs, over networks drawn at random.

    It is E[g g'] / √(E[g²] E[g'²]), the quantity of the theorems of Balduzzi et al. 2017, §3.

    Args:
        gradients: Gradients of shape (S, M), one row per network.

    Returns:
        A float64 matrix of shape (M, M), NaN in the row and column of an input whose gradient is always 0.
    """
    gradients = gradients.double()
    largest = gradients.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    covariance = gradient_covariance(gradients / largest)
    std = covariance.diagonal().sqrt()
    return covariance / (std[:, None] * std[None, :])
