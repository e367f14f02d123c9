"""Expected autocorrelation of Gaussian signals from their covariance, and of white and brown noise.

In Balduzzi et al. 2017, Fig. 1 and 2, gradients of shallow nets look like brown noise, those of deep nets like white.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_LOG_TIMES = (-45.0, 90.0)
"""Limits of the integral; the remainder is below the precision of float64."""


def expected_autocorrelation(covariance: Tensor, lags: int) -> Tensor:
    """Compute E[r_k] of a Gaussian signal of mean 0: the expectation of the ratio, not a ratio of expectations.

    For z of independent standard normal entries and D = Σ λ_i z_i², E[z_i²/D] is the integral over t > 0 of
    (1 + 2tλ_i)⁻¹ Π_j (1 + 2tλ_j)^(−1/2) (Sawa 1972, "Finite-sample properties of the k-class estimators",
    Lemma 1). With the eigenvectors q_i of the centred covariance, E[r_k] = Σ_i E[z_i²/D] λ_i q_iᵀ S_k q_i, where S_k
    shifts by k. The integral is taken over log t, where the integrand decays exponentially on both sides.

    Args:
        covariance: A positive semidefinite matrix of shape (M, M). For a constant signal, whose centred covariance is
            0, the result is 1.
        lags: The largest lag, below M.

    Returns:
        A float64 tensor of shape (lags + 1,), which is 1 at lag 0.

    Raises:
        ValueError: If the largest lag is not between 0 and M − 1.
    """
    points = covariance.shape[-1]
    if not 0 <= lags < points:
        raise ValueError(f"a signal of {points} points has the lags 0 to {points - 1}, not {lags}")
    covariance = covariance.double()
    rows = covariance - covariance.mean(0, keepdim=True)
    centred = rows - rows.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh((centred + centred.T) / 2)
    if values[-1] <= 1e-14 * covariance.diagonal().abs().max():
        return torch.ones(lags + 1, dtype=torch.float64)
    values = (values / values.sum()).clamp(min=0)
    overlap = torch.stack([(vectors[: points - k] * vectors[k:]).sum(0) for k in range(lags + 1)])
    return overlap @ _mean_shares(values)


def white_noise_acf(points: int, lags: int) -> Tensor:
    """Compute E[r_k] = −(M − k)/(M(M − 1)) of white noise, which is exact for any exchangeable signal.

    Returns:
        A float64 tensor of shape (lags + 1,), which is 1 at lag 0.
    """
    lag = torch.arange(lags + 1, dtype=torch.float64)
    acf = -(points - lag) / (points * (points - 1))
    acf[0] = 1.0
    return acf


def brown_noise_pooled_acf(points: int, lags: int) -> Tensor:
    """Compute the pooled autocorrelation of Brownian motion for many points: 1 − 5κ + 6κ² − 2κ³ with κ = k/M.

    It is the ratio of the expectations of numerator and denominator, in the limit of continuous time.

    Returns:
        A float64 tensor of shape (lags + 1,).
    """
    ratio = torch.arange(lags + 1, dtype=torch.float64) / points
    return 1 - 5 * ratio + 6 * ratio**2 - 2 * ratio**3


def brown_noise_acf(points: int, lags: int) -> Tensor:
    """Compute E[r_k] of Brownian motion by quadrature; it is 0.9715 at lag 1 for 256 points.

    Returns:
        A float64 tensor of shape (lags + 1,).
    """
    time = torch.arange(1, points + 1, dtype=torch.float64)
    return expected_autocorrelation(torch.minimum(time[:, None], time[None, :]), lags)


def _mean_shares(values: Tensor) -> Tensor:
    """Compute E[λ_i z_i²/D] for each eigenvalue; the values sum to 1."""
    from scipy.integrate import quad_vec

    def integrand(log_time: float) -> Any:
        growth = 1 + 2 * math.exp(log_time) * values
        return ((log_time - growth.log().sum() / 2).exp() * values / growth).numpy()

    return torch.from_numpy(quad_vec(integrand, *_LOG_TIMES, epsabs=1e-14, epsrel=0)[0])
