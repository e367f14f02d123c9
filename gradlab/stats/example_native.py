"""Gradients of single examples by a small C library, where the machine has a compiler (see `gradlab.compiled`).

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
from gradlab.stats.norms import TAME
from gradlab.stats.pair_products import PairProducts
from gradlab.stats.precision import trusted_norm

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


def reduced_rows(rows: Tensor, products: PairProducts | None) -> tuple[Tensor, Tensor] | None:
    """Reduce gradients in one pass over memory, or return None if the library does not serve them.

    It does not where the norm of a gradient that is not 0 is so small or large that squares may leave the range of
    float32 (see `gradlab.stats.norms.TAME`), nor where the inner products are added up on another device.

    Args:
        rows: The gradients of all examples, shape (B, P).
        products: The inner products ⟨g_i, g_j⟩ are added here.

    Returns:
        The norms, that of the sum of directions and that of the sum, float64 of shape (B + 2,), and the sum of the
        gradients, shape (P,).
    """
    if not serves(rows) or not rows.is_contiguous():
        return None
    library = _library()
    assert library is not None
    count, length = rows.shape
    summed = None if products is None else products.sums(rows.device)
    if summed is not None and not (summed.is_cpu and summed.shape == (count, count)):
        return None
    norms = torch.empty(count + 2, dtype=torch.float64)
    room = torch.empty(count * count, dtype=torch.float64)
    total = rows.new_empty(length)
    tame = library.gradlab_reduce_rows(
        rows.data_ptr(),
        count,
        length,
        trusted_norm(length, torch.float32),
        TAME,
        room.data_ptr(),
        norms.data_ptr(),
        total.data_ptr(),
        None if summed is None else summed.data_ptr(),
    )
    return (norms, total) if tame else None


def normalization_rows(
    x: Tensor, gradient: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Compute the gradients of a batch normalization that uses running statistics, or return None as `reduced_rows`.

    Args:
        x: The input, shape (B, C, *).
        gradient: The gradient of the output, of the same shape.
        mean: The running mean, shape (C,).
        var: The running variance, shape (C,).
        eps: The constant ε.

    Returns:
        The gradients of the scale and of the shift, shape (2, B, C), and the sum of each over the examples, (C,).
    """
    given = x, gradient, mean, var
    if not serves(*given) or not all(tensor.is_contiguous() for tensor in given):
        return None
    library = _library()
    assert library is not None
    count, channels = x.shape[:2]
    room = torch.empty(channels, dtype=torch.float64)
    rows, scale, shift = (x.new_empty(shape) for shape in ((2, count, channels), (channels,), (channels,)))
    library.gradlab_normalization_rows(
        x.data_ptr(),
        gradient.data_ptr(),
        count,
        channels,
        x.numel() // (count * channels),
        mean.data_ptr(),
        var.data_ptr(),
        eps,
        room.data_ptr(),
        rows.data_ptr(),
        scale.data_ptr(),
        shift.data_ptr(),
    )
    return rows, scale, shift


_Sizes = ctypes.c_ssize_t * 21
"""Made once: a class is garbage that only the collector frees."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_library("gradlab.stats", "example_gradients", _computes)


def _computes(library: ctypes.CDLL) -> bool:
    """Declare the functions, and make sure that they compute what they should."""
    size, pointer, number = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double
    library.gradlab_convolution_rows.argtypes = [pointer, pointer, size, pointer, pointer, pointer]
    library.gradlab_convolution_rows.restype = None
    library.gradlab_reduce_rows.argtypes = [pointer, size, size, number, number, *[pointer] * 4]
    library.gradlab_normalization_rows.argtypes = [
        pointer,
        pointer,
        *[size] * 3,
        pointer,
        pointer,
        number,
        *[pointer] * 4,
    ]
    library.gradlab_normalization_rows.restype = None
    ones, total, norms = (ctypes.c_float * 36)(*[1] * 36), (ctypes.c_float * 18)(), (number * 4)()
    done = library.gradlab_reduce_rows(ones, 2, 18, 1, 10, (number * 4)(), norms, total, None)
    if not done or not math.isclose(norms[0] ** 2, 18) or not math.isclose(norms[2], 2) or total[17] != 2:
        raise OSError("the compiled library does not add up")
    return True
