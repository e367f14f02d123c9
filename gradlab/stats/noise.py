"""White and brown noise, the two ends between which gradients lie.

Balduzzi et al. 2017, Fig. 1 and 2: gradients of shallow nets look like brown noise, of deep nets like white.
"""

from __future__ import annotations

import torch
from torch import Tensor


def white_noise(runs: int, points: int, generator: torch.Generator) -> Tensor:
    """Independent standard normal values, (runs, points), float64."""
    return torch.randn(runs, points, generator=generator, dtype=torch.float64)


def brown_noise(runs: int, points: int, generator: torch.Generator) -> Tensor:
    """Brownian motion: cumulative sums of white noise, (runs, points), float64."""
    return white_noise(runs, points, generator).cumsum(-1)
