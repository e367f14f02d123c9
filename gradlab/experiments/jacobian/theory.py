"""Theoretical predictions for the singular values of a network at initialization."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gradlab.experiments.subject import is_trained
from gradlab.facts import architecture_of
from gradlab.theory import jacobian_mean_square, jacobian_spectrum, relu_jacobian_deviation

HE = 2.0
"""The variance σ_w² of the initialization of He et al. 2015."""

PLACES = 160
_DECADES = 3.5


def law_of(model: nn.Module, part: str | None) -> dict[str, Any] | None:
    """Return the prediction for the layers between the first and the last of a plain fully connected net.

    Args:
        model: A network from `gl.build`; no theory applies to others, nor to trained weights.
        part: The module whose Jacobian is measured; theory applies to `body`.

    Returns:
        The mean_square, its standard deviation over random weights of this width, and the density of log10 of the
        singular values for infinite width at the places singular_value; None if no theory applies.
    """
    description = architecture_of(model)
    if description is None or is_trained(model) or part != "body":
        return None
    if (description.form, description.kind, description.unit, description.normalization) != (
        "scalar",
        "plain",
        "relu",
        "none",
    ):
        return None
    depth, width = description.depth, description.width
    assert depth is not None
    assert width is not None
    layers = depth - 1
    # The places reach beyond the edge of the spectrum, which grows with depth like e·L at critical weights.
    high = math.log10(2 * math.e * (layers + 1)) / 2
    places = torch.logspace(high - _DECADES, high, PLACES, dtype=torch.float64)
    density = jacobian_spectrum(places.square(), torch.relu, HE, layers)
    return {
        "mean_square": jacobian_mean_square(torch.relu, HE, layers),
        "deviation": relu_jacobian_deviation(width, layers),
        "singular_value": places.tolist(),
        "density": (density * 2 * places.square() * math.log(10)).tolist(),
    }
