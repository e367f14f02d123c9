"""Detection of the backward passes that belong to training, which add to the gradients of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.autograd.variable import Variable

from gradlab.probes.hooks import in_backward

_declared = 0


@contextmanager
def declared() -> Iterator[None]:
    """A context in which every backward pass counts, for callers that accumulate gradients themselves."""
    global _declared
    _declared += 1
    try:
        yield
    finally:
        _declared -= 1


def keeps_graph() -> bool:
    """Return whether the current backward pass retains the graph, so that another may follow."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def after_pass(call: Callable[[], None]) -> None:
    """Call a function when the current backward pass has ended, after what others have queued for its end.

    Among that is the joining of ranks, which changes gradients.
    """
    engine = Variable._execution_engine
    engine.queue_callback(lambda: engine.queue_callback(call))


class Numbered(Protocol):
    """What notes the number of the pass that has reached it last."""

    task: int


class FollowedPasses:
    """Notices which backward passes an exception has ended."""

    def __init__(self) -> None:
        self._running: set[int] = set()

    def follow(self, watch: Numbered) -> bool:
        """Note the current pass at what it has just reached, and notice its end; to be called from a hook on a node.

        Returns:
            Whether the pass has reached nothing else before.
        """
        watch.task = task = int(torch._C._current_graph_task_id())
        if task in self._running:
            return False
        self._running.add(task)
        Variable._execution_engine.queue_callback(lambda: self._running.discard(task))
        return True

    def failed(self) -> set[int]:
        """Return the numbers of the followed passes that an exception has ended since the last call."""
        if in_backward():
            return set()
        failed, self._running = self._running, set()
        return failed


class BackwardPasses(FollowedPasses):
    """Determines whether the current backward pass counts.

    It counts if it adds to the gradient of a parameter. `torch.autograd.grad`, as used for adversarial examples and
    gradient penalties, does not. If no parameter of the model takes part, every plain backward pass counts.

    Args:
        model: The model whose parameters are considered.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task, self._counts = -1, False

    def counts(self) -> bool:
        """Return whether the current pass counts; to be called from a hook on a node of the graph."""
        if _declared:
            return True
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._counts = task, self._accumulates()
        return self._counts

    def _accumulates(self) -> bool:
        # Most often the first parameter decides, and the others are not even looked up.
        if any(accumulates_into(node) for node in self._leaves()):
            return True
        nodes = [*self._leaves()]
        # The graph may also have only other leaves, such as an input or another model's parameters.
        leaves = [*_leaves(torch._C._current_autograd_node())]
        return not any(leaf in nodes for leaf in leaves) and any(map(accumulates_into, leaves))

    def _leaves(self) -> Iterator[Node]:
        """Yield the nodes at which gradients of the model's parameters accumulate."""
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.is_leaf:
                yield accumulation_node(parameter)


def accumulation_node(leaf: Tensor) -> Node:
    """Return the node of the graph at which gradients of a leaf accumulate."""
    if leaf.layout == torch.strided:
        return get_gradient_edge(leaf).node
    # Torch's own function takes a view, and sparse tensors have none.
    with torch.enable_grad():
        copied = leaf.clone().grad_fn
    assert copied is not None
    node = copied.next_functions[0][0]
    assert node is not None
    return node


def accumulates_into(leaf: Node) -> bool:
    """Return whether the current pass adds to a leaf's gradient."""
    try:
        return bool(torch._C._will_engine_execute_node(leaf))
    except RuntimeError:
        # The results of `torch.autograd.grad` are not accumulated.
        return False


def _leaves(node: Node) -> Iterator[Node]:
    """Yield the leaves of the graph below a node."""
    seen, waiting = set[Node](), [node]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        below = [following for following, _ in current.next_functions if following is not None]
        if not below and hasattr(current, "variable"):
            yield current
        waiting += below
