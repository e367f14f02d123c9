"""Growth factor per layer, fitted to norms across depth."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats.jackknife import standard_error


def growth_a_layer(log_norms: Tensor, index: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the logarithm of the factor per layer by which norms grow towards the input, with its standard error.

    The least-squares fit has one slope for all layers and one intercept per shape, since norms jump where the shape
    changes, for reasons other than growth. A shape that only one layer has does not constrain the slope. A single
    pair of layers is no fit, because a line through all its points leaves no residual to judge it by.

    Args:
        log_norms: Logarithms of the norms, shape (S, L), one row per seed.
        index: Positions of the layers, shape (L,).
        shape: Integers of shape (L,), equal for layers of the same shape.

    Returns:
        The mean over seeds and its standard error over seeds. For one seed, the error is that of the slope, assuming
        that the layers deviate from the line independently. Both are NaN if there are too few layers for the fit.
    """
    y, x = log_norms.double(), index.double()
    x = _centred(x[None], shape)[0]
    y = _centred(y, shape)
    spread = x.square().sum()
    free = len(x) - len(shape.unique()) - 1
    if spread == 0 or free < 1:
        return torch.full((2,), torch.nan, dtype=torch.float64).unbind()  # type: ignore[return-value]
    slopes = (y @ x) / spread
    if len(slopes) > 1:
        return -slopes.mean(), standard_error(slopes)
    residuals = (y[0] - slopes[0] * x).square().sum()
    return -slopes[0], (residuals / free / spread).sqrt()


def _centred(values: Tensor, shape: Tensor) -> Tensor:
    """Subtract from each row its mean over the layers of each shape."""
    centred = values.clone()
    for one in shape.unique():
        layers = shape == one
        centred[:, layers] -= values[:, layers].mean(1, keepdim=True)
    return centred
