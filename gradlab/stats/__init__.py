"""Tensors in, numbers out."""

from gradlab.stats.effective_rank import (
    cosines,
    effective_rank,
    noise_effective_rank,
    relative_effective_rank,
    row_norm_variation,
    unit_rows,
)
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
from gradlab.stats.segment import segment_autocorrelation

__all__ = [
    "WELL_CONDITIONED",
    "Accumulator",
    "CentredMoments",
    "FastMoments",
    "Moments",
    "centred_moments",
    "cosines",
    "effective_rank",
    "fast_moments",
    "noise_effective_rank",
    "normalized_response_std",
    "relative_effective_rank",
    "row_norm_variation",
    "segment_autocorrelation",
    "unit_rows",
]
