"""What is read of a stream and its branches while they exist: moments a channel, inner products, gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gradlab.probes.forward_watch import Watch
from gradlab.stats import Moments


@dataclass(eq=False)
class Reading:
    """One tensor, read once.

    Attributes:
        moments: Of each channel, over examples and positions.
        watch: Takes in its gradient; None where it is part of no graph, or nobody asked.
        tokens: Sums over examples of what `BlockSignal` says of tokens, and their number; None where nobody asked.
    """

    moments: Moments
    watch: Watch | None = None
    tokens: Tensor | None = None


@dataclass(eq=False)
class Branch:
    """A branch as it is added.

    Attributes:
        module: The module in which its weights lie.
        attends: Whether it multiplies signals with one another.
        reading: Of the branch; without a watch where it exists only within the addition.
        products: Its inner products with streams, by their numbers.
    """

    module: str
    attends: bool
    reading: Reading
    products: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Behind:
    """The stream behind an addition.

    Attributes:
        call: The call of the block, or of the module that adds where the block is none of those that are running.
        shape: Of the stream.
        readings: Of the sum, and of what normalizations and activations within the block make of it, by number.
        handed_on: The number of the one that the next block gets.
    """

    call: int
    shape: torch.Size
    readings: dict[int, Reading] = field(default_factory=dict)
    handed_on: int = -1

    @property
    def output(self) -> Reading:
        """Of the block's output."""
        return self.readings[self.handed_on]

    def hand_on(self, number: int) -> None:
        """Take one of the values for the block's output, unless a later one was."""
        if number in self.readings:
            self.handed_on = max(self.handed_on, number)


@dataclass(eq=False)
class Found:
    """One addition of a branch to a stream; or the output of a part that repeats, without stream and branch.

    Attributes:
        block: The block's name.
        behind: The stream behind the addition.
        origin: The number of the block's input.
        stream: What the branch is added to.
        branch: What is added.
        product: The inner product of both.
    """

    block: str
    behind: Behind
    origin: int = -1
    stream: Reading | None = None
    branch: Branch | None = None
    product: Tensor | None = None

    def watched(self) -> list[Reading]:
        """The readings whose gradients are wanted."""
        return [self.behind.output, *([] if self.branch is None else [self.branch.reading])]


class Reader(Protocol):
    """Who reads tensors while they are there."""

    def read(self, value: Tensor, channel: int, watched: Tensor | None, behind: bool) -> Reading:
        """Take in a value at once, and the gradient of a tensor, which may be another, when it arrives.

        Args:
            value: A stream or a branch.
            channel: The dimension of its channels.
            watched: Whose gradient is taken in; None for nothing's.
            behind: Whether it is a stream behind an addition.
        """

    def finish(self, found: list[Found]) -> None:
        """A pass is over that has shown these blocks, in order."""
