"""Responses and their gradients in loops of all kinds against plain autograd, and what is refused."""

import math
import threading
import warnings
from typing import Any

import pytest
import torch
from oracles.responses import close, norms, std, stds
from probes.fragile import Fragile
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def test_two_losses_through_one_graph_add_as_vectors() -> None:
    model, x = Small().double(), torch.randn(5, 4).double()
    with gl.ResponseGradients(model) as probe:
        out = model(x)
        out.square().sum().backward(retain_graph=True)
        out.sum().backward()
        probe.step()
    out = model.b(torch.tanh(a := model.a(x)))
    gradients = torch.autograd.grad(out.square().sum() + out.sum(), (a, out))
    found = probe.result().layers()["response_grad_norm"].tolist()
    assert found == pytest.approx([g.norm().item() for g in gradients], rel=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_passes_that_accumulate_nothing_do_not_count(frozen: bool) -> None:
    model, x = Small().double().requires_grad_(not frozen), torch.randn(5, 4).double().requires_grad_()
    with gl.ResponseGradients(model) as probe:
        (attack,) = torch.autograd.grad(model(x).square().sum(), x)
        model(x + attack.sign()).square().sum().backward()
        penalty = torch.autograd.grad(model(x).sum(), x, create_graph=not frozen)[0]
        if not frozen:
            penalty.square().sum().backward()
        probe.step()
    a = model.a(x + attack.sign())
    out = model.b(torch.tanh(a))
    rights = [[g.norm().item() for g in torch.autograd.grad(out.square().sum(), (a, out))]]
    if not frozen:
        a = model.a(x)
        (inner,) = torch.autograd.grad(model.b(torch.tanh(a)).sum(), x, create_graph=True)
        rights.append([torch.autograd.grad(inner.square().sum(), a)[0].norm().item(), 0.0])
    right = [math.hypot(*both) for both in zip(*rights, strict=True)]
    assert probe.result().layers()["response_grad_norm"].tolist() == pytest.approx(right, rel=1e-9)


def test_a_view_changed_in_place_keeps_its_gradient() -> None:
    class Viewing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(-1)

    model, x = nn.Sequential(Viewing(4, 4)).double(), torch.randn(5, 4).double()

    def run() -> Tensor:
        out = model(x)
        out *= 3
        return out.square().sum()

    close(norms(model, run), {("0", 1): (18 * model[0](x)).norm().item()})


def test_hooks_on_tensors_are_part_of_the_gradient() -> None:
    model, x = Small().double(), torch.randn(5, 4).double()
    plain = norms(model, lambda: model(x).square().sum())
    handle = model.a.register_forward_hook(lambda _, a, out: out.register_hook(lambda g: 2 * g) and None)
    found = norms(model, lambda: model(x).square().sum())
    handle.remove()
    close(found, {("a", 1): 2 * plain["a", 1], ("b", 1): plain["b", 1]})


def test_a_failed_forward_pass_is_not_counted() -> None:
    class Failing(Small):
        def forward(self, x: Tensor) -> Tensor:
            out = self.a(x)
            if len(x) > 5:
                raise MemoryError
            return self.b(out)

    model, x = Failing().double(), torch.randn(5, 4).double()
    for order in ((6, 5, 6), (5, 6, 5)):
        with gl.ResponseStd(model) as probe, gl.ResponseGradients(model) as gradients:
            for n in order:
                try:
                    model(torch.cat([x, x])[:n]).sum().backward()
                except MemoryError:
                    continue
        frame, count = probe.result().frame, sum(n == 5 for n in order)
        assert frame["count"].tolist() == [count * 5 * 4, count * 5 * 3]
        assert frame["std"].tolist() == pytest.approx([std(model.a(x)), std(model(x))], rel=1e-9)
        assert gradients.result().layers()["response_numel"].tolist() == [count * 5 * 4, count * 5 * 3]
        assert gradients.result().layers()["call"].tolist() == [1, 1]


def test_parts_without_the_root_have_one_call_each() -> None:
    model, x = Small().double(), torch.randn(5, 4).double()
    with gl.ResponseGradients(model) as probe:
        for _ in range(3):
            model.b(torch.tanh(model.a(x))).sum().backward()
            probe.step()
    frame = probe.result().layers()
    assert frame["call"].tolist() == [1] * 6
    assert frame["step"].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_response_that_is_normalized_in_later_passes_is_measured_there_alone() -> None:
    """Passes like the first, without hooks, have taken the layer's own output; the normalization takes an alias."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.head = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            return self.head(self.norm(h.detach()) if h.shape[0] > 6 else h)

    model = Net()
    batches = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 5, 6, 7, 8)]
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for x in batches:
            model(x)
    normalized = torch.cat([model.norm(model.layer(x)) for x in batches[3:]]).detach()
    heads = torch.cat([model(x) for x in batches]).detach()
    frame = probe.result().frame.set_index("layer")
    assert frame.loc["layer", "count"] == normalized.numel()
    assert frame.loc["layer", "std"] == pytest.approx(normalized.double().std(correction=0).item(), rel=1e-6)
    assert frame.loc["head", "std"] == pytest.approx(heads.double().std(correction=0).item(), rel=1e-6)
    assert "layer: 3 calls were not normalized" in " ".join(probe.result().notes)


def test_two_threads_are_refused() -> None:
    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.barrier = nn.Linear(4, 4), threading.Barrier(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            self.barrier.wait(20)
            return x

    model, errors = Waiting(), []

    def run() -> None:
        try:
            model(torch.randn(2, 4))
        except (GradlabError, threading.BrokenBarrierError) as error:
            errors.append(error)
            model.barrier.abort()

    with gl.ResponseStd(model):
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert any("two threads" in str(error) for error in errors)


def test_functional_call_and_vmap_are_measured() -> None:
    model, x = Small().double(), torch.randn(5, 4).double()
    other = {name: 2 * p.detach() for name, p in model.named_parameters()}
    with torch.no_grad(), gl.ResponseStd(model, "a") as probe:
        torch.func.functional_call(model, other, (x,))
        torch.func.vmap(model)(x)
    right = torch.cat([2 * model.a(x), model.a(x)])
    assert probe.result().frame["std"].tolist() == pytest.approx([std(right)], rel=1e-9)


def test_gradients_through_vmap_are_measured() -> None:
    """Of an ensemble, those of all members; of what another transform differentiates, none."""
    torch.manual_seed(0)
    members, x = [Small().double() for _ in range(3)], torch.randn(5, 4).double()
    weights, buffers = torch.func.stack_module_state(members)
    model = members[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, (weights, buffers), (x,)).square().sum()

    each = [norms(member, lambda member=member: member(x).square().sum()) for member in members]
    alone = norms(model, lambda: model(2 * x).square().sum())
    right = {key: math.hypot(alone[key], *(found[key] for found in each)) for key in alone}
    with gl.ResponseGradients(model) as probe, gl.watch(model, optimizer, every=1) as watch:
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(dict(model.named_parameters()), x[:, None])
        (torch.func.vmap(loss, in_dims=(0, None))(weights, x).sum() + model(2 * x).square().sum()).backward()
        optimizer.step()
    rows = probe.result().layers()
    assert rows["response_grad_norm"].tolist() == pytest.approx([*right.values()], rel=1e-9)
    frame = watch.result().frame
    rms = frame[frame["statistic"] == "response_grad_rms"].set_index("layer")["value"]
    for row in rows.itertuples():
        assert rms[row.layer] == pytest.approx(row.response_grad_norm / row.response_numel**0.5, rel=1e-9)


@pytest.mark.parametrize("where", ["method", "function"])
def test_compiled_code_runs_eagerly_and_says_so(where: str) -> None:
    torch._dynamo.reset()
    model, x = Small(), torch.randn(5, 4)
    right = stds(model, x)
    run: Any = model
    if where == "method":
        model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    else:
        run = torch.compile(lambda x: model(x), backend="eager")
    run(x)
    with pytest.warns(UserWarning, match="compiled"), torch.no_grad(), gl.ResponseStd(model) as probe:
        run(x)
    frame = probe.result().frame
    assert dict(zip(zip(frame["layer"], frame["call"], strict=True), frame["std"], strict=True)) == right
    torch._dynamo.reset()


def test_scripted_parts_are_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.Tanh())), nn.Linear(6, 3))
    with gl.ResponseStd(model) as probe:
        model(torch.randn(2, 4))
    result = probe.result()
    assert result.frame["layer"].tolist() == ["1"]
    assert "scripted" in result.notes[0]
    assert "0.0" in result.notes[0]


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def test_scripted_functions_in_place_change_no_response() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double(),
        torch.randn(5, 4).double(),
    )
    right = [std(model[0](x)), std(model(x))]
    right_norms = norms(model, lambda: model(x).square().sum())
    model[1] = scripted(model[1])
    with gl.ResponseStd(model) as probe, gl.ResponseGradients(model) as gradients:
        model(x).square().sum().backward()
        gradients.step()
    assert probe.result().frame["std"].tolist() == pytest.approx(right, rel=1e-9)
    rows = gradients.result().layers()
    assert rows["response_grad_norm"].tolist() == pytest.approx([*right_norms.values()], rel=1e-9)


def test_scripted_normalizations_are_named() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), scripted(nn.LayerNorm(6)), nn.Linear(6, 3)), torch.randn(5, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gl.ResponseStd(model) as probe, gl.ResponseGradients(model) as gradients, gl.watch(model, optimizer) as watch:
        model(x).square().sum().backward()
        optimizer.step()
    right = (
        "1: inside a scripted module, which runs no Python hooks; the response of a layer before it is the layer's own"
    )
    for result in (probe.result(), gradients.result(), watch.result()):
        assert any(note.startswith(right) for note in result.notes)


class NormThenScripted(nn.BatchNorm1d):
    """A normalization with its activation, as timm has them."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = scripted(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def test_a_normalization_that_calls_a_scripted_module_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), NormThenScripted(6), nn.Linear(6, 3))
    with gl.ResponseStd(model), pytest.raises(GradlabError, match=r"^0: its normalization 1 may call a scripted"):
        model(torch.randn(5, 4))
    assert stds(model.eval(), torch.randn(2, 4), layers="2").keys() == {("2", 1)}


def test_a_name_is_not_a_module() -> None:
    with pytest.raises(UsageError, match=r"not the name 'resnet20': build it first"):
        gl.ResponseStd("resnet20")  # type: ignore[arg-type]
    assert stds(Small(), torch.randn(2, 4), layers=["b", "a"]).keys() == {("a", 1), ("b", 1)}


def test_the_backward_pass_of_another_probe_counts() -> None:
    model, x = Small().double(), torch.randn(5, 4).double()
    right = norms(model, lambda: model(x).square().sum())
    with gl.ResponseGradients(model) as probe, gl.ExampleGradients(model, reduction="sum") as examples:
        for _ in range(2):
            examples.backward(model(x).square().sum())
            examples.step()
            probe.step()
    rows = probe.result().layers()
    assert rows["response_grad_norm"].tolist() == pytest.approx([*right.values()] * 2, rel=1e-9)


@pytest.mark.parametrize("retained", [False, True])
def test_a_failed_backward_pass_is_not_counted(retained: bool) -> None:
    torch.manual_seed(0)
    model = Fragile(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    small, large = torch.randn(3, 4).double(), torch.randn(8, 4).double()
    with gl.ResponseGradients(model) as probe:
        model.fail(large)
        model.zero_grad()
        model(small).square().mean().backward(retain_graph=retained)
        model.fail(large)
        probe.step()
        model.fail(large)
    first = model[0](small)
    last = model[2](torch.tanh(first))
    expected = [g.norm().item() for g in torch.autograd.grad(last.square().mean(), [first, last])]
    frame = probe.result().layers()
    assert frame["response_grad_norm"][:2].tolist() == pytest.approx(expected, rel=1e-12)
    assert frame["response_numel"][:2].tolist() == [15, 9]
