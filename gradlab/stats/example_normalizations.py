"""Gradients of the scale and shift of normalizations for single examples."""

from __future__ import annotations

import ctypes
import functools
import math

import torch
from torch import Tensor

from gradlab.compiled import load_library
from gradlab.stats.example_gradients import RowGradients
from gradlab.stats.native import is_dense_float32


def normalization_gradients(
    x: Tensor, gradient: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[RowGradients, RowGradients]:
    """Compute the gradients of γ and β of a batch normalization that uses running statistics.

    dL/dγ = Σ g (x − mean) / √(var + ε) and dL/dβ = Σ g, summed over positions. One backward pass of a normalization
    gives them when the channels of each example are treated as channels of their own.

    Args:
        x: The input, shape (B, C, *).
        gradient: The gradient of the output, of the same shape.
        mean: The running mean, shape (C,).
        var: The running variance, shape (C,).
        eps: The constant ε.

    Returns:
        The gradients of γ and those of β, each of shape (B, C).
    """
    if native := normalization_rows(x, gradient, mean, var, eps):
        rows, *totals = native
        scale, shift = (RowGradients(values, total) for values, total in zip(rows, totals, strict=True))
        return scale, shift
    examples, channels = x.shape[:2]
    mean, var = (t.to(x.dtype).expand(examples, channels).reshape(-1) for t in (mean, var))
    _, scale, shift = torch.ops.aten.native_batch_norm_backward.default(
        gradient.reshape(1, examples * channels, -1),
        x.reshape(1, examples * channels, -1),
        None,
        mean,
        var,
        None,
        None,
        False,
        eps,
        [False, True, True],
    )
    return RowGradients(scale.view(examples, channels)), RowGradients(shift.view(examples, channels))


def positions_sum(gradient: Tensor) -> Tensor:
    """Sum over positions, from shape (B, C, *) to (B, C)."""
    return gradient.flatten(2).sum(2) if gradient.ndim > 2 else gradient


def normalization_rows(
    x: Tensor, gradient: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Compute the gradients of a batch normalization that uses running statistics, or return None if the C
    library does not serve: it is for float32 on the CPU.

    Args:
        x: The input, shape (B, C, *).
        gradient: The gradient of the output, of the same shape.
        mean: The running mean, shape (C,).
        var: The running variance, shape (C,).
        eps: The constant ε.

    Returns:
        The gradients of the scale and of the shift, shape (2, B, C), and the sum of each over the examples, (C,).
    """
    library = _library()
    if library is None or torch.get_num_threads() > 2:
        return None
    if not all(is_dense_float32(tensor) and tensor.is_contiguous() for tensor in (x, gradient, mean, var)):
        return None
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


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_library("gradlab.stats", "example_normalizations", _computes)


def _computes(library: ctypes.CDLL) -> bool:
    """Declare the function, and make sure that it computes what it should."""
    size, pointer, number = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double
    function = library.gradlab_normalization_rows
    function.argtypes, function.restype = (
        [pointer, pointer, *[size] * 3, pointer, pointer, number, *[pointer] * 4],
        None,
    )
    x, gradient, mean, var = torch.arange(40.0), torch.ones(40), torch.ones(1), torch.full((1,), 3.0)
    rows, sums, room = torch.empty(2), torch.empty(2), torch.empty(1, dtype=torch.float64)
    places = [tensor.data_ptr() for tensor in (room, rows, sums, sums)]
    function(x.data_ptr(), gradient.data_ptr(), 1, 1, 40, mean.data_ptr(), var.data_ptr(), 1.0, *places)
    if not math.isclose(rows[0].item(), 370) or rows[1].item() != 40:
        raise OSError("the compiled library does not add up")
    return True
