"""Ranks that do not all do the same: checks of `tests/probes/test_uneven_ranks.py`."""

from __future__ import annotations

from typing import Any

import torch

import gradlab as gl
from oracles.data_ranks import batches, even_batches, network
from oracles.processes import main, measured, run


class Checks:
    """The checks, each of which gives what it has found.

    Args:
        rank: The number of the rank.
        world: The number of ranks.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.data, self.even = batches(rank), even_batches(rank)
        self.model = network()

    def local_responses(self) -> Any:
        return run(gl.ResponseStd(self.model, local=True), self.model, self.data).result()

    def group_of_one(self) -> Any:
        groups = [torch.distributed.new_group([rank]) for rank in range(self.world)]
        probe = gl.ResponseStd(self.model, process_group=groups[self.rank])
        return run(probe, self.model, self.data).result()

    def group_of_others(self) -> Any:
        group = torch.distributed.new_group([1])
        return run(gl.ResponseStd(self.model, process_group=group), self.model, self.data).result()

    def one_ran_a_detour(self) -> Any:
        return run(gl.ResponseStd(self.model), self.model, self.data, detour=self.rank == 1).result()

    def one_saw_nothing(self) -> Any:
        return run(gl.ResponseStd(self.model), self.model, self.data if self.rank else []).result()

    def other_steps(self) -> Any:
        data = self.even[: 1 + (self.rank > 0)]
        return measured(gl.ResponseGradients(self.model), self.model, data).result()

    def one_is_missing(self) -> Any:
        if self.rank == 1:
            torch.distributed.barrier()
            return run(gl.ResponseStd(self.model), self.model, self.data).result()
        try:
            return run(gl.ResponseStd(self.model, timeout=0.2), self.model, self.data).result()
        finally:
            torch.distributed.barrier()


if __name__ == "__main__":
    main(Checks)
