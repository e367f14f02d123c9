"""Passes that an exception ends which hooks do not see, such as Ctrl-C: none of their numbers counts, and no other."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl

EXCEPTIONS = [RuntimeError, KeyboardInterrupt, GeneratorExit]


class Stop(nn.Module):
    """Raises an exception when it is told to."""

    exception: type[BaseException] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.exception is not None:
            raise self.exception
        return x


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.early, self.norm, self.late = nn.Linear(4, 4), Stop(), nn.LayerNorm(4), Stop()

    def forward(self, x: Tensor) -> Any:
        return self.late(self.norm(self.early(self.c(x))))


class Net(nn.Module):
    """A layer, a unit with a normalized one, and a last layer; the unit may be left out where an exception is met."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.unit, self.b = nn.Linear(4, 4), Unit(), nn.Linear(4, 4)
        self.caught: tuple[type[BaseException], ...] = ()

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        with suppress(*self.caught):
            x = x + self.unit(x)
        return self.b(x)


def net() -> Net:
    torch.default_generator.manual_seed(0)
    return Net().double()


def batch(n: int) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(n)).double()


@contextmanager
def stopping(stop: Stop, exception: type[BaseException]) -> Iterator[None]:
    stop.exception = exception
    try:
        with pytest.raises(exception):
            yield
    finally:
        stop.exception = None


def deeply(call: Callable[[Tensor], Tensor], x: Tensor, frames: int = 40) -> Tensor:
    """Call from further down the stack than any part of the interrupted pass."""
    return deeply(call, x, frames - 1) if frames else call(x)


class Plain:
    """All responses by the functions themselves."""

    def __init__(self, model: Net) -> None:
        self.model = model
        self.values: dict[str, list[Tensor]] = {}

    def take(self, name: str, value: Tensor) -> Tensor:
        self.values.setdefault(name, []).append(value.detach().flatten())
        return value

    def unit(self, x: Tensor) -> Tensor:
        c, norm = self.model.unit.c, self.model.unit.norm
        h = nn.functional.linear(x, c.weight, c.bias)
        return self.take("unit.c", nn.functional.layer_norm(h, (4,), norm.weight, norm.bias))

    def part(self, name: str, x: Tensor) -> Tensor:
        layer = self.model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        return self.take(name, nn.functional.linear(x, layer.weight, layer.bias))

    def whole(self, x: Tensor) -> Tensor:
        x = self.part("a", x)
        return self.part("b", x + self.unit(x))

    def check(self, probe: gl.ResponseStd) -> None:
        found = {site.layer: values for site, values in probe.moments().items()}
        assert found.keys() == self.values.keys()
        for name, parts in self.values.items():
            x = torch.cat(parts)
            expected = [len(x), x.mean().item(), x.std(correction=0).item(), 0]
            assert found[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
        assert "not normalized" not in " ".join(probe.result().notes)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("passes", [0, 3])
@pytest.mark.parametrize("where", ["early", "late"])
@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_parts_after_a_pass_that_has_ended(exception: type, where: str, passes: int, exact: bool) -> None:
    model = net()
    plain, stop = Plain(model), model.unit.get_submodule(where)
    assert isinstance(stop, Stop)
    with torch.no_grad(), gl.ResponseStd(model, exact=exact) as probe:
        for n in range(passes):
            model(batch(n + 1))
            plain.whole(batch(n + 1))
        for _ in range(2):
            for call in (model, model.unit):
                with stopping(stop, exception):
                    call(batch(9))
                if passes:
                    plain.check(probe)
        with stopping(stop, exception):
            model(batch(9))
        deeply(model.b, batch(5))
        plain.part("b", batch(5))
        with stopping(stop, exception):
            model(batch(9))
        model.unit(batch(6))
        plain.unit(batch(6))
        model.a(batch(7))
        plain.part("a", batch(7))
        with stopping(stop, exception):
            model(batch(9))
        try:
            raise KeyError
        except KeyError:
            # Of an exception that is being handled no call has to do.
            model(batch(8))
        plain.whole(batch(8))
        plain.check(probe)
        with stopping(stop, exception):
            model(batch(9))
    plain.check(probe)


@pytest.mark.parametrize("passes", [0, 2])
def test_what_only_an_ended_pass_has_shown_is_not_known(passes: int) -> None:
    layer, stop = nn.Linear(4, 4), Stop()
    model = nn.Sequential(layer, nn.LayerNorm(4), stop).double()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for n in range(passes):
            layer(batch(n + 1))
        with stopping(stop, KeyboardInterrupt):
            model(batch(9))
        layer(batch(5))
    x = nn.functional.linear(torch.cat([batch(n) for n in [*range(1, passes + 1), 5]]), layer.weight, layer.bias)
    (found,) = probe.moments().values()
    assert found == pytest.approx([x.numel(), x.mean().item(), x.std(correction=0).item(), 0], rel=1e-9)
    assert "normalized" not in " ".join(probe.result().notes)


@pytest.mark.parametrize("passes", [0, 2])
@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_a_pass_that_catches_the_exception_of_a_part_counts(exception: type, passes: int) -> None:
    model = net()
    plain = Plain(model)
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for n in range(passes):
            model(batch(n + 1))
            plain.whole(batch(n + 1))
        model.caught, model.unit.late.exception = (exception,), exception
        model(batch(5))
        x = plain.part("a", batch(5))
        plain.unit(x)
        plain.part("b", x)
        model.caught, model.unit.late.exception = (), None
        model(batch(4))
        plain.whole(batch(4))
    plain.check(probe)


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_a_thread_that_has_ended(exception: type) -> None:
    model = net()
    plain, model.unit.late.exception = Plain(model), exception

    def run() -> None:
        with pytest.raises(exception):
            model(batch(9))

    with torch.no_grad(), gl.ResponseStd(model) as probe:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        model.unit.late.exception = None
        model.a(batch(3))
        plain.part("a", batch(3))
        model(batch(4))
        plain.whole(batch(4))
    plain.check(probe)


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_gradients_after_a_pass_that_has_ended(exception: type) -> None:
    model = net()
    with gl.ResponseGradients(model) as probe:
        for _ in range(2):
            with stopping(model.unit.late, exception):
                model(batch(9))
            model.b(batch(3)).square().sum().backward()
            with stopping(model.unit.early, exception):
                model(batch(9))
            model(batch(2)).square().sum().backward()
            probe.step()
    a = model.a(batch(2))
    c = model.unit(a)
    both = torch.cat([model.b(batch(3)), model.b(a + c)])
    loss = model.b(a + c).square().sum()
    right = {name: g.norm().item() for name, g in zip(("a", "unit.c"), torch.autograd.grad(loss, (a, c)), strict=True)}
    right["b"] = (2 * both).norm().item()
    rows = probe.result().layers()
    found = list(zip(rows["layer"], rows["response_grad_norm"], rows["response_numel"], strict=True))
    numel = {"a": 8, "unit.c": 8, "b": 20}
    assert sorted(found) == [
        (name, pytest.approx(right[name], rel=1e-9), numel[name]) for name in sorted(right) for _ in range(2)
    ]


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_input_gradients_after_a_pass_that_has_ended(context: Any, exception: type) -> None:
    model, found, other = net(), list[Tensor](), list[Tensor]()
    kept = gl.InputGradients(model, observe=other.append)
    with gl.InputGradients(model, observe=found.append), context():
        with kept, stopping(model.unit.late, exception):
            model(batch(9))
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert modes == (context is torch.enable_grad, context is torch.inference_mode)
        for n in (2, 5):
            with stopping(model.unit.early, exception):
                model(batch(n))
            model(batch(n))
        model.unit.early.exception = exception
    with pytest.raises(exception), gl.InputGradients(model), context():
        model(batch(9))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not torch.overrides._get_current_function_mode_stack()
    assert "_compiled_call_impl" not in vars(model)
    model.unit.early.exception = None
    for n, gradient in zip((2, 5), found, strict=True):
        x = batch(n).requires_grad_()
        (right,) = torch.autograd.grad(model(x).sum(), x)
        assert torch.allclose(gradient, right, rtol=1e-12, atol=0)
    assert not other


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_gradients_of_examples_after_a_pass_that_has_ended(exception: type) -> None:
    model = net()

    def norms(parts: list[Tensor]) -> dict[str, list[float]]:
        layers = {name: model.get_parameter(f"{name}.weight") for name in ("a", "unit.c", "b")}
        every = [
            torch.autograd.grad(loss, list(layers.values()), retain_graph=True, allow_unused=True)
            for losses in parts
            for loss in losses
        ]
        return {
            name: [g[place].norm().item() for g in every if g[place] is not None] for place, name in enumerate(layers)
        }

    def losses(y: Tensor) -> Tensor:
        return y.square().sum(1)

    with gl.ExampleGradients(model, reduction="sum") as probe:
        for _ in range(2):
            with stopping(model.unit.late, exception):
                model(batch(4))
            assert not torch.overrides._get_current_function_mode_stack()
            losses(model(batch(4))).sum().backward()
            probe.step()
            # Parts that are called one after the other are one pass, of which one part ends and is called anew.
            a = model.a(batch(4))
            with stopping(model.unit.late, exception):
                model.unit(a)
            losses(model.b(a + model.unit(a))).sum().backward()
            probe.step()
    right = norms([losses(model(batch(4)))])
    frame = probe.examples()
    for (step, layer), rows in frame[frame.layer != "total"].groupby(["step", "layer"]):
        assert rows.norm.tolist() == pytest.approx(right[layer], rel=1e-9), step
    assert set(frame.step) == {0, 1, 2, 3}


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_blocks_after_a_pass_that_has_ended(exception: type) -> None:
    model = net()
    with torch.no_grad(), gl.BlockSignal(model, exact=True) as probe:
        for n in (2, 5):
            with stopping(model.unit.late, exception):
                model(batch(9))
            model.a(batch(3))
            model(batch(n))
        with stopping(model.unit.late, exception):
            model(batch(9))
    streams = [x + model.unit(x) for x in (model.a(batch(2)), model.a(batch(5)))]
    (row,) = probe.result().frame.to_dict("records")
    right = torch.cat(streams).std(correction=0).item()
    assert (row["count"], row["stream_total_std"]) == pytest.approx((28, right), rel=1e-9)


@pytest.mark.parametrize("passes", [0, 2])
def test_nothing_is_left_of_a_pass_once_its_exception_is_handled(passes: int) -> None:
    """No function mode, class of a parameter or input, which what runs next would meet: a compiler, an optimizer."""
    model = net()
    with torch.no_grad(), gl.ResponseStd(model) as outer, gl.BlockSignal(model), gl.ResponseStd(model) as inner:
        for n in range(passes):
            model(batch(n + 1))
        for call, stop in ((model, model.unit.early), (model.unit, model.unit.late), (model, model.unit.late)):
            x = batch(9)
            reference = weakref.ref(x)
            with stopping(stop, KeyboardInterrupt):
                call(x)
            del x
            assert reference() is None
            assert not torch.overrides._get_current_function_mode_stack()
            assert {type(parameter) for parameter in model.parameters()} == {nn.Parameter}
        model(batch(5))
    plain = Plain(model)
    for n in [*range(1, passes + 1), 5]:
        plain.whole(batch(n))
    plain.check(outer)
    plain.check(inner)


@pytest.mark.parametrize("passes", [0, 2])
def test_weights_may_be_used_before_the_exception_is_let_go(passes: int) -> None:
    model = net()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for n in range(passes):
            model(batch(n + 1))
        model.unit.late.exception = KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt) as held:
            model(batch(9))
        # A checkpoint that is saved, a norm that is printed; and what is no use of the model's own.
        nn.functional.linear(batch(4), model.a.weight)
        model.unit.late.exception = None
        model(batch(5))
        assert held.value is not None
        assert {type(parameter) for parameter in model.parameters()} == {nn.Parameter}
    plain = Plain(model)
    for n in [*range(1, passes + 1), 5]:
        plain.whole(batch(n))
    plain.check(probe)


@pytest.mark.parametrize("passes", [0, 2])
def test_no_tensor_is_kept(passes: int) -> None:
    model = net()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.no_grad(), gl.ResponseStd(model):
            for n in range(passes):
                model(batch(n + 1))
            x = batch(9)
            with stopping(model.unit.late, KeyboardInterrupt):
                model(x)
            out = model.a(batch(3))
            references = [weakref.ref(x), weakref.ref(out)]
            del x, out
            model.b(batch(2))
            assert [reference() for reference in references] == [None, None]
    finally:
        if collecting:
            gc.enable()
