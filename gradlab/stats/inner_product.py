"""Inner products of tensors, in a precision suited to long sums."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats.precision import widest

_CHUNK, _LARGE_CHUNK = 1 << 18, 1 << 24
"""Numbers of elements copied at a time, so that copies in float64 stay small, on the CPU and on accelerators."""


def inner_product(x: Tensor, y: Tensor) -> Tensor:
    """Compute the inner product of two tensors in float64, without synchronizing with the device.

    Args:
        x: A tensor of any real dtype.
        y: A tensor of any real dtype and the same shape.

    Returns:
        A tensor of shape (), float64 (float32 on mps). Products that are not finite are left out.
    """
    wide = widest(x.device)
    total = torch.zeros((), dtype=wide, device=x.device)
    chunk = _CHUNK if x.is_cpu else _LARGE_CHUNK
    for mine, others in zip(x.detach().reshape(-1).split(chunk), y.detach().reshape(-1).split(chunk), strict=True):
        products = mine.to(wide) * others.to(wide)
        total = total + products.nan_to_num(0.0, 0.0, 0.0).sum()
    return total
