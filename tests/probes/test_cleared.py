"""Gradients that are cleared between the backward passes of a step, which a probe of responses has to tell."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl

NOTE = "had gradients cleared or changed between backward passes"


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def images(seed: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))


def notes(
    loop: Callable[[nn.Module, torch.optim.Optimizer, gl.ResponseGradients], None], layers: object = None
) -> list[str]:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with gl.ResponseGradients(model, layers) as probe:
        loop(model, optimizer, probe)
    return probe.result().notes


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("before_forward", [True, False])
def test_a_second_pass_of_sharpness_aware_minimization_is_told(to_none: bool, before_forward: bool) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, probe: gl.ResponseGradients) -> None:
        for seed in range(3):
            loss = model(images(seed)).square().mean()
            optimizer.zero_grad(to_none)
            loss.backward()
            if seed:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter += 0.05 * parameter.grad  # type: ignore[operator]
                if before_forward:
                    optimizer.zero_grad(to_none)
                again = model(images(seed)).square().mean()
                if not before_forward:
                    optimizer.zero_grad(to_none)
                again.backward()
            probe.step()
            optimizer.step()

    (note,) = notes(loop)
    assert note.startswith(f"2 steps {NOTE}, first step 1: ")


@pytest.mark.parametrize("layers", [None, "0"])
def test_micro_batches_are_no_news(layers: str | None) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, probe: gl.ResponseGradients) -> None:
        for _ in range(3):
            for seed in range(3):
                model(images(seed)).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            probe.step()
            optimizer.step()
            optimizer.zero_grad()

    assert notes(loop, layers) == []


@pytest.mark.parametrize("keeps", [True, False])
def test_several_losses_of_one_graph(keeps: bool) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, probe: gl.ResponseGradients) -> None:
        outputs = model(images(0))
        outputs[:, 0].mean().backward(retain_graph=True)
        if not keeps:
            optimizer.zero_grad()
        outputs[:, 1].mean().backward()
        probe.step()

    assert [NOTE in note for note in notes(loop)] == [True] * (not keeps)


def test_a_loop_without_calls_of_step_is_one_step() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, probe: gl.ResponseGradients) -> None:
        for seed in range(3):
            optimizer.zero_grad()
            model(images(seed)).square().mean().backward()
            optimizer.step()

    (note,) = notes(loop)
    assert note.startswith(f"1 step {NOTE}, first step 0: ")
    assert note.endswith("call probe.step() once for each")


def test_a_pass_that_failed_and_is_tried_again_is_no_news() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer, probe: gl.ResponseGradients) -> None:
        outputs = model(images(0))
        outputs.register_hook(lambda gradient: None)
        handle = model.get_submodule("0").weight.register_hook(fails)  # type: ignore[union-attr, operator]
        with pytest.raises(MemoryError):
            outputs.square().mean().backward()
        handle.remove()
        optimizer.zero_grad()
        model(images(0)[:4]).square().mean().backward()
        probe.step()

    def fails(gradient: Tensor) -> None:
        raise MemoryError

    assert notes(loop) == []
