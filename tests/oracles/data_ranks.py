"""Models that every rank has, with examples of its own: checks of `tests/probes/test_ranks.py`, and their data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradlab as gl
from oracles.processes import Batch, RankChecks, main, measured, run, watched

LAYERS = ("stem", "blocks.0", "blocks.1", "head")


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


def every_batch(ranks: int) -> list[Batch]:
    """Return the batches of all ranks."""
    return [batch for rank in range(ranks) for batch in batches(rank)]


def even_batches(rank: int, steps: int = 2) -> list[Batch]:
    """Return one batch of four for each step."""
    random = torch.Generator().manual_seed(20 + rank)
    x = torch.randn(steps, 4, 2, 5, 5, dtype=torch.float64, generator=random)
    return [(part, torch.arange(4) % 3) for part in x]


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


def targets(rank: int) -> list[Batch]:
    """Return the sequences with a class for each of their features."""
    return [(x, torch.arange(len(x) * 8).view(-1, 8) % 5) for x, _ in tokens(rank)]


class Experts(nn.Module):
    """A layer that sees the positions of all examples one after the other, in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT
        order = torch.randperm(x.shape[0] * x.shape[1], generator=torch.Generator().manual_seed(5))
        return self.layer(x.flatten(0, 1)[order])[order.argsort()].view(*x.shape[:2], 3).mean(1)


def outputs(model: Residual, x: Tensor, **options: bool) -> dict[str, Tensor]:
    """Return the response of each layer."""
    kept: dict[str, Tensor] = {}
    modules = {"stem": model.norm, **{name: model.get_submodule(name) for name in (*LAYERS[1:], "detour")}}
    handles = [
        module.register_forward_hook(lambda _, args, out, name=name: kept.setdefault(name, out))
        for name, module in modules.items()
    ]
    kept["output"] = model(x, **options)
    for handle in handles:
        handle.remove()
    return kept


def responses(data: list[Batch], **options: bool) -> dict[str, Tensor]:
    """Return the responses of each layer to all batches, flat."""
    model = network()
    with torch.no_grad():
        each = [outputs(model, x, **options) for x, _ in data]
    return {name: torch.cat([kept[name].flatten() for kept in each]) for name in each[0]}


def summed(bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Add the ranks' gradients instead of averaging them."""
    work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


class Checks(RankChecks):
    def __init__(self, rank: int, world: int) -> None:
        super().__init__(rank, world)
        self.data, self.even = batches(rank), even_batches(rank)
        self.model = network()
        self.parallel = DistributedDataParallel(network(), find_unused_parameters=True)
        self.compiled = compiled()
        self.sharded = network()
        self.mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
        for block in self.sharded.blocks:
            fully_shard(block, mesh=self.mesh)
        fully_shard(self.sharded, mesh=self.mesh)

    def responses(self) -> Any:
        return run(gl.ResponseStd(self.parallel), self.parallel, self.data).result()

    def exact_responses(self) -> Any:
        return run(gl.ResponseStd(self.model, exact=True), self.model, self.data).result()

    def channels(self) -> Any:
        return run(gl.ResponseStd(self.model, per_channel=True), self.model, self.data).channels()

    def response_gradients(self) -> Any:
        return measured(gl.ResponseGradients(self.parallel), self.parallel, self.even).result()

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

    def examples_of_summed_gradients(self) -> Any:
        model = DistributedDataParallel(network(), find_unused_parameters=True)
        model.register_comm_hook(None, lambda _, bucket: summed(bucket))
        return measured(gl.ExampleGradients(model), model, self.even).result()

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

    def sharded_accumulating_watch(self) -> Any:
        """One step of two batches, of which the first one leaves the shards alone."""
        return self._accumulating_watch(lambda model: nullcontext())

    def sharded_accumulating_watch_beside_examples(self) -> Any:
        """Another probe makes passes of its own within those of the loss."""
        return self._accumulating_watch(gl.ExampleGradients)

    def _accumulating_watch(self, beside: Callable[[nn.Module], AbstractContextManager[Any]]) -> Any:
        model = fully_shard(network(), mesh=self.mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gl.watch(model, optimizer, every=1) as watch, beside(model):
            for number, (x, y) in enumerate(self.even):
                model.set_requires_gradient_sync(number == 1)
                (F.cross_entropy(model(x), y) / 2).backward()
            optimizer.step()
        return watch.result()

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

    def sharded_head_example_gradients(self) -> Any:
        """The layer that gives the model's output has shards of its own, which passes leave in parts at its end."""
        model = network()
        for module in (*model.blocks, model.head):
            fully_shard(module, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        return measured(gl.ExampleGradients(model), model, self.even).result()

    def sharded_transformer_examples(self) -> Any:
        """Weights that functions apply beside their module, and a batch of another size on each rank."""
        model = fully_shard(attending(), mesh=self.mesh)
        return measured(gl.ExampleGradients(model), model, targets(self.rank)).examples()

    def sharded_examples_alone(self) -> Any:
        """Two batches in one step, whose gradients together only all ranks have."""
        with gl.ExampleGradients(self.sharded, local=True) as probe:
            for x, y in self.even:
                (F.cross_entropy(self.sharded(x), y) / 2).backward()
            probe.step()
            self.sharded.zero_grad()
        return probe.result()

    def sharded_experts(self) -> Any:
        model = fully_shard(Experts(), mesh=self.mesh)
        return measured(gl.ExampleGradients(model), model, self.even).result()


if __name__ == "__main__":
    main(Checks)
