"""The random weights of fully connected nets, drawn layer by layer from one seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.models.mlp.drawing import draw_normal
from gradlab.models.mlp.family import Family, Init


class WeightStream:
    """Draws a network's weights in order of depth, so that nets of one seed share their first layers at any depth.

    Values are drawn in float32 on the CPU, orthogonalized in float64 and then converted, so that every dtype and
    device has the same weights.

    Args:
        family: The family of the net.
        width: The number N of neurons per layer.
        seed: The seed of all weights.
        init: The initialization: `he`, W ~ N(0, 2/N); `glorot`, W ~ N(0, 1/N); or `orthogonal`, √2 times a Haar
            distributed orthogonal matrix. It affects neither the first and last layer nor looks-linear nets, which
            are as `Family` defines them.
        dtype: The dtype of the returned weights.
    """

    def __init__(
        self, family: Family, width: int, seed: int, init: Init = "he", dtype: torch.dtype = torch.float32
    ) -> None:
        self.family, self.width, self.init, self.dtype = family, width, init, dtype
        self._generator = torch.Generator().manual_seed(seed)
        gain = 1.0 if family.kind == "resnet" else math.sqrt(2.0)
        weight, bias, readout = (self._normal(width) for _ in range(3))
        self.stem = weight * gain
        self.bias = bias * gain if family.bias else torch.zeros_like(bias)
        self.readout = readout / math.sqrt(width)

    @property
    def state(self) -> Tensor:
        """The state of the generator; restore it to draw the same layers again."""
        return self._generator.get_state()

    @state.setter
    def state(self, state: Tensor) -> None:
        self._generator.set_state(state)

    def layer(self) -> Tensor:
        """Draw the next W, or W′ for a looks-linear net, shape (N, N)."""
        if self.family.kind == "ll":
            return self._orthogonal()
        if self.init == "orthogonal":
            return self._orthogonal() * math.sqrt(2.0)
        return self._normal(self.width, self.width, std=math.sqrt((2.0 if self.init == "he" else 1.0) / self.width))

    def _normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return draw_normal(torch.empty(shape), std, self._generator).to(self.dtype)

    def _orthogonal(self) -> Tensor:
        q, r = torch.linalg.qr(draw_normal(torch.empty(self.width, self.width), 1.0, self._generator).double())
        # The signs make the distribution uniform (Mezzadri 2007, "How to generate random matrices", §5).
        signed: Tensor = q * r.diagonal().sgn()
        return signed.to(self.dtype)
