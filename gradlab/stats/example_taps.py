"""Gradients of a convolution's weight for single examples by their definition, one tap of the kernel at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def tap_gradients(
    x: Tensor,
    gradient: Tensor,
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Sum the products of the output's gradient with the inputs that each tap sees, of which padding is none.

    Other methods multiply padding too, of which infinite gradients make NaN, or transform inputs and gradients first,
    which may leave the range of their dtype although the products do not.

    Args:
        x: The input, shape (B, C, *).
        gradient: The gradient of the output, shape (B, O, *).
        weight: The shape of the weight, (O, C / groups, *kernel).
        stride: The stride along each dimension.
        padding: The number of zeros on either side of each dimension.
        dilation: The dilation along each dimension.
        groups: The number of groups of channels.

    Returns:
        The gradients, shape (B, P) with their values in the weight's order.
    """
    outputs, inputs, *kernel = weight
    x, gradient = x.unflatten(1, (groups, inputs)), gradient.unflatten(1, (groups, outputs // groups))
    found = []
    for taps in itertools.product(*map(range, kernel)):
        seen, at = [], []
        for tap, size, positions, step, border, spread in zip(
            taps, x.shape[3:], gradient.shape[3:], stride, padding, dilation, strict=True
        ):
            start = tap * spread - border
            first = max(0, -(start // step))
            last = max(first, min(positions, -(-(size - start) // step)))
            at.append(slice(first, last))
            seen.append(slice(start + first * step, start + last * step, step))
        a, b = x[:, :, :, *seen].flatten(3), gradient[:, :, :, *at].flatten(3)
        found.append((b @ a.mT).flatten(1, 2))
    return torch.stack(found, 3).flatten(1)
