"""What the gradients of single examples are reduced to, in one pass over memory, by a small C library.

It is for float32 on the CPU, where the machine has a compiler (see `gradlab.compiled`).
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.compiled import load_library
from gradlab.stats.native import is_dense_float32
from gradlab.stats.norms import TAME
from gradlab.stats.precision import trusted_norm

LEAST = 1e-24
"""The smallest norm of a gradient to which products that float32 rounds to 0, below 1e-38, cannot matter."""


class ReducedRows(NamedTuple):
    """What rows of values are reduced to.

    Attributes:
        norms: Their norms, float64 of shape (B,).
        direction_norm: The norm of the sum of their directions, float64 of shape ().
        sum_norm: The norm of their sum, float64 of shape ().
        total: Their sum, shape (P,).
        products: Their inner products, float64 of shape (B, B).
        doubtful: Whether there are norms below `LEAST`, without those that are 0 since a factor is.
        added: Whether the inner products were added to others.
    """

    norms: Tensor
    direction_norm: Tensor
    sum_norm: Tensor
    total: Tensor
    products: Tensor
    doubtful: bool
    added: bool


def reduced_rows(rows: Tensor, sums: Tensor | None = None, factor: Tensor | None = None) -> ReducedRows | None:
    """Reduce gradients, or return None if the library does not serve them.

    It does not where the norm of a gradient is so large that products may leave the range of float32 (see
    `gradlab.stats.norms.TAME`).

    Args:
        rows: The gradients of all examples, shape (B, P). Small ones are scaled in place, and scaled back, exactly.
        sums: Their inner products are added here unless that is on another device; float64 of shape (B, B).
        factor: A factor of the gradients, shape (B, …); where it is 0, they are 0.
    """
    library = _library()
    if library is None or torch.get_num_threads() > 2 or not is_dense_float32(rows) or not rows.is_contiguous():
        return None
    count, length = rows.shape
    if factor is not None and not (is_dense_float32(factor) and factor.is_contiguous()):
        factor = None
    target = sums if sums is not None and sums.is_cpu else None
    norms, ends = torch.empty(count, dtype=torch.float64), torch.empty(2, dtype=torch.float64)
    products = torch.empty(count, count, dtype=torch.float64)
    room = torch.empty(count, dtype=torch.float64)
    total = rows.new_empty(length)
    tame = library.gradlab_reduce_rows(
        rows.data_ptr(),
        count,
        length,
        trusted_norm(length, torch.float32),
        TAME,
        LEAST,
        None if factor is None else factor.data_ptr(),
        0 if factor is None else factor.numel() // count,
        products.data_ptr(),
        norms.data_ptr(),
        ends.data_ptr(),
        total.data_ptr(),
        room.data_ptr(),
        None if target is None else target.data_ptr(),
    )
    if not tame:
        return None
    direction_norm, sum_norm = ends.unbind()
    return ReducedRows(norms, direction_norm, sum_norm, total, products, tame > 1, target is not None)


def any_nonzero(values: Tensor) -> bool:
    """Return whether any of the values, float32 on the CPU, is not 0."""
    library = _library()
    if library is None or not values.is_contiguous():
        return bool(values.any())
    return bool(library.gradlab_any(values.data_ptr(), values.numel()))


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_library("gradlab.stats", "example_rows", _computes)


def _computes(library: ctypes.CDLL) -> bool:
    """Declare the function, and make sure that it computes what it should."""
    size, pointer, number = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double
    library.gradlab_reduce_rows.argtypes = [pointer, size, size, *[number] * 3, pointer, size, *[pointer] * 6]
    library.gradlab_reduce_rows.restype = size
    library.gradlab_any.argtypes = [pointer, size]
    ones, total, norms = (ctypes.c_float * 36)(*[1] * 36), (ctypes.c_float * 18)(), (number * 2)()
    ends = (number * 2)()
    places = None, 0, (number * 4)(), norms, ends, total, (number * 2)(), None
    done = library.gradlab_reduce_rows(ones, 2, 18, 1, 10, 0, *places)
    if done != 1 or not math.isclose(norms[0] ** 2, 18) or not math.isclose(ends[0], 2) or total[17] != 2:
        raise OSError("the compiled library does not add up")
    return True
