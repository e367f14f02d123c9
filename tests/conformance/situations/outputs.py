"""What layers and models return: tuples, dicts, views, tensors that are then changed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import INPUTS, Net, Situation, images, refusing, sequences
from conformance.situations.networks import normalized, normalized_by_hand, randomize

KIND = "Outputs"


class Two(nn.Module):
    """A model with two outputs, as a tuple or a dict."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.mid, self.head, self.aux, self.named = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3), named

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.mid(x))
        outputs = self.head(h), self.aux(h)
        return dict(zip(("logits", "aux"), outputs, strict=True)) if self.named else outputs


def two_by_hand(named: bool) -> Callable[[Reference, Tensor], Any]:
    def forward(net: Reference, x: Tensor) -> Any:
        h = torch.tanh(net.linear("mid", x))
        outputs = net.linear("head", h), net.linear("aux", h)
        return dict(zip(("logits", "aux"), outputs, strict=True)) if named else outputs

    return forward


def both_outputs(net: Net, x: Tensor, y: Tensor) -> Tensor:
    output = net(x)
    logits, aux = output.values() if isinstance(output, dict) else output
    return F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(aux, 2 - y)


def first_output(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x)[0], y)


class Several(nn.Module):
    """A layer of one's own that owns a weight and returns several tensors."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.weight, self.named = nn.Parameter(torch.randn(8, 4)), named

    def forward(self, x: Tensor) -> Any:
        scale, shift = F.linear(x, self.weight).chunk(2, -1)
        return {"scale": scale, "shift": shift} if self.named else (scale, (shift,))


class OfSeveral(nn.Module):
    """A model that uses all of them."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.split, self.head = Several(named), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.split(x)
        scale, shift = (found["scale"], found["shift"]) if isinstance(found, dict) else (found[0], found[1][0])
        return self.head(torch.tanh(x * scale + shift))


def several_by_hand(first: str, second: str) -> Callable[[Reference, Tensor], Tensor]:
    def forward(net: Reference, x: Tensor) -> Tensor:
        scale, shift = F.linear(x, net["split.weight"]).chunk(2, -1)
        scale, shift = net.note(first, scale), net.note(second, shift)
        return net.linear("head", torch.tanh(x * scale + shift))

    return forward


class InPlace(nn.Module):
    """What layers return is changed in place, and a shortcut added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 3)
        randomize(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        out = self.norm(self.conv(x))
        out += x
        return self.head(F.relu_(out).mean((2, 3))).mul_(2)


def in_place_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = torch.relu(net.note("stem", F.conv2d(x, *net.of("stem"), padding=1)))
    out = net.note("conv", net.batch_norm("norm", F.conv2d(x, *net.of("conv"), padding=1)))
    return net.linear("head", torch.relu(out + x).mean((2, 3))) * 2


class Views(nn.Module):
    """What layers return is viewed, taken apart, and changed through views."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, 4).unbind(1)
        mixed = (q * k).clone()
        mixed[:, :2].mul_(0.5)
        return self.head(torch.tanh(mixed.add_(v)).view(len(x), 2, 2).flatten(1))


def views_by_hand(net: Reference, x: Tensor) -> Tensor:
    q, k, v = net.linear("qkv", x).view(len(x), 3, 4).unbind(1)
    mixed = q * k * torch.tensor([0.5, 0.5, 1, 1], dtype=x.dtype) + v
    return net.linear("head", torch.tanh(mixed))


class ViewOfLayer(nn.Module):
    """A layer's output is viewed, and the view changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(x)
        h.view(len(x), 2, 2)[:, 0].tanh_()
        return self.head(h)


def view_of_layer_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = net.linear("mid", x)
    return net.linear("head", torch.cat([torch.tanh(h[:, :2]), h[:, 2:]], 1))


class PreNorm(nn.Module):
    """Blocks that add to a stream, which each block normalizes first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PreNormBlock() for _ in range(2))
        self.head = nn.Linear(4, 3)
        randomize(self)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class PreNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.tanh(self.fc1(self.norm(x))))


def pre_norm_by_hand(net: Reference, x: Tensor) -> Tensor:
    for block in ("blocks.0", "blocks.1"):
        h = torch.tanh(net.linear(f"{block}.fc1", net.layer_norm(f"{block}.norm", x)))
        x = net.note(block, x + net.linear(f"{block}.fc2", h), block=True)
    return net.linear("head", x.mean(1))


class PostNorm(nn.Module):
    """A layer whose output goes to a normalization and to a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        randomize(self)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(x)
        return self.head(h + torch.tanh(self.norm(h)))


def post_norm_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = F.linear(x, *net.of("mid"))
    return net.linear("head", h + torch.tanh(net.note("mid", net.layer_norm("norm", h))))


def batch_statistics() -> nn.Module:
    return normalized().train()


SITUATIONS = [
    Situation(
        "a model that returns a tuple",
        KIND,
        lambda: Two(named=False),
        two_by_hand(named=False),
        objective=both_outputs,
        refused={INPUTS: "tuple"},
    ),
    Situation(
        "a model that returns a dict",
        KIND,
        lambda: Two(named=True),
        two_by_hand(named=True),
        objective=both_outputs,
        refused={INPUTS: "dict"},
    ),
    Situation(
        "a model of which one output is not used",
        KIND,
        lambda: Two(named=False),
        two_by_hand(named=False),
        objective=first_output,
        refused={INPUTS: "tuple"},
    ),
    Situation(
        "a layer that returns tuples of tensors",
        KIND,
        lambda: OfSeveral(named=False),
        several_by_hand("split", "split[1][0]"),
    ),
    Situation(
        "a layer that returns a dict of tensors",
        KIND,
        lambda: OfSeveral(named=True),
        several_by_hand("split", "split[shift]"),
    ),
    Situation("in place: ReLU, a shortcut, a scale", KIND, InPlace, in_place_by_hand, data=images),
    Situation("outputs that are viewed and taken apart", KIND, Views, views_by_hand),
    Situation("a view of a layer's output, changed in place", KIND, ViewOfLayer, view_of_layer_by_hand),
    Situation("normalization by running statistics", KIND, normalized, normalized_by_hand, data=images),
    Situation(
        "normalization by the statistics of the batch",
        KIND,
        batch_statistics,
        normalized_by_hand,
        data=images,
        refused=refusing("1"),
    ),
    Situation("blocks that normalize first", KIND, PreNorm, pre_norm_by_hand, data=sequences),
    Situation("a normalization with a shortcut around it", KIND, PostNorm, post_norm_by_hand),
]
