"""Autocorrelation of a vector along a line."""

import torch
from torch import Tensor

CONSTANT = 1e-7
"""Largest deviation from the mean, relative to the largest norm, for which a signal counts as constant."""


def segment_autocorrelation(signal: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """Compute the autocorrelation of a vector-valued signal on an even grid: Σ⟨g_t − ḡ, g_{t+k} − ḡ⟩ / Σ‖g_t − ḡ‖².

    ḡ is the mean of the whole signal. The numerator has M − k terms and the denominator M, the biased form
    (divisor M at every lag). For p = 1 it is the autocorrelation of a scalar signal.

    A signal whose deviations from its mean are at most `CONSTANT` times its largest norm counts as constant, like the
    gradient of a linear function. Its autocorrelation is 1 at every lag by definition, since anything else would be
    the autocorrelation of rounding errors.

    Args:
        signal: The finite signal g, shape (M, p), M at least 2.
        lags: The largest lag, below M.

    Returns:
        The autocorrelation at lags 0 to `lags`, float64 of shape (lags + 1,); and its denominator, of shape (), which
        serves as weight when signals are pooled, and is exactly 0 for a constant signal. Both are on the signal's
        device, which is not waited for except on mps, and NaN for a signal that is not finite.
    """
    g = signal.detach()
    g = (g.cpu() if g.device.type == "mps" else g).double()
    centred = g - g.mean(0)
    constant = _largest_norm(centred) <= CONSTANT * _largest_norm(g)
    products = centred @ centred.mT
    sums = torch.stack([products.diagonal(k).sum() for k in range(lags + 1)])
    return torch.where(constant, 1.0, sums / sums[0]), torch.where(constant, 0.0, sums[0])


def _largest_norm(rows: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.vector_norm(rows, dim=1).max()
    return largest
