"""What single examples' gradients make known of a graph, and what is left to autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node


@dataclass
class LeftOver:
    """What a loss, or the output of a model, depends on besides the parameters whose uses are known.

    Attributes:
        leaves: Tensors without a graph of their own that autograd has to give a gradient.
        unseen: Those of them that were reached by another way than a known use: a parameter among them has uses that
            are not known.
        first: Outputs of known uses whose other arguments need no gradient, with their labels: a pass down to them
            reaches every use.
        reentrant: Whether there is reentrant activation checkpointing, which allows of no such pass.
    """

    leaves: list[Tensor] = field(default_factory=list)
    unseen: set[Tensor] = field(default_factory=set)
    first: list[tuple[GradientEdge, Any]] = field(default_factory=list)
    reentrant: bool = False

    @property
    def ends(self) -> list[Any]:
        """Where a backward pass has to go down to."""
        return [*(edge for edge, _ in self.first), *self.leaves]


class UseMarks:
    """Notes in autograd's graph at which outputs parameters come in by a known use.

    They live and die with the graph.
    """

    def mark(self, output: Tensor, before: Sequence[Node], leaves: Sequence[Tensor], label: object) -> None:
        """Note that an output depends on parameters by a known use, and where the graph goes on beyond them.

        Args:
            output: Of the use.
            before: The nodes of its other arguments.
            leaves: The parameters whose gradients are left to autograd.
            label: Comes back with the output, where a walk ends there.
        """
        assert output.grad_fn is not None
        # Not the node itself, which would hold on to itself.
        _notes(output.grad_fn)[self] = output.output_nr, before, leaves, label

    def left_over(self, start: Node) -> LeftOver:
        """Walk the graph behind a node, around the known uses of parameters."""
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
