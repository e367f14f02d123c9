"""The state of `ExampleGradients` between a forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.rows import REST, MeasuredBatch
from gradlab.stats import ExampleContributions, Reduced, RowGradients, Workspace, joint_norms
from gradlab.stats.pair_products import PairProducts, mean_pair_cosine

_SMALL = 4096
"""Largest number of elements of a parameter whose gradients for all examples are reduced together with others."""

_WAITING = 1 << 22
"""Number of values of reduced gradients that are collected before their norms are computed together."""

Give = Callable[[int, Tensor, Tensor], None]
"""A function of a parameter's number, the sum of its gradients, shape (P,), and the gradients or their norms."""


@dataclass
class Structure:
    """The structure of the backward pass of one kind of forward pass.

    Attributes:
        layouts: The layout of the examples in the output of each use; None if its gradient is not separated.
        slow: The numbers of the parameters whose gradients need one backward pass per example.
        tried: The outputs of the model from which the structure was determined.
        certain: Whether it is valid for other passes with the same signature.
    """

    layouts: dict[tuple[int, int], Layout | None] = field(default_factory=dict)
    slow: set[int] = field(default_factory=set)
    tried: set[int] = field(default_factory=set)
    certain: bool = True


@dataclass
class OpenBatch:
    """One forward pass, and the gradients that have arrived for it.

    Attributes:
        examples: The number of examples.
        pieces: The numbers of each parameter's separately measured pieces, with their ranges; None for the whole.
        with_rows: The pieces that have rows in the result; others count only in the total.
        workspace: The memory in which gradients are computed.
        products: The inner products of the gradients of every two examples, over all pieces so far; None if no cosine
            over all pieces is wanted.
        signature: The sequence of uses in the forward pass; passes with equal signatures have equal structures.
        structure: The structure of the backward pass, known once it has started.
        places: The number of outputs of uses.
        outputs: The number of outputs of the model with a row for each example.
        passed_on: The part of an output's gradient that came from other outputs, if one backward pass per example
            was made.
        early: Calls that wait for the structure.
        uses: The number of uses of each parameter whose gradient has not arrived.
        partial: The sum of the gradients of the uses that have arrived, for parameters with several uses.
        rest: The gradients of small parameters without rows, which are reduced together.
        reduced: The pieces of which gradients have been reduced, with their norms and sums.
        waiting: The number of values in these sums.
        task: The number of the backward pass that has reached it last.
        numbers: The pieces whose sums have been reduced to norms.
        norms: The norms for single examples, by groups of pieces.
        sum_norms: The norms of the sum of gradients and of the sum of directions, by groups of pieces.
    """

    examples: int
    pieces: Mapping[int, Sequence[tuple[int, slice | None]]]
    with_rows: Container[int]
    workspace: Workspace
    products: PairProducts | None = None
    signature: list[object] = field(default_factory=list)
    structure: Structure | None = None
    places: int = 0
    outputs: int = 0
    passed_on: dict[int, Tensor] = field(default_factory=dict)
    early: list[Callable[[], None]] = field(default_factory=list)
    uses: dict[int, int] = field(default_factory=dict)
    partial: dict[int, Tensor] = field(default_factory=dict)
    rest: list[Tensor] = field(default_factory=list)
    reduced: list[tuple[int, Reduced]] = field(default_factory=list)
    waiting: int = 0
    task: int = -1
    numbers: list[int] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    sum_norms: list[Tensor] = field(default_factory=list)

    def add(self, parameter: int, contribution: ExampleContributions, give: Give, used: int = 1) -> None:
        """Add the gradients of one use of a parameter; those of several uses are summed before they are reduced.

        Args:
            parameter: The number of the parameter.
            contribution: The gradients of the examples.
            give: A function that receives their sum.
            used: The number of uses that the contribution covers.
        """
        self.uses[parameter] -= used
        pieces = self.pieces[parameter]
        whole = len(pieces) == 1 and pieces[0][1] is None
        small = isinstance(contribution, RowGradients) and contribution.numel <= _SMALL
        several = self.uses[parameter] > 0 or parameter in self.partial or not whole
        if not several and not (small and pieces[0][0] not in self.with_rows):
            found = self._reduce(pieces[0][0], contribution)
            give(parameter, contribution.in_order(found.sums[:, 0]), found.norms)
            return
        computed = contribution.computed()
        rows = computed.values
        give(parameter, computed.total, rows)
        if not several:
            self.rest.append(rows)
            return
        self.partial[parameter] = self.partial[parameter] + rows if parameter in self.partial else rows
        if not self.uses[parameter]:
            self._close(parameter)

    def measured(self, scale: Tensor | float) -> MeasuredBatch:
        """Reduce all gradients that have arrived, after which no more are expected.

        Args:
            scale: The scale of the loss.
        """
        for parameter in [*self.partial]:
            self._close(parameter)
        if self.rest:
            self._reduce(REST, RowGradients(torch.cat(self.rest, 1)))
        self._join()
        sum_norms, direction_norms = torch.cat(self.sum_norms).unbind(1)
        norms = torch.cat(self.norms)
        if self.products is None or self.products.total is None:
            cosine = norms.new_tensor(float("nan"))
        else:
            cosine = mean_pair_cosine(self.products.total, torch.linalg.vector_norm(norms, dim=0))
        return MeasuredBatch(self.numbers, norms / scale, sum_norms / scale, direction_norms, cosine)

    @property
    def empty(self) -> bool:
        """Whether no gradient has arrived."""
        return not (self.partial or self.rest or self.reduced or self.numbers)

    def _close(self, parameter: int) -> None:
        rows = self.partial.pop(parameter)
        for piece, place in self.pieces[parameter]:
            part = rows if place is None else rows[:, place].contiguous()
            self._reduce(piece, RowGradients(part))

    def _reduce(self, piece: int, contribution: ExampleContributions) -> Reduced:
        """Reduce the gradients of one piece, and keep what they are reduced to."""
        found = contribution.reduced(self.workspace, self.products)
        if found.sum_norm is not None and found.direction_norm is not None:
            self.numbers.append(piece)
            self.norms.append(found.norms[None])
            self.sum_norms.append(torch.stack((found.sum_norm, found.direction_norm))[None])
            return found
        self.reduced.append((piece, found))
        self.waiting += found.sums.numel()
        if self.waiting > _WAITING:
            self._join()
        return found

    def _join(self) -> None:
        """Compute the norms of all waiting sums, with those of equal shape and dtype together."""
        alike: dict[tuple[torch.Size, torch.dtype], list[tuple[int, Reduced]]] = {}
        for piece, found in self.reduced:
            alike.setdefault((found.sums.shape, found.sums.dtype), []).append((piece, found))
        self.reduced, self.waiting = [], 0
        for group in alike.values():
            self.numbers += [piece for piece, _ in group]
            self.norms.append(torch.stack([found.norms for _, found in group]))
            norms = joint_norms(torch.stack([found.sums for _, found in group], 1).flatten(1, 2)).view(len(group), -1)
            known = [found.direction_norm for _, found in group if found.direction_norm is not None]
            self.sum_norms.append(torch.stack([norms[:, 0], torch.stack(known)], 1) if known else norms)
