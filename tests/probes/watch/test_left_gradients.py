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
    # Of what was there before the first step it is not known whether a step has left it.
    assert not left(watch)
    assert not told(watch)


def critic_alone(x: Tensor) -> gl.Watch:
    """The generator's loss reaches the discriminator after its step, whose gradients are cleared before the next."""
    made, critic = network(), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(critic.parameters(), lr=1e-3)
    with gl.watch(critic, optimizer, every=1) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            critic(made(x).detach()).mean().backward()
            optimizer.step()
            (-critic(made(x)).mean()).backward()
    return watch


def cleared_after_the_forward_pass(x: Tensor) -> gl.Watch:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gl.watch(model, optimizer, every=1) as watch:
        for _ in range(4):
            loss = model(x).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # As of another loss that trains something else.
            model(x).square().mean().backward()
    return watch


def parts_that_no_optimizer_steps(x: Tensor) -> gl.Watch:
    """Their gradients grow for ever, and nothing comes of it; those that were frozen keep what they had."""
    model = network()
    model(x).mean().backward()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[4].parameters(), lr=1e-3)
    with gl.watch(model, optimizer, every=1) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
    return watch


@pytest.mark.parametrize("loop", [critic_alone, cleared_after_the_forward_pass, parts_that_no_optimizer_steps])
def test_gradients_that_are_not_stepped(loop: Callable[[Tensor], gl.Watch]) -> None:
    watch = loop(torch.randn(4, 6))
    assert not left(watch)
    assert not told(watch)


@pytest.mark.parametrize("order", ["frequent first", "rare first"])
@pytest.mark.parametrize("clears", [True, False])
def test_an_optimizer_that_steps_at_every_third_pass(order: str, clears: bool) -> None:
    """Over three passes its gradients accumulate, which belong to one step."""
    model = network()
    parts = [model[4].parameters(), model[:4].parameters()]
    often, rarely = (torch.optim.SGD(part, lr=1e-3) for part in parts)
    others = [*model[:4].parameters()]
    expected = []
    with gl.watch(model, [often, rarely], every=1, measure=["gradients"]) as watch:
        for number, x in enumerate(batches(12)):
            often.zero_grad()
            if number % 3 == 0:
                if clears:
                    rarely.zero_grad()
                elif number:
                    expected.append(sum(p.grad.double().square().sum().item() for p in others) ** 0.5)
            model(x).square().mean().backward()
            due = [often, rarely] if number % 3 == 2 else [often]
            for optimizer in due if order == "frequent first" else reversed(due):
                optimizer.step()
    frame = watch.result().frame
    found = frame[frame["statistic"] == "left_grad_norm"].sort_values("step")
    assert found["value"].tolist() == pytest.approx(expected, rel=1e-6)
    assert set(found["layer"]) <= {"total[1]"}


@pytest.mark.parametrize("forgotten", [0, 1])
def test_one_of_two_optimizers_that_never_clears(forgotten: int) -> None:
    """Hooks are there from the first of two steps on, or only from the second one."""
    model = network()
    optimizers = [torch.optim.SGD(part.parameters(), lr=1e-3) for part in (model[:2], model[2:4])]
    others = [*(model[:2], model[2:4])[forgotten].parameters()]
    expected = {}
    with gl.watch(model, optimizers, every=3, measure=["gradients"]) as watch:
        for step, x in enumerate(batches(7)):
            model.zero_grad() if not step else optimizers[1 - forgotten].zero_grad()
            if step and step % 3 == 0:
                expected[step] = sum(p.grad.double().square().sum().item() for p in others) ** 0.5
            model(x).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert left(watch) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clears", [True, False])
def test_optimizers_that_step_within_the_backward_pass(clears: bool) -> None:
    model = network()
    optimizers = {p: torch.optim.SGD([p], lr=1e-3) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        if clears:
            optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    expected = {}
    with gl.watch(model, [*optimizers.values()], every=1) as watch:
        for number, x in enumerate(batches(4)):
            if number:
                given = [p.grad for p in [*model.parameters()][:-1]]
                expected[number] = sum(0 if g is None else g.double().square().sum().item() for g in given) ** 0.5
            model(x).square().mean().backward()
    assert left(watch) == pytest.approx({} if clears else expected, rel=1e-6)
    assert bool(told(watch)) != clears
