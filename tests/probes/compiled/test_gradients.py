"""ResponseGradients on compiled models, against hooks of plain tensors in the same models as they are."""

import copy
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oracles.compiled_gradients import Loop, brute_force, compiled_passes, measured, trained
from oracles.compiled_responses import READ, Normalized, images
from torch import Tensor, nn

import gradlab as gl
from gradlab.models import create


# Other tests here are in float32.
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.thorough)])
def test_steps_after_the_first_run_in_compiled_code(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, loop = Normalized().to(dtype), trained([x.to(dtype) for x in images(5, 5, 5)])
    twin = copy.deepcopy(model)
    right = brute_force(model, READ, loop)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, probe = measured(torch.compile(model, backend="aot_eager"), model, loop)
    assert found.keys() == right.keys()
    for site, norms in right.items():
        assert found[site] == pytest.approx(norms, rel=1e-6 if dtype is torch.float32 else 1e-12)
    assert compiled_passes(probe) == 2
    loop(torch.compile(twin, backend="aot_eager"), twin, lambda: None)
    for ours, theirs in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.thorough
def test_inductor() -> None:
    model, loop = Normalized(), trained(images(5, 5, 5))
    right = brute_force(model, READ, loop)
    found, probe = measured(torch.compile(model), model, loop)
    assert found.keys() == right.keys()
    assert all(found[site] == pytest.approx(norms, rel=1e-6) for site, norms in right.items())
    assert compiled_passes(probe) == 2


def test_a_network_with_blocks() -> None:
    model = create("resnet8")
    batches = list(torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    loop = trained(batches)
    with gl.ResponseGradients(model) as probe:
        blocks = list(probe.blocks)
    read = {**dict(zip(convolutions, norms, strict=True)), **{name: name for name in blocks}}
    read |= {name: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    right = brute_force(model, read, loop)
    found, probe = measured(torch.compile(model, backend="eager"), model, loop)
    assert blocks
    assert found.keys() == right.keys()
    assert all(found[site] == pytest.approx(norms, rel=1e-6) for site, norms in right.items())
    assert compiled_passes(probe) == 1


class Kept(nn.Module):
    """A layer on as many rows as an attribute says, of the tensor in an object."""

    keep = 8

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, given: SimpleNamespace) -> Tensor:
        out: Tensor = self.a(given.x[: self.keep])
        return out


@pytest.mark.parametrize("dynamic", [None, True])
def test_counts_of_elements_are_those_of_the_pass_that_ran(dynamic: bool | None) -> None:
    """Neither what a module holds nor what an object holds is part of the kind of a pass."""
    model, numel = Kept(), []
    compiled = torch.compile(model, backend="eager", dynamic=dynamic)
    with gl.ResponseGradients(compiled) as probe:
        for rows, keep in ((8, 8), (8, 8), (8, 3), (6, 8), (7, 8), (9, 8)):
            model.keep = keep
            compiled(SimpleNamespace(x=torch.ones(rows, 4))).sum().backward()
            numel.append(4 * min(rows, keep))
            probe.step()
    assert probe.result().frame["response_numel"].tolist() == numel
    assert (probe.result().frame["response_grad_rms"] == 1).all()
    assert compiled_passes(probe) == 5


def in_many_ways(called: Any, model: Any, step: Callable[[], None]) -> None:
    """Micro-batches, evaluation, a frozen layer, inputs with gradients, passes that count for nothing, autocast."""
    for frozen in (False, True):
        model.a.requires_grad_(not frozen)
        for _ in range(2):
            for x in images(5, 5):
                called(x).square().mean().backward()
            step()
            with torch.no_grad():
                model.eval()
                called(images(5)[0])
                model.train()
            x = images(5)[0].requires_grad_()
            called(x).square().mean().backward()
            step()
            with torch.autocast("cpu", torch.bfloat16):
                called(x).float().square().mean().backward()
            step()


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.thorough)])
def test_every_kind_of_pass(backend: str) -> None:
    torch.manual_seed(0)
    model = Normalized()
    right = brute_force(model, READ, in_many_ways)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*eagerly.*")
        found, probe = measured(torch.compile(model, backend=backend), model, in_many_ways)
    assert found.keys() == right.keys()
    for site, norms in right.items():
        # Compiled code may round to bfloat16 elsewhere.
        assert found[site] == pytest.approx(norms, rel=2e-2)
        exact = [number for number in range(len(norms)) if number % 3 != 2]
        assert [found[site][n] for n in exact] == pytest.approx([norms[n] for n in exact], rel=1e-6)
    assert compiled_passes(probe) >= 12


class Residual(nn.Module):
    """A stream to which branches are added in place, and changes of weights between passes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.act = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.a(x)
        branch = self.b(self.act(self.norm(stream)))
        branch += stream
        return self.head(self.act(branch))


def with_other_weights(called: Any, model: Any, step: Callable[[], None]) -> None:
    for n in (5, 5, 5, 5):
        called(torch.randn(n, 6, generator=torch.Generator().manual_seed(n))).square().mean().backward()
        step()
        model.b.weight = nn.Parameter(1.5 * model.b.weight.detach())


def test_what_is_added_in_place_and_weights_that_are_replaced() -> None:
    torch.manual_seed(0)
    model = Residual()
    right = brute_force(model, {"a": "norm", "b": "b", "head": "head"}, with_other_weights)
    found, probe = measured(torch.compile(model, backend="aot_eager"), model, with_other_weights)
    assert found.keys() == right.keys()
    assert all(found[site] == pytest.approx(norms, rel=1e-6) for site, norms in right.items())
    assert compiled_passes(probe) == 3


class Two(Normalized):
    """Two outputs, of which the loss leaves one out."""

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.a(x))
        return self.head(self.b(x).mean((2, 3))), self.c(x)


class Tapped(nn.Module):
    """A module that uses its output as well."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.use = nn.Parameter(torch.eye(4) + 0.1), use
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x @ self.weight)


class Around(nn.Module):
    def __init__(self, use: Callable[[Any, Tensor], Tensor], after: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.tapped, self.head, self.after = nn.Linear(4, 4), Tapped(use), nn.Linear(4, 3), after

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self, self.tapped(self.a(x))))


def kept(tapped: Any, x: Tensor) -> Tensor:
    tapped.kept = x * 2
    return x


def rows(tapped: Any, x: Tensor) -> Tensor:
    tapped.kept = x
    return x[:3]


USES: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[Any, Tensor], Tensor]]] = {
    "also used by other functions": (kept, lambda net, x: x + net.tapped.kept),
    "memory of a response is used": (rows, lambda net, x: x + net.tapped.kept.mul_(2)[2:]),
}


@pytest.mark.parametrize("reason", USES)
def test_a_response_that_is_used_in_other_ways_has_its_gradient_in_eager_code(reason: str) -> None:
    torch.manual_seed(0)
    model = Around(*USES[reason])
    loop = trained(list(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))))
    right = brute_force(model, {"tapped": "tapped", "a": "a", "head": "head"}, loop)
    with pytest.warns(UserWarning, match=reason):
        found, probe = measured(torch.compile(model, backend="eager"), model, loop, layers=["a", "tapped", "head"])
    assert found.keys() == right.keys()
    assert all(found[site] == pytest.approx(norms, rel=1e-6) for site, norms in right.items())
    assert compiled_passes(probe) == 0


def of_the_first(called: Any, model: Any, step: Callable[[], None]) -> None:
    for x in images(5, 5, 5):
        called(x)[0].square().mean().backward()
        step()


def with_two_losses(called: Any, model: Any, step: Callable[[], None]) -> None:
    for x in images(5, 5, 5):
        output = called(x)
        (output[:, 0].sum() + output[:, 1].sum()).backward()
        step()


def with_two_passes(called: Any, model: Any, step: Callable[[], None]) -> None:
    """The same losses in a backward pass each."""
    for x in images(5, 5, 5):
        output = called(x)
        output[:, 0].sum().backward(retain_graph=True)
        output[:, 1].sum().backward()
        step()


LOOPS: dict[str, tuple[Callable[[], nn.Module], Loop, Loop]] = {
    "several outputs have graphs": (Two, of_the_first, of_the_first),
    "several losses go through one graph": (Normalized, with_two_passes, with_two_losses),
}


@pytest.mark.parametrize("reason", LOOPS)
def test_what_compiled_code_would_not_show_runs_eagerly(reason: str) -> None:
    torch.manual_seed(0)
    make, loop, same = LOOPS[reason]
    model = make()
    right = brute_force(model, READ, same)
    with pytest.warns(UserWarning, match=reason):
        found, probe = measured(torch.compile(model, backend="eager"), model, loop)
    assert {site: norms for site, norms in found.items() if site in right} == found
    assert all(found[site] == pytest.approx(norms, rel=1e-6) for site, norms in right.items())
    assert compiled_passes(probe) == 0


def limited(output: Tensor, model: Any) -> None:
    output.square().mean().backward(inputs=list(model.parameters()))


def twice(output: Tensor, model: Any) -> None:
    output[:, 0].sum().backward(retain_graph=True)
    output[:, 1].sum().backward()


@pytest.mark.parametrize(("backward", "reason"), [(limited, "some leaves only"), (twice, "several passes")])
def test_a_backward_pass_of_another_kind_is_named_once_and_then_measured(
    backward: Callable[[Tensor, Any], None], reason: str
) -> None:
    model, batches = Normalized(), images(5, 5, 5)
    compiled: Any = torch.compile(model, backend="eager")
    with warnings.catch_warnings(record=True), gl.ResponseGradients(compiled) as probe:
        for number, x in enumerate(batches):
            output = compiled(x)
            # What another purpose takes of the graph counts for nothing.
            torch.autograd.grad(output.sum(), list(model.b.parameters()), retain_graph=True)
            if number:
                backward(output, model)
            else:
                output.sum().backward()
            probe.step()
    frame = probe.result().frame
    absent = frame.pivot(index="step", columns=["layer", "call"], values="absent")
    assert absent.loc[[0, 2]].isna().all(axis=None)
    assert (absent.loc[1] == reason).all()


def test_hooks_of_modules_for_the_backward_pass_run() -> None:
    torch.manual_seed(0)
    model, loop = Normalized(), trained(images(5, 5, 5))
    model.head.register_full_backward_hook(lambda module, given, gradients: (3 * given[0],))
    right = brute_force(model, READ, loop)
    with pytest.warns(UserWarning, match="hooks for the backward pass"):
        found, _ = measured(torch.compile(model, backend="eager"), model, loop)
    assert all(found[site] == pytest.approx(norms, rel=1e-6) for site, norms in right.items())


def test_steps_that_are_not_measured() -> None:
    torch.manual_seed(0)
    model, loop = Normalized(), trained(images(5, 5, 5, 5))
    right = brute_force(model, READ, loop)
    found, probe = measured(torch.compile(model, backend="eager"), model, loop, every=2)
    assert all(found[site] == pytest.approx(norms[::2], rel=1e-6) for site, norms in right.items())
    assert compiled_passes(probe) == 3
