"""Growth a layer, fitted to norms across depth."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats.jackknife import standard_error


def growth_a_layer(log_norms: Tensor, index: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the factor by which norms grow a layer towards the input, with its standard error.

    Least squares with one slope for all layers and an intercept for each shape: where layers change their shape
    norms jump for reasons that are not growth. A shape of one layer tells nothing, and a single pair of layers is no
    fit: of a line through all its points nobody knows whether it is one.

    Args:
        log_norms: (S, L), a row a seed.
        index: (L,), places of the layers.
        shape: (L,), whole numbers, equal for layers of one shape.

    Returns:
        The mean over seeds and its standard error over seeds; of one seed the slope's own, which takes deviations
        of the layers from the line as independent. NaN where fewer layers are than a fit and its error need.
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
    """Each row less its mean over the layers of one shape."""
    centred = values.clone()
    for one in shape.unique():
        layers = shape == one
        centred[:, layers] -= values[:, layers].mean(1, keepdim=True)
    return centred
