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
