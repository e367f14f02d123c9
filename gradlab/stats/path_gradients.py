"""The part of a network's gradient that flows on paths of each length (Veit et al. 2016, arXiv:1605.06431, §5)."""

from __future__ import annotations

import torch
from torch import Tensor

COVERED = 0.95
"""The part of the gradient magnitude that the effective paths carry."""


def gradient_by_length(distribution: Tensor, norms: Tensor) -> Tensor:
    """Compute the part of the total gradient magnitude that paths of each length carry.

    It is the number of paths of a length times the mean norm of the gradient on one of them, as in the paper, relative
    to the sum over lengths. Norms of paths add up to more than the norm of their sum, so that it is a part of the total
    magnitude and not of the gradient itself.

    Args:
        distribution: The fraction of paths of each length, (n + 1,).
        norms: The mean norm of the gradient on a path of each length, (n + 1,).

    Returns:
        float64 of shape (n + 1,) with sum 1; NaN if all norms are 0.
    """
    # The largest norm is taken out, so that no product leaves the range of float64.
    parts = distribution.double() * (norms.double() / norms.double().max())
    return parts / parts.sum()


def effective_depth(parts: Tensor) -> Tensor:
    """Compute the mean length of a path, weighted by the part of the gradient magnitude on paths of each length."""
    return (parts * torch.arange(len(parts), dtype=parts.dtype)).sum()


def effective_lengths(parts: Tensor) -> tuple[int, int]:
    """Return the shortest and the longest path without a tail of (1 − COVERED)/2 of the gradient on each side."""
    tail = (1 - COVERED) / 2
    cumulated = parts.cumsum(0)
    first = int((cumulated < tail).sum())
    last = int((cumulated < 1 - tail).sum())
    return first, min(last, len(parts) - 1)
