"""Statistics of a block and one of its branches, accumulated over all passes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.probes.blocks.readings import Found
from gradlab.probes.forward_watch import Watch
from gradlab.stats import Moments
from gradlab.stats.across_devices import added
from gradlab.stats.precision import widened


class Site(NamedTuple):
    """A branch of a block in a pass.

    Attributes:
        block: The name of the block.
        module: The name of the branch's module.
        place: The name of the module that adds.
        call: The number of the addition of this branch within the pass, counted from 1.
    """

    block: str
    module: str
    place: str
    call: int


@dataclass
class GradientSquares:
    """The sum of squared gradient elements over all passes, and their number.

    Attributes:
        lost: The reason why the values that arrived are not the gradient; None if they are.
    """

    lost: str | None = None
    _squares: list[Tensor] = field(default_factory=list)
    _numel: int = 0
    _open: list[Watch] = field(default_factory=list)

    def wait_for(self, watch: Watch | None) -> None:
        """Include the gradients that a watch receives."""
        if watch is not None:
            self._open.append(watch)

    def undo(self, failed: set[int]) -> None:
        """Forget the gradients of the passes with these numbers."""
        for watch in self._open:
            if watch.task in failed:
                watch.undo()

    def settle(self) -> None:
        """Add the gradients that have arrived, and release their watches."""
        waiting = []
        for watch in self._open:
            rows = watch.rows()
            if watch.lost:
                self.lost = watch.lost
            elif rows is None:
                waiting.append(watch)
                continue
            else:
                self._squares.append(widened(rows).square().sum())
                self._numel += watch.numel
            watch.remove()
        self._open = waiting
        if len(self._squares) > 1:
            self._squares = [functools.reduce(added, self._squares)]

    def sums(self) -> tuple[Tensor | None, int]:
        """The sum of squares, None if nothing has arrived, and the number of elements."""
        self.settle()
        return (self._squares[0] if self._squares else None), self._numel

    def mean_square(self) -> Tensor | None:
        """The mean square over the elements of all gradients; None if none has arrived, or the values are invalid."""
        self.settle()
        return self._squares[0] / self._numel if self._squares and self.lost is None else None


@dataclass
class Signal:
    """The statistics of a site.

    Attributes:
        behind: The moments of each channel of the stream after the addition.
        stream: The moments of each channel of the stream before the addition.
        branch: The moments of each channel of the branch.
        product: The inner product of stream and branch.
        attends: Whether the branch multiplies signals with one another, as attention does.
        tokens: The sums over examples of statistics of the tokens after the addition, and the number of examples.
        behind_gradient: The squared gradients of the stream after the addition.
        branch_gradient: The squared gradients of the branch.
    """

    behind: Moments | None = None
    stream: Moments | None = None
    branch: Moments | None = None
    product: Tensor | None = None
    attends: bool = False
    tokens: Tensor | None = None
    behind_gradient: GradientSquares = field(default_factory=GradientSquares)
    branch_gradient: GradientSquares = field(default_factory=GradientSquares)

    def update(self, found: Found) -> None:
        """Include the statistics of one pass."""
        self.behind = _merged(self.behind, found.behind.output.moments)
        self.behind_gradient.wait_for(found.behind.output.watch)
        tokens = found.behind.output.tokens
        self.tokens = tokens if self.tokens is None or tokens is None else added(self.tokens, tokens)
        if found.stream is None or found.branch is None or found.product is None:
            return
        self.stream = _merged(self.stream, found.stream.moments)
        self.branch = _merged(self.branch, found.branch.reading.moments)
        self.branch_gradient.wait_for(found.branch.reading.watch)
        self.product = found.product if self.product is None else added(self.product, found.product)
        self.attends = found.branch.attends


def _merged(total: Moments | None, part: Moments) -> Moments:
    return part if total is None else total.merge(part)


def channel_variance(moments: Moments) -> Tensor:
    """The average channel variance: the variance over examples and positions, averaged over channels."""
    return moments.variance.nanmean()


def channel_mean_square(moments: Moments) -> Tensor:
    """The average squared channel mean."""
    return moments.mean.where(moments.count > 0, torch.nan).square().nanmean()


def cosine(product: Tensor, first: Moments, second: Moments) -> Tensor:
    """The cosine of two tensors, given their inner product, over all elements of all passes and without centring."""
    squares = [(moments.m2 + moments.count * moments.mean.square()).sum() for moments in (first, second)]
    return product / (squares[0] * squares[1]).sqrt()
