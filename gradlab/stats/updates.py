"""The effect of an optimizer step on a weight: inner products and angles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.stats.precision import widest


def inner_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Compute the inner products of pairs of tensors, without synchronizing with their device.

    Args:
        left: One or more tensors of floating or complex dtypes; for complex ones the real part is returned.
        right: As many tensors of the same shapes. DTensors count with all their shards, sparse tensors as dense ones.

    Returns:
        The inner products, float64 (float32 on mps) of shape (len(left),), on the device of the first tensor.
    """
    device = left[0].device
    products = [_inner_product(*map(_dense, pair)) for pair in zip(left, right, strict=True)]
    return torch.stack([product.to(device, non_blocking=True) for product in products])


def nonzero_counts(tensors: Sequence[Tensor]) -> Tensor:
    """Count the elements that are not 0, without synchronizing with the device.

    Args:
        tensors: One or more dense tensors of any dtypes. DTensors count with all their shards.

    Returns:
        The counts, float64 (float32 on mps) of shape (len(tensors),), on the device of the first tensor.
    """
    device = tensors[0].device
    counts = [(tensor.detach() != 0).sum() for tensor in tensors]
    counts = [count.full_tensor() if hasattr(count, "full_tensor") else count for count in counts]
    return torch.stack([count.to(device, widest(device), non_blocking=True) for count in counts])


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
    """Compute the angle between two vectors from their lengths and that of their difference.

    The half-angle formula of Kahan ("Miscalculating area and angles of a needle-like triangle", 1999) loses no digits
    for small angles, unlike the arc cosine of an inner product.

    Args:
        one: The length of the first vector.
        other: The length of the second vector.
        between: The length of their difference.

    Returns:
        The angle in radians, from 0 to π; NaN if a vector is 0 or a length is not finite.
    """
    a, b, c = max(one, other), min(one, other), between
    if not (b > 0 and math.isfinite(a + c)):
        return math.nan
    # Rounding may turn a degenerate triangle into an impossible one.
    mu = max(0.0, c - (a - b) if b >= c else b - (a - c))
    below = (a + (b + c)) * max(0.0, (a - c) + b)
    return 2 * math.atan2(math.sqrt(((a - b) + c) * mu), math.sqrt(below))
