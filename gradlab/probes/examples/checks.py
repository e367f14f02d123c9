"""Checks that the gradients of parameters are the sums of their examples' gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.probes.backward_passes import accumulates_into, accumulation_node
from gradlab.probes.examples.backward import is_watched
from gradlab.probes.examples.structure import tolerance_of
from gradlab.stats import l2_norms


class GradientChecks:
    """Compares every gradient that autograd computes with the sum over examples, without synchronization.

    Args:
        parameters: The parameters of the model.
        chosen: The numbers of the measured parameters.

    Attributes:
        precision: The relative rounding error of the coarsest dtype so far.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], chosen: Container[int]) -> None:
        self.parameters, self.chosen = parameters, chosen
        self.precision = 0.0
        self._nodes: dict[int, torch.autograd.graph.Node] = {}
        self._active: Callable[[], bool] = lambda: False
        self._handles: list[RemovableHandle] = []
        self._expected: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._waiting: list[tuple[int, Tensor, list[tuple[Tensor, Tensor]]]] = []
        self._found: list[Tensor] = []
        self._checked: list[tuple[int, float]] = []
        self._missed: set[int] = set()
        self._task: tuple[int, bool] = (-1, False)
        self._kinds: list[tuple[torch.device, torch.dtype, bool]] = []

    def attach(self, stack: ExitStack, active: Callable[[], bool]) -> None:
        """Watch gradients arrive while `active` returns true, and put the removal of hooks on the stack."""
        self._active = active
        stack.callback(self._detached)
        self._kinds.clear()
        self.follow_all()

    def follow_all(self) -> None:
        """Watch gradients arrive at all parameters; those that were moved, converted or unfrozen have new nodes."""
        kinds = [(parameter.device, parameter.dtype, parameter.requires_grad) for parameter in self.parameters]
        trained = next((parameter for parameter in self.parameters if parameter.requires_grad), None)
        # Where torch swaps parameters as it moves a module, it gives all of them new nodes, without any other sign.
        swapped = trained is not None and accumulation_node(trained) not in self._nodes.values()
        if swapped or kinds != self._kinds:
            self._kinds = kinds
            for i, parameter in enumerate(self.parameters):
                if parameter.requires_grad:
                    self.follow(i, parameter)

    def follow(self, number: int, leaf: Tensor) -> None:
        """Watch the gradient that arrives at a tensor as that of the parameter with this number."""
        node = accumulation_node(leaf)
        if node is self._nodes.get(number):
            return
        self._nodes[number] = node
        if number in self.chosen:
            self._handles.append(node.register_prehook(lambda gradients: self._arrived(number, gradients)))

    def accumulates(self) -> bool:
        """Return whether the current backward pass adds to gradients of parameters; `torch.autograd.grad` does not."""
        task = torch._C._current_graph_task_id()
        if task != self._task[0]:
            self._task = task, any(map(accumulates_into, self._nodes.values()))
        return self._task[1]

    def expect(self, number: int, total: Tensor, sizes: Tensor) -> None:
        """Record the sum over examples for one use of a parameter.

        Args:
            number: The number of the parameter.
            total: The sum, shape (P,).
            sizes: The norms of the examples' gradients, or these gradients, with examples as dimension 0.
        """
        self._expected.setdefault(number, []).append((total.detach(), sizes))

    def all_seen(self, names: Callable[[set[int]], str]) -> None:
        """Check that every parameter with a gradient has a known use.

        Raises:
            GradlabError: If a parameter has none. The message names the parameters.
        """
        missed, self._missed = self._missed, set()
        if missed:
            raise GradlabError(
                f"{names(missed)}: there is a gradient, but no use of it was seen in a forward pass with a graph: run "
                "the whole model(x) inside the `with` block. Where activation checkpointing is reentrant, "
                "use_reentrant=False helps; where a part of the loss depends on the weight alone, leave that part out"
            )

    def taken(self, device: torch.device) -> tuple[Tensor, list[tuple[int, float]]]:
        """Return norms of differences and sizes since the last call, shape (2, n), with parameters and tolerances."""
        self._compare()
        found, checked = self._found, self._checked
        self._found, self._checked = [], []
        self._expected.clear()
        if not found:
            return torch.zeros(2, 0, dtype=torch.float64, device=device), []
        return torch.cat([pairs.to(device) for pairs in found], 1), checked

    def _arrived(self, number: int, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[0]
        if gradient is None or not self._active():
            return
        parts = self._expected.pop(number, [])
        if not parts:
            self._missed.add(number)
            return
        if not self._waiting:
            # All gradients are compared at the end of the pass; one by one would cost a tenth of its time.
            torch.autograd.Variable._execution_engine.queue_callback(self._compare)
        self._waiting.append((number, gradient, parts))
        if is_watched(self.parameters[number], 1):
            # Hooks of other users may change the gradient as soon as it exists.
            self._compare()

    @torch.no_grad()
    def _compare(self) -> None:
        """Compute the norms of the differences."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        numbers, gradients, parts = zip(*waiting, strict=True)
        values = [(g.to_dense() if g.is_sparse else g).flatten() for g in gradients]
        totals = [sum(total for total, _ in uses).to(v.dtype) for uses, v in zip(parts, values, strict=True)]
        sizes = [size for uses in parts for _, size in uses]
        norms = l2_norms([*torch._foreach_sub(values, totals), *sizes])
        # An upper bound of the sum of the examples' norms, relative to which rounding errors are judged.
        each = norms[len(values) :] * math.sqrt(max(len(size) for size in sizes))
        if len(sizes) > len(values):
            each = torch.stack([part.sum() for part in each.split([len(uses) for uses in parts])])
        self._found.append(torch.stack([norms[: len(values)], each]))
        tolerances = [max(self.precision, tolerance_of(gradient.dtype)) for gradient in gradients]
        self._checked += zip(numbers, tolerances, strict=True)

    def forget(self) -> None:
        """Forget what was recorded about backward passes."""
        self.forget_failed()
        self._missed.clear()

    def forget_failed(self) -> None:
        """Forget the sums and gradients that were not compared, since the pass that they are of has failed."""
        self._expected.clear()
        self._waiting.clear()

    def _detached(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._nodes, self._task = [], {}, (-1, False)
        self.forget()
