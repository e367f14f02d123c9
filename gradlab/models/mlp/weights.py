"""The random weights of fully connected nets, layer by layer from one seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.models.mlp.family import Family, Init


class WeightStream:
    """Draws a network's weights in order of depth: nets of one seed share their first layers, whatever their depth.

    Values are drawn in float32 on the CPU, orthogonalized in float64 and then converted, so that every dtype and
    device has the same.

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

    @property
    def state(self) -> Tensor:
        """Where the stream stands; set it to draw the same layers again."""
        return self._generator.get_state()

    @state.setter
    def state(self, state: Tensor) -> None:
        self._generator.set_state(state)

    def layer(self) -> Tensor:
        """The next W, or W′ of a looks-linear net: (N, N)."""
        if self.family.kind == "ll":
            return self._orthogonal()
        if self.init == "orthogonal":
            return self._orthogonal() * math.sqrt(2.0)
        return self._normal(self.width, self.width, std=math.sqrt((2.0 if self.init == "he" else 1.0) / self.width))

    def _normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.empty(shape).normal_(0.0, std, generator=self._generator).to(self.dtype)

    def _orthogonal(self) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(self.width, self.width, generator=self._generator).double())
        # The signs make the distribution uniform (Mezzadri 2007, "How to generate random matrices", §5).
        signed: Tensor = q * r.diagonal().sgn()
        return signed.to(self.dtype)
