"""Exponents of power laws, and whether they are those that are expected."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from gradlab.stats.verdict import NOTHING, Comparison, Estimate, from_constant


def exponent(sizes: ArrayLike, values: ArrayLike) -> Estimate:
    """Fit the exponent a of a power law, values ∝ sizes^a: the slope of logarithms by least squares.

    Args:
        sizes: Positive, of shape (N,), of at least two kinds.
        values: Independent, one for each size.

    Returns:
        The slope, with the standard error that the residuals give it and N − 2 degrees of freedom; NaN if a value is
        not positive and finite.
    """
    across, up = np.log(np.asarray(sizes, dtype=float)), np.asarray(values, dtype=float)
    if len(up) < 3 or not (np.isfinite(up).all() and (up > 0).all()):
        return Estimate(math.nan, math.nan, 0, len(up))
    logarithms = np.log(up)
    centred = across - across.mean()
    spread = float(centred @ centred)
    slope = float(centred @ logarithms) / spread
    left = logarithms - logarithms.mean() - slope * centred
    freedom = len(up) - 2
    return Estimate(slope, math.sqrt(float(left @ left) / freedom / spread), freedom, len(up))


def beyond(estimate: Estimate, low: float, high: float, margin: float) -> Comparison:
    """Compare an estimate with a range that is widened by a margin on both sides; inside of it the difference is 0."""
    if not estimate.known:
        return NOTHING
    if low - margin <= estimate.value <= high + margin:
        return Comparison(0.0, estimate.error, 1.0)
    return from_constant(estimate, high + margin if estimate.value > high else low - margin)
