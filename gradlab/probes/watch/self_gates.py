"""Bounded activations by which the values are multiplied that they are computed from, as within Swish and GELU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd.graph import Node

if TYPE_CHECKING:
    from gradlab.probes.watch.activations import ActivationSums

Edge = tuple[Node, int]
"""A node of the graph, and which of its outputs."""

_PRODUCTS = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"}
_ELEMENTWISE = {"Mul", "Div", "Add", "Sub", "Rsub", "Pow", "Neg", "Exp", "Log", "Log1P", "Erf", "Softplus", "Clone"}
_ELEMENTWISE |= {"ToCopy", "Tanh", "Sigmoid", "Hardsigmoid", "Hardtanh", "Clamp"}
_MOST_STEPS = 8
"""Elementwise functions in a row; GELU by tanh has five from the product back to its input."""


class SelfGates:
    """Marks activations as gates of what they are computed from.

    x σ(x) has a gradient where σ is 1, so that a gate that is saturated is no fault. What is computed from what is read
    in the graph, through elementwise functions.
    """

    def __init__(self) -> None:
        self._bounded: dict[Edge, ActivationSums] = {}

    def add(self, output: Tensor, sums: ActivationSums) -> None:
        """Take in the output of a bounded activation."""
        if output.grad_fn is not None:
            self._bounded[output.grad_fn, output.output_nr] = sums

    def forget(self) -> None:
        """Forget all of them, at the end of a pass."""
        self._bounded.clear()

    def look(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Mark the activations within one factor of a product whose other factor comes from the same values."""
        if not self._bounded or not _is_product(function):
            return
        factors = [_ancestors(factor) for factor in args[:2] if isinstance(factor, Tensor)]
        if len(factors) < 2:
            return
        for own, other in (factors, factors[::-1]):
            for edge in own & self._bounded.keys():
                if _before(edge) & other:
                    self._bounded[edge].gates = True


@functools.cache
def _is_product(function: Callable[..., Any]) -> bool:
    return getattr(function, "__name__", "") in _PRODUCTS


def _ancestors(tensor: Tensor) -> set[Edge]:
    """Return where a tensor comes from, through elementwise functions."""
    if tensor.grad_fn is None:
        return set()
    edge = tensor.grad_fn, tensor.output_nr
    return {edge, *_before(edge)}


def _before(edge: Edge) -> set[Edge]:
    """Return what a node is computed from, through elementwise functions alone, the first of which is its own."""
    found: set[Edge] = set()
    latest = {edge}
    for _ in range(_MOST_STEPS):
        latest = {
            (node, number)
            for own, _ in latest
            if own.name().partition("Backward")[0] in _ELEMENTWISE
            for node, number in own.next_functions
            if node is not None
        }
        found |= latest
    return found
