"""Autocorrelation of signals on a line (Balduzzi et al. 2017, arXiv:1702.08591, §2)."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT = 1e-7
"""max|g − ḡ| / max|g| up to which a signal counts as constant: below it, rounding noise would pass for signal."""


def autocorrelation(signal: Tensor, lags: int | None = None) -> Tensor:
    """Sample autocorrelation of each signal, biased.

    r_k = Σ_t (g_t − ḡ)(g_{t+k} − ḡ) / Σ_t (g_t − ḡ)², with ḡ the mean of the whole signal and t as far as both
    points exist (Box and Jenkins, "Time Series Analysis", Eq. 2.1.12). A constant signal has r_k = 1 by
    definition. Over all lags, Σ_{k≥1} r_k = −1/2 for every signal that is not constant.

    Args:
        signal: (..., M), any real dtype.
        lags: The largest lag; None means M − 1.

    Returns:
        (..., lags + 1), float64; 1 at lag 0.

    Raises:
        ValueError: When the lags do not fit into the signal.
    """
    # Each to the range of 1 first: squares of the gradients of very deep nets leave even float64.
    products = _lagged_products(_unit_range(signal.double(), dim=-1), lags)
    constant = is_constant(signal)
    energy = products[..., :1].masked_fill(constant[..., None], 1.0)
    return (products / energy).masked_fill(constant[..., None], 1.0)


def pooled_autocorrelation(signal: Tensor, lags: int | None = None) -> Tensor:
    """Autocorrelation with numerators and denominators each summed over the signals.

    Another quantity than the mean of `autocorrelation`: signals of large variance count for more.

    Args:
        signal: (S, M), any real dtype; constant signals add nothing. If all are constant, the result is 1.
        lags: As in `autocorrelation`.

    Returns:
        (lags + 1,), float64; 1 at lag 0.
    """
    constant = is_constant(signal)[..., None]
    total = _lagged_products(_unit_range(signal.double(), dim=(-2, -1)), lags).masked_fill(constant, 0.0).sum(0)
    return torch.ones_like(total) if constant.all() else total / total[0]


def is_constant(signal: Tensor) -> Tensor:
    """Whether max|g − ḡ| ≤ 1e-7·max|g|, for each signal of (..., M)."""
    signal = signal.double()
    deviation = (signal - signal.mean(-1, keepdim=True)).abs().amax(-1)
    return deviation <= CONSTANT * signal.abs().amax(-1)


def half_life(acf: Tensor) -> Tensor:
    """The lag, interpolated linearly, at which an autocorrelation first falls to 1/2.

    Args:
        acf: (..., K + 1), 1 at lag 0.

    Returns:
        (...), float64; infinite where it never does.
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
