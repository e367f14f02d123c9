"""Layers whose weights are frozen, integers, complex, empty, stacked, or of classes that are seldom met."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import (
    TOKENS,
    Batch,
    Situation,
    images,
    sequences,
    tokens,
)

KIND = "Weights"


class Int8(nn.Linear):
    """A frozen weight of integers, scaled where it is used."""

    def __init__(self) -> None:
        super().__init__(4, 6)
        self.weight = nn.Parameter(torch.randint(-9, 9, (6, 4), dtype=torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 0.1 * self.weight.to(x.dtype), self.bias)


def int8_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", F.linear(x, 0.1 * net["0.weight"].to(x.dtype), net["0.bias"]))
    return net.linear("2", torch.tanh(x))


class Complex(nn.Module):
    """A layer of complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, dtype=torch.complex128), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.to(torch.complex128)).abs())


def complex_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("b", net.note("a", F.linear(x.to(torch.complex128), *net.of("a"))).abs())


def empty() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3))


def empty_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("1", net.linear("0", x))


class StackedExperts(nn.Module):
    """Experts whose weights are one tensor, all of them applied to all tokens at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5, 4))
        self.router, self.head = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(-1)
        each = torch.bmm(torch.tanh(torch.bmm(x.expand(3, -1, -1), self.gate_up_proj)), self.down_proj)
        return self.head(torch.einsum("be,ebd->bd", share, each))


def stacked_by_hand(net: Reference, x: Tensor) -> Tensor:
    share = net.linear("router", x).softmax(-1)
    inner = net.note("gate_up_proj", torch.bmm(x.expand(3, -1, -1), net["gate_up_proj"]))
    each = net.note("down_proj", torch.bmm(torch.tanh(inner), net["down_proj"]))
    return net.linear("head", torch.einsum("be,ebd->bd", share, each))


class RoutedExperts(nn.Module):
    """Experts of which each token sees the one that it is sent to, as slices of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4, 4))
        self.router, self.head = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        share, to = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for e in range(3):
            (chosen,) = torch.where(to == e)
            out = out.index_add(0, chosen, F.linear(x[chosen], self.w[e]) * share[chosen, None])
        return self.head(torch.tanh(out))


def routed_by_hand(net: Reference, x: Tensor) -> Tensor:
    share, to = net.linear("router", x).softmax(-1).max(-1)
    out = torch.zeros_like(x)
    for e in range(3):
        (chosen,) = torch.where(to == e)
        out = out.index_add(0, chosen, net.note("w", F.linear(x[chosen], net["w"][e])) * share[chosen, None])
    return net.linear("head", torch.tanh(out))


class RoutedModules(nn.Module):
    """Experts that are modules, each called on the tokens sent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.router, self.head = nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        share, to = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            out[to == e] = expert(flat[to == e]) * share[to == e, None]
        return self.head(torch.tanh(out).view_as(x).mean(1))


def routed_modules_by_hand(net: Reference, x: Tensor) -> Tensor:
    flat = x.flatten(0, 1)
    share, to = net.linear("router", flat).softmax(-1).max(-1)
    out = torch.zeros_like(flat)
    for e in range(2):
        (chosen,) = torch.where(to == e)
        out = out.index_add(0, chosen, net.linear(f"experts.{e}", flat[chosen]) * share[chosen, None])
    return net.linear("head", torch.tanh(out).view_as(x).mean(1))


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    net[2].weight.requires_grad_(False)
    return net


def three_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = torch.tanh(net.linear("0", x))
    return net.linear("4", torch.tanh(net.linear("2", x)))


class Adapted(nn.Module):
    """A frozen layer with a trained part of low rank beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.base(x) + x @ self.lora_a.T @ self.lora_b.T))


def adapted_by_hand(net: Reference, x: Tensor) -> Tensor:
    base = net.linear("base", x)
    low = net.note("lora_b", net.note("lora_a", x @ net["lora_a"].T) @ net["lora_b"].T)
    return net.linear("head", torch.tanh(base + low))


class Unused(nn.Module):
    """A layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mid(x)))


def unused_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", torch.tanh(net.linear("mid", x)))


class Convolved(nn.Module):
    """A kernel of the model's own by F.conv2d, then convolutions of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 2, 3, 3))
        self.up, self.group = nn.ConvTranspose2d(3, 4, 2, stride=2), nn.GroupNorm(2, 4)
        self.depthwise, self.line = nn.Conv2d(4, 4, 3, groups=4, padding="same"), nn.Conv1d(4, 3, 3, stride=2)
        nn.init.uniform_(self.group.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.group(self.up(F.conv2d(x, self.kernel))))
        return self.line(torch.tanh(self.depthwise(x)).flatten(2)).mean(2)


def convolved_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("kernel", F.conv2d(x, net["kernel"]))
    x = net.note("up", F.group_norm(F.conv_transpose2d(x, *net.of("up"), stride=2), 2, *net.of("group")))
    x = net.note("depthwise", F.conv2d(torch.tanh(x), *net.of("depthwise"), padding=1, groups=4))
    return net.note("line", F.conv1d(torch.tanh(x).flatten(2), *net.of("line"), stride=2)).mean(2)


class Bags(nn.Module):
    """An embedding bag, and a bilinear layer of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.both = nn.EmbeddingBag(7, 4, mode="mean"), nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bag(x)
        return self.both(x, torch.tanh(x))


def bags_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("bag", F.embedding(x, net["bag.weight"]).mean(1))
    both = torch.einsum("bi,oij,bj->bo", x, net["both.weight"], torch.tanh(x)) + net["both.bias"]
    return net.note("both", both)


def many_vectors() -> list[Batch]:
    return [(torch.randn(8, 4), torch.arange(8) % 3)]


SITUATIONS = [
    Situation(
        "a frozen weight of int8",
        KIND,
        lambda: nn.Sequential(Int8(), nn.Tanh(), nn.Linear(6, 3)),
        int8_by_hand,
    ),
    Situation("complex weights", KIND, Complex, complex_by_hand),
    Situation("an empty layer", KIND, empty, empty_by_hand),
    Situation("experts as one tensor of three dimensions", KIND, StackedExperts, stacked_by_hand),
    Situation(
        "experts that see the tokens sent to them, by slices of one tensor",
        KIND,
        RoutedExperts,
        routed_by_hand,
        data=many_vectors,
    ),
    Situation(
        "experts that are modules, called on the tokens sent to them",
        KIND,
        RoutedModules,
        routed_modules_by_hand,
        data=sequences,
    ),
    Situation("frozen layers", KIND, frozen, three_by_hand),
    Situation("a frozen layer with a part of low rank beside it", KIND, Adapted, adapted_by_hand),
    Situation("a layer that never runs", KIND, Unused, unused_by_hand),
    Situation("convolutions of many kinds, one by F.conv2d", KIND, Convolved, convolved_by_hand, data=images),
    Situation(
        "an embedding bag and a bilinear layer",
        KIND,
        Bags,
        bags_by_hand,
        data=tokens,
        refused=TOKENS,
    ),
]
