"""Tensors as short rows of values, in the order of memory and in a precision to sum them in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEW = 1 << 17
"""Below so many elements rounding does not average out over rows, and float64 costs next to nothing."""

_ROW = 1024
"""Length of a row summed in float32: short enough for its rounding, long enough to be as fast as memory."""


def summable(x: Tensor) -> Tensor:
    """The values in float64 where they are few or not floating-point, else in float32 at least.

    Args:
        x: Any real tensor.
    """
    if x.is_mps:
        return x.float()
    if x.numel() < FEW or not x.is_floating_point():
        return x.double()
    return x.float() if x.dtype.itemsize < 4 else x


def memory_rows(x: Tensor) -> list[Tensor]:
    """All values as rows, in memory order: views if x allows them.

    Rows are of `_ROW` values where their number allows, else of those of the last dimension, and where these are many
    there is a last row of the rest.

    Returns:
        One tensor, or two, each of rows of one length.
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
    """Rows of one channel each, the channels in turn."""
    channel_dim %= x.ndim
    if channel_dim == x.ndim - 1:
        x, channel_dim = x.movedim(-1, 0), 0
    length = math.prod(x.shape[channel_dim + 1 :])
    return x.reshape(-1, length) if x.numel() else x.new_zeros(x.shape[channel_dim], 1)


def real_pairs(x: Tensor) -> Tensor:
    """A complex tensor's real and imaginary parts along a new last dimension; others as they are."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
