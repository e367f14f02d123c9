"""What `ExampleGradients` holds between a forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.probes.example_rows import REST, MeasuredBatch
from gradlab.stats import ExampleContributions, RowGradients, Workspace, joint_norms

_SMALL = 4096
"""Values of a parameter up to which the gradients of all examples may wait for others'."""

_WAITING = 1 << 22
"""Values of reduced gradients that may wait for others', whose norms are then taken together."""

Give = Callable[[int, Tensor], None]
"""Takes the number of a parameter and the sum of its gradients, of shape (P,)."""


@dataclass
class OpenBatch:
    """One forward pass, and what has come back of it.

    Attributes:
        examples: How many there are.
        with_rows: The parameters that the result has rows of; of others only the total counts.
        workspace: Where gradients are made.
        uses: How many uses of each parameter have still to come back.
        partial: The sum of the gradients of those uses that have, where there are several.
        rest: The gradients of small parameters without rows, which are reduced together.
        reduced: Norms and sums of the others.
        waiting: How many values the sums have.
        numbers: The parameters of whose sums the norms are taken.
        norms: Of each example's, by groups of them.
        sum_norms: Of the sum of gradients, and of the sum of directions.
    """

    examples: int
    with_rows: Container[int]
    workspace: Workspace
    uses: dict[int, int] = field(default_factory=dict)
    partial: dict[int, Tensor] = field(default_factory=dict)
    rest: list[Tensor] = field(default_factory=list)
    reduced: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    waiting: int = 0
    numbers: list[int] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    sum_norms: list[Tensor] = field(default_factory=list)

    def add(self, parameter: int, contribution: ExampleContributions, give: Give | None = None) -> None:
        """Take in one use of a parameter; gradients of several uses have to be added before they are reduced.

        Args:
            parameter: Its number.
            contribution: The gradients of the examples.
            give: What takes their sum.
        """
        self.uses[parameter] -= 1
        small = isinstance(contribution, RowGradients) and contribution.numel <= _SMALL
        several = self.uses[parameter] > 0 or parameter in self.partial
        if not several and not (small and parameter not in self.with_rows):
            norms, sums = contribution.reduced(self.workspace)
            if give is not None:
                give(parameter, contribution.in_order(sums[:, 0]))
            self._keep(parameter, norms, sums)
            return
        rows = contribution.rows()
        if give is not None:
            give(parameter, rows.sum(0))
        if not several:
            self.rest.append(rows)
            return
        self.partial[parameter] = self.partial[parameter] + rows if parameter in self.partial else rows
        if not self.uses[parameter]:
            self._close(parameter)

    def measured(self, scale: Tensor | float) -> MeasuredBatch:
        """All that has come back, and no more will.

        Args:
            scale: What the loss was multiplied by.
        """
        for parameter in [*self.partial]:
            self._close(parameter)
        if self.rest:
            self._keep(REST, *RowGradients(torch.cat(self.rest, 1)).reduced(self.workspace))
        self._join()
        sum_norms, direction_norms = torch.cat(self.sum_norms).unbind(1)
        return MeasuredBatch(self.numbers, torch.cat(self.norms) / scale, sum_norms / scale, direction_norms)

    @property
    def empty(self) -> bool:
        """Whether nothing has come back."""
        return not (self.partial or self.rest or self.reduced or self.numbers)

    def _close(self, parameter: int) -> None:
        self._keep(parameter, *RowGradients(self.partial.pop(parameter)).reduced(self.workspace))

    def _keep(self, parameter: int, norms: Tensor, sums: Tensor) -> None:
        self.reduced.append((parameter, norms, sums))
        self.waiting += sums.numel()
        if self.waiting > _WAITING:
            self._join()

    def _join(self) -> None:
        """Take the norms of all sums that wait, those of one shape and precision together."""
        alike: dict[tuple[torch.Size, torch.dtype], list[tuple[int, Tensor, Tensor]]] = {}
        for found in self.reduced:
            alike.setdefault((found[2].shape, found[2].dtype), []).append(found)
        self.reduced, self.waiting = [], 0
        for group in alike.values():
            numbers, norms, sums = zip(*group, strict=True)
            self.numbers += numbers
            self.norms.append(torch.stack(norms))
            self.sum_norms.append(joint_norms(torch.stack(sums, 1).flatten(1, 2)).view(-1, 2))


@dataclass
class Call:
    """What a module was called with, until its gradient comes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        self.tensors = [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]
        self.versions = [tensor._version for tensor in self.tensors]

    def check_unchanged(self, name: str) -> None:
        """Autograd itself finds this out only where it saved the input."""
        if self.versions != [tensor._version for tensor in self.tensors]:
            raise GradlabError(f"the input of {name} was changed in place after the layer had read it")
