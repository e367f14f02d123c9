"""Values from 1e-30 to 1e30 in float32, and far from 0."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import RESPONSES, Batch, Net, Situation, sequences, vectors
from conformance.situations.networks import mlp, mlp_by_hand

KIND = "Scale"


class Sigmoids(nn.Module):
    """Thirty layers through which gradients vanish."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(30))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.head(x.mean(1) if x.ndim > 2 else x)


def sigmoids_by_hand(net: Reference, x: Tensor) -> Tensor:
    for i in range(30):
        x = torch.sigmoid(net.linear(f"layers.{i}", x))
    return net.linear("head", x.mean(1) if x.ndim > 2 else x)


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(2048, 3))


def convolution_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", F.conv2d(x, net["0.weight"], padding=1))
    return net.linear("2", x.flatten(1))


def at_scale(scale: float) -> list[Batch]:
    return [(scale * torch.randn(8, 3, 16, 16), torch.arange(8) % 3)]


def weighted(scale: float, net: Net, x: Tensor, y: Tensor) -> Tensor:
    return scale * F.cross_entropy(net(x), y)


def linear_loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Of logits of any size, without an overflow on the way."""
    return net(x).gather(1, y[:, None]).mean()


def shifted(shift: float) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(2048, 3))
    nn.init.constant_(net[0].bias, shift)
    return net


def shifted_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", F.conv2d(x, *net.of("0"), padding=1))
    return net.linear("2", x.flatten(1))


def float32(name: str, model, reference, **options: object) -> Situation:
    return Situation(name, KIND, model, reference, dtype=torch.float32, tolerance=1e-5, **options)  # type: ignore[arg-type]


SITUATIONS = [
    float32(
        "gradients that vanish in thirty sigmoid layers",
        lambda: Sigmoids(8),
        sigmoids_by_hand,
        data=lambda: vectors(4, 8),
    ),
    float32(
        "the same in tensors of 131,072 values",
        lambda: Sigmoids(128),
        sigmoids_by_hand,
        data=lambda: sequences(4, 256, 128),
    ),
    *(
        float32(
            f"responses about {scale:g}",
            convolution,
            convolution_by_hand,
            data=functools.partial(at_scale, scale),
            objective=linear_loss,
        )
        for scale in (1e-30, 1e-22, 1e22, 1e30)
    ),
    *(
        float32(f"gradients about {scale:g}", mlp, mlp_by_hand, objective=functools.partial(weighted, scale))
        for scale in (1e-30, 1e-20, 1e20, 1e30)
    ),
    *(
        float32(
            f"responses whose mean is about {shift:,} times their std",
            functools.partial(shifted, shift),
            shifted_by_hand,
            data=functools.partial(at_scale, 1.0),
            objective=linear_loss,
        )
        for shift in (100, 10_000)
    ),
    float32(
        "responses whose mean is about 1,000,000 times their std, with exact=True",
        functools.partial(shifted, 1_000_000),
        shifted_by_hand,
        data=functools.partial(at_scale, 1.0),
        objective=linear_loss,
        options={RESPONSES: {"exact": True}},
    ),
]
