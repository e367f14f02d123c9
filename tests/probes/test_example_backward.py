"""ExampleGradients.backward gives the gradients of loss.backward, in one pass, for networks of all kinds."""

import gc
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from oracles.example_gradients import (
    MLP,
    Attention,
    Awkward,
    Checkpointed,
    Shared,
    Tokens,
    check_backward,
    check_equal,
    expected_of,
    gradients_of,
    images,
    loss_of,
    trained,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.models import create

NETWORKS = {
    "resnet20": lambda: (trained(create("resnet20")), images()),
    "resnet8-B": lambda: (trained(create("resnet8-B")), images()),
    "torchvision": lambda: (trained(create("torchvision/resnet18")), images()),
    "mlp": lambda: (MLP, torch.randn(5, 96)),
    "tokens": lambda: (Tokens(), torch.randn(5, 96)),
    "awkward": lambda: (Awkward(), images(4, 8)),
    "shared": lambda: (Shared(), images(4, 8)),
    "attention": lambda: (Attention(), torch.randn(4, 96)),
    "checkpointed": lambda: (Checkpointed(False), images()),
}


class OutsideItsLayer(nn.Module):
    """A weight that another operation uses besides its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.two(self.one(x))), self.one.weight.T)


class Branches(nn.Module):
    """Two first layers, and one whose input is the images and the output of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(torch.cat([self.left(x), torch.tanh(self.right(x)), x], 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_norms(name: str) -> None:
    """The pass runs twice, the second time adding to existing gradients; norms are those of autograd's pass."""
    model, x = NETWORKS[name]()
    model, x = model.double().eval(), x.double()
    expected = expected_of(model, x)
    with gl.ExampleGradients(model) as usual:
        loss_of(model(x)).backward()
        usual.step()
    model.zero_grad()
    with gl.ExampleGradients(model) as probe:
        probe.backward(loss_of(model(x)))
        check_equal(gradients_of(model), expected)
        probe.step()
        for _ in range(2):
            probe.backward(loss_of(model(x)))
        check_equal(gradients_of(model), {n: None if g is None else 2 * g for n, g in expected.items()})
    pairs = usual.examples(), probe.examples().query("step == 0")
    for column in ("layer", "example"):
        assert pairs[0][column].tolist() == pairs[1][column].tolist()
    assert pairs[0]["norm"].to_numpy() == pytest.approx(pairs[1]["norm"].to_numpy(), rel=1e-10)


class WeightGradients(TorchDispatchMode):
    """Counts backward passes of ungrouped convolutions that compute a gradient of the weight."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is torch.ops.aten.convolution_backward.default and args[-2] == 1:
            self.count += args[-1][1]
        return function(*args, **(kwargs or {}))


def test_no_weight_gradient_is_computed_twice() -> None:
    model = trained(create("resnet8"))
    with gl.ExampleGradients(model) as probe:
        loss_of(model(images())).backward()  # The first pass of a kind is made by autograd.
        for backward, count in ((probe.backward, 0), (Tensor.backward, 7)):
            loss = loss_of(model(images()))
            with WeightGradients() as mode:
                backward(loss)
            assert mode.count == count


@pytest.mark.parametrize("make", [OutsideItsLayer, Branches])
def test_a_weight_used_elsewhere_and_several_first_layers(make: type[nn.Module]) -> None:
    check_backward(make().double(), torch.randn(5, 4).double())


def test_reentrant_checkpointing_is_named() -> None:
    model = Checkpointed(True)
    with gl.ExampleGradients(model) as probe:
        with pytest.raises(GradlabError, match=r"block\.0\.weight.*use_reentrant=False"):
            probe.backward(loss_of(model(images())))


def test_inputs_that_want_a_gradient_get_it() -> None:
    model = trained(create("resnet8")).double()
    found = []
    for probed in (False, True):
        x = images().double().requires_grad_()
        with gl.ExampleGradients(model) as probe:
            (probe.backward if probed else Tensor.backward)(loss_of(model(x)))
        found.append(x.grad)
    assert torch.equal(*found)


def test_hooks_on_a_parameter_see_its_gradient() -> None:
    model, x = MLP.double(), torch.randn(5, 96).double()
    expected, seen = expected_of(model, x), []
    handles = [
        model[1].weight.register_hook(lambda gradient: seen.append(gradient.clone())),
        model[3].weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.clone())),
    ]
    with gl.ExampleGradients(model) as probe:
        probe.backward(loss_of(model(x)))
    for handle in handles:
        handle.remove()
    check_equal(gradients_of(model), expected)
    assert torch.equal(seen[0], expected["3.weight"])
    assert torch.equal(seen[1], expected["1.weight"])


def test_frozen_layers_and_layers_not_chosen() -> None:
    model, x = trained(create("resnet8")).double(), images().double()
    model.conv1.requires_grad_(False)
    model.layer2.requires_grad_(False)
    assert expected_of(model, x)["conv1.weight"] is None
    for layers in (None, "layer3.*", "fc"):
        check_backward(model, x, layers)


def test_both_ways_in_one_step() -> None:
    model, parts = trained(create("resnet8")).double(), images(6).double().split(2)
    expected = [expected_of(model, part) for part in parts]
    with gl.ExampleGradients(model) as probe:
        for part, backward in zip(parts, (Tensor.backward, probe.backward, Tensor.backward), strict=True):
            backward(loss_of(model(part)))
        probe.step()
    check_equal(gradients_of(model), {name: sum(part[name] for part in expected) for name in expected[0]})
    assert probe.examples()["example"].max() == 5


@pytest.mark.parametrize("why", ["not attached", "not due", "distributed"])
def test_where_it_is_autograds_own(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are bitwise equal, since the probe leaves the pass to autograd."""
    model, x = trained(create("resnet8")), images()
    expected = expected_of(model, x)
    probe = gl.ExampleGradients(model, every=lambda step: why != "not due")
    if why == "not attached":
        probe.backward(loss_of(model(x)))
    else:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: why == "distributed")
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
        with probe:
            probe.backward(loss_of(model(x)))
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients_of(model).items())


@pytest.mark.parametrize("kind", [gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients])
def test_probes_do_not_change_autograds_gradients(kind: type) -> None:
    """Gradients of loss.backward are bitwise equal."""
    model, x = trained(create("resnet20")), images()
    expected = expected_of(model, x)
    with kind(model) as probe:
        loss_of(model(x)).backward()
        probe.step()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients_of(model).items())


def test_mixed_precision_and_a_scaler() -> None:
    """The sums are in float32, autograd's in bfloat16, and both remain scaled until the scaler unscales them."""
    model, x = trained(create("resnet8")), images()
    expected = expected_of(model, x)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with gl.ExampleGradients(model, scaler=scaler) as probe:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model(x))
        probe.backward(scaler.scale(loss))
        probe.step()
    for name, gradient in gradients_of(model).items():
        assert gradient.dtype == torch.float32
        assert (gradient / 2**8 - expected[name]).norm() <= 0.1 * expected[name].norm()
    total = probe.result().totals().iloc[0]
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm().item()
    assert total["grad_norm"] == pytest.approx(norm, rel=0.05)


def test_a_graph_that_is_not_used_is_freed() -> None:
    """A forward pass without a backward pass keeps nothing alive, even in very deep networks."""

    class Witness:
        pass

    depth = sys.getrecursionlimit() + 200
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))
    witness = Witness()
    gone = weakref.ref(witness)
    gc.collect()
    gc.disable()
    try:
        with gl.ExampleGradients(model) as probe:
            output = model(torch.randn(2, 2))
            output.grad_fn.metadata["witness"] = witness
            del witness, output
            assert gone() is None
            probe.backward(loss_of(model(torch.randn(2, 2))))
    finally:
        gc.enable()
    assert all(gradient is not None for gradient in gradients_of(model).values())
