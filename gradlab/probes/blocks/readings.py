"""Readings of a stream and its branches while they exist: moments per channel, inner products, gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gradlab.probes.blocks.numbering import Place
from gradlab.probes.forward_watch import Watch
from gradlab.probes.split_signals import Split
from gradlab.stats import Moments


@dataclass(eq=False)
class Reading:
    """One tensor, read once.

    Attributes:
        moments: The moments of each channel, over examples and positions.
        watch: The watch that receives the gradient; None if the tensor is in no graph or no gradient is requested.
        tokens: The sums over examples of the token statistics of `BlockSignal`, and the number of examples; None if
            they are not requested.
        split: What ranks that share the model have apart of the tensor.
    """

    moments: Moments
    watch: Watch | None = None
    tokens: Tensor | None = None
    split: Split = ""


@dataclass(eq=False)
class Branch:
    """A branch as it is added.

    Attributes:
        module: The name of the module that contains its weights.
        attends: Whether it multiplies signals with one another, as attention does.
        reading: The reading of the branch, without a watch if it exists only within the addition.
        products: Its inner products with streams, by the numbers of the streams.
    """

    module: str
    attends: bool
    reading: Reading
    products: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Behind:
    """The stream after an addition.

    Attributes:
        call: The call of the block, or of the module that performs the addition if the block is not running.
        shape: The shape of the stream.
        readings: The readings of the sum and of its normalizations and activations within the block, by number.
        handed_on: The number of the value that the next block receives.
    """

    call: int
    shape: torch.Size
    readings: dict[int, Reading] = field(default_factory=dict)
    handed_on: int = -1

    @property
    def output(self) -> Reading:
        """The reading of the block's output."""
        return self.readings[self.handed_on]

    def hand_on(self, number: int) -> None:
        """Take one of the values as the block's output, unless a later one has been taken."""
        if number in self.readings:
            self.handed_on = max(self.handed_on, number)


@dataclass(frozen=True)
class Addition:
    """An addition of a branch to a stream.

    Attributes:
        place: Where it happens in a pass.
        stream: Which of the two operands is the stream, 0 or 1.
        resized: Whether the stream has another shape than the block's input, as behind a down-sampling shortcut.
    """

    place: Place
    stream: int
    resized: bool


@dataclass(eq=False)
class Found:
    """One addition of a branch to a stream; or the output of a repeated part, without stream and branch.

    Attributes:
        block: The name of the block.
        place: The name of the module that adds.
        behind: The stream after the addition.
        origin: The number of the block's input.
        stream: The stream to which the branch is added.
        branch: The branch.
        product: The inner product of stream and branch.
        addition: The addition.
    """

    block: str
    place: str
    behind: Behind
    origin: int = -1
    stream: Reading | None = None
    branch: Branch | None = None
    product: Tensor | None = None
    addition: Addition | None = None

    @property
    def split(self) -> Split:
        """What ranks that share the model have apart of stream and branch."""
        return next((reading.split for reading in self.watched() if reading.split), "")

    def watched(self) -> list[Reading]:
        """The readings whose gradients are needed."""
        return [self.behind.output, *([] if self.branch is None else [self.branch.reading])]


class Reader(Protocol):
    """The interface that reads tensors while they exist."""

    def read(self, value: Tensor, channel: int, watched: Tensor | None, behind: bool) -> Reading:
        """Read a value at once, and the gradient of a tensor, which may be another one, when it arrives.

        Args:
            value: A stream or a branch.
            channel: The channel dimension of the value.
            watched: The tensor whose gradient is read; None reads no gradient.
            behind: Whether the value is a stream after an addition.
        """

    def finish(self, found: list[Found]) -> None:
        """Called at the end of a pass with its blocks in order."""
