"""Inner products of tensors, in the precision of long sums."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats.precision import widest

_CHUNK = 1 << 18
"""Elements copied at a time, so that copies in float64 stay small."""


def inner_product(x: Tensor, y: Tensor) -> Tensor:
    """The sum of products of the elements of two tensors, joined in float64 without waiting for the device.

    Args:
        x: Of any real dtype.
        y: Of any real dtype and the same shape.

    Returns:
        Shape (), float64 (float32 on mps). Where a product is not finite it is left out.
    """
    wide = widest(x.device)
    total = torch.zeros((), dtype=wide, device=x.device)
    for mine, others in zip(x.detach().reshape(-1).split(_CHUNK), y.detach().reshape(-1).split(_CHUNK), strict=True):
        products = mine.to(wide) * others.to(wide)
        total = total + products.nan_to_num(0.0, 0.0, 0.0).sum()
    return total
