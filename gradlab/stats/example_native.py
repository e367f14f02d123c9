"""Gradients of convolutions for single examples by a small C library, if there is a compiler (see `gradlab.compiled`).

It is for float32 on the CPU. A convolution's gradients are matrix products of the output's gradient with windows of the
input, whose channels lie next to each other, so that a row of the kernel sees values that follow in memory and nothing
is copied for it.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.compiled import load_library
from gradlab.stats.native import is_dense_float32

_AHEAD = 64
"""Number of values beyond the input that the library may read."""

_TOGETHER = 8
"""Number of outputs whose gradients it computes at a time."""


def serves(*tensors: Tensor) -> bool:
    """Return whether the library is there and computes with such tensors: float32, dense and on the CPU."""
    return _library() is not None and torch.get_num_threads() <= 2 and all(map(is_dense_float32, tensors))


def convolution_space(x: Tensor, gradient: Tensor, padding: Sequence[int]) -> int:
    """Return the number of values that `convolution_rows` needs for copies of one example.

    Args:
        x: The input, shape (b, C, H, W).
        gradient: The gradient of the output, shape (b, O, H_out, W_out).
        padding: The number of zeros on either side of both dimensions.
    """
    channels, *image = x.shape[1:]
    padded = math.prod(n + 2 * p for n, p in zip(image, padding, strict=True))
    outputs, *positions = gradient.shape[1:]
    return channels * padded + _AHEAD + -(-outputs // _TOGETHER) * _TOGETHER * math.prod(positions)


def convolution_rows(
    x: Tensor,
    gradient: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: int,
    room: Tensor,
    out: Tensor,
) -> None:
    """Compute the gradients of a convolution's weight for single examples; `serves` tells of which tensors.

    Args:
        x: The input, shape (b, C, H, W).
        gradient: The gradient of the output, shape (b, O, H_out, W_out).
        kernel: The size of the kernel, rows and columns.
        stride: The stride along both dimensions.
        padding: The number of zeros on either side of both dimensions.
        dilation: The dilation of the kernel's rows; that of its columns is 1.
        room: Zeros, of at least `convolution_space` values; they are overwritten.
        out: A contiguous tensor to fill, shape (b, kernel rows, O, kernel columns · C).
    """
    library = _library()
    assert library is not None
    shapes = *x.shape[1:], *gradient.shape[1:], *kernel, *stride, *padding, dilation, *x.stride(), *gradient.stride()
    sizes = _Sizes(*shapes)
    library.gradlab_convolution_rows(x.data_ptr(), gradient.data_ptr(), len(x), sizes, room.data_ptr(), out.data_ptr())


def in_parameter_order(values: Tensor, weight: Sequence[int]) -> Tensor:
    """Convert one gradient as `convolution_rows` fills it to the order of the weight, shape (P,).

    Args:
        values: The gradient, contiguous float32 of P values.
        weight: The shape of the weight, (O, C, kernel rows, kernel columns).
    """
    library = _library()
    assert library is not None
    outputs, inputs, rows, columns = weight
    out = values.new_empty(values.numel())
    library.gradlab_in_order(values.data_ptr(), rows, outputs, columns, inputs, out.data_ptr())
    return out


_Sizes = ctypes.c_ssize_t * 21
"""Made once: a class is garbage that only the collector frees."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_library("gradlab.stats", "example_convolutions", _computes)


def _computes(library: ctypes.CDLL) -> bool:
    """Declare the functions, and make sure that they compute what they should."""
    size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    library.gradlab_convolution_rows.argtypes = [pointer, pointer, size, pointer, pointer, pointer]
    library.gradlab_convolution_rows.restype = None
    library.gradlab_in_order.argtypes, library.gradlab_in_order.restype = [pointer, *[size] * 4, pointer], None
    x, gradient, out = torch.arange(9.0), torch.tensor([1.0, 2.0]), torch.empty(6)
    # One channel of 3 × 3 values, and two positions that each see 2 × 3 of them.
    sizes, room = _Sizes(1, 3, 3, 1, 2, 1, 2, 3, 1, 1, 0, 0, 1, 9, 9, 3, 1, 2, 2, 1, 1), torch.zeros(9 + _AHEAD + 16)
    library.gradlab_convolution_rows(x.data_ptr(), gradient.data_ptr(), 1, sizes, room.data_ptr(), out.data_ptr())
    if out.tolist() != [6, 9, 12, 15, 18, 21]:
        raise OSError("the compiled library does not add up")
    return True
