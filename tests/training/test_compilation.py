from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.models import create
from gradlab.training.compilation import compile_network

Graphs = list[torch.fx.GraphModule]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """The graphs that are compiled, which then run as they are."""
    found: Graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", partial_method(backend))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return found


def partial_method(backend: object) -> object:
    compile_ = nn.Module.compile
    return lambda self, **options: compile_(self, backend=backend, **options)


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet14", 5), ("plain14", 5), ("gpt4-width=16-heads=2", 1), ("resnet8", 1)],
)
def test_equal_blocks_are_compiled_once(name: str, count: int, graphs: Graphs) -> None:
    model = create(name).train()
    x = torch.zeros(2, 16, dtype=torch.long) if name.startswith("gpt") else torch.rand(2, 3, 16, 16)
    expected = model(x)
    found = compile_network(model)(x)
    assert len(graphs) == count
    torch.testing.assert_close(found, expected)


def test_every_network_of_a_process_is_compiled(graphs: Graphs) -> None:
    """Blocks of one class share their code, of which torch compiles eight kinds and runs all others eagerly."""
    counts = []
    for name in ("plain14", "resnet14", "resnet14-C"):
        before = len(graphs)
        compile_network(create(name).train())(torch.rand(2, 3, 16, 16))
        counts.append(len(graphs) - before)
    assert counts == [5, 5, 5]


class Grown(nn.Module):
    """A layer after which there are two channels more, as no other has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.linear(self.norm(x))), -1)


def test_blocks_of_many_shapes_are_compiled_together(graphs: Graphs) -> None:
    model = nn.Sequential(*(Grown(width) for width in range(2, 42, 2)))
    compile_network(model)(torch.rand(2, 2))
    assert len(graphs) == 1


class Scaled(nn.Module):
    """A layer whose scale is a number, which differs between all of them."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.norm, self.linear = scale, nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.linear(self.norm(x))


def test_blocks_of_many_settings_are_compiled_together(graphs: Graphs) -> None:
    """As those of torchvision's swin_t, with shifts and rates of stochastic depth of their own."""
    model = nn.Sequential(*(Scaled(0.1 * place) for place in range(12)))
    compile_network(model)(torch.rand(2, 4))
    assert len(graphs) == 1


def test_names_of_weights_stay() -> None:
    model = create("resnet14")
    names = list(model.state_dict())
    assert list(compile_network(model).state_dict()) == names


def test_a_compiled_training_is_the_same(tmp_path: Path, graphs: Graphs) -> None:
    runs = {}
    for compiled in (False, True):
        options = {"recipe": gl.Recipe(iterations=4, batch_size=8), "out": tmp_path / str(compiled), "device": "cpu"}
        run = gl.train("resnet14", "cifar10-sample", compiled=compiled, test_every=4, **options)  # type: ignore[arg-type]
        runs[compiled] = run.frame
    assert len(graphs) == 5
    columns = ["train_loss", "test_loss", "test_error"]
    assert runs[True][columns].to_numpy() == pytest.approx(runs[False][columns].to_numpy(), rel=1e-4, nan_ok=True)
