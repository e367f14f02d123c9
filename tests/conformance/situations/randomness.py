"""Layers that draw random numbers, from Python's, numpy's or torch's generators."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import Situation

KIND = "Randomness"


def by_torch() -> float:
    return torch.rand(()).item()


def by_numpy() -> float:
    return float(np.random.rand())  # noqa: NPY002 - the generator that models draw from


class Dropped(nn.Module):
    """A layer with a parameter of its own that takes one of two paths, by chance."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.scale, self.fc, self.draw = nn.Parameter(torch.randn(3)), nn.Linear(4, 3), draw

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return (h if self.draw() < 0.5 else 0.1 * torch.tanh(h)) * self.scale


def dropped_by_hand(draw: Callable[[], float]) -> Callable[[Reference, Tensor], Tensor]:
    def forward(net: Reference, x: Tensor) -> Tensor:
        h = net.linear("fc", x)
        return (h if net.draw(draw) < 0.5 else 0.1 * torch.tanh(h)) * net["scale"]

    return forward


class Noisy(nn.Module):
    """A layer that multiplies by noise, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain * torch.rand_like(x)


def noisy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), Noisy(), nn.Linear(4, 3))


def noisy_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = net.linear("0", x)
    return net.linear("2", h * net["1.gain"] * net.draw(lambda: torch.rand_like(h)))


class OwnGenerator(nn.Module):
    """Noise from a generator of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.fc = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(x * self.gain + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)))


def own_generator_by_hand(net: Reference, x: Tensor) -> Tensor:
    if not hasattr(net, "generator"):
        net.generator = torch.Generator().manual_seed(3)
    noise = net.draw(lambda: torch.randn(x.shape, generator=net.generator, dtype=x.dtype))
    return net.linear("fc", torch.tanh(x * net["gain"] + noise))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))


def dropout_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = net.linear("0", x)
    return net.linear("2", h * net.draw(lambda: F.dropout(torch.ones_like(h), 0.5)))


SITUATIONS = [
    Situation(
        "a layer that draws from Python's generator",
        KIND,
        lambda: Dropped(random.random),
        dropped_by_hand(random.random),
    ),
    Situation("a layer that draws from numpy's generator", KIND, lambda: Dropped(by_numpy), dropped_by_hand(by_numpy)),
    Situation("a layer that draws from torch's generator", KIND, lambda: Dropped(by_torch), dropped_by_hand(by_torch)),
    Situation("a layer that multiplies by noise", KIND, noisy, noisy_by_hand),
    Situation("a generator of the model's own", KIND, OwnGenerator, own_generator_by_hand),
    Situation("dropout", KIND, dropout, dropout_by_hand),
]
