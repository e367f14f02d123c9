"""How fast a correlation falls with depth: slopes by least squares."""

from __future__ import annotations

import torch
from torch import Tensor


def power_exponent(log_correlation: Tensor, first: int) -> Tensor:
    """Exponent p of a fit correlation ~ L^p over the layers from `first` on.

    Args:
        log_correlation: (L,), of layers 1 to L.
        first: The first layer of the fit, 1-based; at least two layers must be left.

    Returns:
        A float64 tensor of shape ().
    """
    layers = torch.arange(first, len(log_correlation) + 1, dtype=torch.float64)
    return _slope(layers.log(), log_correlation[first - 1 :])


def log_rate(log_correlation: Tensor, first: int) -> Tensor:
    """Logarithm of the factor a layer, of a fit correlation ~ r^L over the layers from `first` on."""
    layers = torch.arange(first, len(log_correlation) + 1, dtype=torch.float64)
    return _slope(layers, log_correlation[first - 1 :])


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """The slope of y over x; NaN where some of y is not finite."""
    from scipy.stats import linregress

    return torch.as_tensor(linregress(x.numpy(), y.double().where(y.isfinite(), torch.nan).numpy()).slope)
