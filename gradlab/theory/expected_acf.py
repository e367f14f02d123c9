"""The exact mean autocorrelation of a Gaussian signal, from its covariance."""

from __future__ import annotations

import torch
from torch import Tensor

_LOG_TIMES = (-45.0, 90.0, 2701)


def expected_autocorrelation(covariance: Tensor, lags: int) -> Tensor:
    """E[r_k] of a Gaussian signal of mean 0, the expectation of the ratio and not a ratio of expectations.

    For z of independent standard normal entries and D = Σ λ_i z_i², E[z_i²/D] is the integral over t > 0 of
    (1 + 2tλ_i)⁻¹ Π_j (1 + 2tλ_j)^(−1/2) (Sawa 1972, "Finite-sample properties of the k-class estimators",
    Lemma 1). With the eigenvectors q_i of the centred covariance, E[r_k] = Σ_i E[z_i²/D] λ_i q_iᵀ S_k q_i, S_k
    the shift by k. The integral is taken over log t by the trapezoidal rule, which converges geometrically here.

    Args:
        covariance: (M, M), positive semidefinite; a constant signal, whose centred covariance is 0, gives 1.
        lags: The largest lag, below M.

    Returns:
        (lags + 1,), float64; 1 at lag 0.

    Raises:
        ValueError: When the lags do not fit into the signal.
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
    shares = values * _mean_shares(values)
    overlap = torch.stack([(vectors[: points - k] * vectors[k:]).sum(0) for k in range(lags + 1)])
    acf: Tensor = overlap @ shares
    return acf


def _mean_shares(values: Tensor) -> Tensor:
    """E[z_i²/D] for each eigenvalue."""
    log_time = torch.linspace(*_LOG_TIMES, dtype=torch.float64)
    growth = 1 + 2 * log_time.exp()[:, None] * values
    integrand = (log_time - growth.log().sum(1) / 2).exp()[:, None] / growth
    return integrand.sum(0) * (log_time[1] - log_time[0])
