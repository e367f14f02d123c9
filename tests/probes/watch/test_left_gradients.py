"""Gradients that nobody clears between two steps: measured and told, and no other way of clearing them is."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def left(watch: gl.Watch) -> dict[int, float]:
    frame = watch.result().frame
    rows = frame[frame["statistic"] == "left_grad_norm"]
    return dict(zip(rows["step"], rows["value"], strict=True))


def told(watch: gl.Watch) -> list[str]:
    return [finding for finding in watch.result().findings() if "add to the gradients" in finding]


def batches(count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(4, 6, generator=generator)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("micro", [1, 2])
def test_a_loop_that_never_clears_gradients(every: int, micro: int) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    # The last layer's bias is reached first: it has been added to as the others are looked at.
    others = [*model.parameters()][:-1]
    expected = {}
    with gl.watch(model, optimizer, every=every) as watch:
        for step in range(7):
            if step % every == 0 and step:
                expected[step] = sum(p.grad.double().square().sum().item() for p in others) ** 0.5
            for x in batches(micro):
                model(x).square().mean().backward()
            optimizer.step()
    assert left(watch) == pytest.approx(expected, rel=1e-6)
    assert told(watch) == [
        f"Sequential: backward passes add to the gradients of the steps before, since step {every} of those recorded: "
        "zero_grad() may be missing between steps."
    ]
    assert told(watch)[0].rule.startswith("Told where gradients are not 0")


def set_to_none(model: nn.Module) -> None:
    model.zero_grad()


def zeroed(model: nn.Module) -> None:
    model.zero_grad(set_to_none=False)


def zeroed_behind_autograd(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


def replaced(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


def decayed(model: nn.Module) -> None:
    """A momentum in the gradients themselves."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0.9)


@pytest.mark.parametrize("clear", [set_to_none, zeroed, zeroed_behind_autograd, replaced, decayed])
@pytest.mark.parametrize("place", ["first", "between", "last"])
@pytest.mark.parametrize("every", [1, 2])
def test_every_way_of_clearing_them(clear: Callable[[nn.Module], None], place: str, every: int) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    with gl.watch(model, optimizer, every=every) as watch:
        for x in batches(6):
            if place == "first":
                clear(model)
            loss = model(x).square().mean()
            if place == "between":
                clear(model)
            loss.backward()
            model(x).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            if place == "last":
                clear(model)
    assert not left(watch)
    assert not told(watch)


def test_gradients_that_the_loss_of_another_network_has_left_are_its_own() -> None:
    """The generator's loss reaches the discriminator, which clears its gradients before its own step alone."""
    parts = nn.ModuleDict({"made": network(), "told": nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))})
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=1e-3) for name, part in parts.items()}
    with gl.watch(parts, list(optimizers.values()), every=1) as watch:
        for x in batches(4):
            optimizers["told"].zero_grad()
            parts["told"](parts["made"](x).detach()).mean().backward()
            optimizers["told"].step()
            optimizers["made"].zero_grad()
            (-parts["told"](parts["made"](x)).mean()).backward()
            optimizers["made"].step()
    assert not left(watch)


def test_closures_and_a_single_pass_before_the_watch() -> None:
    model = network()
    model(torch.randn(4, 6)).mean().backward()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> Tensor:
        loss = model(torch.ones(4, 6)).square().mean()
        loss.backward()
        return loss

    with gl.watch(model, optimizer, every=1) as watch:
        for _ in range(3):
            optimizer.step(closure)
            optimizer.zero_grad()
    # What was there before the first step was not cleared, and this is told of no loop that clears the rest.
    assert [*left(watch)] == [0]
    assert not told(watch)
