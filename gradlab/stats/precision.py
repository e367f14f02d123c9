"""The precision in which long sums are joined, and the range in which sums of squares can be trusted."""

import functools
import math

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """Float64, but on mps, which has none, float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened(x: Tensor) -> Tensor:
    """The values in float64; those on mps, which has none, come to the CPU."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


@functools.cache
def trusted_norm(numel: int, dtype: torch.dtype) -> float:
    """The norm from which on it does not matter that squares of single values are below the range of a dtype.

    A square that is lost is under the smallest normal number, whether or not subnormal ones are flushed to 0. At this
    norm `numel` of them are 1e-9 of the sum of squares; below it the norm may be anything, 0 included.

    Args:
        numel: Of the values under the norm.
        dtype: In which the squares are taken, float32 or float64.
    """
    return math.sqrt(numel * torch.finfo(dtype).tiny * 1e9)


def wide_norms(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """L2 norms along dimensions, right whatever the scale of single values, without waiting for the device.

    This makes copies: it is for the few values that need it.

    Args:
        x: Real, of a floating dtype.
        dim: What to reduce.

    Returns:
        Float64 (float32 on mps, where values are scaled first).
    """
    norms: Tensor
    if widest(x.device) is torch.float64:
        norms = torch.linalg.vector_norm(x, dim=dim, dtype=torch.float64)
    else:
        scaled, factor = unit_scaled(x, dim)
        norms = torch.linalg.vector_norm(scaled, dim=dim)
        norms = norms * factor.view_as(norms)
    return norms


def unit_scaled(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Values multiplied by a power of two so that the largest along dimensions is about 1, and what undoes this.

    Exact, but where values become subnormal, and without waiting for the device. What holds nothing but 0, or
    something not finite, stays as it is.

    Args:
        x: Of a floating dtype, or complex.
        dim: Along which values are scaled together.

    Returns:
        The values, and the inverse factors, of the shape of x with 1 in place of the dimensions.
    """
    largest = torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=True)
    ordinary = (largest > 0) & (largest < math.inf)
    # Subnormal numbers stay small, since the inverse of what would lift them is out of range.
    exponents = largest.where(ordinary, 1).log2().floor().clamp(-126, 126)
    factor = exponents.exp2()
    return x / factor, factor
