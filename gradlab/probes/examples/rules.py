"""Closed-form rules for the gradients of single examples, by function."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.stats import (
    EmbeddingGradients,
    ExampleContributions,
    Geometry,
    OuterGradients,
    RowGradients,
    convolution_gradients,
    normalization_gradients,
    positions_sum,
)

Contributions = dict[str, ExampleContributions]
"""The contributions of one call to the gradients of its operands, by argument name."""

Make = Callable[[Mapping[str, Any], Tensor, Layout], Contributions | None]
"""A function that computes contributions from a call's arguments, the gradient of its output and the output's layout.

It returns None if the rule does not apply to the layout.
"""


@dataclass
class Match:
    """A call to which a rule applies.

    Attributes:
        given: The arguments by name.
        weights: The names of the arguments that may be parameters.
        make: The function that separates the gradient by examples.
    """

    given: Mapping[str, Any]
    weights: tuple[str, ...]
    make: Make


class Rule:
    """Recognizes the calls of a function to which it applies.

    Args:
        names: The names of the function's arguments, in order.
        weights: The names of those that may be parameters; if any other argument is one, the rule does not apply.
        make: The function that separates the gradient by examples.
        serves: A function that returns whether the rule applies to given arguments.
    """

    def __init__(
        self, names: str, weights: str, make: Make, serves: Callable[[Mapping[str, Any]], bool] = lambda given: True
    ) -> None:
        self.names, self.weights, self.make, self.serves = names.split(), tuple(weights.split()), make, serves

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Container[int]) -> Match | None:
        """Match a call, and return None if the rule does not apply.

        Args:
            args: The positional arguments of the call.
            kwargs: The keyword arguments of the call.
            known: The ids of the parameters.
        """
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        for name, value in given.items():
            if name not in self.weights and isinstance(value, Tensor) and id(value) in known:
                return None
        tensors = [given[name] for name in self.weights if isinstance(given.get(name), Tensor)]
        real = all(not tensor.is_complex() for tensor in tensors)
        return Match(given, self.weights, self.make) if real and self.serves(given) else None


def _linear(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    x, g = _common(given["input"], g)
    if g.ndim == 1:
        if layout.examples > 1:
            return None
        x, g, layout = x[None], g[None], Layout(0, 1)
    a, b = (_rows(layout.first(tensor)) for tensor in (x, g))
    return {"weight": OuterGradients(a, b), **_bias(given, lambda: b.sum(1))}


def _matmul(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    x, g = _common(given["input"], g)
    a, b = (_rows(layout.first(tensor)) for tensor in (g, x))
    return {"other": OuterGradients(a, b)}


def _addmm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    found = _matmul({"input": given["mat1"]}, g, layout)
    return {"mat2": found["other"], "input": _summed(g, given["input"], layout)}


def _convolution(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    if layout.dim:
        return None
    x, g = _common(given["input"], g)
    weights = convolution_gradients(x, g, _geometry(given))
    return _merged({"weight": weights, **_bias(given, lambda: positions_sum(g))}, layout)


def _transposed(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    """Handle the transposed convolution, an adjoint, by exchanging input and gradient."""
    if layout.dim:
        return None
    x, g = _common(given["input"], g)
    geometry = _geometry(given)
    beyond = zip(_each(given.get("output_padding", 0), x.ndim - 2), geometry.stride, strict=True)
    # A padding of the output by more than a stride gives the adjoint further positions, at which there is no input.
    x = F.pad(x, [n for more, step in [*beyond][::-1] for n in (0, more // step)])
    return _merged({"weight": convolution_gradients(g, x, geometry), **_bias(given, lambda: positions_sum(g))}, layout)


def _bias(given: Mapping[str, Any], rows: Callable[[], Tensor]) -> Contributions:
    """Compute the contributions to a bias where there is one."""
    return {} if given.get("bias") is None else {"bias": RowGradients(rows())}


def _geometry(given: Mapping[str, Any]) -> Geometry:
    shape = tuple(given["weight"].shape)
    n = len(shape) - 2
    padding = 0 if given.get("padding") == "valid" else given.get("padding", 0)
    dilation = _each(given.get("dilation", 1), n)
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, shape[2:], strict=True)]
    return Geometry(shape, _each(given.get("stride", 1), n), _each(padding, n), dilation, given.get("groups", 1))


def _even_padding(given: Mapping[str, Any]) -> bool:
    """Return whether a convolution is applied to a batch, with equal padding on both sides."""
    shape = given["weight"].shape
    dilation = _each(given.get("dilation", 1), len(shape) - 2)
    even = all(d * (k - 1) % 2 == 0 for d, k in zip(dilation, shape[2:], strict=True))
    return given["input"].ndim == len(shape) and (given.get("padding") != "same" or even)


def _batch_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    """Handle batch normalization by running statistics, which do not depend on the batch."""
    if layout.dim:
        return None
    x, g = _common(given["input"], g)
    scale, shift = normalization_gradients(x, g, given["running_mean"], given["running_var"], given.get("eps", 1e-5))
    return _merged({"weight": scale, "bias": shift}, layout)


def _layer_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    x, g = _common(given["input"], g)
    shape = given["normalized_shape"]
    return _affine(F.layer_norm(x, shape, eps=given.get("eps", 1e-5)), g, len(shape), layout)


def _rms_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    x, g = _common(given["input"], g)
    shape = given["normalized_shape"]
    return _affine(F.rms_norm(x, shape, eps=given.get("eps")), g, len(shape), layout)


def _affine(normalized: Tensor, g: Tensor, dims: int, layout: Layout) -> Contributions:
    """Compute the contributions to the scale and shift of the last dimensions."""
    scale, shift = (layout.first(tensor).flatten(-dims) for tensor in (g * normalized, g))
    return {"weight": RowGradients(_rows(scale).sum(1)), "bias": RowGradients(_rows(shift).sum(1))}


def _group_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    if layout.dim:
        return None
    x, g = _common(given["input"], g)
    normalized = F.group_norm(x, given["num_groups"], eps=given.get("eps", 1e-5))
    scale, shift = (RowGradients(positions_sum(tensor)) for tensor in (g * normalized, g))
    return _merged({"weight": scale, "bias": shift}, layout)


def _embedding(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    ids, weight = given["input"], given["weight"]
    padding = given.get("padding_idx")
    rows = _rows(layout.first(g))
    found = layout.first(ids).reshape(rows.shape[:2])
    if padding is not None:
        rows = rows * (found != padding % len(weight))[..., None]
    return {"weight": EmbeddingGradients(found, rows.to(_at_least_single(rows.dtype)), len(weight))}


def _add(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    alpha = given.get("alpha", 1)
    return _both(given, {"input": g, "other": g if alpha == 1 else alpha * g}, g, layout)


def _subtract(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    return _both(given, {"input": g, "other": -given.get("alpha", 1) * g}, g, layout)


def _multiply(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    a, b = given["input"], given["other"]
    found = {}
    if isinstance(a, Tensor) and a.requires_grad:
        found["input"] = g * (b.detach() if isinstance(b, Tensor) else b)
    if isinstance(b, Tensor) and b.requires_grad:
        found["other"] = g * (a.detach() if isinstance(a, Tensor) else a)
    return _both(given, found, g, layout)


def _both(given: Mapping[str, Any], gradients: Mapping[str, Tensor], g: Tensor, layout: Layout) -> Contributions | None:
    found: Contributions = {}
    for name, gradient in gradients.items():
        operand = given[name]
        if not isinstance(operand, Tensor):
            continue
        place = layout.dim - (g.ndim - operand.ndim)
        if layout.examples > 1 and 0 <= place < operand.ndim and operand.shape[place] != 1:
            # The operand has separate values for each example, whereas the rule is for shared ones.
            continue
        found[name] = _summed(gradient, operand, layout)
    return found


def _spread(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    place = layout.dim - (g.ndim - given["input"].ndim)
    own = layout.examples > 1 and place >= 0 and given["input"].shape[place] != 1
    return None if own else {"input": _summed(g, given["input"], layout)}


def _summed(g: Tensor, operand: Tensor, layout: Layout) -> RowGradients:
    """Compute the gradient of a broadcast operand by example, a sum over the broadcast dimensions."""
    if layout.examples == 1:
        return RowGradients(g.to(_at_least_single(g.dtype)).sum_to_size(operand.shape).reshape(1, -1))
    missing = g.ndim - operand.ndim
    dims = [
        dim
        for dim, size in enumerate(g.shape)
        if dim != layout.dim and size != 1 and (dim < missing or operand.shape[dim - missing] == 1)
    ]
    wide = g.to(_at_least_single(g.dtype))
    by_example = layout.first(wide.sum(dims, keepdim=True) if dims else wide)
    return RowGradients(by_example.sum(1).flatten(1) if layout.parts > 1 else by_example.reshape(len(by_example), -1))


def _merged(found: Contributions, layout: Layout) -> Contributions:
    """Add the gradients of the rows of each example, if it has several."""
    if layout.parts == 1:
        return found
    return {name: RowGradients(layout.first(part.computed().rows()).sum(1)) for name, part in found.items()}


def _rows(x: Tensor) -> Tensor:
    """Reshape (B, …, P) to (B, T, P)."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def _each(value: Any, n: int) -> tuple[int, ...]:
    """Return one number per dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _common(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both to one dtype, at least float32; with mixed precision, a layer's dtype differs from its input's."""
    x = x.detach()
    if x.dtype is g.dtype is torch.float32:
        return x, g
    dtype = _at_least_single(torch.promote_types(x.dtype, g.dtype))
    return x.to(dtype), g.to(dtype)


_CONVOLUTION = Rule("input weight bias stride padding dilation groups", "weight bias", _convolution, _even_padding)
_TRANSPOSED = Rule(
    "input weight bias stride padding output_padding groups dilation", "weight bias", _transposed, _even_padding
)
_ADD = Rule("input other", "input other", _add)
_SUBTRACT = Rule("input other", "input other", _subtract)
_MULTIPLY = Rule("input other", "input other", _multiply)
_MATMUL = Rule("input other", "other", _matmul, lambda given: given["other"].ndim == 2 and given["input"].ndim > 1)
_SPREAD = Rule("input", "input", _spread)

RULES: dict[Callable[..., Any], Rule] = {
    F.linear: Rule("input weight bias", "weight bias", _linear, lambda given: given["weight"].ndim == 2),
    torch.addmm: Rule(
        "input mat1 mat2", "input mat2", _addmm, lambda given: given.get("beta", 1) == given.get("alpha", 1) == 1
    ),
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm), _MATMUL),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _CONVOLUTION),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _TRANSPOSED),
    F.batch_norm: Rule(
        "input running_mean running_var weight bias training momentum eps",
        "weight bias",
        _batch_norm,
        lambda given: not given.get("training") and given["running_mean"] is not None and given["input"].ndim > 1,
    ),
    F.layer_norm: Rule("input normalized_shape weight bias eps", "weight bias", _layer_norm),
    F.rms_norm: Rule("input normalized_shape weight eps", "weight", _rms_norm),
    F.group_norm: Rule("input num_groups weight bias eps", "weight bias", _group_norm),
    F.embedding: Rule(
        "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse",
        "weight",
        _embedding,
        lambda given: not given.get("scale_grad_by_freq"),
    ),
    **dict.fromkeys(
        (torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__), _ADD
    ),
    **dict.fromkeys((torch.sub, torch.Tensor.sub, torch.Tensor.sub_, torch.Tensor.__sub__), _SUBTRACT),
    **dict.fromkeys((torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__), _MULTIPLY),
    **dict.fromkeys(
        (torch.Tensor.expand, torch.Tensor.expand_as, torch.broadcast_to, torch.Tensor.broadcast_to), _SPREAD
    ),
}
"""The rules by function."""
