"""What `ExampleGradients` holds between a forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.probes.example_rows import REST, MeasuredBatch
from gradlab.stats import ExampleContributions, ExampleSums, RowGradients, Workspace

_SMALL = 4096
"""Values of a parameter up to which the gradients of all examples may wait for others'."""


@dataclass
class OpenBatch:
    """One forward pass, and what has come back of it.

    Attributes:
        examples: How many there are.
        with_rows: The parameters that the result has rows of; of others only the total counts.
        workspace: Where gradients are made.
        uses: How many uses of each parameter have still to come back.
        partial: The sum of the gradients of those uses that have, where there are several.
        rest: The gradients of small parameters without rows, reduced together.
        sums: The reduced gradients of the others.
    """

    examples: int
    with_rows: Container[int]
    workspace: Workspace
    uses: dict[int, int] = field(default_factory=dict)
    partial: dict[int, Tensor] = field(default_factory=dict)
    rest: list[Tensor] = field(default_factory=list)
    sums: dict[int, ExampleSums] = field(default_factory=dict)

    def add(self, parameter: int, contribution: ExampleContributions) -> None:
        """Take in one use of a parameter; gradients of several uses have to be added before they are reduced."""
        self.uses[parameter] -= 1
        if not self.uses[parameter] and parameter not in self.partial:
            small = isinstance(contribution, RowGradients) and contribution.numel <= _SMALL
            if small and parameter not in self.with_rows:
                self.rest.append(contribution.rows())
            else:
                self.sums[parameter] = contribution.sums(self.workspace)
            return
        rows = contribution.rows()
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
            self.sums[REST] = RowGradients(torch.cat(self.rest, 1)).sums(self.workspace)
        numbers = sorted(self.sums)
        sums = [self.sums[number] for number in numbers]
        return MeasuredBatch(
            parameters=numbers,
            norms=torch.stack([s.norms for s in sums]) / scale,
            sum_norms=torch.stack([s.sum_norm for s in sums]) / scale,
            direction_norms=torch.stack([s.direction_norm for s in sums]),
        )

    def _close(self, parameter: int) -> None:
        self.sums[parameter] = RowGradients(self.partial.pop(parameter)).sums(self.workspace)


@dataclass
class Call:
    """What a module was called with, until its gradient comes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        self.versions = [tensor._version for tensor in self._tensors()]

    def _tensors(self) -> list[Tensor]:
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]

    def check_unchanged(self, name: str) -> None:
        """Autograd itself finds this out only where it saved the input."""
        if self.versions != [tensor._version for tensor in self._tensors()]:
            raise GradlabError(f"the input of {name} was changed in place after the layer had read it")
