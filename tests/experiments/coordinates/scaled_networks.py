"""Networks whose layers scale by given exponents: those of μP, of the standard parametrization, and wrong ones.

A layer has a multiplier n^−a, weights of standard deviation n^−b and a learning rate n^−c, with n the width over a base
width: abc-parametrizations (Yang and Hu 2021, arXiv:2011.14522).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

BASE = 32
Made = tuple[nn.Module, Optimizer]


@dataclass(frozen=True)
class Exponents:
    """The exponents of one layer: multiplier, standard deviation and learning rate."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0


Scaling = Mapping[str, Exponents]

MUP_ADAM = {"input": Exponents(), "hidden": Exponents(0, 0.5, 1), "output": Exponents(1, 0, 0)}
MUP_SGD = {"input": Exponents(0, 0, -1), "hidden": Exponents(0, 0.5, 0), "output": Exponents(1, 0, -1)}
STANDARD = {"input": Exponents(), "hidden": Exponents(0, 0.5, 0), "output": Exponents(0, 0.5, 0)}
"""The exponents by kind of layer; a layer may have its own, by name."""


class Scaled(nn.Linear):
    """A linear layer with a multiplier."""

    def __init__(
        self, ins: int, outs: int, times: float, exponents: Exponents, base: int = BASE, gain: float = 1.0
    ) -> None:
        super().__init__(ins, outs, bias=False)
        self.multiplier, self.rate = times**-exponents.a, times**-exponents.c
        # It has the usual size at the base width and scales from there by the exponent.
        nn.init.normal_(self.weight, std=gain * base**-0.5 * times**-exponents.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiplier * super().forward(x)


def _of(scaling: Scaling, name: str, kind: str) -> Exponents:
    return scaling.get(name, scaling[kind])


def _optimizer(model: nn.Module, kind: type[Optimizer], rate: float) -> Optimizer:
    layers = [module for module in model.modules() if isinstance(module, Scaled | ScaledEmbedding)]
    groups = [{"params": [layer.weight], "lr": rate * layer.rate} for layer in layers]
    scaled = {id(layer.weight) for layer in layers}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in scaled]
    return kind([*groups, *([{"params": rest, "lr": rate}] if rest else [])], lr=rate)


class MLP(nn.Module):
    """Four layers, of which two are hidden."""

    def __init__(self, width: int, scaling: Scaling, ins: int = 16, classes: int = 4) -> None:
        super().__init__()
        times, gain = width / BASE, 2**0.5
        self.first = Scaled(ins, width, times, _of(scaling, "first", "input"), ins)
        self.second = Scaled(width, width, times, _of(scaling, "second", "hidden"), gain=gain)
        self.third = Scaled(width, width, times, _of(scaling, "third", "hidden"), gain=gain)
        self.head = Scaled(width, classes, times, _of(scaling, "head", "output"), gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.third(F.relu(self.second(F.relu(self.first(x)))))))


class ScaledEmbedding(nn.Embedding):
    """An embedding whose entries are of size 1 at the base width."""

    def __init__(self, vocabulary: int, width: int, times: float, exponents: Exponents) -> None:
        super().__init__(vocabulary, width)
        self.rate = times**-exponents.c
        nn.init.normal_(self.weight, std=times**-exponents.b)


class Attention(nn.Module):
    """Two heads whose dimension grows; `scores` marks the logits."""

    def __init__(self, width: int, times: float, scaling: Scaling, scale: float) -> None:
        super().__init__()
        self.scale = (BASE // 2) ** -0.5 * times**-scale
        for name in ("query", "key", "value", "project"):
            setattr(self, name, Scaled(width, width, times, _of(scaling, name, "hidden")))
        self.scores = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in self._heads())
        weights = self.scores(self.scale * query @ key.mT).softmax(-1)
        return self.project((weights @ value).transpose(1, 2).flatten(2))

    def _heads(self) -> tuple[nn.Module, ...]:
        return self.query, self.key, self.value


class Block(nn.Module):
    """Attention and a perceptron."""

    def __init__(self, width: int, times: float, scaling: Scaling, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, times, scaling, scale)
        self.up = Scaled(width, 2 * width, times, _of(scaling, "up", "hidden"))
        self.down = Scaled(2 * width, width, times, _of(scaling, "down", "hidden"), 2 * BASE)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Two blocks over tokens; the logits of attention scale with exponent `scale`, 1 in μP."""

    def __init__(self, width: int, scaling: Scaling, scale: float = 1.0, vocabulary: int = 16) -> None:
        super().__init__()
        times = width / BASE
        self.embedding = ScaledEmbedding(vocabulary, width, times, _of(scaling, "embedding", "input"))
        self.blocks = nn.ModuleList(Block(width, times, scaling, scale) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = Scaled(width, vocabulary, times, _of(scaling, "head", "output"))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


class ResidualBlock(nn.Module):
    """One layer with a centred nonlinearity, times a multiplier, added to the stream."""

    def __init__(self, multiplier: float, gain: float) -> None:
        super().__init__()
        self.multiplier, self.layer = multiplier, Scaled(BASE, BASE, 1, Exponents(), gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.layer(x))
        return x + self.multiplier * (branch - branch.mean(-1, keepdim=True))


class Residual(nn.Module):
    """Blocks of one layer, times depth^−branch, with a learning rate of depth^−depth_rate (Depth-μP: 1/2 each)."""

    def __init__(self, depth: int, branch: float = 0.5, depth_rate: float = 0.5, gain: float = 2**0.5) -> None:
        super().__init__()
        self.first = Scaled(16, BASE, 1, Exponents(), 16)
        self.blocks = nn.ModuleList(ResidualBlock(depth**-branch, gain) for _ in range(depth))
        self.head = Scaled(BASE, 4, 1, Exponents())
        for block in self.blocks:
            block.layer.rate = (depth / 4) ** -depth_rate

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def mlp(scaling: Scaling, kind: type[Optimizer], rate: float, **changes: Exponents) -> Callable[[int], Made]:
    """A function of width that makes an MLP; `changes` are the exponents of single layers."""

    def make_model(width: int) -> Made:
        model = MLP(width, {**scaling, **changes})
        return model, _optimizer(model, kind, rate)

    return make_model


def transformer(
    scaling: Scaling, rate: float = 2e-2, scale: float = 1.0, **changes: Exponents
) -> Callable[[int], Made]:
    """A function of width that makes a transformer trained by Adam, as `mlp`."""

    def make_model(width: int) -> Made:
        model = Transformer(width, {**scaling, **changes}, scale)
        return model, _optimizer(model, torch.optim.Adam, rate)

    return make_model


def residual(rate: float = 1e-3, **changes: float) -> Callable[[int], Made]:
    """A function of depth that makes a residual network trained by Adam."""

    def make_model(depth: int) -> Made:
        model = Residual(depth, **changes)
        return model, _optimizer(model, torch.optim.Adam, rate)

    return make_model


def but(exponents: Exponents, **changes: float) -> Exponents:
    """Exponents with changes that make them wrong."""
    return replace(exponents, **changes)
