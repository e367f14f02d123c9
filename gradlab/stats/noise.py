"""White and brown noise, the two ends between which gradients lie.

In Balduzzi et al. 2017, Fig. 1 and 2, gradients of shallow nets look like brown noise, those of deep nets like white.
"""

from __future__ import annotations

import torch
from torch import Tensor


def white_noise(runs: int, points: int, generator: torch.Generator) -> Tensor:
    """Draw independent standard normal values, float64 of shape (runs, points)."""
    return torch.randn(runs, points, generator=generator, dtype=torch.float64)


def brown_noise(runs: int, points: int, generator: torch.Generator) -> Tensor:
    """Draw Brownian motion, the cumulative sums of white noise, float64 of shape (runs, points)."""
    return white_noise(runs, points, generator).cumsum(-1)
