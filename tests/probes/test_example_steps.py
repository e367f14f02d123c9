"""Gradients of examples in steps of several passes, of which only those count whose gradients are in `.grad`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from probes.fragile import Fragile
from torch import Tensor, nn

import gradlab as gl

Backward = Callable[[Tensor], object]

X = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 3


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def norms_by_hand(net: nn.Module, rows: slice) -> list[float]:
    """The norm of each example's gradient, one example at a time."""
    found = []
    for x, y in zip(X[rows], Y[rows], strict=True):
        grads = torch.autograd.grad(F.cross_entropy(net(x[None]), y[None]), [*net.parameters()])
        found.append(torch.cat([grad.flatten() for grad in grads]).norm().item())
    return found


def one_dropped(net: nn.Module, backward: Backward) -> slice:
    backward(F.cross_entropy(net(X), Y))
    net.zero_grad()
    backward(F.cross_entropy(net(X[:5]), Y[:5]))
    return slice(5)


def one_dropped_by_zeros(net: nn.Module, backward: Backward) -> slice:
    backward(F.cross_entropy(net(X[:3]), Y[:3]))
    net.zero_grad(set_to_none=False)
    for part in (slice(4), slice(4, 8)):
        backward(F.cross_entropy(net(X[part]), Y[part]) / 2)
    return slice(8)


def forward_passes_first(net: nn.Module, backward: Backward) -> slice:
    dropped, kept = F.cross_entropy(net(X), Y), F.cross_entropy(net(X[2:6]), Y[2:6])
    backward(dropped)
    net.zero_grad()
    backward(kept)
    return slice(2, 6)


def accumulated(net: nn.Module, backward: Backward) -> slice:
    for part in (slice(4), slice(4, 8)):
        backward(F.cross_entropy(net(X[part]), Y[part]) / 2)
    return slice(8)


@pytest.mark.parametrize("step", [one_dropped, one_dropped_by_zeros, forward_passes_first, accumulated])
@pytest.mark.parametrize("own", [True, False], ids=["probe.backward", "loss.backward"])
def test_passes_whose_gradients_were_cleared_do_not_count(
    step: Callable[[nn.Module, Backward], slice], own: bool
) -> None:
    net = make_net()
    with gl.ExampleGradients(net) as probe:
        for _ in range(3):
            net.zero_grad()
            rows = step(net, probe.backward if own else lambda loss: loss.backward())
            probe.step()
    each = probe.examples().query("layer == 'total'")
    right = norms_by_hand(net, rows)
    for number in range(3):
        assert each[each.step == number].norm.tolist() == pytest.approx(right, rel=1e-9)
    total = probe.result().to_frame().query("layer == 'total'")
    whole = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm().item()
    assert total.diversity.tolist() == pytest.approx([sum(n * n for n in right) / (len(right) * whole) ** 2] * 3)


@pytest.mark.parametrize("layer", [0, 2])
def test_layers_unfrozen_while_they_are_measured(layer: int) -> None:
    net = make_net()
    net[layer].requires_grad_(False)
    with gl.ExampleGradients(net) as probe:
        F.cross_entropy(net(X), Y).backward()
        probe.step()
        net.requires_grad_(True)
        net.zero_grad()
        rows = accumulated(net, lambda loss: loss.backward())
        probe.step()
        whole = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm().item()
        net.zero_grad()
        (F.cross_entropy(net(X), Y) + net[layer].weight.square().sum()).backward()
        with pytest.raises(gl.GradlabError, match=rf"^{layer}\.weight: the gradient at step 2 is not the sum"):
            probe.step()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in net.parameters())
    right = norms_by_hand(net, rows)
    total = probe.result().to_frame().query("layer == 'total' and step == 1")
    assert total.example_norm.item() == pytest.approx(sum(right) / len(right))
    assert total.diversity.item() == pytest.approx(sum(n * n for n in right) / (len(right) * whole) ** 2)


@pytest.mark.parametrize("own", [True, False], ids=["probe.backward", "loss.backward"])
@pytest.mark.parametrize(
    "change", [lambda net: nn.utils.clip_grad_norm_(net.parameters(), 0.01), lambda net: net[0].zero_grad()]
)
def test_gradients_that_are_changed_within_a_step_are_refused(change: Callable[[nn.Module], object], own: bool) -> None:
    net = make_net()
    with gl.ExampleGradients(net) as probe:
        backward = probe.backward if own else lambda loss: loss.backward()
        backward(F.cross_entropy(net(X[:4]), Y[:4]) / 2)
        change(net)
        backward(F.cross_entropy(net(X[4:]), Y[4:]) / 2)
        with pytest.raises(gl.GradlabError, match=r"^0\.weight.*changed between two backward passes of step 0"):
            probe.step()


def test_parameters_that_torch_swaps_as_it_converts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swapped parameter is the same object, and has no hook any more."""
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    net = make_net().float()
    with gl.ExampleGradients(net) as probe:
        F.cross_entropy(net(X.float()), Y).backward()
        probe.step()
        net.zero_grad()
        net.double()
        F.cross_entropy(net(X), Y).backward()
        probe.step()
        net.zero_grad()
        accumulated(net, lambda loss: loss.backward())
        with pytest.raises(gl.GradlabError, match=r"^0\.weight, .* not seen to be added to \.grad"):
            probe.step()
    found = probe.examples().query("layer == 'total' and step == 1").norm
    assert found.tolist() == pytest.approx(norms_by_hand(net, slice(8)), rel=1e-9)


@pytest.mark.parametrize("own", [True, False], ids=["probe.backward", "loss.backward"])
@pytest.mark.parametrize("place", [2, 3])
def test_a_backward_pass_that_fails_is_forgotten(place: int, own: bool) -> None:
    """Before the model's last layer, and where it would have begun; the second time its structure is known."""
    net = Fragile(*make_net(), *[nn.Identity()] * (place - 2))
    right = norms_by_hand(net, slice(8))
    with gl.ExampleGradients(net) as probe:
        backward = probe.backward if own else lambda loss: loss.backward()
        for _ in range(3):
            net.fail(X)
            net.zero_grad()
            backward(F.cross_entropy(net(X), Y))
            probe.step()
    each = probe.examples().query("layer == 'total'")
    assert each.norm.tolist() == pytest.approx(right * 3, rel=1e-9)


@pytest.mark.parametrize("cleared", [True, False])
def test_a_pass_that_fails_among_others_is_refused_unless_gradients_are_cleared(cleared: bool) -> None:
    net = Fragile(*make_net())
    with gl.ExampleGradients(net) as probe:
        F.cross_entropy(net(X), Y).backward()
        probe.step()
        net.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        net.fail(X)
        if cleared:
            net.zero_grad()
        F.cross_entropy(net(X[:4]), Y[:4]).backward()
        with nullcontext() if cleared else pytest.raises(gl.GradlabError, match=r"^2\.weight.*not all gradients were"):
            probe.step()
    found = probe.examples().query("layer == 'total' and step == 1").norm
    assert found.tolist() == pytest.approx(norms_by_hand(net, slice(4)) if cleared else [], rel=1e-9)


@pytest.mark.parametrize("own", [True, False], ids=["probe.backward", "loss.backward"])
@pytest.mark.parametrize(("fails_first", "cleared"), [(True, True), (True, False), (False, False)])
def test_one_of_two_passes_fails_after_both_forward_passes(fails_first: bool, cleared: bool, own: bool) -> None:
    """It leaves a part of its gradient, which no example of the other pass has given."""
    net = Fragile(*make_net())
    with gl.ExampleGradients(net) as probe:
        backward = probe.backward if own else lambda loss: loss.backward()
        # The structure of a pass that fails has to be known, or else it fails before it adds to gradients.
        backward(F.cross_entropy(net(X[:4]), Y[:4]))
        probe.step()
        net.zero_grad()
        net.breaks = True
        failing = F.cross_entropy(net(X[4:]), Y[4:])
        net.breaks = False
        whole = F.cross_entropy(net(X[:4]), Y[:4])
        for loss in (failing, whole) if fails_first else (whole, failing):
            with pytest.raises(MemoryError) if loss is failing else nullcontext():
                backward(loss)
            if cleared and loss is failing:
                net.zero_grad()
        if cleared:
            probe.step()
        else:
            with pytest.raises(
                gl.GradlabError, match=r"^2\.weight.* pass that failed has added to the gradient of step 1"
            ):
                probe.step()
    found = probe.examples().query("layer == 'total' and step == 1").norm
    assert found.tolist() == pytest.approx(norms_by_hand(net, slice(4)) if cleared else [], rel=1e-9)


def test_a_refused_step_leaves_nothing_behind() -> None:
    net = make_net()
    with gl.ExampleGradients(net) as probe:
        for penalty in (0.0, 1.0, 0.0):
            net.zero_grad()
            (F.cross_entropy(net(X), Y) + penalty * net[0].weight.square().sum()).backward()
            with pytest.raises(gl.GradlabError) if penalty else nullcontext():
                probe.step()
    frame = probe.result().to_frame().set_index(["step", "layer"])
    assert frame.index.is_unique
    assert {step for step, _ in frame.index} == {0, 1}
    assert frame.loc[1].grad_norm.tolist() == pytest.approx(frame.loc[0].grad_norm.tolist(), rel=1e-12)


class Graph(nn.Module):
    """A layer that applies a sparse weight."""

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        weight = torch.eye(4, dtype=torch.float64).flip(0) * torch.arange(1.0, 5.0)
        self.matrix = nn.Parameter(weight.to_sparse(layout=layout))
        self.head = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = torch.sparse.mm(self.matrix, x.T).T
        logits: Tensor = self.head(torch.tanh(hidden))
        return logits


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_parameters(layout: torch.layout) -> None:
    torch.manual_seed(0)
    net = Graph(layout)
    hidden = torch.sparse.mm(net.matrix.detach(), X.T).T.requires_grad_()
    right = torch.autograd.grad(F.cross_entropy(net.head(torch.tanh(hidden)), Y), hidden)[0].norm().item()
    with gl.ResponseGradients(net) as responses, gl.ParameterGradients(net) as parameters:
        F.cross_entropy(net(X), Y).backward()
        responses.step()
        parameters.step()
    found = responses.result().to_frame().set_index("layer").response_grad_norm
    assert found["matrix"] == pytest.approx(right, rel=1e-9)
    assert net.matrix.grad is not None
    norm = net.matrix.grad.to_dense().norm().item()
    assert parameters.result().to_frame().set_index("layer").grad_norm["matrix"] == pytest.approx(norm, rel=1e-9)
    with pytest.raises(gl.UsageError, match=r"^matrix: a sparse parameter"):
        gl.ExampleGradients(net)
