"""Bounded functions that gate what they are computed from saturate for large values, and are no fault of a network."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "GELU by tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
    "factored GELU": lambda x: x * 0.5 * (1 + F.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "Swish": lambda x: F.sigmoid(x).mul(x),
    "Swish in place": lambda x: x.clone().mul_(x.sigmoid()),
    "hard Swish": lambda x: x * F.relu6(x + 3) / 6,
    "hard Swish by its gate": lambda x: x * F.hardsigmoid(x),
    "Mish": lambda x: x * torch.tanh(F.softplus(x)),
}
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "scaled tanh": lambda x: 1.7159 * torch.tanh(2 / 3 * x),
    "gated by its other half": lambda x: torch.cat([(h := x.chunk(2, -1))[0] * torch.sigmoid(h[1])] * 2, -1),
    "gated by its mean": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
    "tanh beside its input": lambda x: x + torch.tanh(x),
}


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def saturated(function: Callable[[Tensor], Tensor], size: float = 100.0) -> tuple[list[float], list[str]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), Function(function), nn.Linear(16, 4))
    with torch.no_grad():
        net[0].weight.mul_(size)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    with gl.watch(net, optimizer, every=1) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.randn(32, 16)).square().mean().backward()
            optimizer.step()
    result = watch.result()
    values = result.frame.loc[result.frame["statistic"] == "saturated_fraction", "value"].tolist()
    return values, [finding for finding in result.findings() if "saturated" in finding]


@pytest.mark.parametrize("name", GATED)
def test_gates_of_their_own_input_are_not_rated(name: str) -> None:
    assert saturated(GATED[name]) == ([], [])


@pytest.mark.parametrize("name", BOUNDED)
def test_other_bounded_functions_are(name: str) -> None:
    values, found = saturated(BOUNDED[name])
    assert len(values) == 2
    assert min(values) > 0.5
    assert len(found) == 1


def test_gates_of_a_recurrence_are_rated() -> None:
    """Of a state that is a product of gates of steps before: σ(f) · c + σ(i) · tanh(g)."""
    torch.manual_seed(0)
    inputs = nn.Linear(16, 64)
    with torch.no_grad():
        inputs.weight.mul_(100)

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.head = inputs, nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(len(x), 16)
            for step in x.unbind(1):
                forget, enter, new, out = self.inputs(step).chunk(4, -1)
                state = torch.sigmoid(forget) * state + torch.sigmoid(enter) * torch.tanh(new)
                last = torch.sigmoid(out) * torch.tanh(state)
            return self.head(last)

    net = Cell()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    with gl.watch(net, optimizer, every=1) as watch:
        net(torch.randn(8, 5, 16)).square().mean().backward()
        optimizer.step()
    frame = watch.result().frame
    rated = frame.loc[frame["statistic"] == "saturated_fraction", "layer"]
    # Three gates and two hyperbolic tangents a step.
    assert len(rated) == 25
