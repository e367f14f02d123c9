"""A backward pass that leaves out what single examples' gradients make known: autograd's own gradients of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


@dataclass
class LeftOver:
    """What a loss depends on besides the parameters of marked layers.

    Attributes:
        leaves: Tensors without a graph of their own that autograd has to give a gradient, parameters among them
            that are used outside of marked layers, too.
        first: Outputs of marked layers whose inputs need no gradient: a pass down to them reaches every layer.
        reentrant: Whether there is reentrant activation checkpointing, which allows of no such pass.
    """

    leaves: list[Tensor] = field(default_factory=list)
    first: list[GradientEdge] = field(default_factory=list)
    reentrant: bool = False


class LayerMarks:
    """Notes in autograd's graph at which outputs a layer's own parameters come in.

    They live and die with the graph.
    """

    def mark(self, output: Tensor, inputs: Iterable[Tensor]) -> None:
        """Note that a layer's output depends on nothing but these inputs and its own parameters."""
        assert output.grad_fn is not None
        before = [tensor.grad_fn or get_gradient_edge(tensor).node for tensor in inputs if tensor.requires_grad]
        # Not the node itself, which would hold on to itself.
        _notes(output.grad_fn)[self] = output.output_nr, before

    def left_over(self, loss: Tensor) -> LeftOver:
        """Walk the graph of a loss, around the parameters of marked layers."""
        found, seen, waiting = LeftOver(), set[Node](), [get_gradient_edge(loss).node]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            found.reentrant |= node.name() == "CheckpointFunctionBackward"
            if self in (notes := _notes(node)):
                number, before = notes[self]
                if not before:
                    found.first.append(GradientEdge(node, number))
            else:
                before = [function for function, _ in node.next_functions if function is not None]
                if not before and hasattr(node, "variable"):
                    found.leaves.append(node.variable)
            waiting += before
        return found


def _notes(node: Node) -> dict[Any, Any]:
    """What is kept with a node; torch's types call it a method."""
    notes: Any = node.metadata
    return cast(dict[Any, Any], notes)


def add_gradient(parameter: nn.Parameter, values: Tensor) -> None:
    """Add to a parameter's gradient, as autograd does.

    Args:
        parameter: Of P values.
        values: Shape (P,).
    """
    shaped = values.view_as(parameter)
    if parameter.grad is not None:
        parameter.grad += shaped
    # A view would keep all that it is a view of.
    elif values._base is None and values.dtype == parameter.dtype and parameter.is_contiguous():
        parameter.grad = shaped
    else:
        parameter.grad = torch.empty_like(parameter).copy_(shaped)


def is_watched(parameter: nn.Parameter, own: int) -> bool:
    """Whether others than the probe, with so many hooks, wait for autograd to give a parameter its gradient."""
    return bool(parameter._backward_hooks) or len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ()) > own
