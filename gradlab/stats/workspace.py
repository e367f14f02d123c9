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

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialized tensor, good until the next is taken.

        Args:
            shape: Its shape.
            like: What gives dtype and device.
        """
        if like.device.type != "cpu":
            return like.new_empty(shape)
        numel = math.prod(shape)
        block = self._blocks.get(like.dtype)
        if block is None or len(block) < numel:
            block = self._blocks[like.dtype] = like.new_empty(numel)
        return block[:numel].view(shape)
