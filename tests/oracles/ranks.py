"""What every rank of a distributed run does in `tests/probes/test_ranks.py`, and the data that it does it on.

Run as a script, with the number of the rank, the number of ranks, a folder for the store and for what is found, and the
names of checks, or none for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import gradlab as gl

Batch = tuple[Tensor, Tensor]


class Residual(nn.Module):
    """Two residual blocks of convolutions with batch normalization, and a layer that some inputs leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.detour = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, detour: bool = False) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        if detour:
            x = self.detour(x)
        return self.head(x.mean((2, 3)))


class Sequences(nn.Module):
    """A residual block on tokens, the same on every rank.

    Args:
        pooled: Whether the answer is the mean over tokens.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.pooled = pooled
        self.embed = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)
        self.head = nn.Linear(8, 24)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(torch.tanh(self.up(self.norm(x))))
        logits = self.head(torch.tanh(x))
        return logits.mean(1) if self.pooled else logits.transpose(1, 2)


WEIGHTS = {
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
    "head": ColwiseParallel(output_layouts=Replicate()),
}
TOKENS = {
    "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    "norm": SequenceParallel(use_local_output=True),
    "up": ColwiseParallel(input_layouts=Shard(1)),
    "down": RowwiseParallel(output_layouts=Shard(1)),
    "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
}
"""Weights split over ranks, and tokens as well."""


def sequences(rank: int) -> list[Batch]:
    """Return one batch of sequences."""
    random = torch.Generator().manual_seed(40 + rank)
    return [(torch.randn(3, 24, 6, dtype=torch.float64, generator=random), torch.arange(72).view(3, 24) % 24)]


def network() -> Residual:
    """Return the same network in evaluation mode, float64, on every rank."""
    torch.manual_seed(0)
    net = Residual().double()
    for value in (net.norm.weight, net.norm.bias, net.norm.running_mean):
        nn.init.normal_(value)
    return net.eval()


def batches(rank: int) -> list[Batch]:
    """Return batches of different sizes, more on later ranks."""
    random = torch.Generator().manual_seed(10 + rank)
    sizes = [3 + rank + number for number in range(rank + 1)]
    return [(rank + torch.randn(n, 2, 5, 5, dtype=torch.float64, generator=random), torch.arange(n) % 3) for n in sizes]


def even_batches(rank: int, steps: int = 2) -> list[Batch]:
    """Return one batch of four for each step."""
    random = torch.Generator().manual_seed(20 + rank)
    x = torch.randn(steps, 4, 2, 5, 5, dtype=torch.float64, generator=random)
    return [(part, torch.arange(4) % 3) for part in x]


def measured(probe: Any, model: nn.Module, data: list[Batch], reduction: str = "mean") -> Any:
    """Return the probe after a step on each batch, without changing the model."""
    with probe:
        for x, y in data:
            F.cross_entropy(model(x), y, reduction=reduction).backward()
            getattr(probe, "step", int)()
            model.zero_grad()
    return probe


def run(probe: Any, model: nn.Module, data: list[Batch], **options: bool) -> Any:
    """Return the probe after a forward pass of each batch."""
    with probe, torch.no_grad():
        for x, _ in data:
            model(x, **options)
    return probe


def watched(model: nn.Module, data: list[Batch], **options: Any) -> Any:
    """Return what a watch records of a training with a step on each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1, **options) as watch:
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch.result()


def compiled() -> nn.Module:
    """Return the network, compiled around its exchange of gradients, which needs all its parameters used."""
    model = network()
    model.detour.requires_grad_(False)
    return torch.compile(DistributedDataParallel(model), backend="eager")  # type: ignore[return-value]


def attending() -> nn.Module:
    """Return the same layer of attention on every rank."""
    torch.manual_seed(1)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()


def tokens(rank: int) -> list[tuple[Tensor, None]]:
    """Return sequences, more on later ranks."""
    random = torch.Generator().manual_seed(30 + rank)
    return [(torch.randn(2 + rank, 5, 8, dtype=torch.float64, generator=random), None)]


class Checks:
    """The checks, each of which gives what it has found; all ranks make all of them in the same order.

    Args:
        rank: The number of the rank.
        world: The number of ranks.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.data, self.even = batches(rank), even_batches(rank)
        self.model = network()
        self.parallel = DistributedDataParallel(network(), find_unused_parameters=True)
        self.compiled = compiled()
        self.sharded = network()
        self.mesh = mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
        for block in self.sharded.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self.sharded, mesh=mesh)
        self.split = parallelize_module(network(), mesh, {"head": ColwiseParallel(output_layouts=Replicate())})
        self.sequence = sequences(0)
        self.tensor_parallel = parallelize_module(Sequences(), mesh, WEIGHTS)
        self.sequence_parallel = parallelize_module(Sequences(), mesh, TOKENS)

    def responses(self) -> Any:
        return run(gl.ResponseStd(self.parallel), self.parallel, self.data).result()

    def exact_responses(self) -> Any:
        return run(gl.ResponseStd(self.model, exact=True), self.model, self.data).result()

    def channels(self) -> Any:
        return run(gl.ResponseStd(self.model, per_channel=True), self.model, self.data).channels()

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

    def response_gradients(self) -> Any:
        return measured(gl.ResponseGradients(self.parallel), self.parallel, self.even).result()

    def other_steps(self) -> Any:
        data = self.even[: 1 + (self.rank > 0)]
        return measured(gl.ResponseGradients(self.model), self.model, data).result()

    def signal(self) -> Any:
        return measured(gl.BlockSignal(self.parallel), self.parallel, self.even).result()

    def input_gradients(self) -> Any:
        return run(gl.InputGradients(self.parallel), self.parallel, self.even).result()

    def parameter_gradients(self) -> Any:
        return measured(gl.ParameterGradients(self.parallel), self.parallel, self.even).result()

    def example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.parallel), self.parallel, self.even).result()

    def example_gradients_of_sums(self) -> Any:
        probe = gl.ExampleGradients(self.parallel, reduction="sum")
        return measured(probe, self.parallel, self.even, "sum").result()

    def example_rows(self) -> Any:
        return measured(gl.ExampleGradients(self.parallel), self.parallel, self.even).examples()

    def examples_of_uneven_batches(self) -> Any:
        return measured(gl.ExampleGradients(self.parallel), self.parallel, self.data[:1]).result()

    def examples_without_averages(self) -> Any:
        return measured(gl.ExampleGradients(self.model), self.model, self.even).result()

    def compiled_responses(self) -> Any:
        return run(gl.ResponseStd(self.compiled), self.compiled, self.data).result()

    def compiled_response_gradients(self) -> Any:
        return measured(gl.ResponseGradients(self.compiled), self.compiled, self.even).result()

    def compiled_parameter_gradients(self) -> Any:
        return measured(gl.ParameterGradients(self.compiled), self.compiled, self.even).result()

    def compiled_example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.compiled), self.compiled, self.even).result()

    def compiled_input_gradients(self) -> Any:
        return run(gl.InputGradients(self.compiled), self.compiled, self.even).result()

    def compiled_signal(self) -> Any:
        return measured(gl.BlockSignal(self.compiled), self.compiled, self.even).result()

    def compiled_watch(self) -> Any:
        return watched(compiled(), self.even)

    def watch(self) -> Any:
        return watched(DistributedDataParallel(network(), find_unused_parameters=True), self.even)

    def sharded_watch(self) -> Any:
        return watched(fully_shard(network(), mesh=self.mesh), self.even)

    def sinks_of_the_watch(self) -> Any:
        rows: list[Any] = []
        watched(DistributedDataParallel(network(), find_unused_parameters=True), self.even, sinks=[rows.extend])
        return pd.DataFrame({"rows": [len(rows)]})

    def alerts_of_the_watch(self) -> Any:
        silent = network()
        with torch.no_grad():
            silent.norm.bias.fill_(-1e3)
        return watched(DistributedDataParallel(silent, find_unused_parameters=True), self.even, on_alert="raise")

    def attention(self) -> Any:
        model = DistributedDataParallel(attending())
        return run(gl.AttentionStatistics(model), model, tokens(self.rank)).result()

    def sharded_attention(self) -> Any:
        model = fully_shard(attending(), mesh=self.mesh)
        return run(gl.AttentionStatistics(model), model, tokens(self.rank)).result()

    def compiled_attention(self) -> Any:
        model = torch.compile(DistributedDataParallel(attending()), backend="eager")
        return run(gl.AttentionStatistics(model), model, tokens(self.rank)).result()

    def split_attention(self) -> Any:
        model = parallelize_module(attending(), self.mesh, {"linear1": ColwiseParallel(), "linear2": RowwiseParallel()})
        return run(gl.AttentionStatistics(model), model, tokens(0)).result()

    def split_tokens_attention(self) -> Any:
        return self.split_attention()

    def mixed_responses(self) -> Any:
        """Parameters in bfloat16 in the passes, beside the std of all values that plain hooks have seen."""
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=True)
        model = network().float()
        model.norm.running_mean, model.norm.running_var = (b.bfloat16() for b in [*model.norm.buffers()][:2])
        fully_shard(model, mesh=self.mesh, mp_policy=policy)
        kept: dict[str, list[Tensor]] = {}
        for name, module in {"stem": model.norm, "blocks.0": model.blocks[0], "head": model.head}.items():
            module.register_forward_hook(lambda _, args, out, name=name: kept.setdefault(name, []).append(out.double()))
        result = run(gl.ResponseStd(model, exact=True), model, [(x.float(), y) for x, y in self.data[:1]]).result()
        every: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(every, kept)
        stds = {
            name: torch.cat([values.flatten() for other in every for values in other[name]]).std(correction=0).item()
            for name in kept
        }
        frame = result.frame[result.frame["layer"].isin(stds)]
        return frame.assign(expected=frame["layer"].map(stds))[["layer", "std", "expected"]]

    def sharded_responses(self) -> Any:
        return run(gl.ResponseStd(self.sharded), self.sharded, self.data[:1]).result()

    def sharded_responses_trained(self) -> Any:
        return measured(gl.ResponseStd(self.sharded), self.sharded, self.data[:1]).result()

    def sharded_responses_alone(self) -> Any:
        return measured(gl.ResponseStd(self.sharded, local=True), self.sharded, self.data[:1]).result()

    def sharded_response_gradients(self) -> Any:
        return measured(gl.ResponseGradients(self.sharded), self.sharded, self.even).result()

    def sharded_parameter_gradients(self) -> Any:
        return measured(gl.ParameterGradients(self.sharded), self.sharded, self.even).result()

    def sharded_signal(self) -> Any:
        return measured(gl.BlockSignal(self.sharded), self.sharded, self.even).result()

    def sharded_input_gradients(self) -> Any:
        return run(gl.InputGradients(self.sharded), self.sharded, self.even).result()

    def sharded_example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.sharded), self.sharded, self.even).result()

    def split_responses(self) -> Any:
        return run(gl.ResponseStd(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_response_gradients(self) -> Any:
        return measured(gl.ResponseGradients(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_parameter_gradients(self) -> Any:
        return measured(gl.ParameterGradients(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_input_gradients(self) -> Any:
        model = parallelize_module(Sequences(pooled=True), self.mesh, WEIGHTS)
        return run(gl.InputGradients(model), model, self.sequence).result()

    def split_tokens_responses(self) -> Any:
        return run(gl.ResponseStd(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_tokens_response_gradients(self) -> Any:
        return measured(gl.ResponseGradients(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def mesh_responses(self) -> Any:
        """Two dimensions: examples are those of one, layers are split along the other."""
        of = 2 if self.world % 2 == 0 and self.world > 2 else 1
        mesh = torch.distributed.device_mesh.init_device_mesh(
            "cpu", (self.world // of, of), mesh_dim_names=("data", "tensor")
        )
        model = fully_shard(parallelize_module(Sequences(), mesh["tensor"], WEIGHTS), mesh=mesh["data"])
        own = sequences(self.rank // of)
        return run(gl.ResponseStd(model), model, own).result().to_frame().assign(replicas=self.world // of)

    def split_tokens_parameter_gradients(self) -> Any:
        return measured(gl.ParameterGradients(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_tokens_input_gradients(self) -> Any:
        model = parallelize_module(Sequences(pooled=True), self.mesh, TOKENS)
        return run(gl.InputGradients(model), model, self.sequence).result()

    def split_tokens_example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_tokens_signal(self) -> Any:
        return measured(gl.BlockSignal(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_tokens_watch(self) -> Any:
        return watched(self.sequence_parallel, self.sequence)

    def split_example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_signal(self) -> Any:
        return measured(gl.BlockSignal(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_watch(self) -> Any:
        return watched(self.tensor_parallel, self.sequence)

    def split_responses_alone(self) -> Any:
        return run(gl.ResponseStd(self.split, "head", local=True), self.split, self.even).result()

    def one_is_missing(self) -> Any:
        if self.rank == 1:
            torch.distributed.barrier()
            return run(gl.ResponseStd(self.model), self.model, self.data).result()
        try:
            return run(gl.ResponseStd(self.model, timeout=0.2), self.model, self.data).result()
        finally:
            torch.distributed.barrier()


def found(check: Callable[[], Any]) -> Any:
    """Return what a check gives, as plain values."""
    try:
        result = check()
    except gl.GradlabError as error:
        return {"error": str(error)}
    if result is None:
        return {}
    frame = result.frame if hasattr(result, "frame") else result
    return {
        "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
        "notes": getattr(result, "notes", []),
    }


def names() -> list[str]:
    """Return the names of the checks, in their order."""
    return [name for name in vars(Checks) if not name.startswith("_")]


def main(rank: int, world: int, folder: Path, chosen: list[str]) -> None:
    """Make some or all checks as one of several ranks, and write what it has found."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    checks = Checks(rank, world)
    everything = {name: found(getattr(checks, name)) for name in chosen or names()}
    (folder / f"{rank}.json").write_text(json.dumps(everything, default=float))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
