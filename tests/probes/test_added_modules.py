"""Modules that are added while a probe is attached are named, as are those that are replaced."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradlab as gl


@pytest.mark.parametrize("layers", [None, "0"])
@pytest.mark.parametrize("make", [gl.ResponseStd, gl.ResponseGradients])
def test_they_are_named(make: Callable[..., Any], layers: str | None) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with make(model, layers) as probe:
        model(torch.ones(2, 4)).square().sum().backward()
        model.append(nn.Linear(4, 5))
        model.append(nn.LayerNorm(5))
        model(torch.ones(2, 4)).square().sum().backward()
    result = probe.result()
    assert any(note.startswith("2: added to the model while the probe was attached") for note in result.notes)
    assert str(result.coverage).startswith("measured 1 of 2 weight layers")


GROWN = "2.weight, 2.bias, 3.weight, … (4 in all): added to the model while the probe was attached; not measured"


def grow(model: nn.Sequential, step: Callable[[], None]) -> None:
    """Take two steps, before the second of which the model has two more modules."""
    for grown in (False, True):
        if grown:
            model.append(nn.Linear(4, 5))
            model.append(nn.LayerNorm(5))
        model(torch.randn(3, 4)).square().sum(1).mean().backward()
        step()
        model.zero_grad()


@pytest.mark.parametrize("attached", [False, True])
def test_their_gradients_are_named_as_missing_in_totals(attached: bool) -> None:
    for make, right in (
        (gl.ExampleGradients, GROWN),
        (lambda model: gl.ParameterGradients(model, parameters="all"), GROWN),
        (gl.ParameterGradients, "2.weight: added to the model while the probe was attached; not measured"),
    ):
        model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        with make(model) as probe:
            grow(model, probe.step)
            during = probe.result()
        assert right in (during if attached else probe.result()).notes
        model.append(nn.Linear(5, 5))
        assert right in probe.result().notes


def test_a_parameter_that_moves_is_not_one_of_them() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.ModuleDict({"first": first, "last": last})
    with gl.ParameterGradients(model) as probe:
        model["head"] = model.pop("last")
        last(first(torch.ones(2, 4))).square().sum().backward()
        probe.step()
    result = probe.result()
    assert result.notes == []
    expected = [float(torch.linalg.vector_norm(weight.grad)) for weight in (first.weight, last.weight)]
    assert result.layers()["grad_norm"].tolist() == pytest.approx(expected)


def test_a_watch_names_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        grow(model, optimizer.step)
        assert GROWN in watch.result().notes
    assert GROWN in watch.result().notes
