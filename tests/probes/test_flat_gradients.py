"""Gradients that are views of one buffer, whose count of changes in place is common to all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

PASSES = 3


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def batch(number: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def flatten(model: nn.Module) -> Tensor:
    """Make all gradients views of one buffer."""
    buffer = torch.zeros(sum(parameter.numel() for parameter in model.parameters()), dtype=torch.float64)
    parts = buffer.split([parameter.numel() for parameter in model.parameters()])
    for parameter, part in zip(model.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return buffer


def trained(attach: Callable[[nn.Module, torch.optim.Optimizer], Any], clears: bool = False) -> tuple[Any, float]:
    """Accumulate three batches in one buffer, by request clear it after the first; return the probe and the loss."""
    model, loss = net(), 0.0
    optimizer, buffer = torch.optim.SGD(model.parameters(), lr=0.1), flatten(model)
    with attach(model, optimizer) as probe:
        for number in range(PASSES):
            if clears and number == 1:
                buffer.zero_()
                loss = 0.0
            of_batch = model(batch(number)).square().mean()
            of_batch.backward()
            loss += of_batch.item()
        if hasattr(probe, "step"):
            probe.step()
        optimizer.step()
    return probe.result(), loss


@pytest.mark.parametrize("clears", [False, True])
def test_watch(clears: bool) -> None:
    result, loss = trained(lambda model, optimizer: gl.watch(model, optimizer, every=1), clears)
    frame = result.to_frame().set_index("statistic")
    assert frame.loc["loss", "value"] == pytest.approx(loss, rel=1e-6)
    assert result.notes == []
    model, gradients = net(), []
    for number in range(clears, PASSES):
        response = F.linear(batch(number), *model[0].parameters())
        gradients.append(torch.autograd.grad(model[1:](response).square().mean(), response)[0])
    expected = torch.cat(gradients).square().mean().sqrt().item()
    assert frame[frame["layer"] == "0"].loc["response_grad_rms", "value"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clears", [False, True])
@pytest.mark.parametrize("layers", [None, "0"])
def test_responses(layers: str | None, clears: bool) -> None:
    result, _ = trained(lambda model, _: gl.ResponseGradients(model, layers), clears)
    assert ["cleared or changed" in note for note in result.notes] == [True] * clears


@pytest.mark.parametrize("clears", [False, True])
def test_examples(clears: bool) -> None:
    result, _ = trained(lambda model, _: gl.ExampleGradients(model), clears)
    model, norms = net(), []
    for example in torch.cat([batch(number) for number in range(clears, PASSES)]):
        loss = model(example[None]).square().mean()
        norms.append(torch.autograd.grad(loss, model[0].weight)[0].norm().item())
    # Each batch's loss is a mean over its own examples, and not over those of all batches.
    expected = (PASSES - clears) * sum(norms) / len(norms)
    assert result.layers().set_index("layer").loc["0", "example_norm"] == pytest.approx(expected, rel=1e-6)
