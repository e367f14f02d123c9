"""Gradients of 3 × 3 convolutions for single examples by Winograd's minimal filtering, in a small C library.

The products of transformed inputs with transformed gradients are fewer than those of the convolution: 16 instead of 36
for every 2 × 2 positions. As the transforms are sums of at most four values, rounding errors about double.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.compiled import load_library

_CHANNELS = 16
"""Smallest number of channels for which the products outweigh the transforms."""


def serves(weight: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> bool:
    """Return whether the library is there and computes the gradients of such a convolution.

    Args:
        weight: The shape of the convolution's weight, (O, C, *kernel).
        stride: The stride along each dimension.
        dilation: The dilation along each dimension.
    """
    plain = tuple(weight[2:]) == (3, 3) and {*stride, *dilation} == {1}
    return plain and min(weight[:2]) >= _CHANNELS and _library() is not None


def winograd_space(x: Tensor, gradient: Tensor, padding: Sequence[int]) -> int:
    """Return the number of values that `winograd_rows` needs for the transforms of one example.

    Args:
        x: The input, shape (b, C, H, W).
        gradient: The gradient of the output, shape (b, O, H_out, W_out).
        padding: The number of zeros on either side of both dimensions.
    """
    library = _library()
    assert library is not None
    return int(library.gradlab_winograd_space(_sizes(x, gradient, padding)))


def winograd_rows(x: Tensor, gradient: Tensor, padding: Sequence[int], room: Tensor, out: Tensor) -> None:
    """Compute the gradients of a convolution's weight for single examples.

    Args:
        x: The input, shape (b, C, H, W), float32 and dense on the CPU.
        gradient: The gradient of the output, shape (b, O, H_out, W_out), likewise.
        padding: The number of zeros on either side of both dimensions.
        room: At least `winograd_space` values, which are overwritten.
        out: A contiguous tensor to fill, shape (b, 3, O, 3 · C).
    """
    library = _library()
    assert library is not None
    sizes = _sizes(x, gradient, padding)
    library.gradlab_winograd_rows(x.data_ptr(), gradient.data_ptr(), len(x), sizes, room.data_ptr(), out.data_ptr())


_Sizes = ctypes.c_ssize_t * 16
"""Made once: a class is garbage that only the collector frees."""


def _sizes(x: Tensor, gradient: Tensor, padding: Sequence[int]) -> ctypes.Array[ctypes.c_ssize_t]:
    return _Sizes(*x.shape[1:], *gradient.shape[1:], *padding, *x.stride(), *gradient.stride())


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_library("gradlab.stats", "example_winograd", _computes)


def _computes(library: ctypes.CDLL) -> bool:
    """Declare the functions, and make sure that they compute what they should."""
    size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    library.gradlab_winograd_space.argtypes, library.gradlab_winograd_space.restype = [pointer], size
    library.gradlab_winograd_rows.argtypes = [pointer, pointer, size, pointer, pointer, pointer]
    library.gradlab_winograd_rows.restype = None
    x, gradient = torch.arange(25.0), torch.arange(9.0)
    sizes, out = _Sizes(1, 5, 5, 1, 3, 3, 0, 0, 25, 25, 5, 1, 9, 9, 3, 1), torch.empty(9)
    room = torch.empty(library.gradlab_winograd_space(sizes))
    library.gradlab_winograd_rows(x.data_ptr(), gradient.data_ptr(), 1, sizes, room.data_ptr(), out.data_ptr())
    if not math.isclose(out[0].item(), 312) or not math.isclose(out[8].item(), 744):
        raise OSError("the compiled library does not add up")
    return True
