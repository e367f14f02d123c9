"""Autocorrelations of white and brown noise, the two ends between which gradients lie.

Balduzzi et al. 2017, Fig. 1 and 2: gradients of shallow nets look like brown noise, of deep nets like white.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.theory.expected_acf import expected_autocorrelation


def white_noise_acf(points: int, lags: int) -> Tensor:
    """E[r_k] of white noise, exact for any exchangeable signal: −(M − k)/(M(M − 1)).

    Returns:
        (lags + 1,), float64; 1 at lag 0.
    """
    lag = torch.arange(lags + 1, dtype=torch.float64)
    acf = -(points - lag) / (points * (points - 1))
    acf[0] = 1.0
    return acf


def brown_noise_pooled_acf(points: int, lags: int) -> Tensor:
    """Pooled autocorrelation of Brownian motion for many points: 1 − 5κ + 6κ² − 2κ³ with κ = k/M.

    The ratio of expectations of numerator and denominator, in the limit of continuous time.

    Returns:
        (lags + 1,), float64.
    """
    ratio = torch.arange(lags + 1, dtype=torch.float64) / points
    return 1 - 5 * ratio + 6 * ratio**2 - 2 * ratio**3


def brown_noise_acf(points: int, lags: int) -> Tensor:
    """E[r_k] of Brownian motion, by quadrature: 0.9715 at lag 1 for 256 points.

    Returns:
        (lags + 1,), float64.
    """
    time = torch.arange(1, points + 1, dtype=torch.float64)
    return expected_autocorrelation(torch.minimum(time[:, None], time[None, :]), lags)
