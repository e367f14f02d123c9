"""A model whose backward passes fail where a test says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class _Breaking(torch.autograd.Function):
    """The identity, whose backward pass fails as one that has too little memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise MemoryError


class Fragile(nn.Sequential):
    """Layers of which the backward pass may fail between the last two."""

    breaks = False

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = self.children()
        for part in parts:
            x = part(x)
        return last(_Breaking.apply(x) if self.breaks else x)  # type: ignore[no-any-return]

    def fail(self, x: Tensor) -> None:
        """Run forward, and backward to where that fails."""
        self.breaks = True
        with pytest.raises(MemoryError):
            self(x).square().mean().backward()
        self.breaks = False
