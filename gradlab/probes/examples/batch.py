"""What `ExampleGradients` holds between a forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.rows import REST, MeasuredBatch
from gradlab.stats import ExampleContributions, RowGradients, Workspace, joint_norms

_SMALL = 4096
"""Values of a parameter up to which the gradients of all examples may wait for others'."""

_WAITING = 1 << 22
"""Values of reduced gradients that may wait for others', whose norms are then taken together."""

Give = Callable[[int, Tensor, Tensor], None]
"""Takes the number of a parameter, the sum of its gradients, shape (P,), and gradients or norms as large as they."""


@dataclass
class Structure:
    """What the backward pass of one kind of forward pass looks like.

    Attributes:
        layouts: Where the examples lie in what each use returned; None where its gradient is not taken apart.
        slow: The parameters whose gradients are taken by a backward pass for each example.
        tried: The outputs of the model from which it was tried out.
        certain: Whether it holds for other passes of the same signature.
    """

    layouts: dict[tuple[int, int], Layout | None] = field(default_factory=dict)
    slow: set[int] = field(default_factory=set)
    tried: set[int] = field(default_factory=set)
    certain: bool = True


@dataclass
class OpenBatch:
    """One forward pass, and what has come back of it.

    Attributes:
        examples: How many there are.
        pieces: Of each parameter the numbers of its pieces that are measured apart, with their places; None for the
            whole.
        with_rows: The pieces that the result has rows of; of others only the total counts.
        workspace: Where gradients are made.
        signature: What the forward pass did, use by use: passes of one signature have one structure.
        structure: Known once the backward pass has begun.
        places: How many outputs of uses there are.
        outputs: How many outputs of the model have a row for each example.
        passed_on: What the gradient of one such output gave to others, where a backward pass an example was made.
        early: Calls that wait for the structure.
        uses: How many uses of each parameter have still to come back.
        partial: The sum of the gradients of those uses that have, where there are several.
        rest: The gradients of small parameters without rows, which are reduced together.
        reduced: Norms and sums of the others.
        waiting: How many values the sums have.
        numbers: The pieces of whose sums the norms are taken.
        norms: Of each example's, by groups of them.
        sum_norms: Of the sum of gradients, and of the sum of directions.
    """

    examples: int
    pieces: Mapping[int, Sequence[tuple[int, slice | None]]]
    with_rows: Container[int]
    workspace: Workspace
    signature: list[object] = field(default_factory=list)
    structure: Structure | None = None
    places: int = 0
    outputs: int = 0
    passed_on: dict[int, Tensor] = field(default_factory=dict)
    early: list[Callable[[], None]] = field(default_factory=list)
    uses: dict[int, int] = field(default_factory=dict)
    partial: dict[int, Tensor] = field(default_factory=dict)
    rest: list[Tensor] = field(default_factory=list)
    reduced: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    waiting: int = 0
    numbers: list[int] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    sum_norms: list[Tensor] = field(default_factory=list)

    def add(self, parameter: int, contribution: ExampleContributions, give: Give, used: int = 1) -> None:
        """Take in one use of a parameter; gradients of several uses have to be added before they are reduced.

        Args:
            parameter: Its number.
            contribution: The gradients of the examples.
            give: What takes their sum.
            used: How many of its uses this is.
        """
        self.uses[parameter] -= used
        pieces = self.pieces[parameter]
        whole = len(pieces) == 1 and pieces[0][1] is None
        small = isinstance(contribution, RowGradients) and contribution.numel <= _SMALL
        several = self.uses[parameter] > 0 or parameter in self.partial or not whole
        if not several and not (small and pieces[0][0] not in self.with_rows):
            norms, sums = contribution.reduced(self.workspace)
            give(parameter, contribution.in_order(sums[:, 0]), norms)
            self._keep(pieces[0][0], norms, sums)
            return
        rows = contribution.rows()
        give(parameter, rows.sum(0), rows)
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
        rows = self.partial.pop(parameter)
        for piece, place in self.pieces[parameter]:
            part = rows if place is None else rows[:, place].contiguous()
            self._keep(piece, *RowGradients(part).reduced(self.workspace))

    def _keep(self, piece: int, norms: Tensor, sums: Tensor) -> None:
        self.reduced.append((piece, norms, sums))
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
