"""Rules for the gradients of single examples at values that are broadcast, such as positions and scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.operands import at_least_single
from gradlab.probes.examples.rule import Contributions, Rule
from gradlab.stats import RowGradients


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
        found[name] = broadcast_sums(gradient, operand, layout)
    return found


def _spread(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    place = layout.dim - (g.ndim - given["input"].ndim)
    own = layout.examples > 1 and place >= 0 and given["input"].shape[place] != 1
    return None if own else {"input": broadcast_sums(g, given["input"], layout)}


def broadcast_sums(g: Tensor, operand: Tensor, layout: Layout) -> RowGradients:
    """Compute the gradient of a broadcast operand by example, a sum over the broadcast dimensions."""
    if layout.examples == 1:
        return RowGradients(g.to(at_least_single(g.dtype)).sum_to_size(operand.shape).reshape(1, -1))
    missing = g.ndim - operand.ndim
    dims = [
        dim
        for dim, size in enumerate(g.shape)
        if dim != layout.dim and size != 1 and (dim < missing or operand.shape[dim - missing] == 1)
    ]
    wide = g.to(at_least_single(g.dtype))
    by_example = layout.first(wide.sum(dims, keepdim=True) if dims else wide)
    return RowGradients(by_example.sum(1).flatten(1) if layout.parts > 1 else by_example.reshape(len(by_example), -1))


ADD = Rule("input other", "input other", _add)
SUBTRACT = Rule("input other", "input other", _subtract)
MULTIPLY = Rule("input other", "input other", _multiply)
SPREAD = Rule("input", "input", _spread)
