"""Weights that functions apply in a later pass only, whatever the reason: the values are those that the model notes."""

import copy
import threading
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

Noted = dict[tuple[str, int], list[Tensor]]


class Net(nn.Module):
    """Layers with branches that apply their weights by functions; it notes the responses that no module returns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.fc, self.out = (
            nn.Embedding(7, 6),
            nn.Conv1d(6, 6, 1),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
        )
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.switch, self.settings = False, {"switch": False}
        self.noted: Noted = {}

    def note(self, layer: str, call: int, tensor: Tensor) -> Tensor:
        self.noted.setdefault((layer, call), []).append(tensor.detach())
        return tensor

    def head(self, h: Tensor) -> Tensor:
        return self.note("embed", 2, F.linear(h, self.embed.weight))

    def forward(self, i: Tensor, way: Any = None, *, use: bool = False) -> Tensor:
        h = self.note("embed", 1, self.embed(i))
        h = self.note("conv", 1, self.conv(h.transpose(1, 2))).transpose(1, 2)
        h = self.note("fc", 1, self.fc(h))
        if use or self.switch or self.settings["switch"] or way == "tied" or OUTSIDE[0] or h.sum() > 400:
            h = self.head(h)[..., :6]
        if way == "matmul":
            h = self.note("fc", 2, h @ self.fc.weight.T)
        if way == "conv":
            h = self.note("conv", 2, F.conv1d(h.transpose(1, 2), self.conv.weight)).transpose(1, 2)
        if way == "merged":
            h = self.note("fc", 2, F.linear(h, self.fc.weight + self.up.weight @ self.down.weight, self.fc.bias))
        if isinstance(way, int):
            expert = self.experts[way]
            assert isinstance(expert, nn.Linear)
            applied = F.linear(h, expert.weight, expert.bias) if self.training else expert(h)
            h = self.note(f"experts.{way}", 1, applied)
        h = F.layer_norm(self.out(h), (6,)) if way == "normalized" else self.out(h)
        return self.note("out", 1, h)


OUTSIDE = [False]


def toggle(name: str) -> Callable[[Net], None]:
    return lambda model: setattr(model, name, not getattr(model, name))


def train(model: Net) -> None:
    model.train(not model.training)


def outside(model: Net) -> None:
    OUTSIDE[0] = not OUTSIDE[0]


def setting(model: Net) -> None:
    model.settings["switch"] = not model.settings["switch"]


def larger(model: Net) -> None:
    model.fc.bias.data += 100


CASES: dict[str, list[Any]] = {
    "a keyword": [{}, {"use": False}, {"use": True}, {}, {"use": True}],
    "a mode": [{"way": "plain"}, {"way": "tied"}, {"way": "plain"}, {"way": "tied"}],
    "a product": [{}, {}, {"way": "matmul"}, {"way": "matmul"}, {}],
    "a convolution": [{}, {}, {"way": "conv"}, {"way": "conv"}],
    "merged adapters": [{}, {}, {"way": "merged"}, {"way": "merged"}],
    "experts that are called": [{"way": 0}, {"way": 0}, {"way": 1}, {"way": 2}, {"way": 1}],
    "experts by functions": [{}, {}, train, {"way": 1}, {"way": 2}, train, {"way": 1}],
    "an attribute": [{}, {}, toggle("switch"), {}, {}, toggle("switch"), {}],
    "something in a dictionary": [{}, {}, setting, {}, {}, setting, {}],
    "a global variable": [{}, {}, outside, {}, {}, outside, {}],
    "a value of a tensor": [{}, {}, larger, {}, {}],
    "a training mode": [{}, train, {"way": "tied"}, train, {"way": "tied"}, {}],
    "two ways in turn": [{}, {}, {"use": True}, {"way": "matmul"}, {"use": True}, {"way": "conv"}, {}],
}


def net() -> Net:
    torch.default_generator.manual_seed(0)
    return Net().eval()


def run(model: Net, passes: list[Any], each: Callable[[Tensor], object] = lambda y: None) -> None:
    generator = torch.Generator().manual_seed(1)
    for one in passes:
        if callable(one):
            one(model)
        else:
            each(model(torch.randint(7, (4, 5), generator=generator), **one))


def check(probe: gl.ResponseStd, noted: Noted) -> None:
    found = {(site.layer, site.call): values[:3] for site, values in probe.moments().items()}
    assert found.keys() == noted.keys()
    for site, parts in noted.items():
        x = torch.cat([part.double().flatten() for part in parts])
        expected = [len(x), x.mean().item(), x.std(correction=0).item()]
        assert found[site] == pytest.approx(expected, rel=1e-5, abs=1e-6), site


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_responses(case: str, context: type) -> None:
    model = net()
    with context(), gl.ResponseStd(model, exact=context is torch.enable_grad) as probe:
        run(model, CASES[case])
    check(probe, model.noted)
    assert type(model.embed.weight) is nn.Parameter


def test_a_function_that_normalizes_later() -> None:
    model = net()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        run(model, [{}, {}, {"way": "normalized"}, {"way": "normalized"}])
    normalized = torch.cat(model.noted["out", 1][2:]).double()
    values = next(values for site, values in probe.moments().items() if site.layer == "out")
    assert values[:3] == pytest.approx([240, 0, normalized.std(correction=0).item()], rel=1e-5, abs=1e-6)
    assert "out: 2 calls were not normalized as the others were" in " ".join(probe.result().notes)


@pytest.mark.parametrize("case", ["a keyword", "something in a dictionary", "a global variable", "two ways in turn"])
def test_gradients(case: str) -> None:
    model, squares = net(), dict[tuple[str, int, int], float]()
    steps = 0

    def backward(y: Tensor) -> None:
        nonlocal steps
        # What was noted last in this pass is what its own gradient is taken of.
        y.square().mean().backward()
        probe.step()
        steps += 1

    def note(layer: str, call: int, tensor: Tensor) -> Tensor:
        key = layer, call, steps
        tensor.register_hook(lambda gradient: squares.update({key: gradient.double().square().sum().item()}))
        return tensor

    model.note = note  # type: ignore[method-assign]
    with gl.ResponseGradients(model) as probe:
        run(model, CASES[case], backward)
    frame = probe.result().to_frame()
    rows = frame[frame.response_grad_norm.notna() & ~frame.block]
    found = {(r.layer, r.call, r.step): r.response_grad_norm**2 for r in rows.itertuples()}
    assert found == pytest.approx(squares, rel=1e-4)


def test_a_model_acts_as_without_the_probe_while_its_weights_are_watched() -> None:
    """Copies, classes and properties of weights inside of a pass, which alarms nobody."""
    model, seen = net(), list[Any]()

    def look(module: Any, args: Any) -> None:
        weight = module.weight
        seen.append((isinstance(weight, nn.Parameter), weight.shape, weight.dtype, weight.is_leaf, weight.numel()))
        seen.append(type(copy.deepcopy(module).weight) is nn.Parameter)

    model.out.register_forward_pre_hook(look)
    with torch.no_grad(), gl.ResponseStd(model) as outer, gl.ResponseStd(model) as inner:
        run(model, [{}, {}, {}, {"use": True}, {}])
    assert seen == [(True, (6, 6), torch.float32, True, 36), True] * 5
    check(outer, model.noted)
    check(inner, model.noted)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())


def test_another_thread_may_read_weights_during_a_pass() -> None:
    """It is no use of the weight, as where weights are averaged or saved meanwhile."""

    class Saved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.read = nn.Linear(6, 6), 0

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                reader = threading.Thread(target=self.save)
                reader.start()
                reader.join()
            return self.fc(x)

        def save(self) -> None:
            self.fc.weight.detach().clone()
            self.read = 1 + torch._C._len_torch_function_stack()

    model, x = Saved(), torch.randn(4, 6)
    with gl.ResponseStd(model) as probe:
        for _ in range(3):
            model(x)
    assert model.read == 1
    assert type(model.fc.weight) is nn.Parameter
    frame = probe.result().to_frame()
    assert list(frame["call"]) == [1]
    assert frame["count"].item() == 3 * 24


class Remade(nn.Module):
    """A model that makes the parameter of a layer anew in every pass, as offloading does, or applies a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.copies = nn.Linear(6, 6), nn.Linear(6, 6), [False]

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.copies[0]:
            return cast(Tensor, copy.deepcopy(self.b)(h))
        weight = self.b.weight
        self.b._parameters["weight"] = type(weight)(weight.data, requires_grad=weight.requires_grad)
        return self.b(h)


@pytest.mark.parametrize("copies", [(False,) * 4, (True,) * 4, (False, False, True, False), (False, False, True, True)])
def test_weights_that_are_made_anew_or_copied(copies: tuple[bool, ...]) -> None:
    model, x = Remade(), torch.randn(4, 6)
    with gl.ResponseStd(model) as probe:
        for model.copies[0] in copies:
            model(x)
    assert dict(probe.result().to_frame().set_index("layer")["count"]) == {"a": 4 * 24, "b": 4 * 24}
    assert {type(parameter) for parameter in model.parameters()} == {nn.Parameter}


class Viewed(nn.Module):
    """A model with a view of a weight and a normalization by a function, to which a global variable leads."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.way = nn.Linear(6, 6), nn.Linear(6, 6), way
        self.views = [self.b.weight.detach().T]

    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        if OUTSIDE[0]:
            h = F.layer_norm(h, (6,)) if self.way == "normalized" else h @ self.views[0]
        return self.b(h)


@pytest.mark.parametrize("way", ["normalized", "viewed"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_what_may_have_been_passed_by_is_said(way: str, context: type) -> None:
    model, x = Viewed(way), torch.randn(4, 6)
    noted = []
    with context(), gl.ResponseStd(model) as probe:
        for n in range(40):
            OUTSIDE[0] = n >= 5
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                model(x)
            noted += [n] * len(told)
    OUTSIDE[0] = False
    # It is found in the 16th pass after the first, and looked at from there on.
    assert noted == [16]
    counts = {(site.layer, site.call): values[0] for site, values in probe.moments().items()}
    if way == "viewed":
        assert counts == {("a", 1): 40 * 24, ("b", 1): 40 * 24, ("b", 2): 24 * 24}
    else:
        assert counts == {("a", 1): 24 * 24, ("b", 1): 40 * 24}


def test_nothing_is_said_where_nothing_was_passed_by() -> None:
    model = net()
    with torch.no_grad(), warnings.catch_warnings(), gl.ResponseStd(model):
        warnings.simplefilter("error")
        run(model, [{}] * 20)
        run(model, [{"use": True}, {}, outside, {}, outside, {}])
        with pytest.raises(IndexError):
            model(torch.full((1, 1), 99))
        run(model, [{}] * 3)
