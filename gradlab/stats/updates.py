"""What a step of an optimizer does to a weight: inner products and angles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.stats.precision import widest


def inner_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner products of pairs of tensors, without waiting for their device.

    Args:
        left: At least one tensor, of any floating or complex dtypes; of complex ones the real part counts.
        right: As many, of the same shapes. DTensors count with all their shards, sparse ones as what they stand for.

    Returns:
        Float64 (float32 on mps) of shape (len(left),), on the first one's device.
    """
    device = left[0].device
    products = [_inner_product(*map(_dense, pair)) for pair in zip(left, right, strict=True)]
    return torch.stack([product.to(device, non_blocking=True) for product in products])


def _inner_product(one: Tensor, other: Tensor) -> Tensor:
    wide = widest(one.device)
    if one.is_complex():
        one, other = torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj())
    if type(one) is Tensor and type(other) is Tensor:
        return torch.dot(one.reshape(-1).to(wide), other.reshape(-1).to(wide))
    product = (one.to(wide) * other.to(wide)).sum()
    whole: Tensor = product.full_tensor() if hasattr(product, "full_tensor") else product
    return whole


def _dense(x: Tensor) -> Tensor:
    x = x.detach()
    return x.to_dense() if x.layout is not torch.strided else x.as_subclass(Tensor) if _is_parameter(x) else x


def _is_parameter(x: Tensor) -> bool:
    return type(x) is torch.nn.Parameter


def angle(one: float, other: float, between: float) -> float:
    """The angle of two vectors whose lengths, and that of their difference, are known.

    By the half-angle formula of Kahan ("Miscalculating area and angles of a needle-like triangle", 2000), which small
    angles lose no digits in, as the arc cosine of an inner product does.

    Args:
        one: Length of the first.
        other: Length of the second.
        between: Length of their difference.

    Returns:
        In radians, from 0 to π; NaN where a vector is 0 or anything is not finite.
    """
    a, b, c = max(one, other), min(one, other), between
    if not (b > 0 and math.isfinite(a + c)):
        return math.nan
    # What rounding has made of a triangle without area.
    mu = max(0.0, c - (a - b) if b >= c else b - (a - c))
    below = (a + (b + c)) * max(0.0, (a - c) + b)
    return 2 * math.atan2(math.sqrt(((a - b) + c) * mu), math.sqrt(below))
