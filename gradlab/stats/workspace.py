"""Reusable memory for intermediate results."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Memory that successive layers share, so that a backward pass allocates it once.

    The CPU's allocator returns large blocks to the system, and allocating them again costs more than filling them. The
    allocators of other devices cache memory, so every request is served separately there.
    """

    def __init__(self) -> None:
        self._blocks: dict[torch.dtype, Tensor] = {}
        self._taken: dict[tuple[torch.dtype, tuple[tuple[int, ...], ...]], list[Tensor]] = {}
        self._weights: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def take(self, like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
        """Return uninitialized tensors, valid until the next call.

        Args:
            like: A tensor of the dtype and device of the results.
            shapes: The shapes of the results.
        """
        if like.device.type != "cpu":
            return [like.new_empty(shape) for shape in shapes]
        key = like.dtype, shapes
        if key not in self._taken:
            numels = [math.prod(shape) for shape in shapes]
            block = self._blocks.get(like.dtype)
            if block is None or block.numel() < sum(numels):
                block = self._blocks[like.dtype] = like.new_empty(sum(numels))
                self._taken.clear()
            parts = block[: sum(numels)].split(numels)
            self._taken[key] = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return self._taken[key]

    def weights(self, others: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a row of ones above a row of given weights, shape (1, 2, n), valid until the next call.

        Args:
            others: The weights, shape (n,).
            dtype: The dtype of the result.
        """
        key = others.shape[0], dtype, others.device
        if key not in self._weights:
            both = torch.ones((1, 2, len(others)), dtype=dtype, device=others.device)
            self._weights[key] = both, both[0, 1]
        both, below = self._weights[key]
        below.copy_(others)
        return both
