"""Loops that people write otherwise than usual, against what each step did to the weights, by hand in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from probes.fragile import Fragile
from torch import Tensor, nn

import gradlab as gl
from gradlab.probes.watch.recorder import Measure


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@dataclass
class Loop:
    """A training by hand that notes what its steps do.

    Attributes:
        model: What is trained.
        optimizer: What trains it.
        steps: Of each step: weight, gradient and update norms by layer.
        losses: Of each step, what its passes began from.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: list[dict[str, dict[str, float]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def loss(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(50 + number)
        x, y = torch.randn(6, 5, generator=generator), torch.randint(3, (6,), generator=generator)
        return F.cross_entropy(self.model(x), y)

    def backward(self, *numbers: int, factor: float = 1.0) -> None:
        losses = [factor * self.loss(number) for number in numbers]
        for loss in losses:
            loss.backward()
        self.losses.append(sum(loss.item() for loss in losses))

    def step(self, call: Callable[[], object] | None = None, scale: float = 1.0) -> None:
        weights = {n.removesuffix(".weight"): p for n, p in self.model.named_parameters() if n.endswith("weight")}
        before = {name: weight.detach().double().clone() for name, weight in weights.items()}
        gradients = {n: w.grad.double().norm().item() / scale for n, w in weights.items() if w.grad is not None}
        (call or self.optimizer.step)()
        moved = {name: (weight.detach().double() - before[name]).norm().item() for name, weight in weights.items()}
        self.steps.append(
            {
                "grad_norm": gradients,
                "weight_norm": {name: before[name].norm().item() for name in gradients},
                "update_norm": {name: moved[name] for name in gradients},
            }
        )


def plain(loop: Loop) -> None:
    for number in range(3):
        loop.optimizer.zero_grad()
        loop.backward(number)
        loop.step()


def accumulated_and_zeroed_in_place(loop: Loop) -> None:
    for number in range(3):
        loop.optimizer.zero_grad(set_to_none=False)
        loop.backward(*range(3 * number, 3 * number + 3), factor=1 / 3)
        loop.step()


def never_zeroed(loop: Loop) -> None:
    for number in range(3):
        loop.backward(number)
        loop.step()


def two_passes_over_one_graph(loop: Loop) -> None:
    for number in range(3):
        loop.optimizer.zero_grad()
        loss = loop.loss(number)
        loss.backward(retain_graph=True)
        (loss / 2).backward()
        loop.losses.append(1.5 * loss.item())
        loop.step()


def gradients_put_there_by_hand(loop: Loop) -> None:
    for number in range(3):
        parameters = list(loop.model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loop.loss(number), parameters), strict=True):
            parameter.grad = gradient
        loop.step()


def sharpness_aware(loop: Loop) -> None:
    for number in range(3):
        loop.optimizer.zero_grad()
        loop.loss(number).backward()
        with torch.no_grad():
            steps = [0.05 * parameter.grad for parameter in loop.model.parameters()]
            torch._foreach_add_(list(loop.model.parameters()), steps)
        loop.optimizer.zero_grad()
        loop.backward(number)
        with torch.no_grad():
            torch._foreach_sub_(list(loop.model.parameters()), steps)
        loop.step()


def a_failing_pass_and_averaged_weights(loop: Loop) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(loop.model)
    for number in range(3):
        with pytest.raises(RuntimeError):
            loop.model(torch.randn(3, 7))
        loop.optimizer.zero_grad()
        loop.backward(number)
        loop.step()
        averaged.update_parameters(loop.model)
        averaged(torch.ones(2, 5)).sum()


def unfrozen_in_the_middle(loop: Loop) -> None:
    first = list(loop.model[0].parameters())  # type: ignore[index]
    loop.optimizer.param_groups[0]["params"] = list(loop.model[2:].parameters())  # type: ignore[index]
    for parameter in first:
        parameter.requires_grad_(False)
    for number in range(3):
        loop.optimizer.zero_grad()
        loop.backward(number)
        loop.step()
        if number == 0:
            for parameter in first:
                parameter.requires_grad_(True)
            loop.optimizer.add_param_group({"params": first, "lr": 0.01})


def the_first_layer_alone_unfrozen(loop: Loop) -> None:
    """Of a layer that was frozen when the watch began, with gradients that are clipped."""
    loop.model[0].requires_grad_(True)  # type: ignore[index]
    loop.model[2:].requires_grad_(False)  # type: ignore[index]
    for number in range(3):
        loop.optimizer.zero_grad()
        loop.backward(number)
        norm = nn.utils.clip_grad_norm_(loop.model.parameters(), 0.01).item()
        loop.step(scale=0.01 / norm)


def scaled_and_scheduled(loop: Loop) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(loop.optimizer, 0.2, total_steps=6)
    for number in range(3):
        loop.optimizer.zero_grad()
        loss = loop.loss(number)
        scaler.scale(loss).backward()
        loop.losses.append(loss.item())
        loop.step(lambda: scaler.step(loop.optimizer), 512.0)
        scaler.update()
        schedule.step()


class Signs(torch.optim.Optimizer):
    """Steps by signs, and leaves gradients of 0 behind."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(0.1 * parameter.grad.sign())
            parameter.grad.zero_()


Parameters = list[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "maximize": lambda p: torch.optim.Adam(p, lr=0.01, maximize=True, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "one by one": lambda p: torch.optim.RAdam(p, lr=0.01, foreach=False),
    "a rate in a tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "one's own": Signs,
}
LOOPS = [
    *[("momentum", loop) for loop in (accumulated_and_zeroed_in_place, never_zeroed, two_passes_over_one_graph)],
    *[("momentum", loop) for loop in (gradients_put_there_by_hand, sharpness_aware, unfrozen_in_the_middle)],
    *[("momentum", loop) for loop in (a_failing_pass_and_averaged_weights, scaled_and_scheduled)],
    *[(name, plain) for name in OPTIMIZERS],
]


@pytest.mark.parametrize(("optimizer", "write"), LOOPS, ids=lambda given: getattr(given, "__name__", given))
def test_a_loop_is_seen_as_it_is(optimizer: str, write: Callable[[Loop], None]) -> None:
    model = net()
    loop = Loop(model, OPTIMIZERS[optimizer](list(model.parameters())))
    with gl.watch(model, loop.optimizer, every=1) as watch:
        write(loop)
    frame = watch.result().frame.set_index(["step", "layer", "statistic"])["value"]
    assert frame.index.is_unique
    for number, step in enumerate(loop.steps):
        for statistic, norms in step.items():
            for layer, norm in norms.items():
                assert math.isclose(frame[number, layer, statistic], norm, rel_tol=2e-5, abs_tol=1e-9), statistic
    for number, loss in enumerate(loop.losses):
        assert frame[number, "total", "loss"] == pytest.approx(loss, rel=1e-5)


def test_a_layer_that_is_unfrozen_while_it_is_watched() -> None:
    """The others being frozen, no backward pass reaches a parameter that was trained when the watch began."""
    model = net()
    model[0].requires_grad_(False)
    loop = Loop(model, torch.optim.SGD(model.parameters(), 0.1))
    with gl.watch(model, loop.optimizer, every=1) as watch:
        the_first_layer_alone_unfrozen(loop)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    result = watch.result()
    assert result.notes == ["2, 4: frozen (requires_grad is off), so there is no gradient"]
    frame = result.frame.set_index(["step", "layer", "statistic"])["value"]
    for number, (step, loss) in enumerate(zip(loop.steps, loop.losses, strict=True)):
        assert frame[number, "0", "grad_norm"] == pytest.approx(step["grad_norm"]["0"], rel=1e-4)
        assert frame[number, "total", "grad_norm_clipped"] == pytest.approx(0.01, rel=1e-3)
        assert frame[number, "total", "loss"] == pytest.approx(loss, rel=1e-5)


def test_passes_that_torch_func_transforms_count_as_others() -> None:
    """Gradients of single examples beside the training: no transform forbids the sums to change."""
    model = net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x,)).square().mean()

    x, y = torch.randn(6, 5).double(), torch.randn(3, 5).double()
    with gl.watch(model, optimizer, every=1) as watch:
        torch.func.grad(loss)(weights, x)
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x[:, None])
        torch.func.jvp(model, (x,), (x,))
        model(y).square().mean().backward()
        optimizer.step()
    h = F.linear(torch.cat([x, x, x, y]), weights["0.weight"], weights["0.bias"])
    found = watch.result().to_frame().set_index(["layer", "statistic"])["value"]
    expected = {
        "response_std": h.std(correction=0).item(),
        "response_mean": h.mean().item(),
        "response_max": h.abs().max().item(),
        "zero_fraction": (h <= 0).double().mean().item(),
    }
    assert {name: found["0", name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_gradients_without_a_backward_pass_are_noted() -> None:
    model = net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(3, 5).double()).square().mean().backward()
        optimizer.step()
        gradients = torch.autograd.grad(model(torch.randn(3, 5).double()).square().mean(), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    result = watch.result()
    assert "1 steps had no backward pass" in " ".join(result.notes)
    found = result.to_frame().set_index(["layer", "statistic", "step"])["value"]
    assert found["0", "grad_norm", 1] == pytest.approx(gradients[0].norm().item(), rel=1e-9)
    assert ("0", "response_grad_rms", 0) in found.index
    assert ("0", "response_grad_rms", 1) not in found.index


def statistics_by_hand(model: nn.Sequential, x: Tensor) -> dict[tuple[str, str], float]:
    """The std of the responses of linear layers, the RMS of their gradients, and the loss, of one pass by hand."""
    h, responses = x, {}
    for name, part in model.named_children():
        h = part(h)
        if isinstance(part, nn.Linear):
            responses[name] = h
    loss = h.square().mean()
    gradients = torch.autograd.grad(loss, list(responses.values()))
    found = {(name, "response_std"): h.std(correction=0).item() for name, h in responses.items()}
    found |= {
        (n, "response_grad_rms"): g.square().mean().sqrt().item() for n, g in zip(responses, gradients, strict=True)
    }
    return found | {("total", "loss"): loss.item()}


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("measure", [["responses"], ["responses", "response_gradients", "gradients"]])
def test_a_backward_pass_that_fails_belongs_to_no_step(measure: list[Measure], clear: bool) -> None:
    """As one does that has too little memory for a large batch, after which a small one is taken."""
    model = Fragile(*net()).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gl.watch(model, optimizer, every=1, measure=measure) as watch:
        for step in range(2):
            small, large = torch.randn(3, 5).double(), 5 * torch.randn(7, 5).double()
            model.fail(large)
            if clear:
                optimizer.zero_grad()
            kinds = measure_of(measure)
            expected = {key: value for key, value in statistics_by_hand(model, small).items() if key[1] in kinds}
            model(small).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            found = watch.result().to_frame().set_index(["step", "layer", "statistic"])["value"][step]
            assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert not watch.result().notes


def measure_of(measure: list[Measure]) -> list[str]:
    """The statistics of `statistics_by_hand` that are measured."""
    return ["loss", "response_std", *(["response_grad_rms"] if "response_gradients" in measure else [])]


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_cleared_after_the_next_forward_pass(to_none: bool) -> None:
    """Loss and gradients are of the last pass, as the gradients of weights are; responses of both, which is said."""
    model = net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    first, second = 5 * torch.randn(7, 5).double(), torch.randn(3, 5).double()
    expected = statistics_by_hand(model, second)
    both = model[0](torch.cat([first, second])).std(correction=0).item()
    with gl.watch(model, optimizer, every=1) as watch:
        model(first).square().mean().backward()
        loss = model(second).square().mean()
        optimizer.zero_grad(set_to_none=to_none)
        loss.backward()
        optimizer.step()
    found = watch.result().to_frame().set_index(["layer", "statistic"])["value"]
    known = {key: value for key, value in expected.items() if key[1] != "response_std"}
    assert {key: found[key] for key in known} == pytest.approx(known, rel=1e-6)
    assert found["0", "response_std"] == pytest.approx(both, rel=1e-6)
    assert "1 steps had gradients cleared or changed between their backward passes" in " ".join(watch.result().notes)


def test_an_ensemble_has_gradients_of_responses_and_no_loss() -> None:
    models = [net().double() for _ in range(2)]
    models[1][0].weight.data.mul_(2)
    weights, _ = torch.func.stack_module_state(models)  # type: ignore[arg-type]
    base, x = net().double(), torch.randn(4, 5).double()
    with gl.watch(base, torch.optim.SGD([*base.parameters()], 0.1), every=1) as watch:
        out = torch.func.vmap(lambda own: torch.func.functional_call(base, own, (x,)))(weights)
        out.square().mean().backward()
        watch.optimizers[0].step()
    squares = [(statistics_by_hand(model, x)["0", "response_grad_rms"] / 2) ** 2 for model in models]
    result = watch.result()
    found = result.to_frame().set_index(["layer", "statistic"])["value"]
    assert found["0", "response_grad_rms"] == pytest.approx(math.sqrt(sum(squares) / 2), rel=1e-6)
    assert ("total", "loss") not in found.index
    assert [note.partition(":")[2] for note in result.notes] == [" they have no loss"]


def test_a_failing_pass_within_steps_has_no_responses_of_the_next() -> None:
    """Optimizers that it has called are a step ahead of the others, and their record is of that pass alone."""
    model = Fragile(*net()).double()
    optimizers = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    small, large = torch.randn(3, 5).double(), 5 * torch.randn(7, 5).double()
    expected = statistics_by_hand(model, large)
    with gl.watch(model, list(optimizers.values()), every=1) as watch:
        model.fail(large)
        model(small).square().mean().backward()
    found = watch.result().to_frame().set_index(["step", "layer", "statistic"])["value"][0]
    for statistic in ("response_std", "response_grad_rms"):
        assert found["4", statistic] == pytest.approx(expected["4", statistic], rel=1e-6)
    assert "had a backward pass that failed" in " ".join(watch.result().notes)
