"""Moments of many sites in one block of memory, to each of which one call of the C library adds a tensor.

The code of a hook at every layer is no longer in the caches when it runs, because the layer before has pushed it out.
So its cost is that of the things that it touches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from gradlab.stats import native
from gradlab.stats.tensor_functions import Address, adder_maker

_WIDTH = 6
"""Count, mean and m2 of whole passes; count, sum and sum of squares of the pass under way."""

_BLOCK = 64
"""Number of rows that are allocated at a time, so that no address ever changes."""

Adder = Callable[[Tensor], bool]
"""A function that adds a tensor, of class Tensor and without the negative bit, or returns that it does not serve it."""


class MomentRows:
    """Room for the moments of many sites; what a pass adds counts once the pass has ended."""

    def __init__(self) -> None:
        self._blocks: list[ctypes.Array[ctypes.c_double]] = []
        self._used = 0
        self._library = native._library()
        if self._library is not None:
            self._library.gradlab_limit(native.largest())

    def new(self) -> MomentRow | None:
        """Return a new row, or None without the C library."""
        if self._library is None:
            return None
        if self._used == _BLOCK * len(self._blocks):
            self._blocks.append((ctypes.c_double * (_WIDTH * _BLOCK))())
        self._used += 1
        return MomentRow(self._blocks[-1], (self._used - 1) % _BLOCK, self._library)

    def end_pass(self, whole: bool) -> None:
        """Count what the pass has added if it is whole, and forget it otherwise."""
        if self._library is not None:
            self._library.gradlab_limit(native.largest())
            for block in self._blocks:
                self._library.gradlab_end_pass(block, _BLOCK, whole)


class MomentRow:
    """The moments of one site.

    Args:
        block: The memory in which they lie.
        number: The number of the row in it.
        library: The C library.

    Attributes:
        add: The function that adds a tensor.
    """

    def __init__(self, block: ctypes.Array[ctypes.c_double], number: int, library: ctypes.CDLL) -> None:
        self._block, self._first = block, _WIDTH * number
        address = Address(ctypes.addressof(block) + self._first * ctypes.sizeof(ctypes.c_double))
        address.block = block
        make = adder_maker(library)
        self.add: Adder = _adder(library.gradlab_add, address) if make is None else make(address)

    def values(self) -> tuple[int, float, float]:
        """Return count, mean and m2 of whole passes."""
        count, mean, m2 = self._block[self._first : self._first + 3]
        return int(count), mean, m2


def _adder(add: Callable[[int, int, int], int], address: Address) -> Adder:
    """Return a function that looks at the tensor's properties and calls the library by ctypes."""
    float32, channels_last = torch.float32, torch.channels_last

    def added(x: Tensor) -> bool:
        if x.dtype is not float32 or not x.is_cpu:
            return False
        try:
            if not (x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=channels_last))):
                return False
            n = x.numel()
            return n > 1 and n <= native.largest() and add(x.data_ptr(), n, address) == 1
        except RuntimeError:
            # Sparse tensors, and those inside of `torch.func` transforms, have no address.
            return False

    return added
