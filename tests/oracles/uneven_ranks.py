"""Ranks that do not all do the same: checks of `tests/probes/test_uneven_ranks.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradlab as gl
from oracles.data_ranks import attending, batches, even_batches, network, tokens
from oracles.processes import RankChecks, main, measured, run, watched


class Checks(RankChecks):
    def __init__(self, rank: int, world: int) -> None:
        super().__init__(rank, world)
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

    def group_that_was_ended(self) -> Any:
        group = torch.distributed.new_group(list(range(self.world)))
        probe = run(gl.ResponseStd(self.model, process_group=group), self.model, self.data)
        torch.distributed.destroy_process_group(group)
        return probe.result()

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

    def local_in_a_group(self) -> Any:
        group = torch.distributed.new_group(list(range(self.world)))
        return run(gl.ResponseStd(self.model, process_group=group, local=True), self.model, self.data).result()

    def first_two(self) -> Any:
        """A group of some ranks, beside which others do nothing."""
        group = torch.distributed.new_group([0, 1])
        if self.rank > 1:
            return None
        return run(gl.ResponseStd(self.model, process_group=group), self.model, self.data).result()

    def shards_of_more_ranks(self) -> Any:
        """Ranks outside of the group have parts of the normalization, and do not ask for the result."""
        groups = [torch.distributed.new_group([rank]) for rank in range(self.world)]
        model = fully_shard(network())
        probe = measured(gl.ResponseStd(model, process_group=groups[self.rank]), model, self.data[:1])
        return probe.result() if self.rank == 0 else None

    def signal_of_all_but_the_first(self) -> Any:
        return run(gl.BlockSignal(self.model), self.model, self.data if self.rank else []).result()

    def attention_of_all_but_the_first(self) -> Any:
        model = attending()
        return run(gl.AttentionStatistics(model), model, tokens(self.rank) if self.rank else []).result()

    def inputs_of_all_but_the_first(self) -> Any:
        return run(gl.InputGradients(self.model), self.model, self.data if self.rank else []).result()

    def stages(self) -> Any:
        with gl.ResponseStd(self.model) as probe:
            self._run_stage()
        return probe.result()

    def gradients_of_stages(self) -> Any:
        with gl.ResponseGradients(self.model) as probe:
            self._run_stage()
        return probe.result()

    def nested(self) -> Any:
        """Three probes at once, asked in the order in which they were left."""
        with gl.ResponseStd(self.model) as outer, gl.BlockSignal(self.model) as signal:
            inner = measured(gl.ResponseGradients(self.model), self.model, self.even)
        gradients, blocks, stds = inner.result().frame, signal.result().frame, outer.result().frame
        gradients = gradients[(gradients["step"] == 1) & ~gradients["block"]].set_index("layer")
        stds = stds.assign(gradient=stds["layer"].map(gradients["response_grad_norm"]))
        return stds.assign(stream=stds["layer"].map(blocks.set_index("block")["stream_std"]))

    def watch_of_fewer_steps(self) -> Any:
        torch.distributed.barrier()
        return watched(network(), self.even if self.rank == 0 else self.even[:1], timeout=5.0)

    def watch_of_an_empty_batch(self) -> Any:
        """One rank has no example left, and takes part with a loss of 0."""
        model = DistributedDataParallel(network(), find_unused_parameters=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = self.even[0]
        with gl.watch(model, optimizer, every=1) as watch:
            output = model(x[: 4 * self.rank])
            (F.cross_entropy(output, y) if self.rank else output.sum() * 0).backward()
            optimizer.step()
        return watch.result()

    def shards_of_other_steps(self) -> Any:
        """At the second meeting, the first rank measures step 1, and all others step 2."""
        model = self._sharded()
        with gl.ParameterGradients(model, every=1 + (self.rank > 0)) as probe:
            for _ in range(3):
                probe.step()
        return probe.result()

    def shards_without_one(self) -> Any:
        model = self._sharded()
        with gl.ParameterGradients(model, timeout=0.2) as probe:
            try:
                if self.rank != 1:
                    probe.step()
            finally:
                torch.distributed.barrier()
        return None

    def watch_of_shards_on_one(self) -> Any:
        model = fully_shard(network())
        try:
            if self.rank == 0:
                return watched(model, self.even[:1], timeout=0.2)
            F.cross_entropy(model(self.even[0][0]), self.even[0][1]).backward()
        finally:
            torch.distributed.barrier()
        return None

    def _sharded(self) -> nn.Module:
        """Return a sharded model with gradients."""
        model = fully_shard(network())
        F.cross_entropy(model(self.even[0][0]), self.even[0][1]).backward()
        return model

    def _run_stage(self) -> None:
        """Run the first layers on the first rank, the last one on the second, and another one on others."""
        x, y = even_batches(0)[0]
        if self.rank == 0:
            torch.relu(self.model.norm(self.model.stem(x))).sum().backward()
        elif self.rank == 1:
            F.cross_entropy(self.model.head(x.mean((2, 3)).repeat(1, 2)), y).backward()
        else:
            self.model.detour(x.repeat(1, 2, 1, 1)).sum().backward()
        self.model.zero_grad()


if __name__ == "__main__":
    main(Checks)
