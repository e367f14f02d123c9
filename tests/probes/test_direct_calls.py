"""Passes without hooks, from the second one on: the same numbers as plain hooks give, whatever happens in between."""

import copy
import math
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.probes.hooks import is_compiled
from gradlab.stats import moment_rows, native

PLACE = "_compiled_call_impl"


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.between = lambda x: x

    def forward(self, x: Tensor) -> Any:
        return self.relu(self.norm(self.between(self.conv(x))))


class Net(nn.Module):
    """A unit that is called twice, a convolution with a norm that is read as functions do, and a layer without one."""

    def __init__(self) -> None:
        super().__init__()
        self.unit, self.last, self.head = Unit(), nn.Sequential(nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.last(self.unit(self.unit(x)))
        if len(x) == 7:
            raise MemoryError
        return self.head(x.mean((2, 3)))


def net() -> Net:
    torch.default_generator.manual_seed(0)
    model = Net().eval()
    model.unit.norm.running_mean = torch.full((4,), 0.3)
    return model


def batch(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 4, 9, 8, generator=torch.Generator().manual_seed(seed + n))


class Plain:
    """The values of all responses, by hooks that keep them."""

    def __init__(self, model: Net) -> None:
        self.values: dict[tuple[str, int], list[Tensor]] = {}
        self.calls = 0
        for name, module in (("unit.conv", model.unit.norm), ("last.0", model.last[1]), ("head", model.head)):
            module.register_forward_hook(lambda _, args, out, name=name: self.take(name, out))

    def take(self, name: str, out: Tensor) -> None:
        self.calls = self.calls + 1 if name == "unit.conv" else 0
        self.values.setdefault((name, max(1, self.calls)), []).append(out.detach().double().flatten())

    def check(self, probe: gl.ResponseStd) -> None:
        found = {(site.layer, site.call): values for site, values in probe.moments().items()}
        assert list(found) == list(self.values)
        for site, parts in self.values.items():
            x = torch.cat(parts)
            x, count = x[x.isfinite()], len(x)
            expected = [len(x), x.mean().item(), x.std(correction=0).item(), count - len(x)]
            assert found[site] == pytest.approx(expected, rel=1e-6, abs=1e-7), site


@pytest.mark.parametrize("how", ["as it is", "by ctypes", "without a compiler"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_values(how: str, context: type, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "by ctypes":
        monkeypatch.setattr(moment_rows, "adder_maker", lambda library: None)
    elif how == "without a compiler":
        monkeypatch.setattr(native, "_library", lambda: None)
    model, twin = net(), net()
    plain = Plain(twin)
    odd = batch(3)
    odd[1, 2, 3, 4] = math.nan
    batches = [batch(5), batch(2), batch(3).contiguous(memory_format=torch.channels_last), odd, batch(1), batch(4)[::2]]
    direct: list[bool] = []
    watched = model.unit.conv.register_forward_hook(lambda module, *_: direct.append(PLACE in vars(module)))
    with context(), gl.ResponseStd(model) as probe:
        for x in batches:
            assert torch.equal(model(x), twin(x)) or x is odd
            assert PLACE not in vars(model.unit.conv)
    watched.remove()
    # The layer is called twice in each pass; the first pass shows which parts there are.
    assert direct == [False] * 2 + [True] * 2 * (len(batches) - 1)
    plain.check(probe)
    assert all(PLACE not in vars(m) and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(6, 5, dtype=dtype), nn.Linear(5, 5, dtype=dtype))
    xs = [torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(3)]
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        outputs = torch.cat([model(x) for x in xs]).to(torch.complex128 if dtype.is_complex else torch.float64)
    std = (outputs - outputs.mean()).abs().square().mean().sqrt().item()
    assert [values[2] for values in probe.moments().values()][1] == pytest.approx(std, rel=1e-5)


def changed_output(model: Net) -> None:
    model.unit.conv.register_forward_hook(lambda module, args, out: out * 2)


def alias(model: Net) -> None:
    model.unit.conv.register_forward_hook(lambda module, args, out: out.view_as(out))


def alias_between(model: Net) -> None:
    model.unit.between = lambda x: x.view_as(x)


def negative_bit(model: Net) -> None:
    model.unit.norm.register_forward_hook(lambda module, args, out: torch._neg_view(out), prepend=True)


def changed_input(model: Net) -> None:
    model.unit.norm.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def other_function(model: Net) -> None:
    call = model.last[1]._call_impl
    vars(model.last[1])[PLACE] = lambda *args: call(*args)


def replaced_function(model: Net) -> None:
    for module in (model.unit.conv, model.unit.norm):
        vars(module)[PLACE] = lambda *args, call=module._call_impl: call(*args)


@pytest.mark.parametrize(
    "change", [changed_output, alias, alias_between, negative_bit, changed_input, other_function, replaced_function]
)
def test_what_others_do_between_passes(change: Callable[[Net], None]) -> None:
    model, twin = net(), net()
    plain = Plain(twin)
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for n in (5, 3, 2, 4):
            assert torch.equal(model(batch(n)), twin(batch(n)))
            if n == 3:
                change(model)
                # What came first stays first: plain hooks see outputs after those of others as well.
                change(twin)
    plain.check(probe)
    assert vars(model.last[1]).get(PLACE) is None or change is other_function


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_what_is_changed_before_its_normalization_is_not_measured(context: type) -> None:
    model = net()
    with context(), gl.ResponseStd(model) as probe:
        for n in (5, 3):
            model(batch(n))
        model.unit.between = nn.ReLU(inplace=True) if context is torch.no_grad else model.unit.relu
        model(batch(2))
    counts = {site: values[0] for site, values in probe.moments().items()}
    assert [counts[site] for site in counts] == [8 * 288, 8 * 288, 10 * 432, 10 * 3]
    assert "unit.conv: 1 calls were not normalized" in " ".join(probe.result().notes)


def test_failed_passes_do_not_count() -> None:
    model, twin = net(), net()
    plain = Plain(twin)
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for n in (5, 7, 3, 7, 2):
            try:
                model(batch(n))
            except MemoryError:
                continue
            twin(batch(n))
    plain.check(probe)


def test_parts_on_their_own() -> None:
    model, twin = net(), net()
    plain = Plain(twin)
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for _ in range(2):
            for each in (model, twin):
                each(batch(3))
                each(batch(2))
                plain.calls = 0
                each.unit(batch(4))
                plain.calls = 0
                each.unit.norm(each.unit.conv(batch(1)))
                each.head(torch.ones(2, 6))
                plain.calls = 0
    plain.check(probe)


def test_several_probes_at_once() -> None:
    model, twin = net(), net()
    plain = Plain(twin)
    with torch.no_grad(), gl.ResponseStd(model) as outer, gl.ResponseStd(model, exact=True) as inner:
        for n in (5, 3, 2):
            model(batch(n))
            twin(batch(n))
        assert not any(is_compiled(module) for module in model.modules())
    plain.check(outer)
    plain.check(inner)


@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle"])
def test_copies_are_plain(how: str) -> None:
    model = net()
    model.unit.between = nn.Identity()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for _ in range(2):
            model(batch(2))
        other = pickle.loads(pickle.dumps(model)) if how == "pickle" else getattr(copy, how)(model)
        if how != "copy":
            assert all(PLACE not in vars(module) for module in other.modules())
            assert torch.equal(other(batch(3)), model(batch(3)))
    assert next(iter(probe.moments().values()))[0] == (4 if how == "copy" else 7) * 288


def test_recomputation_does_not_count() -> None:
    model = net()
    vars(model.unit)["forward"] = partial(checkpoint, model.unit.forward, use_reentrant=False)
    with gl.ResponseStd(model) as probe:
        for n in (2, 3, 4):
            model(batch(n)).sum().backward()
    assert [int(values[0]) for values in probe.moments().values()] == [9 * 288, 9 * 288, 9 * 432, 9 * 3]


def test_threads_are_refused() -> None:
    model, errors = net(), []
    other = net()

    def in_a_thread(x: Tensor) -> Tensor:
        def run() -> None:
            try:
                model.last[0](x)
            except GradlabError as error:
                errors.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return x

    with torch.no_grad(), gl.ResponseStd(model):
        for _ in range(2):
            model(batch(2))
        model.unit.between = in_a_thread
        model(batch(2))
    assert "two threads at once" in errors[0]
    assert torch.equal(model.unit.conv(batch(1)), other.unit.conv(batch(1)))


def test_transformed_and_functional_tensors() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(x)
        model(x)
        torch.func.vmap(model)(x)
    expected = model(x).detach().double()
    count, mean, std, _ = [*probe.moments().values()][1]
    assert count == 3 * 28
    assert (mean, std) == pytest.approx((expected.mean().item(), expected.std(correction=0).item()), rel=1e-6)


def test_hooks_of_all_modules() -> None:
    model, twin = net(), net()
    plain = Plain(twin)

    def half(module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        return (args[0] / 2,) if module in (model.head, twin.head, model.last[1], twin.last[1]) else None

    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for n in (5, 3):
            model(batch(n))
            twin(batch(n))
        with nn.modules.module.register_module_forward_pre_hook(half):
            model(batch(2))
            twin(batch(2))
    # The input of the norm is no longer the layer's output.
    counts = {site.layer: values[0] for site, values in probe.moments().items()}
    assert counts["last.0"] == 8 * 432
    assert counts["head"] == 10 * 3
    assert "last.0: 1 calls were not normalized" in " ".join(probe.result().notes)
    head = torch.cat(plain.values["head", 1])
    assert [*probe.moments().values()][3][2] == pytest.approx(head.std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("part", ["unit.conv", "unit.norm", "head"])
def test_a_probe_that_is_detached_during_a_call(part: str) -> None:
    model, twin = net(), net()
    plain, probe = Plain(twin), gl.ResponseStd(model)
    with torch.no_grad():
        with probe:
            for n in (5, 3):
                model(batch(n))
                twin(batch(n))
            with model.get_submodule(part).register_forward_hook(lambda *_: probe.__exit__()):
                assert torch.equal(model(batch(4)), net()(batch(4)))
        with probe:
            model(batch(2))
            twin(batch(2))
    plain.check(probe)


def test_a_parametrization_between_passes_leaves_copies_their_own() -> None:
    model = net()
    with torch.no_grad(), gl.ResponseStd(model):
        for _ in range(2):
            model(batch(2))
        register_parametrization(model.head, "weight", nn.Identity())
        other = copy.deepcopy(model)
        for parameter in other.head.parameters():
            parameter.zero_()
        other.head.bias.fill_(3)
        assert torch.equal(other(batch(2)), torch.full((2, 3), 3.0))


def test_tracing_between_passes() -> None:
    model = net()
    with gl.ResponseStd(model):
        for _ in range(2):
            model(batch(2))
        traced: Any = torch.jit.trace(model, batch(3))
        assert torch.equal(traced(batch(3)), model(batch(3)))
