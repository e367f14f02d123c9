"""Rates at which a correlation decays with depth, as slopes of least-squares fits."""

from __future__ import annotations

import torch
from torch import Tensor


def power_exponent(log_correlation: Tensor, first: int) -> Tensor:
    """Fit correlation ~ L^p to the layers from `first` on and return the exponent p.

    Args:
        log_correlation: Logarithm of the correlation after layers 1 to L, shape (L,).
        first: The first layer of the fit, counted from 1; the fit needs at least two layers.

    Returns:
        A float64 tensor of shape ().
    """
    layers = torch.arange(first, len(log_correlation) + 1, dtype=torch.float64)
    return _slope(layers.log(), log_correlation[first - 1 :])


def log_rate(log_correlation: Tensor, first: int) -> Tensor:
    """Fit correlation ~ r^L to the layers from `first` on and return log r, the logarithm of the factor per layer."""
    layers = torch.arange(first, len(log_correlation) + 1, dtype=torch.float64)
    return _slope(layers, log_correlation[first - 1 :])


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """Return the slope of y over x, NaN if any value of y is not finite."""
    from scipy.stats import linregress

    return torch.as_tensor(linregress(x.numpy(), y.double().where(y.isfinite(), torch.nan).numpy()).slope)
