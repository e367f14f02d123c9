"""Numbers of one pass that lie in memory which the next overwrites, as those of CUDA graphs do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles.compiled_gradients import brute_force, compiled_passes, measured
from oracles.compiled_responses import READ, Normalized, images
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd


class Overwriting:
    """Compiles graphs whose single numbers lie in the same memory at every run."""

    def __init__(self) -> None:
        self.memory: list[Tensor] = []

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        kept: list[Tensor] = []

        def run(*values: Any) -> Any:
            outputs = [*graph(*values)]
            places = [place for place, x in enumerate(outputs) if isinstance(x, Tensor) and not x.ndim]
            if not kept:
                kept.extend(outputs[place].clone() for place in places)
                self.memory += kept
            for place, number in zip(places, kept, strict=True):
                number.copy_(outputs[place])
                outputs[place] = number
            return outputs

        return run


def test_gradients_of_accumulated_passes() -> None:
    overwriting = Overwriting()

    def loop(called: Any, model: Any, step: Callable[[], None]) -> None:
        for batches in (images(5, 5), images(5, 5, 5)[1:]):
            for x in batches:
                called(x).square().sum().backward()
            step()
            model.zero_grad()

    torch.manual_seed(0)
    model = Normalized()
    right = brute_force(model, READ, loop)
    backend = aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=overwriting)
    found, probe = measured(torch.compile(model, backend=backend), model, loop)
    assert found == {site: pytest.approx(norms, rel=1e-6) for site, norms in right.items()}
    assert compiled_passes(probe) == 3
    assert len(overwriting.memory) >= len(READ)
