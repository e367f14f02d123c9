"""ExampleGradients on layers that are not what they seem: results are those of autograd, or an error."""

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles.example_gradients import MLP, by_loop, check_backward, check_equal, expected_of, gradients_of, loss_of
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.utils.parametrizations import spectral_norm

import gradlab as gl


class Reversed(nn.Module):
    """A hook that the model registers on a response, as for gradient reversal and clipping."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: -5 * gradient)
        return self.two(torch.tanh(h))


class Generated(nn.Module):
    """A layer whose weight is another layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.layer = nn.Linear(2, 12), nn.Linear(4, 3)
        del self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight = self.make(torch.ones(len(x), 2, dtype=x.dtype)).mean(0).view(3, 4)
        return self.layer(x)


class Standardized(nn.Conv2d):
    """Weight standardization, in the method that torch's forward calls."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, F.layer_norm(weight, weight.shape[1:]), bias)


def patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].forward = lambda x: 2 * F.linear(x, model[0].weight, model[0].bias)
    return model


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Reversed, (4,)),
        (patched, (4,)),
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), Standardized(3, 3, 3), nn.Flatten()), (2, 6, 6)),
    ],
)
def test_layers_that_are_not_what_they_seem(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Gradients equal autograd's, and norms those of a loop over examples."""
    model, x = make().double(), torch.randn(5, *shape).double()
    probe = check_backward(model, x)
    total = torch.cat([torch.stack(gradients) for gradients in by_loop(model, x).values()], 1).norm(dim=1)
    assert probe.examples().query("layer == 'total'")["norm"].tolist() == pytest.approx(total.tolist(), rel=1e-9)


def test_a_weight_that_another_layer_makes() -> None:
    check_backward(Generated().double(), torch.randn(5, 4).double())


def test_weights_that_replace_those_of_the_model() -> None:
    """As in meta-learning, the gradient goes to the original weights."""
    model, x = MLP.double(), torch.randn(5, 96).double()
    model.zero_grad()
    found = []
    for probed in (False, True):
        source = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
        changed = {name: 0.9 * value for name, value in source.items()}
        with gl.ExampleGradients(model) as probe:
            loss = loss_of(functional_call(model, changed, (x,)))
            (probe.backward if probed else Tensor.backward)(loss)
        found.append({name: value.grad for name, value in source.items()})
    check_equal(*found)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_torch_func_differentiates_is_left_alone() -> None:
    model, x = MLP.double(), torch.randn(5, 96).double()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with gl.ExampleGradients(model):
        found = grad(lambda values: loss_of(functional_call(model, values, (x,))))(parameters)
    check_equal(found, expected_of(model, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_jit_records_is_left_alone() -> None:
    """The graph is recorded several times, and compared, before and after the probe has seen a pass."""
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), torch.randn(5, 4).double()
    with gl.ExampleGradients(model) as probe:
        for _ in range(2):
            traced = torch.jit.trace(model, x)
            torch.testing.assert_close(traced(x), model(x))
            probe.backward(loss_of(model(x)))
            probe.step()
    rows = torch.cat([torch.stack(gradients) for gradients in by_loop(model, x).values()], 1)
    found = probe.examples().query("layer == 'total' and step == 0")["norm"].tolist()
    assert found == pytest.approx(rows.norm(dim=1).tolist(), rel=1e-9)


def test_a_module_that_changes_with_every_call() -> None:
    """Spectral normalization in training: the pass that was made counts, and the buffers are those after it."""
    model, x = nn.Sequential(spectral_norm(nn.Linear(4, 3))).double(), torch.randn(5, 4).double()
    before = copy.deepcopy(model)
    with gl.ExampleGradients(model) as probe:
        probe.backward(loss_of(model(x)))
        probe.step()
    loss_of(before(x)).backward()
    check_equal(gradients_of(model), gradients_of(before))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before.get_buffer(name))


def test_pythons_random_state_does_not_change() -> None:
    """Lazy imports must not change it either, since networks with stochastic depth draw from it."""
    code = (
        "import random, torch, gradlab as gl; before = random.getstate()\n"
        "for kind in (gl.ResponseStd, gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients):\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())\n"
        "    with kind(model) as probe:\n"
        "        model(torch.randn(4, 3)).sum().backward()\n"
        "        getattr(probe, 'step', int)()\n"
        "    probe.result(); assert random.getstate() == before, kind\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
