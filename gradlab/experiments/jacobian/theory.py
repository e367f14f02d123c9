"""The law of a network's singular values, where there is one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gradlab.experiments.subject import is_trained
from gradlab.theory import jacobian_mean_square, jacobian_spectrum

HE = 2.0
"""σ_w² of He's initialization."""

PLACES = 160
_DECADES = 3.5


def law_of(model: nn.Module, part: str | None) -> dict[str, Any] | None:
    """Return the law of the layers between the first and the last of a plain fully connected net as initialized.

    Args:
        model: From `gl.build`.
        part: The module whose Jacobian is measured.

    Returns:
        mean_square; singular_value, places; and density, that of log10 of the singular values there. None of others.
    """
    description = getattr(getattr(model, "network", None), "description", None)
    if description is None or is_trained(model) or part != "body":
        return None
    if (description.form, description.kind, description.unit, description.normalization) != (
        "scalar",
        "plain",
        "relu",
        "none",
    ):
        return None
    layers = description.depth - 1
    # Beyond the edge of the spectrum, which grows with depth like e·L at critical weights.
    high = math.log10(2 * math.e * (layers + 1)) / 2
    places = torch.logspace(high - _DECADES, high, PLACES, dtype=torch.float64)
    density = jacobian_spectrum(places.square(), torch.relu, HE, layers)
    return {
        "mean_square": jacobian_mean_square(torch.relu, HE, layers),
        "singular_value": places.tolist(),
        "density": (density * 2 * places.square() * math.log(10)).tolist(),
    }
