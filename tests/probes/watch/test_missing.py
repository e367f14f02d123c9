"""What records do not have, and where weights stand that were not seen to be used."""

import pytest
import torch
from probes.watch.loop import made
from torch import Tensor, nn

import gradlab as gl
from gradlab.probes.watch.writer import in_order


class Positions(nn.Module):
    """Embeddings of positions of its own, and layers behind each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.positions = nn.Parameter(torch.zeros(3, 8))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor, detached: int | None = None) -> Tensor:
        x = x + self.positions
        for number, layer in enumerate(self.layers):
            x = layer(x.detach() if number == detached else x)
        return x


def test_weights_that_no_layer_applies_come_where_their_module_begins() -> None:
    model = made(lambda: nn.Sequential(nn.Linear(8, 8), Positions()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(5, 3, 8)).square().mean().backward()
        optimizer.step()
    frame = watch.result().to_frame()
    order = frame[frame["index"] > 0].drop_duplicates("layer").sort_values("index")["layer"].tolist()
    assert order == ["0", "1.positions", *(f"1.layers.{number}" for number in range(4)), "1.unused"]


@pytest.mark.parametrize(
    ("seen", "owners", "order"),
    [
        # A packed weight stays behind those of its module.
        (["a.q", "b"], {"a.q": "a", "a.k": "a", "b": "b"}, ["a.q", "a.k", "b"]),
        # Of the model itself, and of a part that has activations alone.
        (
            ["a", "b.relu", "b.c"],
            {"x": "", "y": "", "a": "a", "b.z": "b", "b.c": "b.c"},
            ["x", "y", "a", "b.z", "b.relu", "b.c"],
        ),
        # What has not run: the first of all, and in between.
        (["b", "d"], {"a": "a", "b": "b", "c": "c", "d": "d"}, ["a", "b", "c", "d"]),
    ],
)
def test_the_order_of_weights_that_were_not_seen(seen: list[str], owners: dict[str, str], order: list[str]) -> None:
    assert in_order(seen, owners) == order


@pytest.mark.parametrize("measure", [["gradients"], ["responses", "gradients", "updates"]])
def test_layers_without_gradients_are_named_with_the_reason(measure: list) -> None:
    model = made(Positions)
    model.layers[3].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1, measure=measure) as watch:
        for detached in (None, 2):
            optimizer.zero_grad()
            model(torch.randn(5, 3, 8), detached).square().mean().backward()
            optimizer.step()
    result = watch.result()
    assert result.notes == [
        "layers.3: frozen (requires_grad is off), so there is no gradient",
        "unused: the loss does not reach it: there is no gradient",
        "positions, layers.0, layers.1: the loss does not reach it: there is no gradient, at some of the records",
    ]
    told = [finding for finding in result.findings() if "no gradient" in finding]
    cut = "Positions: no gradient arrives in 2 of 5 layers, the last of them layers.1, since step 1 of those recorded."
    assert told == ([cut] if "responses" in measure else [])


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_cleared_before_the_step(to_none: bool) -> None:
    model = made(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        for wrong in (False, True, True):
            model(torch.randn(5, 8)).square().mean().backward()
            if wrong:
                optimizer.zero_grad(to_none)
            optimizer.step()
            optimizer.zero_grad()
    told = [finding for finding in watch.result().findings() if "zero_grad()" in finding]
    assert len(told) == 1
    assert "no gradient but 0, since step 1 of those recorded" in told[0]


def test_a_response_without_a_number_does_not_lack_digits() -> None:
    model = made(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    model[0].weight.data.fill_(torch.nan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(5, 8)).mean().backward()
        optimizer.step()
    result = watch.result()
    assert result.notes == []
    assert "at step 0 the response of 0 is the first not to be finite" in result.findings()[0]
