"""Modules and parameters that take the place of others in the middle of a training: no step passes them by."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)
        self.spare: nn.Module | None = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


PROBES: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]] = {
    "ResponseGradients": lambda model, _: gl.ResponseGradients(model),
    "ParameterGradients": lambda model, _: gl.ParameterGradients(model),
    "ExampleGradients": lambda model, _: gl.ExampleGradients(model),
    "gl.watch": lambda model, optimizer: gl.watch(model, optimizer, every=1),
}


def swap(model: Net) -> None:
    model.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())


def assign(model: Net) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def add(model: Net) -> None:
    model.extra, model.spare = nn.Linear(2, 2), None


@pytest.mark.parametrize(
    ("change", "probes", "names"),
    [
        (swap, [*PROBES], "body: replaced"),
        (assign, ["ParameterGradients", "gl.watch"], "body.0.weight, head.weight.*replaced"),
        (add, [], ""),
    ],
)
@pytest.mark.parametrize("probe", PROBES)
def test_what_was_replaced_is_named(probe: str, change: Callable[[Net], None], probes: list[str], names: str) -> None:
    torch.default_generator.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(made: Any) -> None:
        model(torch.randn(3, 4)).square().mean().backward()
        if probe != "gl.watch":
            made.step()
        optimizer.step()
        optimizer.zero_grad()

    with PROBES[probe](model, optimizer) as made:
        step(made)
        change(model)
        optimizer.param_groups[0]["params"] = list(model.parameters())
        if probe in probes:
            with pytest.raises(GradlabError, match=names):
                step(made)
        elif change is add:
            step(made)
