"""Models whose layers are split over ranks: checks of `tests/probes/test_tensor_parallel.py`, and their data."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import gradlab as gl
from oracles.processes import Batch, RankChecks, main, measured, run, watched


class Sequences(nn.Module):
    """Attention and a perceptron on tokens, both residual, the same on every rank.

    Args:
        pooled: Whether the answer is the mean over tokens.
        softmax: Whether attention is written out.
    """

    def __init__(self, pooled: bool = False, softmax: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.pooled, self.softmax = pooled, softmax
        # Two, three and eight ranks have equal parts of 24 channels.
        self.embed, self.head, self.out = (nn.Linear(24, 24) for _ in range(3))
        self.first, self.second = nn.LayerNorm(24), nn.LayerNorm(24)
        self.query, self.key, self.value = (nn.Linear(24, 24) for _ in range(3))
        self.up, self.down = nn.Linear(24, 24), nn.Linear(24, 24)
        with torch.no_grad():
            self.up.bias[::5] -= 3
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.out(self.attended(self.first(x)))
        x = x + self.down(torch.relu(self.up(self.second(x))))
        logits = self.head(torch.tanh(x))
        return logits.mean(1) if self.pooled else logits.transpose(1, 2)

    def attended(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, 1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = (q @ k.mT).softmax(-1) @ v if self.softmax else F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)


SPLIT = {name: name for name in ("query", "key", "value", "out", "up", "down", "head")} | {"embed": "first"}
"""The modules whose outputs are the responses of the layers, by layer."""

WEIGHTS = {
    **{name: ColwiseParallel() for name in ("query", "key", "value")},
    "out": RowwiseParallel(),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
    "head": ColwiseParallel(output_layouts=Replicate()),
}
TOKENS = {
    "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    **{name: SequenceParallel(use_local_output=True) for name in ("first", "second")},
    **{name: ColwiseParallel(input_layouts=Shard(1)) for name in ("query", "key", "value")},
    "out": RowwiseParallel(output_layouts=Shard(1)),
    "up": ColwiseParallel(input_layouts=Shard(1)),
    "down": RowwiseParallel(output_layouts=Shard(1)),
    "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
}
"""Weights split over ranks, and tokens as well."""


def sequences(rank: int) -> list[Batch]:
    """Return one batch of sequences."""
    random = torch.Generator().manual_seed(40 + rank)
    return [(torch.randn(3, 24, 24, dtype=torch.float64, generator=random), torch.arange(72).view(3, 24) % 24)]


def sequence_outputs(x: Tensor, **options: bool) -> dict[str, Tensor]:
    """Return the response of each layer of the model that tensor parallelism splits; that of a layer has a gradient."""
    model, kept = Sequences(**options), {}
    for name in SPLIT.values():
        model.get_submodule(name).register_forward_hook(lambda _, args, out, name=name: kept.setdefault(name, out))
    kept["output"] = model(x)
    return kept


class Checks(RankChecks):
    def __init__(self, rank: int, world: int) -> None:
        super().__init__(rank, world)
        self.mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
        self.sequence = sequences(0)
        self.tensor_parallel = parallelize_module(Sequences(), self.mesh, WEIGHTS)
        self.sequence_parallel = parallelize_module(Sequences(), self.mesh, TOKENS)

    def split_attention(self) -> Any:
        return run(gl.AttentionStatistics(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_tokens_attention(self) -> Any:
        return run(gl.AttentionStatistics(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_softmax_attention(self) -> Any:
        model = parallelize_module(Sequences(softmax=True), self.mesh, TOKENS)
        return run(gl.AttentionStatistics(model, rows=None), model, self.sequence).result()

    def split_queries_attention(self) -> Any:
        """Every rank has the queries of some tokens, and all keys."""
        whole = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
        own = ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(1))
        plan = TOKENS | {"query": own, "key": whole, "value": whole}
        plan["out"] = RowwiseParallel(input_layouts=Shard(1), output_layouts=Shard(1))
        model = parallelize_module(Sequences(), self.mesh, plan)
        return run(gl.AttentionStatistics(model, rows=None), model, self.sequence).result()

    def split_by_hand_attention(self) -> Any:
        """Nothing tells that ranks have heads of their own."""
        model = parallelize_module(Sequences(), self.mesh, {name: WEIGHTS[name] for name in ("up", "down")})
        for name in ("query", "key", "value"):
            part = model.get_submodule(name)
            part.weight, part.bias = (nn.Parameter(p.chunk(self.world)[self.rank]) for p in (part.weight, part.bias))
        model.out.weight = nn.Parameter(model.out.weight.chunk(self.world, 1)[self.rank])
        return run(gl.AttentionStatistics(model), model, self.sequence).result()

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

    def hybrid_responses(self) -> Any:
        """Examples differ along both dimensions: shards are copied along the first."""
        model = self._hybrid()
        return run(gl.ResponseStd(model), model, sequences(self.rank)).result()

    def hybrid_signal(self) -> Any:
        model = self._hybrid()
        return measured(gl.BlockSignal(model), model, sequences(self.rank)).result()

    def hybrid_parameter_gradients(self) -> Any:
        model = self._hybrid()
        return measured(gl.ParameterGradients(model), model, sequences(self.rank)).result()

    def hybrid_watch(self) -> Any:
        return watched(self._hybrid(), sequences(self.rank))

    def _hybrid(self) -> nn.Module:
        of = 2 if self.world % 2 == 0 and self.world > 2 else 1
        mesh = torch.distributed.device_mesh.init_device_mesh(
            "cpu", (self.world // of, of), mesh_dim_names=("copies", "shards")
        )
        return fully_shard(Sequences(), mesh=mesh)

    def split_tokens_parameter_gradients(self) -> Any:
        return measured(gl.ParameterGradients(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_tokens_input_gradients(self) -> Any:
        model = parallelize_module(Sequences(pooled=True), self.mesh, TOKENS)
        return run(gl.InputGradients(model), model, self.sequence).result()

    def split_tokens_example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_tokens_signal(self) -> Any:
        return measured(gl.BlockSignal(self.sequence_parallel), self.sequence_parallel, self.sequence).result()

    def split_channels_signal(self) -> Any:
        """Streams are parts as well: every rank has some channels of them."""
        own = {name: RowwiseParallel(output_layouts=Shard(-1)) for name in ("embed", "out", "down")}
        plan = WEIGHTS | own | {"embed": ColwiseParallel()}
        for name in ("first", "second"):
            plan[name] = PrepareModuleInput(
                input_layouts=(Shard(-1),), desired_input_layouts=(Replicate(),), use_local_output=True
            )
        plan["head"] = ColwiseParallel(input_layouts=Shard(-1), output_layouts=Replicate())
        model = parallelize_module(Sequences(), self.mesh, plan)
        return measured(gl.BlockSignal(model), model, self.sequence).result()

    def split_tokens_compared_signal(self) -> Any:
        model = self.sequence_parallel
        return measured(gl.BlockSignal(model, tokens=True), model, self.sequence).result()

    def split_tokens_watch(self) -> Any:
        return watched(parallelize_module(Sequences(), self.mesh, TOKENS), self.sequence * 2)

    def split_example_gradients(self) -> Any:
        return measured(gl.ExampleGradients(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_signal(self) -> Any:
        return measured(gl.BlockSignal(self.tensor_parallel), self.tensor_parallel, self.sequence).result()

    def split_watch(self) -> Any:
        return watched(parallelize_module(Sequences(), self.mesh, WEIGHTS), self.sequence * 2)

    def split_responses_alone(self) -> Any:
        return run(gl.ResponseStd(self.tensor_parallel, "up", local=True), self.tensor_parallel, self.sequence).result()


if __name__ == "__main__":
    main(Checks)
