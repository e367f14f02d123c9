"""The current place in a model during forward and backward passes."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.nonfinite.values import Operation, Place

OUTSIDE = Place()


class Calls:
    """Follows the modules of a model as they run, and maps autograd's nodes to forward operations.

    Autograd numbers its nodes in the order of the forward pass, each before its operation runs. The operation of a node
    is therefore the first one that ran at a higher number.

    Args:
        model: The root module.
        before: A function called with the model's arguments before each pass.
        after: A function called with the model's output after each pass.
    """

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[tuple[Any, ...], dict[str, Any]], None],
        after: Callable[[Any], None],
    ) -> None:
        self.model = model
        self._before, self._after = before, after
        self._running: list[Place] = []
        self._counts: Counter[str] = Counter()
        self._parameters: dict[int, Place] = {}
        self._numbers: list[int] = []
        self._operations: list[Operation] = []
        self._thread = threading.get_ident()

    def attach(self, stack: ExitStack) -> None:
        """Register the hooks, and their removal on the stack."""
        for name, module in self.model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for parameter in module._parameters.values():
                self._parameters.setdefault(id(parameter), Place(name, type(module).__name__))
            enter, leave = Hook(self._enter(name)), Hook(self._leave(name))
            stack.enter_context(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(leave, always_call=True))

    @property
    def place(self) -> Place:
        """The innermost running module."""
        return self._running[-1] if self._running else OUTSIDE

    def note(self, operation: Operation) -> None:
        """Record an operation that runs now."""
        if threading.get_ident() == self._thread:
            self._numbers.append(torch._C._autograd._get_sequence_nr())
            self._operations.append(operation)

    def behind(self, node: Node) -> Operation | None:
        """The forward operation whose derivative an autograd node computes; None if it was not observed."""
        number = node._sequence_nr()
        if node.name() == "CopySlices":
            # This node is created after the operation whose node it contains.
            at = bisect_left(self._numbers, number + 1) - 1
        else:
            at = bisect_right(self._numbers, number)
        return self._operations[at] if 0 <= at < len(self._operations) else None

    def owner(self, parameter: torch.Tensor) -> Place:
        """The module to which a parameter belongs."""
        return self._parameters.get(id(parameter), OUTSIDE)

    def clear(self) -> None:
        """Forget the operations, but not the running modules."""
        self._numbers, self._operations = [], []

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module is self.model and not in_backward():
                # A pass that has ended in an exception may have left modules on the list.
                self._running, self._counts = [], Counter()
                self._before(args, kwargs)
            self._counts[name] += 1
            self._running.append(Place(name, type(module).__name__, self._counts[name]))

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if any(place.layer == name for place in self._running):
                while self._running.pop().layer != name:
                    pass
            if module is self.model and not in_backward():
                self._after(output)

        return leave
