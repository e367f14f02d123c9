"""Sums in one pass over memory, by a small C library that is compiled once where the machine has a compiler.

Nothing needs it: without a compiler, or with `GRADLAB_NATIVE=0`, torch's own operations compute the same sums in two
passes. The library is for float32 on the CPU and sums in double precision.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys

import torch
from torch import Tensor

from gradlab.compiled import load_library

_FEW = 1 << 18
"""Number of elements up to which one thread is as fast as the several that torch's own operations use."""


def is_available() -> bool:
    """Whether the library is there."""
    return _library() is not None


_Two = ctypes.c_double * 2
"""Made once: a class is garbage that only the collector frees."""


def sums(x: Tensor) -> tuple[float, float] | None:
    """Return the sum and the sum of squares of all values, or None if the library does not serve this tensor.

    Args:
        x: Any tensor; float32, dense and on the CPU for a result, and with finite values.
    """
    library = _library()
    if library is None or not _serves(x) or not (x.is_contiguous() or _is_channels_last(x)):
        return None
    out = _Two()
    return (out[0], out[1]) if library.gradlab_moments(x.data_ptr(), x.numel(), out) else None


def channel_sums(x: Tensor, channel_dim: int) -> Tensor | None:
    """Return the sums and the sums of squares of every channel, float64 of shape (2, C), or None as `sums` does."""
    library = _library()
    if library is None or not _serves(x) or (extents := _extents(x, channel_dim)) is None:
        return None
    out = torch.empty(2, extents[1], dtype=torch.float64)
    return out if library.gradlab_channel_moments(x.data_ptr(), *extents, out.data_ptr()) else None


def normalization(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, float, float] | None:
    """Return what batch normalization by the statistics of this batch does, or None as `sums` does.

    Args:
        x: The input, float32 of shape (N, C, …).
        weight: The scale of each channel, (C,); None for 1.
        bias: The shift of each channel, (C,); None for 0.
        eps: The constant ε.

    Returns:
        The mean and the variance of each channel, float32 of shape (2, C), and the mean and the variance of all values
        of the output by `gradlab.theory.normalized_response_std`.
    """
    library = _library()
    both = [value for value in (weight, bias) if value is not None]
    if library is None or not _serves(x) or not all(_serves(value) and value.is_contiguous() for value in both):
        return None
    if (extents := _extents(x, 1)) is None:
        return None
    statistics, room = torch.empty(2, extents[1]), torch.empty(2 * extents[1], dtype=torch.float64)
    out = _Two()
    given = [None if value is None else value.data_ptr() for value in (weight, bias)]
    done = library.gradlab_normalization(
        x.data_ptr(), *extents, *given, eps, room.data_ptr(), statistics.data_ptr(), out
    )
    return (statistics, out[0], out[1]) if done else None


def largest() -> int:
    """The largest number of values that this library sums faster than torch does with its threads."""
    return _FEW if torch.get_num_threads() > 2 else sys.maxsize


def _extents(x: Tensor, channel_dim: int) -> tuple[int, int, int] | None:
    """Return how many values lie outside of the channels in memory, the number of channels, and how many inside."""
    dim = channel_dim % x.ndim
    if x.is_contiguous():
        return math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])
    return (x.numel() // x.shape[1], x.shape[1], 1) if dim == 1 and _is_channels_last(x) else None


def is_dense_float32(x: Tensor) -> bool:
    """Return whether a tensor has values that a C library can read: float32, dense, on the CPU and at least one."""
    return (
        x.dtype is torch.float32
        and x.is_cpu
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.layout is torch.strided
        and x.numel() > 0
        and not x.is_neg()
    )


def _serves(x: Tensor) -> bool:
    return is_dense_float32(x) and x.ndim > 0 and x.numel() <= largest()


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_library("gradlab.stats", "moments", _adds_up)


def _adds_up(library: ctypes.CDLL) -> bool:
    """Declare the functions, and make sure that they sum."""
    size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    library.gradlab_moments.argtypes = [pointer, size, pointer]
    library.gradlab_channel_moments.argtypes = [pointer, size, size, size, pointer]
    library.gradlab_normalization.argtypes = [pointer, *[size] * 3, *[pointer] * 2, ctypes.c_double, *[pointer] * 3]
    library.gradlab_limit.argtypes = [size]
    library.gradlab_add.argtypes = [pointer, size, pointer]
    library.gradlab_end_pass.argtypes = [pointer, size, ctypes.c_int]
    values, out = (ctypes.c_float * 37)(*range(37)), (ctypes.c_double * 2)()
    if not library.gradlab_moments(values, 37, out) or (out[0], out[1]) != (666.0, 16206.0):
        raise OSError("the compiled library does not add up")
    return True
