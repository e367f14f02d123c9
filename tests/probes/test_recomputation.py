"""Activation checkpointing where a probe makes a backward pass of its own: right, without a trace, or refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import gradlab as gl

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(6) % 3


class Net(nn.Module):
    """A part that checkpointing may run again, and a head."""

    def __init__(self, part: nn.Module, run: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.part, self.head, self.run = part, nn.Linear(6, 3), run
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(x) if self.run is None else self.run(self.part, x))


def save_products(ctx: Any, function: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    saved = function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE


def nested(part: nn.Module, x: Tensor) -> Tensor:
    """The whole part, and all but its first layer within it."""
    return again(lambda x: again(part[1:], part[0](x)), x)


again = functools.partial(checkpoint, use_reentrant=False)
selected = functools.partial(again, context_fn=lambda: create_selective_checkpoint_contexts(save_products))


def normalized() -> nn.Module:
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())


class Tracking(nn.Module):
    """Keeps the mean of what it is given, and how often it is called: one in place, and one in a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        self.calls = self.calls + 1
        return torch.tanh(x)


def state_after(net: Net, probe: Any, *, grad: bool) -> tuple[list[Tensor], list[Tensor | None]]:
    """Buffers and gradients after a pass."""
    with torch.set_grad_enabled(grad), probe:
        loss = F.cross_entropy(net(X), Y)
    if grad:
        loss.backward()
    return [*net.buffers()], [parameter.grad for parameter in net.parameters()]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("run", [again, nested])
@pytest.mark.parametrize("norm_grad", ["frozen", "full"])
def test_running_statistics_take_a_batch_in_once(norm_grad: str, run: Callable[..., Tensor], grad: bool) -> None:
    states, gradients = [], []
    for probed, how in ((True, run), (False, run), (True, None)):
        torch.default_generator.manual_seed(1)
        net = Net(normalized(), how)
        probe = gl.InputGradients(net, norm_grad=norm_grad, observe=gradients.append) if probed else nullcontext()
        states.append(state_after(net, probe, grad=grad))
    for one, other in zip(states[0], states[1], strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)


def test_buffers_of_layers_are_as_without_the_probe() -> None:
    torch.default_generator.manual_seed(0)
    net = Net(nn.Sequential(nn.Linear(4, 6), Tracking(), nn.Linear(6, 6), Tracking()), again)
    twin = copy.deepcopy(net)
    with gl.ExampleGradients(net) as probe:
        for _ in range(2):
            for one in (net, twin):
                one.zero_grad()
                F.cross_entropy(one(X), Y).backward()
            probe.step()
    assert [buffer.tolist() for buffer in net.buffers()] == [buffer.tolist() for buffer in twin.buffers()]
    right = []
    for x, y in zip(X.split(1), Y.split(1), strict=True):
        twin.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        right.append(torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm().item())
    assert probe.examples().query("layer == 'total' and step == 1").norm.tolist() == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("kind", [gl.ExampleGradients, gl.InputGradients])
def test_what_allows_one_backward_pass_is_refused(kind: Any) -> None:
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), selected)
    with kind(net), pytest.raises(gl.GradlabError, match="selective activation checkpointing"):
        F.cross_entropy(net(X), Y).backward()
    F.cross_entropy(net(X), Y).backward()


def test_one_backward_pass_is_enough_where_the_caller_makes_none() -> None:
    gradients: list[Tensor] = []
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), selected)
    with torch.no_grad(), gl.InputGradients(net, observe=gradients.append):
        net(X)
    net.run, x = None, X.clone().requires_grad_()
    (right,) = torch.autograd.grad(net(x).sum(), x)
    torch.testing.assert_close(gradients[0], right, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("requires", [True, False])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward after"])
def test_a_model_that_runs_again_as_a_whole(requires: bool, inside: bool) -> None:
    net, gradients = Net(normalized()), []
    x = X.clone().requires_grad_(requires)
    with gl.InputGradients(net, observe=gradients.append):
        if not requires:
            with pytest.raises(gl.GradlabError, match="checkpoint parts inside of it"):
                again(lambda x: F.cross_entropy(net(x), Y), x)
            return
        loss = again(lambda x: F.cross_entropy(net(x), Y), x)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert len(gradients) == 1
