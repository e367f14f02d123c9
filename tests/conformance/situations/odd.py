"""What else models do: scan, stop gradients, call by keyword, cast on the way, define their own derivative."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from conformance.reference import Reference
from conformance.situation import Situation, sequences
from conformance.situations.networks import mlp
from conformance.situations.weights import rows_of_first


def spectral_training() -> nn.Module:
    net = mlp().double()
    spectral_norm(net[0])
    return net.train()


def spectral_training_by_hand(net: Reference, x: Tensor) -> Tensor:
    weight = net["0.weight_orig"]

    def iterated() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            v = F.normalize(weight.T @ net["0.weight_u"], dim=0, eps=1e-12)
            u = F.normalize(weight @ v, dim=0, eps=1e-12)
        net.buffers.update({"0.weight_u": u, "0.weight_v": v})
        return u, v

    u, v = net.draw(iterated)
    x = net.note("0", F.linear(x, weight / (u @ (weight @ v)), net["0.bias"]))
    return net.linear("2", torch.tanh(x))


class StateSpace(nn.Module):
    """A scan over time, whose weights multiply the state element by element."""

    def __init__(self) -> None:
        super().__init__()
        self.a_log, self.d = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(4))
        self.in_proj, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        return self.head(torch.tanh(scan(x, self.a_log) + self.d * x).mean(1))


def scan(x: Tensor, a_log: Tensor) -> Tensor:
    state, outputs = x.new_zeros(len(x), *a_log.shape), []
    for t in range(x.shape[1]):
        state = torch.exp(-torch.exp(a_log)) * state + x[:, t, :, None]
        outputs.append(state.sum(-1))
    return torch.stack(outputs, 1)


def state_space_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.linear("in_proj", x)
    return net.linear("head", torch.tanh(scan(x, net["a_log"]) + net["d"] * x).mean(1))


class ByKeyword(nn.Module):
    """Layers that are called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=torch.tanh(self.mid(input=x)))


class Stopped(nn.Module):
    """Two branches, the gradient of one of which is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.other, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(x)
        return self.head(torch.tanh(h + self.other(x).detach()) + h.detach())


def by_keyword_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", torch.tanh(net.linear("mid", x)))


def stopped_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = net.linear("mid", x)
    return net.linear("head", torch.tanh(h + net.linear("other", x).detach()) + h.detach())


class Product(torch.autograd.Function):
    """x Wᵀ with a derivative that is written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x


class OwnFunction(nn.Module):
    """A layer by an autograd.Function of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(x, self.weight)


def own_function() -> nn.Module:
    return nn.Sequential(OwnFunction(), nn.Tanh(), nn.Linear(6, 3))


def own_function_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("2", torch.tanh(net.note("0", x @ net["0.weight"].T)))


class CastInside(nn.Module):
    """A layer that runs in bfloat16, whatever is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = self.mid(x)
        return self.head(torch.tanh(h.float()))


def cast_inside_by_hand(net: Reference, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        h = net.linear("mid", x)
    return net.linear("head", torch.tanh(h.float()))


SITUATIONS = [
    Situation(
        "spectral_norm, the older one, in training",
        "Weights",
        spectral_training,
        spectral_training_by_hand,
        rows=rows_of_first("0.weight_orig"),
    ),
    Situation("a layer by an autograd.Function of one's own", "Weights", own_function, own_function_by_hand),
    Situation("a scan over time", "Shapes", StateSpace, state_space_by_hand, data=sequences),
    Situation("layers called by keyword", "Shapes", ByKeyword, by_keyword_by_hand),
    Situation("a gradient that is stopped", "Outputs", Stopped, stopped_by_hand),
    Situation(
        "autocast inside the model",
        "Ways to run",
        CastInside,
        cast_inside_by_hand,
        dtype=torch.float32,
        tolerance=1e-5,
        example_tolerance=5e-2,
    ),
]
