"""The random weights of fully connected nets, layer by layer from one seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.models.mlp_family import Family, Init


class WeightStream:
    """Draws a network's weights in order of depth: nets of one seed share their first layers, whatever their depth.

    Values are drawn in float32 on the CPU and then converted, so that every dtype and device has the same.

    Args:
        family: What the weights are for.
        width: Neurons a layer, N.
        seed: Seed of everything.
        init: `he`: W ~ N(0, 2/N); `glorot`: N(0, 1/N); `orthogonal`: √2 times an orthogonal matrix, Haar
            distributed. First and last layer are as the family says in every case, and so is a looks-linear net.
        dtype: Of the weights handed out.
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

    def layer(self) -> Tensor:
        """The next W, or W′ of a looks-linear net: (N, N)."""
        values = self._normal(self.width, self.width)
        if self.family.kind == "ll":
            return _orthogonal(values)
        if self.init == "orthogonal":
            return _orthogonal(values) * math.sqrt(2.0)
        return values.mul_(math.sqrt((2.0 if self.init == "he" else 1.0) / self.width))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.dtype)


def _orthogonal(values: Tensor) -> Tensor:
    q, r = torch.linalg.qr(values)
    # The signs make the distribution uniform (Mezzadri 2007, "How to generate random matrices", §5).
    signed: Tensor = q * r.diagonal().sgn()
    return signed
