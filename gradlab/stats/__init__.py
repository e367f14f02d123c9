"""Tensors in, numbers out."""

from gradlab.stats.moments import (
    WELL_CONDITIONED,
    Accumulator,
    CentredMoments,
    FastMoments,
    Moments,
    centred_moments,
    fast_moments,
)
from gradlab.stats.normalized import normalized_response_std

__all__ = [
    "WELL_CONDITIONED",
    "Accumulator",
    "CentredMoments",
    "FastMoments",
    "Moments",
    "centred_moments",
    "fast_moments",
    "normalized_response_std",
]
