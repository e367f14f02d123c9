"""Faults to plant into a layer of any network, each with what it is known to be."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INF = float("inf")


class Spoiled(torch.autograd.Function):
    """The identity, with a derivative that is NaN."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


@dataclass(frozen=True)
class Plant:
    """A change of a layer's output by one operation that is not finite, and how that is to be reported."""

    name: str
    change: Callable[[Tensor, Tensor], Tensor]
    operation: str
    direction: str = "forward"
    reason: str = ""

    def into(self, layer: nn.Module) -> None:
        """Give a layer a forward pass with the fault; `change` has its output and zeros that hang on it."""
        forward = layer.forward

        def broken(*args: object, **kwargs: object) -> object:
            output = forward(*args, **kwargs)
            first = output[0] if isinstance(output, tuple) else output
            changed = self.change(first, first - first)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        layer.forward = broken


def _ones(y: Tensor) -> Tensor:
    return torch.ones_like(y)


def _in_place(y: Tensor, zero: Tensor) -> Tensor:
    changed = zero + 1
    changed[..., 0].zero_().log_()
    return y - changed


def _masked(zero: Tensor) -> Tensor:
    return zero.masked_fill(torch.ones_like(zero, dtype=torch.bool), -INF)


def _masked_product(y: Tensor, zero: Tensor) -> Tensor:
    return y + (_masked(zero).flatten(1) @ zero.flatten(1).T).sum()


def _overflowing_product(y: Tensor, zero: Tensor) -> Tensor:
    return y + ((zero + 1e30).flatten(1) @ (zero + 1e30).flatten(1).T).sum()


def _constant_normalized(y: Tensor, zero: Tensor) -> Tensor:
    return y + F.layer_norm(zero, y.shape[-1:], eps=0.0)


def _bfloat16_product(y: Tensor, zero: Tensor) -> Tensor:
    return y + ((zero + 1e30).bfloat16() * 1e30).to(y.dtype)


def _manual_softmax(y: Tensor, zero: Tensor) -> Tensor:
    scores = _masked(zero)
    return y + (scores - scores.amax(-1, keepdim=True)).exp()


PLANTS = [
    Plant("log-of-0", lambda y, zero: y + torch.log(zero), "log", reason="logarithm of 0"),
    Plant("log-of-negative", lambda y, zero: y + torch.log(zero - 1), "log", reason="negative"),
    Plant("division-by-0", lambda y, zero: y + _ones(y) / zero, "div", reason="division by 0"),
    Plant("0/0", lambda y, zero: y + zero / zero, "div", reason="0/0"),
    Plant("quotient-overflows", lambda y, zero: y + (zero + 1e30) / (zero + 1e-30), "div", reason="overflow of"),
    Plant("reciprocal-of-0", lambda y, zero: y + zero.reciprocal(), "reciprocal", reason="division by 0"),
    Plant("exp-overflows", lambda y, zero: y + torch.exp(zero + 1000), "exp", reason="overflow of float32"),
    Plant("root-of-negative", lambda y, zero: y + torch.sqrt(zero - 1), "sqrt", reason="root of a negative"),
    Plant("slope-of-root", lambda y, zero: y + torch.sqrt(zero), "sqrt", "backward", "derivative is infinite"),
    Plant("where-hides-log", lambda y, zero: torch.where(y < INF, y, torch.log(zero)), "log", "backward", "0 · ∞"),
    Plant("where-hides-root", lambda y, zero: torch.where(y < INF, y, zero.sqrt()), "sqrt", "backward", "0 · ∞"),
    Plant("slope-of-power", lambda y, zero: y + zero.abs().pow(0.5), "pow", "backward"),
    Plant("slope-of-acos", lambda y, zero: y + torch.acos(zero + 1), "acos", "backward", "infinite"),
    Plant("slope-of-acosh", lambda y, zero: y + torch.acosh(zero + 1), "acosh", "backward", "infinite"),
    Plant("masked-row", lambda y, zero: y + _masked(zero).softmax(-1), "softmax", reason="every entry of a row"),
    Plant("masked-log-softmax", lambda y, zero: y + _masked(zero).log_softmax(-1), "log_softmax", reason="every entry"),
    Plant("masked-product", _masked_product, "masked_fill", reason="put in as a number"),
    Plant("masked-by-hand", _manual_softmax, "sub", reason="infinities of a mask"),
    Plant("float16-conversion", lambda y, zero: y + (zero + 1e6).half().float(), "conversion", reason="too large"),
    Plant("float16-product", lambda y, zero: y + (zero + 300).half().square().float(), "pow", reason="of float16"),
    Plant("float16-sum", lambda y, zero: y + (zero + 6e4).half().mul(2).sum().float(), "mul", reason="of float16"),
    Plant("bfloat16-product", _bfloat16_product, "mul", reason="bfloat16"),
    Plant("matmul-overflows", _overflowing_product, "matmul"),
    Plant("normalized-constant", _constant_normalized, "layer_norm", reason="0/0"),
    Plant("unit-length-of-0", lambda y, zero: y + F.normalize(zero, dim=-1, eps=0.0), "div", reason="0/0"),
    Plant("own-function", lambda y, zero: Spoiled.apply(y), "Spoiled", "backward"),
    Plant("in-place", _in_place, "log", reason="logarithm of 0"),
    Plant("variance-of-one", lambda y, zero: y + torch.var(y.flatten()[:1]), "var", reason="single element"),
    Plant("hidden-overflow", lambda y, zero: y + 1 / (1 + torch.exp(zero + 1000)), "exp", reason="overflow"),
    Plant("power-of-0", lambda y, zero: y + zero.pow(-1.5), "pow", reason="negative power"),
    Plant("mean-of-none", lambda y, zero: y + y.flatten()[:0].mean(), "mean", reason="no elements"),
    Plant("cumulative-product", lambda y, zero: y + (zero + 1e20).flatten(1).cumprod(1)[:, -1].sum(), "cumprod"),
]
