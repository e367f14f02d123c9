"""Memory that is used again and again."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Room for one layer's work after another's, so that a backward pass asks for it once.

    Large blocks that come and go are what a CPU's allocator gives back to the system, and getting them anew costs
    more than filling them. The allocators of other devices keep what they have: there every request is its own.
    """

    def __init__(self) -> None:
        self._blocks: dict[torch.dtype, Tensor] = {}
        self._weights: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def take(self, like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
        """Uninitialized tensors, good until others are taken.

        Args:
            like: What gives dtype and device.
            shapes: Theirs.
        """
        if like.device.type != "cpu":
            return [like.new_empty(shape) for shape in shapes]
        numels = [math.prod(shape) for shape in shapes]
        block = self._blocks.get(like.dtype)
        if block is None or block.numel() < sum(numels):
            block = self._blocks[like.dtype] = like.new_empty(sum(numels))
        parts = block[: sum(numels)].split(numels)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def weights(self, others: Tensor, dtype: torch.dtype) -> Tensor:
        """Ones above others, shape (1, 2, n), good until asked for again.

        Args:
            others: Shape (n,).
            dtype: Of the result.
        """
        key = others.shape[0], dtype, others.device
        if key not in self._weights:
            both = torch.ones((1, 2, len(others)), dtype=dtype, device=others.device)
            self._weights[key] = both, both[0, 1]
        both, below = self._weights[key]
        below.copy_(others)
        return both
