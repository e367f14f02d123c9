"""The known uses of parameters in an autograd graph, and what is left to autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node


@dataclass
class LeftOver:
    """The dependencies of a loss or output other than those through known uses of parameters.

    Attributes:
        leaves: The leaf tensors whose gradients autograd has to compute.
        unseen: The leaves reached other than through a known use; a parameter among them also has unknown uses.
        first: The outputs of known uses whose other arguments need no gradient, with their labels; a backward pass
            down to them reaches every use.
        reentrant: Whether there is reentrant activation checkpointing, which does not allow such a pass.
    """

    leaves: list[Tensor] = field(default_factory=list)
    unseen: set[Tensor] = field(default_factory=set)
    first: list[tuple[GradientEdge, Any]] = field(default_factory=list)
    reentrant: bool = False

    @property
    def ends(self) -> list[Any]:
        """The tensors and edges that a backward pass has to reach."""
        return [*(edge for edge, _ in self.first), *self.leaves]


class UseMarks:
    """Marks in autograd's graph at the outputs of known uses of parameters, which are freed with the graph."""

    def mark(self, output: Tensor, before: Sequence[Node], leaves: Sequence[Tensor], label: object) -> None:
        """Mark an output that depends on parameters through a known use.

        Args:
            output: The output of the use.
            before: The nodes of its other arguments, at which the graph continues.
            leaves: The parameters whose gradients are left to autograd.
            label: A label that is returned with the output where a walk ends there.
        """
        assert output.grad_fn is not None
        # The node itself is not stored, since it would form a reference cycle.
        _notes(output.grad_fn)[self] = output.output_nr, before, leaves, label

    def left_over(self, start: Node) -> LeftOver:
        """Walk the graph behind a node, bypassing the known uses of parameters."""
        found, seen, waiting = LeftOver(), set[Node](), [start]
        known: dict[Tensor, None] = {}
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            found.reentrant |= node.name() == "CheckpointFunctionBackward"
            if self in (notes := _notes(node)):
                number, before, leaves, label = notes[self]
                known.update(dict.fromkeys(leaves))
                if not before:
                    found.first.append((GradientEdge(node, number), label))
            else:
                before = [function for function, _ in node.next_functions if function is not None]
                if not before and hasattr(node, "variable"):
                    found.unseen.add(node.variable)
            waiting += before
        found.leaves = list({**known, **dict.fromkeys(found.unseen)})
        return found


def _notes(node: Node) -> dict[Any, Any]:
    """Return the metadata of a node, which torch's type stubs declare as a method."""
    notes: Any = node.metadata
    return cast(dict[Any, Any], notes)


def add_gradient(parameter: nn.Parameter, values: Tensor) -> None:
    """Add to a parameter's gradient, as autograd does.

    Args:
        parameter: A parameter with P elements.
        values: The values to add, shape (P,).
    """
    shaped = values.view_as(parameter)
    if parameter.grad is not None:
        parameter.grad += shaped
    # A view would keep its whole base alive.
    elif values._base is None and values.dtype == parameter.dtype and parameter.is_contiguous():
        parameter.grad = shaped
    else:
        parameter.grad = torch.empty_like(parameter).copy_(shaped)


def is_watched(parameter: nn.Parameter, own: int) -> bool:
    """Return whether a parameter has gradient hooks besides the probe's own."""
    return bool(parameter._backward_hooks) or len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ()) > own
