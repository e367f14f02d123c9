"""What is summed up of a block and one of its branches over all passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.probes.blocks.readings import Found
from gradlab.probes.forward_watch import Watch
from gradlab.stats import Moments
from gradlab.stats.precision import widened


class Site(NamedTuple):
    """A branch of a block in a pass.

    Attributes:
        block: The block's name.
        module: The branch's module.
        call: Which of the times in the pass that this branch was added, from 1.
    """

    block: str
    module: str
    call: int


@dataclass
class GradientSquares:
    """The sum of squares of gradients, over all elements of all passes, and their number.

    Attributes:
        lost: Why what arrived is not the gradient; None where it is.
    """

    lost: str | None = None
    _squares: list[Tensor] = field(default_factory=list)
    _numel: int = 0
    _open: list[Watch] = field(default_factory=list)

    def wait_for(self, watch: Watch | None) -> None:
        """Take in what a watch gets."""
        if watch is not None:
            self._open.append(watch)

    def settle(self) -> None:
        """Sum up what has arrived; its watches are done with."""
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
            self._squares = [torch.stack(self._squares).sum()]

    def sums(self) -> tuple[Tensor | None, int]:
        """The sum of squares, None where nothing has arrived, and the number of elements."""
        self.settle()
        return (self._squares[0] if self._squares else None), self._numel

    def mean_square(self) -> Tensor | None:
        """Of the elements of all gradients; None where none has arrived, or what has is none."""
        self.settle()
        return self._squares[0] / self._numel if self._squares and self.lost is None else None


@dataclass
class Signal:
    """What was measured of a site.

    Attributes:
        behind: Moments of each channel of the stream behind the addition.
        stream: Those of the stream before it.
        branch: Those of the branch.
        product: The inner product of stream and branch.
        attends: Whether the branch multiplies signals with one another.
        tokens: Sums over examples of statistics of the tokens behind the addition, and the number of examples.
        behind_gradient: Of the stream behind the addition.
        branch_gradient: Of the branch.
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
        """Take in one pass."""
        self.behind = _merged(self.behind, found.behind.output.moments)
        self.behind_gradient.wait_for(found.behind.output.watch)
        tokens = found.behind.output.tokens
        self.tokens = tokens if self.tokens is None or tokens is None else self.tokens + tokens
        if found.stream is None or found.branch is None or found.product is None:
            return
        self.stream = _merged(self.stream, found.stream.moments)
        self.branch = _merged(self.branch, found.branch.reading.moments)
        self.branch_gradient.wait_for(found.branch.reading.watch)
        self.product = found.product if self.product is None else self.product + found.product
        self.attends = found.branch.attends


def _merged(total: Moments | None, part: Moments) -> Moments:
    return part if total is None else total.merge(part)


def channel_variance(moments: Moments) -> Tensor:
    """The average channel variance: over examples and positions, then the mean over channels."""
    return moments.variance.nanmean()


def channel_mean_square(moments: Moments) -> Tensor:
    """The average squared channel mean."""
    return moments.mean.where(moments.count > 0, torch.nan).square().nanmean()


def cosine(product: Tensor, first: Moments, second: Moments) -> Tensor:
    """The cosine of two tensors with an inner product: over all elements of all passes, not centred."""
    squares = [(moments.m2 + moments.count * moments.mean.square()).sum() for moments in (first, second)]
    return product / (squares[0] * squares[1]).sqrt()
