"""CUDA graphs: a probe that needs its hooks does not let itself be captured, since no replay would call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.errors import GradlabError

PROBES: dict[str, Callable[[nn.Module], Any]] = {
    **{one.__name__: one for one in (gl.ResponseStd, gl.ResponseGradients, gl.InputGradients)},
    **{one.__name__: one for one in (gl.ExampleGradients, gl.BlockSignal)},
    "watch": lambda model: gl.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), every=1),
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_not_captured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))), torch.ones(2, 3)
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    hooks = len(model._forward_pre_hooks)
    with PROBES[name](model):
        model(x)
        capturing = True
        with pytest.raises(GradlabError, match="CUDA graph is being captured"):
            model(x)
    model(x)
    assert len(model._forward_pre_hooks) == hooks
