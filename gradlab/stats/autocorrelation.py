"""Autocorrelation of signals on a line (Balduzzi et al. 2017, arXiv:1702.08591, §2)."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT = 1e-7
"""Largest max|g − ḡ| / max|g| of a signal that counts as constant: what is smaller may be rounding noise."""


def autocorrelation(signal: Tensor, lags: int | None = None) -> Tensor:
    """Compute the biased sample autocorrelation of each signal.

    r_k = Σ_t (g_t − ḡ)(g_{t+k} − ḡ) / Σ_t (g_t − ḡ)², where ḡ is the mean of the whole signal and t runs over all
    points for which t + k exists (Box and Jenkins, "Time Series Analysis", Eq. 2.1.12). A constant signal has r_k = 1
    by definition. Over all lags, Σ_{k≥1} r_k = −1/2 for every signal that is not constant.

    Args:
        signal: Signals of shape (..., M) and any real dtype.
        lags: The largest lag; None means M − 1.

    Returns:
        A float64 tensor of shape (..., lags + 1), which is 1 at lag 0.

    Raises:
        ValueError: If the largest lag is not between 0 and M − 1.
    """
    # Each signal is scaled to at most 1 first: the squared gradients of very deep nets overflow even float64.
    products = _lagged_products(_unit_range(signal.double(), dim=-1), lags)
    constant = is_constant(signal)
    energy = products[..., :1].masked_fill(constant[..., None], 1.0)
    return (products / energy).masked_fill(constant[..., None], 1.0)


def pooled_autocorrelation(signal: Tensor, lags: int | None = None) -> Tensor:
    """Compute the autocorrelation from numerators and denominators that are each summed over the signals.

    It differs from the mean of `autocorrelation`: signals of large variance have more weight.

    Args:
        signal: Signals of shape (S, M) and any real dtype. Constant signals add nothing; if all are constant, the
            result is 1.
        lags: The largest lag; None means M − 1.

    Returns:
        A float64 tensor of shape (lags + 1,), which is 1 at lag 0.
    """
    constant = is_constant(signal)[..., None]
    total = _lagged_products(_unit_range(signal.double(), dim=(-2, -1)), lags).masked_fill(constant, 0.0).sum(0)
    return torch.ones_like(total) if constant.all() else total / total[0]


def is_constant(signal: Tensor) -> Tensor:
    """Return whether max|g − ḡ| ≤ 1e-7·max|g|, for each signal in a tensor of shape (..., M)."""
    signal = signal.double()
    deviation = (signal - signal.mean(-1, keepdim=True)).abs().amax(-1)
    return deviation <= CONSTANT * signal.abs().amax(-1)


def half_life(acf: Tensor) -> Tensor:
    """Find the lag, interpolated linearly, at which an autocorrelation first falls to 1/2.

    Args:
        acf: Autocorrelations of shape (..., K + 1), which are 1 at lag 0.

    Returns:
        A float64 tensor of shape (...), infinite where the autocorrelation stays above 1/2.
    """
    acf = acf.double()
    below = acf <= 0.5
    after = below.int().argmax(-1, keepdim=True).clamp(min=1)
    high, low = acf.gather(-1, after - 1), acf.gather(-1, after)
    lag = (after - 1 + (high - 0.5) / (high - low)).squeeze(-1)
    return lag.masked_fill(~below.any(-1), torch.inf)


def _unit_range(signal: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    return signal / signal.abs().amax(dim, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _lagged_products(signal: Tensor, lags: int | None) -> Tensor:
    points = signal.shape[-1]
    lags = points - 1 if lags is None else lags
    if not 0 <= lags < points:
        raise ValueError(f"a signal of {points} points has the lags 0 to {points - 1}, not {lags}")
    centred = signal - signal.mean(-1, keepdim=True)
    return torch.stack([(centred[..., : points - k] * centred[..., k:]).sum(-1) for k in range(lags + 1)], -1)
