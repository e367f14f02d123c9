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
    _capturing(monkeypatch, lambda: capturing)
    hooks = len(model._forward_pre_hooks)
    with PROBES[name](model):
        model(x)
        capturing = True
        with pytest.raises(GradlabError, match="CUDA graph is being captured"):
            model(x)
    model(x)
    assert len(model._forward_pre_hooks) == hooks


@pytest.mark.parametrize("kind", [gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients])
def test_a_step_is_not_captured(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(3, 4), torch.ones(2, 3)
    with kind(model) as probe:
        model(x).sum().backward()
        _capturing(monkeypatch, lambda: True)
        with pytest.raises(GradlabError, match=r"CUDA graph is being captured.*step outside of it"):
            probe.step()
        _capturing(monkeypatch, lambda: False)
        probe.step()
    assert probe.steps == 1


def test_a_watched_step_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(3, 4), torch.ones(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1, measure="gradients") as watch:
        model(x).sum().backward()
        _capturing(monkeypatch, lambda: True)
        with pytest.raises(GradlabError, match=r"CUDA graph is being captured.*step outside of it"):
            optimizer.step()
        _capturing(monkeypatch, lambda: False)
        optimizer.step()
    assert watch.steps == [1]


@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.ResponseGradients])
def test_a_compiled_pass_is_not_captured(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    model, x = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), backend="eager"), torch.ones(2, 3)
    with kind(model):
        for _ in range(2):
            model(x)
        _capturing(monkeypatch, lambda: True)
        with pytest.raises(GradlabError, match="CUDA graph is being captured"):
            model(x)


def _capturing(monkeypatch: pytest.MonkeyPatch, capturing: Callable[[], bool]) -> None:
    """Have torch say that a graph is being captured, or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", capturing)
