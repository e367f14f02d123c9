"""The processes that train one network together, each on its share of every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gradlab.errors import GradlabError, UsageError

T = TypeVar("T")
_SEEDS = 1_000_003


@dataclass(frozen=True)
class Parallel:
    """The ranks of a training with `DistributedDataParallel`, or one process on its own.

    Attributes:
        rank: The number of this process.
        size: The number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Check that every rank gets a part of a batch.

        Raises:
            UsageError: If there are more ranks than examples.
        """
        if batch_size < self.size:
            raise UsageError(f"{self.size} ranks cannot share a batch of {batch_size}: take fewer ranks")

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the network whose gradients are averaged over the ranks."""
        if self.size == 1:
            return model
        # Without a search for unused parameters, gradients are sorted into other buckets after the first step, and sums
        # over three ranks or more would then round otherwise in a run that was resumed.
        return DistributedDataParallel(model, find_unused_parameters=self.size > 2 and device.type == "cpu")

    def share(self, batch: slice) -> slice:
        """Return this rank's part of a batch, which differs between ranks by at most one example."""
        size = batch.stop - batch.start
        return slice(batch.start + size * self.rank // self.size, batch.start + size * (self.rank + 1) // self.size)

    def sum_(self, values: Tensor) -> Tensor:
        """Add up over the ranks, in place."""
        if self.size > 1 and values.numel():
            distributed.all_reduce(values)
        return values

    def seed(self, seed: int) -> int:
        """Return the seed of this rank's random numbers; that of the first one is the training's."""
        return (seed + _SEEDS * self.rank) % 2**63

    def take_buffers(self, model: nn.Module) -> None:
        """Take over the buffers of the first rank, such as running statistics."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def agreed(self, signal: int | None) -> int | None:
        """Return the number of the signal that any rank has received, the same on all of them; None if there is none.

        The exchange is on the CPU, so that no accelerator is waited for.
        """
        if self.size == 1:
            return signal
        largest = torch.tensor([signal or 0])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest) or None

    def gather(self, own: T) -> list[T]:
        """Return what every rank gives, in their order."""
        if self.size == 1:
            return [own]
        found: list[T] = [own] * self.size
        distributed.all_gather_object(found, own)
        return found

    def first(self, find: Callable[[], T]) -> T:
        """Return what the first rank finds, such as in files that others may not see yet.

        Raises:
            GradlabError: On all ranks, if the first one raises it.
        """
        if self.size == 1:
            return find()
        told: list[tuple[T | None, GradlabError | None] | None] = [None]
        if self.is_first:
            try:
                told = [(find(), None)]
            except GradlabError as error:
                told = [(None, error)]
        distributed.broadcast_object_list(told, 0)
        found, error = told[0]  # type: ignore[misc]
        if error is not None:
            raise error
        return found  # type: ignore[return-value]


ALONE = Parallel()
