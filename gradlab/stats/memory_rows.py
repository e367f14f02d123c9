"""Tensors as short rows of values, in memory order and in a precision suited to summation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEW = 1 << 17
"""Number of elements below which rounding errors do not average out over rows, and float64 costs next to nothing."""

_ROW = 1024
"""Length of a row summed in float32: short enough for its rounding, long enough to be as fast as memory."""


def summable(x: Tensor) -> Tensor:
    """Convert a real tensor to float64 if its values are few or not floating-point, otherwise to at least float32."""
    if x.is_mps:
        return x.float()
    if x.numel() < FEW or not x.is_floating_point():
        return x.double()
    return x.float() if x.dtype.itemsize < 4 else x


def memory_rows(x: Tensor) -> list[Tensor]:
    """Arrange all values as rows in memory order, as a view if the layout of x allows one.

    Rows have `_ROW` values if the number of elements allows, otherwise those of the last dimension; if that is long,
    rows of `_ROW` values are followed by one row with the rest.

    Returns:
        One or two tensors, each with rows of one length.
    """
    if not x.is_contiguous() and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    length = math.gcd(x.numel(), _ROW)
    if length < _ROW // 8:
        length = x.shape[-1] if x.ndim else 1
        if length > 4 * _ROW:
            whole = x.numel() - x.numel() % _ROW
            rows, rest = x.reshape(-1).tensor_split([whole])
            return [rows.reshape(-1, _ROW), rest[None]]
    return [x.reshape(-1, length) if x.numel() else x.new_zeros(0, 1)]


def channel_rows(x: Tensor, channel_dim: int) -> Tensor:
    """Arrange values as rows that each belong to one channel, with the channels in turn."""
    channel_dim %= x.ndim
    if channel_dim == x.ndim - 1:
        x, channel_dim = x.movedim(-1, 0), 0
    length = math.prod(x.shape[channel_dim + 1 :])
    return x.reshape(-1, length) if x.numel() else x.new_zeros(x.shape[channel_dim], 1)


def real_pairs(x: Tensor) -> Tensor:
    """Return a complex tensor's real and imaginary parts along a new last dimension, and real tensors unchanged."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
