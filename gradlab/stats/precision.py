"""The precision in which long sums are joined, and the range in which sums of squares can be trusted."""

import functools
import math

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened(x: Tensor) -> Tensor:
    """Convert to float64; tensors on mps, which has no float64, are moved to the CPU."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


@functools.cache
def trusted_norm(numel: int, dtype: torch.dtype) -> float:
    """Return the smallest norm for which underflow of single squares does not matter.

    A square that underflows is below the smallest normal number, whether or not subnormal numbers are flushed to 0.
    At this norm, `numel` such squares make up 1e-9 of the sum of squares; a smaller norm may be arbitrarily wrong.

    Args:
        numel: The number of values under the norm.
        dtype: The dtype of the squares, float32 or float64.
    """
    return math.sqrt(numel * torch.finfo(dtype).tiny * 1e9)


def wide_norms(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Compute L2 norms that are accurate whatever the scale of single values, without synchronizing with the device.

    This makes copies, so it is meant for the few values that need it.

    Args:
        x: A real tensor of a floating dtype.
        dim: The dimensions to reduce.

    Returns:
        The norms in float64, or on mps in float32, where values are scaled first.
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
    """Scale values by a power of two so that the largest along the given dimensions is about 1.

    The scaling is exact unless values become subnormal, and does not synchronize with the device. Slices that are all
    0 or not finite are unchanged.

    Args:
        x: A tensor of a floating or complex dtype.
        dim: The dimensions along which values share one factor.

    Returns:
        The scaled values and the factors that undo the scaling, which have the shape of x with 1 for each dimension
        in `dim`.
    """
    largest = torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=True)
    ordinary = (largest > 0) & (largest < math.inf)
    # Subnormal numbers stay small, since the factor that would scale them to 1 is out of range.
    exponents = largest.where(ordinary, 1).log2().floor().clamp(-126, 126)
    factor = exponents.exp2()
    return x / factor, factor
