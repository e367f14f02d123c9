"""What records or copies a model while it is probed: it works as without the probe, or is refused in one sentence."""

import copy
import io
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

import gradlab as gl
from gradlab.errors import GradlabError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), nn.LayerNorm(6)
        self.b = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)))

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.a(x)) + self.b(x)


X = torch.linspace(-2, 2, 24).reshape(4, 6)


def saved(model: nn.Module) -> Any:
    torch.save(model, file := io.BytesIO())
    file.seek(0)
    # What the test itself has written.
    return torch.load(file, weights_only=False)(X)


def functional(model: nn.Module) -> Any:
    return torch.func.functional_call(model, {name: p.detach().clone() for name, p in model.named_parameters()}, (X,))


TOOLS: dict[str, Callable[[Any], Any]] = {
    "export": lambda model: torch.export.export(model, (X,), strict=False).module()(X),
    "script": lambda model: torch.jit.script(model)(X),
    "trace": lambda model: torch.jit.trace(model, X)(X),
    "fx": lambda model: torch.fx.symbolic_trace(model)(X),
    "make_fx": lambda model: make_fx(model)(X)(X),
    "linearize": lambda model: torch.func.linearize(model, X)[0],
    "deepcopy": lambda model: copy.deepcopy(model)(X),
    "pickle": lambda model: pickle.loads(pickle.dumps(model))(X),
    "save": saved,
    "functional": functional,
}
PROBES: dict[str, Callable[[nn.Module], Any]] = {
    "ResponseStd": gl.ResponseStd,
    "ResponseGradients": gl.ResponseGradients,
    "ParameterGradients": gl.ParameterGradients,
    "InputGradients": gl.InputGradients,
    "BlockSignal": gl.BlockSignal,
    "Watch": lambda model: gl.watch(model, torch.optim.SGD(model.parameters(), 0.1)),
}
REFUSED = {*((probe, tool) for probe in PROBES for tool in ("export", "script", "make_fx", "linearize"))}
REFUSED |= {("InputGradients", "trace"), ("Watch", "trace"), ("ResponseGradients", "fx")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("probe", PROBES)
def test_works_or_is_refused(probe: str, tool: str) -> None:
    torch.default_generator.manual_seed(0)
    model = Net()
    expected = model(X)
    with PROBES[probe](model):
        for _ in range(2):
            model(X)
        if (probe, tool) in REFUSED:
            with pytest.raises(GradlabError, match=r"while .* is attached, .* outside of the probe's `with` block"):
                TOOLS[tool](model)
        else:
            assert torch.allclose(TOOLS[tool](model), expected, atol=1e-6)
        assert torch.allclose(model(X), expected)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    # Afterwards nothing is left of the probe.
    assert torch.allclose(TOOLS["export"](model), expected, atol=1e-6)


def test_a_name_of_a_hook_may_be_asked_for() -> None:
    model = Net()
    with gl.ResponseStd(model):
        assert getattr(next(iter(model.a[0]._forward_hooks.values())), "__name__", "none") == "none"


class Seen(TorchFunctionMode):
    """Counts what functions of torch are called, as a profiler of a user's own does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[getattr(func, "__name__", "")] += 1
        return func(*args, **(kwargs or {}))


class Applying(Net):
    """It applies one weight by a function."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x @ self.get_parameter("b.0.2.weight"))


@pytest.mark.parametrize("kind", [Net, Applying])
@pytest.mark.parametrize("probe", ["ResponseStd", "ResponseGradients", "ParameterGradients"])
def test_function_modes_of_others_see_the_model_alone(probe: str, kind: type[Net]) -> None:
    model = kind()

    def run(step: Callable[[], None] = lambda: None) -> Counter[str]:
        seen = Seen()
        with seen:
            for _ in range(4):
                model(X).square().mean().backward()
                step()
        return seen.calls

    expected = run()
    with PROBES[probe](model) as attached:
        assert run(getattr(attached, "step", lambda: None)) == expected
