"""Passes of compiled models that run eagerly while ResponseStd measures them, and the reasons that are given."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles.compiled_responses import (
    READ,
    Longer,
    Normalized,
    answer,
    brute_force,
    compiled_passes,
    counted_passes,
    images,
    run,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradlab as gl


def test_more_sizes_than_torch_compiles_for_run_eagerly_and_it_is_said() -> None:
    model, sizes = Normalized().eval(), [5, 7, 3, 4, 6, 8]
    batches = images(*sizes, *sizes)
    right = brute_force(model, batches, READ)
    with torch._dynamo.config.patch(recompile_limit=3), pytest.warns(UserWarning, match="runs eagerly"):
        probe = run(torch.compile(model, backend="eager", dynamic=False), batches)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 6


class Breaks(Normalized):
    """A graph break: what happens depends on a value."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        return self.head((self.b(x) if x.sum() > 0 else self.c(x)).mean((2, 3)))


class Prints(Normalized):
    """A graph break between two layers, after a number has come to the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        print(f"{x.sum().item():.0f}"[:0], end="")
        return self.head(self.b(x).mean((2, 3)))


class Tied(Normalized):
    """A function applies a layer's weight outside of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.conv2d(x, self.a.weight, padding=1)[:, :2])


def said(record: list[warnings.WarningMessage]) -> str:
    return " ".join(str(warning.message) for warning in record)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(Breaks, "torch.compile gives up"), (Prints, "torch.compile gives up"), (Tied, "functions may apply weights")],
)
def test_what_cannot_be_proved_runs_eagerly_and_says_so(make: Callable[[], nn.Module], reason: str) -> None:
    model, batches = make().eval(), images(5, 5, 5)
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    with pytest.warns(UserWarning, match="runs eagerly") as record:
        probe = run(torch.compile(model, backend="eager"), batches)
    assert reason in said(record)
    assert answer(probe) == pytest.approx(answer(eager), rel=1e-12)
    assert compiled_passes(probe) == 0


def doubled(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    x.mul_(2)
    return net.b(net.norm(x))


OTHERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "called in another way": lambda net, x: net.b(net.norm(net.a(net.a(x)))),
    "other layers are normalized": lambda net, x: net.b(net.norm(net.a(x) + 1)),
    "functions normalize": lambda net, x: F.layer_norm(net.b(net.norm(net.a(x))), (4,)),
    "uses the weight of a layer": lambda net, x: net.b(net.norm(net.a(x @ net.a.weight))),
    "changed in place": doubled,
}


@pytest.mark.parametrize("reason", OTHERS)
def test_another_way_through_the_model_is_noticed(reason: str) -> None:
    """Sizes that are symbols have one plan, from which a graph for large batches differs."""
    model = Longer(OTHERS[reason]).eval()
    batches = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 4, 8, 9, 3)]
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        probe = run(torch.compile(model, backend="eager", dynamic=True), batches)
    assert answer(probe) == pytest.approx(answer(eager), rel=1e-6)
    assert reason in said(record)


def test_hooks_of_others_and_calls_of_parts_count() -> None:
    model, batches = Normalized().eval(), images(5, 5, 5, 5)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), gl.ResponseStd(compiled) as probe:
        compiled(batches[0])
        compiled(batches[1])
        handle = model.b.register_forward_hook(lambda module, args, output: 3 * output)
        compiled(batches[2])
        handle.remove()
        compiled(batches[3])
        model.b(torch.ones(2, 4, 3, 3))
    seen = [model.b(model.norm(model.a(x)).relu()) * (3 if x is batches[2] else 1) for x in batches]
    values = torch.cat([part.detach().double().flatten() for part in [*seen, model.b(torch.ones(2, 4, 3, 3))]])
    assert answer(probe)["b", 1] == pytest.approx(values.std(correction=0).item(), rel=1e-6)
    assert compiled_passes(probe) == 3


def test_other_probes_have_their_eager_passes() -> None:
    model, batches = Normalized().train(), images(5, 5, 5, 5)
    right = brute_force(model, batches, READ)
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings(record=True) as record, gl.ResponseStd(compiled) as probe:
        warnings.simplefilter("always")
        compiled(batches[0])
        compiled(batches[1])
        with gl.ResponseGradients(compiled) as gradients, gl.ResponseStd(compiled) as inner:
            compiled(batches[2]).sum().backward()
            compiled(batches[3]).sum().backward()
    assert "other probes" in said(record)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert gradients.result().to_frame()["response_grad_norm"].notna().sum() >= 4
    assert answer(inner).keys() == right.keys()


def test_probes_may_be_detached_in_any_order() -> None:
    """A watch is on at the first step alone, which begins before the other probe is attached."""
    model, batches = Normalized().train(), images(5, 5, 5, 5, 5)
    right = brute_force(model, batches, READ)
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    compiled(batches[0])
    watch = gl.watch(compiled, optimizer, every=100)
    with warnings.catch_warnings(record=True) as record, watch:
        with gl.ResponseStd(compiled) as probe:
            for x in batches:
                compiled(x).square().sum().backward()
                optimizer.step()
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 4
    assert "runs eagerly" in said(record)
    assert watch.result().frame["step"].unique().tolist() == [0]
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


HOW = ["wrapper", "in place", "around DistributedDataParallel"]
ORDERS = [("inside", "outer"), ("inside", "inner"), ("before", "outer")]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("how", "made", "leaves"),
    [
        # Every way to compile and every order is in one pair at least; all pairs are in the thorough tests.
        pytest.param(how, *order, marks=() if how == HOW[0] or order == ORDERS[0] else pytest.mark.thorough)
        for how in HOW
        for order in ORDERS
    ],
)
def test_each_of_two_probes_counts_the_passes_of_its_own_time(how: str, made: str, leaves: str) -> None:
    model, batches = Normalized().eval(), images(5, 5, 5, 5, 5, 5)
    right = {
        name: brute_force(model, batches[part], READ)
        for name, part in {"whole": slice(4), "first": slice(3), "later": slice(2, 4), "one": slice(2, 3)}.items()
    }
    if how == "wrapper":
        compiled: Any = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
        compiled = model
    else:
        compiled = torch.compile(DistributedDataParallel(model), backend="eager")
    attributes = dict(vars(compiled)), set(vars(model))
    outer = gl.ResponseStd(compiled)
    inner = gl.ResponseStd(compiled) if made == "before" else None
    with warnings.catch_warnings(record=True) as record, torch.no_grad(), outer:
        warnings.simplefilter("always")
        compiled(batches[0])
        compiled(batches[1])
        with inner or gl.ResponseStd(compiled) as inner:
            compiled(batches[2])
            if leaves == "outer":
                outer.__exit__()
                compiled(batches[3])
        if leaves == "inner":
            compiled(batches[3])
    assert "other probes" in said(record)
    assert (dict(vars(compiled)), set(vars(model))) == attributes
    with torch.no_grad():
        compiled(batches[4])
    first, second = ("first", "later") if leaves == "outer" else ("whole", "one")
    assert answer(outer) == pytest.approx(right[first], rel=1e-6)
    assert answer(inner) == pytest.approx(right[second], rel=1e-6)
    # No pass runs in compiled code while both are attached.
    assert counted_passes(outer) == ((1, 3) if leaves == "outer" else (2, 4))
    assert counted_passes(inner) == ((1, 2) if leaves == "outer" else (0, 1))
