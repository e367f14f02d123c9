"""Compiled models that ranks train together: checks of `tests/probes/compiled/test_ranks.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.parallel import DistributedDataParallel

import gradlab as gl
from gradlab.stats.custom_ops import add_moments
from oracles.data_ranks import LAYERS, Residual, even_batches, network
from oracles.processes import RankChecks, main

STEPS = 3


def trained() -> Residual:
    """Return the network without the layer that these inputs leave out, in training mode."""
    model = network().train()
    model.detour.requires_grad_(False)
    return model


class Checks(RankChecks):
    def __init__(self, rank: int, world: int) -> None:
        super().__init__(rank, world)
        self._compile = "eager"
        self._sums: list[int] = []

    def _backend(self, graph: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self._sums.append(sum(node.target is add_moments for node in graph.graph.nodes))
        return torch._dynamo.lookup_backend(self._compile)(graph, inputs)

    def _found(self, called: nn.Module, given: nn.Module, model: nn.Module) -> Any:
        """Return the result with the norms of gradients and the numbers of sums in graphs, after some steps."""
        with gl.ResponseStd(given) as probe:
            for x, y in even_batches(self.rank, STEPS):
                model.zero_grad()
                F.cross_entropy(called(x), y).backward()
        result = probe.result()
        sums, self._sums = [count for count in self._sums if count], []
        norms = {name: model.get_submodule(name).weight.grad.norm().item() for name in LAYERS}
        frame = result.frame.assign(grad_norm=result.frame["layer"].map(norms), running=model.norm.running_var.sum())
        result.frame = frame.assign(sums=[sums] * len(frame))
        torch._dynamo.reset()
        return result

    def wrapped(self) -> Any:
        model = trained()
        parallel = DistributedDataParallel(torch.compile(model, backend=self._backend))
        return self._found(parallel, parallel, model)

    def wrapped_and_cut(self) -> Any:
        """With buckets of some hundred bytes, between which torch cuts graphs, where the first has usually a MiB."""
        model, self._compile = trained(), "aot_eager"
        parallel = DistributedDataParallel(torch.compile(model, backend=self._backend), bucket_cap_mb=3e-4)
        with mock.patch.object(torch.distributed, "_DEFAULT_FIRST_BUCKET_BYTES", 100):
            return self._found(parallel, parallel, model)

    def compiled_in_place(self) -> Any:
        model = trained()
        model.compile(backend=self._backend)
        parallel = DistributedDataParallel(model)
        return self._found(parallel, parallel, model)

    def compiled_around(self) -> Any:
        model = trained()
        compiled = torch.compile(DistributedDataParallel(model), backend=self._backend)
        return self._found(compiled, compiled, model)

    def compiled_around_in_place(self) -> Any:
        model = trained()
        parallel = DistributedDataParallel(model)
        parallel.compile(backend=self._backend)
        return self._found(parallel, parallel, model)


if __name__ == "__main__":
    main(Checks)
