"""Passes that ResponseStd measures in compiled code, against plain hooks on the same models as they are."""

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from oracles.compiled_responses import READ, Longer, Normalized, answer, brute_force, compiled_passes, images, run
from torch import Tensor, nn

import gradlab as gl
from gradlab.models import create
from gradlab.stats.custom_ops import add_moments


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_passes_after_the_first_run_in_compiled_code(how: str) -> None:
    model, batches = Normalized().eval(), images(5, 5, 5)
    right = brute_force(model, batches, READ)
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(sum(node.target is add_moments for node in graph.graph.nodes))
        return graph.forward

    if how == "wrapper":
        compiled: Any = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
        compiled = model
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(batches[0])
        probe = gl.ResponseStd(compiled)
        for some in (batches[:2], batches[2:]):
            with probe:
                for x in some:
                    compiled(x)
        # Both ways in are as they were: nothing is compiled again, and nothing is measured.
        compiled(batches[0])
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 2
    assert graphs == [0, 5]


def resnet() -> tuple[nn.Module, list[Tensor], dict[str, str]]:
    model = create("resnet8").eval()
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    read = dict(zip(convolutions, norms, strict=True))
    heads = {name: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    batches = list(torch.randn(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return model, batches, {**read, **heads}


def gpt() -> tuple[nn.Module, list[Tensor], dict[str, str]]:
    model = gl.build("gpt1-width=16-heads=2@init").eval()
    read = {n: n for n, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
    tokens = torch.randint(0, model.vocabulary, (3, 2, 12), generator=torch.Generator().manual_seed(0))
    return model, list(tokens), read


@pytest.mark.parametrize(("make", "backend"), [(resnet, "eager"), (gpt, "aot_eager")])
def test_networks(make: Callable[[], tuple[nn.Module, list[Tensor], dict[str, str]]], backend: str) -> None:
    model, batches, read = make()
    right = brute_force(model, batches, read)
    probe = run(torch.compile(model, backend=backend), batches)
    found = answer(probe)
    assert found == pytest.approx({site: right[site] for site in found}, rel=1e-6)
    assert {name for name, _ in found} == set(read)
    assert compiled_passes(probe) == 2


@pytest.mark.slow
def test_inductor() -> None:
    model, batches = Normalized().eval(), images(5, 5, 5)
    right = brute_force(model, batches, READ)
    probe = run(torch.compile(model), batches)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 2


def test_training_goes_on_as_it_would() -> None:
    model, batches = Normalized().train(), images(5, 5, 5, 5)
    twin = copy.deepcopy(model)
    right = brute_force(model, batches, READ)
    compiled, other = torch.compile(model, backend="aot_eager"), torch.compile(twin, backend="aot_eager")
    with gl.ResponseStd(compiled) as probe:
        for x in batches:
            compiled(x).square().sum().backward()
    for x in batches:
        other(x).square().sum().backward()
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 3
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("dynamic", "in_compiled_code"), [(None, 5), (True, 6), (False, 5)])
def test_batches_of_several_sizes(dynamic: bool | None, in_compiled_code: int) -> None:
    """Once two sizes have shown where responses are, others begin in compiled code; symbols stand for all of them."""
    model, batches = Normalized().eval(), images(5, 5, 7, 7, 5, 7, 3)
    right = brute_force(model, batches, READ)
    probe = run(torch.compile(model, backend="eager", dynamic=dynamic), batches)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == in_compiled_code


class Repeats(Normalized):
    """An argument says how often a layer runs."""

    def forward(self, x: Tensor, times: int = 2) -> Tensor:
        x = self.norm(self.a(x))
        return self.head(torch.stack([self.c(x) for _ in range(times)]).sum((0, 3, 4)))


Modes = dict[bool, tuple[bool, ...]]


def in_modes(trained: Modes, called: Any, model: Any) -> None:
    """Modes, precisions, weights that change, and weights without gradients, twice each.

    Args:
        trained: Whether the model is in training mode, in lower precision and in its own.
        called: The model, as it is called.
        model: The model itself.
    """
    for precision, modes in trained.items():
        for training in modes:
            model.train(training)
            for x in images(5, 5):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision):
                    called(x).float().square().sum().backward()
            with torch.no_grad():
                for x in images(5, 5):
                    called(x)
        with torch.no_grad():
            model.b.weight = nn.Parameter(1.5 * model.b.weight)
        model.a.requires_grad_(False)


def repeated(called: Any, model: Any) -> None:
    model.eval()
    for times in (2, 2, 3, 3, 2, 1, 1, 4, 4):
        called(images(5)[0], times)


def in_longer_batches(called: Any, model: Any) -> None:
    """Two sizes that have the same way through the model, and then one that has another."""
    for n in (5, 4, 5, 3, 8, 8, 9, 4):
        called(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)))


def applied_twice(net: Any, x: Tensor) -> Tensor:
    return net.b(net.norm(net.a(net.a(x))))


SOME: Modes = {True: (True,), False: (False,)}
ALL: Modes = {True: (True, False), False: (True, False)}
Way = tuple[Callable[[], nn.Module], Callable[[Any, Any], None], str, int]
WAYS: dict[str, Way] = {
    "modes, precisions and other weights": (Normalized, partial(in_modes, SOME), "aot_eager", 4),
    "all modes, precisions and other weights": (Normalized, partial(in_modes, ALL), "aot_eager", 12),
    "an argument": (Repeats, repeated, "eager", 5),
    "sizes with a way of their own": (
        lambda: Longer(lambda net, x: net.b(net.norm(net.a(net.a(x))))),
        in_longer_batches,
        "eager",
        4,
    ),
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.thorough if way.startswith("all") else ()) for way in WAYS]
)
def test_every_kind_of_pass_has_its_own_compiled_code(way: str) -> None:
    make, go, backend, in_compiled_code = WAYS[way]
    torch.manual_seed(0)
    model = make()
    twin = copy.deepcopy(model)
    with gl.ResponseStd(twin) as eager:
        go(twin, twin)
    compiled: Any = torch.compile(model, backend=backend)
    with warnings.catch_warnings(), gl.ResponseStd(compiled) as probe:
        warnings.filterwarnings("error", ".*eagerly.*")
        go(compiled, model)
    assert answer(probe) == pytest.approx(answer(eager), rel=2e-6)
    assert probe.result().to_frame()["count"].tolist() == eager.result().to_frame()["count"].tolist()
    assert compiled_passes(probe) == in_compiled_code
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        # Compiled code may round to bfloat16 elsewhere.
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)


def test_what_other_batches_show_to_be_normalized_is_measured_there_alone() -> None:
    model = Longer(lambda net, x: net.b(net.a(x))).eval()
    batches = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (8, 8, 8, 5, 5)]
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    probe = run(torch.compile(model, backend="eager"), batches)
    assert answer(probe) == pytest.approx(answer(eager), rel=1e-6)
    assert [note for note in probe.result().notes if "compiled" not in note] == eager.result().notes
    assert compiled_passes(probe) == 3


def test_a_pass_that_fails_is_not_counted() -> None:
    model, batches = Normalized().eval(), images(5, 5, 5, 5)
    right = brute_force(model, [batches[0], batches[1], batches[3]], READ)
    fails = itertools.count()

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            outputs = graph.forward(*values)
            if next(fails) == 1:
                raise MemoryError("no memory")
            return outputs

        return run

    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), gl.ResponseStd(compiled) as probe:
        for x in batches:
            try:
                compiled(x)
            except MemoryError:
                assert x is batches[2]
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 2


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    model, batches = Normalized().eval(), images(5, 5)
    batches[1][0, 0, 0, 0] = math.inf
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    probe = run(torch.compile(model, backend="eager"), batches)
    ours, theirs = probe.result().to_frame(), eager.result().to_frame()
    assert compiled_passes(probe) == 1
    assert ours["non_finite"].tolist() == theirs["non_finite"].tolist()
    assert ours["std"].tolist() == pytest.approx(theirs["std"].tolist(), rel=1e-6)
