"""Covariance and correlation of gradients at pairs of inputs, over random weights."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_covariance(gradients: Tensor) -> Tensor:
    """Covariance of the gradients at every pair of inputs, over networks drawn at random.

    The mean is not subtracted: it is 0 exactly, since a network and its negative are equally likely.

    Args:
        gradients: (S, M), a row a network.

    Returns:
        (M, M), float64, with divisor S.
    """
    gradients = gradients.double()
    return gradients.T @ gradients / gradients.shape[0]


def gradient_correlation(gradients: Tensor) -> Tensor:
    """Correlation of the gradients at every pair of inputs, over networks drawn at random.

    E[g g'] / √(E[g²] E[g'²]), the quantity of the theorems (Balduzzi et al. 2017, §3).

    Args:
        gradients: (S, M), a row a network.

    Returns:
        (M, M), float64; NaN in the rows of an input whose gradient is always 0.
    """
    gradients = gradients.double()
    largest = gradients.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    covariance = gradient_covariance(gradients / largest)
    std = covariance.diagonal().sqrt()
    return covariance / (std[:, None] * std[None, :])
