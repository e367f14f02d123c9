"""Whether the gradients of parameters are the sums of what their examples gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from gradlab.errors import GradlabError
from gradlab.probes.backward_passes import accumulates_into
from gradlab.probes.examples.backward import is_watched
from gradlab.probes.examples.structure import tolerance_of
from gradlab.stats import l2_norms


class GradientChecks:
    """Compares, without waiting for the device, every gradient that autograd gives with the sum over examples.

    Args:
        parameters: Of the model.
        chosen: The numbers of those that are measured.

    Attributes:
        precision: The relative rounding error of the coarsest arithmetic that was seen.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], chosen: Iterable[int]) -> None:
        self.parameters, self.chosen = parameters, chosen
        self.precision = 0.0
        self._nodes: dict[int, torch.autograd.graph.Node] = {}
        self._expected: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._waiting: list[tuple[int, Tensor, list[tuple[Tensor, Tensor]]]] = []
        self._found: list[Tensor] = []
        self._checked: list[tuple[int, float]] = []
        self._missed: set[int] = set()
        self._task: tuple[int, bool] = (-1, False)

    def attach(self, stack: ExitStack, active: Callable[[], bool]) -> None:
        """Watch gradients arrive, while `active` says so; the removal of hooks on the stack."""
        self._nodes = {i: get_gradient_edge(p).node for i, p in enumerate(self.parameters) if p.requires_grad}
        stack.callback(self._detached)
        for i in self.chosen:
            if i in self._nodes:
                hook = self._nodes[i].register_prehook(lambda gradients, i=i: self._arrived(i, gradients, active))
                stack.callback(hook.remove)

    def accumulates(self) -> bool:
        """Whether the backward pass under way adds to the gradients of parameters; `torch.autograd.grad` does not."""
        task = torch._C._current_graph_task_id()
        if task != self._task[0]:
            self._task = task, any(map(accumulates_into, self._nodes.values()))
        return self._task[1]

    def expect(self, number: int, total: Tensor, sizes: Tensor) -> None:
        """Note the sum over examples of one use of a parameter.

        Args:
            number: Of the parameter.
            total: Shape (P,).
            sizes: Of the examples' gradients, or these themselves, the examples first.
        """
        self._expected.setdefault(number, []).append((total.detach(), sizes))

    def all_seen(self, names: Callable[[set[int]], str]) -> None:
        """Raise where a parameter has a gradient of which nothing was seen.

        Raises:
            GradlabError: It names the parameters.
        """
        missed, self._missed = self._missed, set()
        if missed:
            raise GradlabError(
                f"{names(missed)}: there is a gradient, but no use of it was seen in a forward pass with a graph: run "
                "the whole model(x) inside the `with` block. Where activation checkpointing is reentrant, "
                "use_reentrant=False helps; where a part of the loss depends on the weight alone, leave that part out"
            )

    def taken(self, device: torch.device) -> tuple[Tensor, list[tuple[int, float]]]:
        """The norms of differences and sizes since the last call, shape (2, n), and of which parameters they are."""
        self._compare()
        found, checked = self._found, self._checked
        self._found, self._checked = [], []
        self._expected.clear()
        if not found:
            return torch.zeros(2, 0, dtype=torch.float64, device=device), []
        return torch.cat([pairs.to(device) for pairs in found], 1), checked

    def _arrived(self, number: int, gradients: tuple[Tensor | None, ...], active: Callable[[], bool]) -> None:
        gradient = gradients[0]
        if gradient is None or not active():
            return
        parts = self._expected.pop(number, [])
        if not parts:
            self._missed.add(number)
            return
        if not self._waiting:
            # All at once, when the pass is over: one by one they would cost a tenth of it.
            torch.autograd.Variable._execution_engine.queue_callback(self._compare)
        self._waiting.append((number, gradient, parts))
        if is_watched(self.parameters[number], 1):
            # Others may change the gradient as soon as it is there.
            self._compare()

    @torch.no_grad()
    def _compare(self) -> None:
        """Take the norms of what differs."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        numbers, gradients, parts = zip(*waiting, strict=True)
        values = [(g.to_dense() if g.is_sparse else g).flatten() for g in gradients]
        totals = [sum(total for total, _ in uses).to(v.dtype) for uses, v in zip(parts, values, strict=True)]
        sizes = [size for uses in parts for _, size in uses]
        norms = l2_norms([*torch._foreach_sub(values, totals), *sizes])
        # At least the sum of the norms of the examples' gradients, by which rounding errors are measured.
        each = norms[len(values) :] * math.sqrt(max(len(size) for size in sizes))
        if len(sizes) > len(values):
            each = torch.stack([part.sum() for part in each.split([len(uses) for uses in parts])])
        self._found.append(torch.stack([norms[: len(values)], each]))
        tolerances = [max(self.precision, tolerance_of(gradient.dtype)) for gradient in gradients]
        self._checked += zip(numbers, tolerances, strict=True)

    def forget(self) -> None:
        """Drop what was noted of backward passes."""
        self._expected.clear()
        self._waiting.clear()
        self._missed.clear()

    def _detached(self) -> None:
        self._nodes, self._task = {}, (-1, False)
        self.forget()
