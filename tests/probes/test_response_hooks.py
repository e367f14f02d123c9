"""ResponseStd and its hooks: they change nothing, are removed, and what they cannot reach is an error."""

import copy
import gc
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from oracles.responses import images, probed
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create
from gradlab.probes import select_layers


def test_gradients_pass_through() -> None:
    model = create("torchvision/resnet18").train()
    model(images()).sum().backward()
    expected = model.conv1.weight.grad.clone()
    model.zero_grad()
    fresh = create("torchvision/resnet18").train()
    with gl.ResponseStd(fresh):
        fresh(images()).sum().backward()
    assert torch.equal(fresh.conv1.weight.grad, expected)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_does_not_change(training: bool) -> None:
    model, twin = create("resnet20").train(training), create("resnet20").train(training)
    hooks = count_hooks(model)
    rng = torch.get_rng_state()
    with gl.ResponseStd(model) as probe:
        measured = model(images())
        assert count_hooks(model) > hooks
    probe.result()
    assert count_hooks(model) == hooks
    assert torch.equal(measured, twin(images()))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    ours, theirs = model.state_dict(), twin.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def count_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_hooks_come_off_on_an_exception() -> None:
    model = create("resnet20")
    with pytest.raises(RuntimeError), gl.ResponseStd(model):
        model(torch.zeros(1, 5, 32, 32))
    assert count_hooks(model) == 0
    with pytest.raises(KeyboardInterrupt), gl.ResponseStd(model):
        raise KeyboardInterrupt
    assert count_hooks(model) == 0


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch"])
def test_copies_carry_no_hook_that_fires(how: str) -> None:
    model = create("resnet8").eval()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(images())
        before = probe.result().to_frame()
        if how == "deepcopy":
            clone = copy.deepcopy(model)
        elif how == "pickle":
            clone = pickle.loads(pickle.dumps(model))
        else:
            buffer = io.BytesIO()
            torch.save(model, buffer)
            buffer.seek(0)
            clone = torch.load(buffer, weights_only=False)
        assert torch.equal(clone(images(seed=8)), model.forward(images(seed=8)))
        clone(images(seed=9))
        probe_frame = probe.result().to_frame()
    # model.forward above called the layers once more; the clone's two calls added nothing.
    assert (probe_frame["count"] == 2 * before["count"]).all()


def test_nothing_is_kept() -> None:
    model = create("resnet8").eval()
    before = [o for o in gc.get_objects() if type(o) is Tensor]  # Held, so that no new object takes their ids.
    with torch.no_grad(), gl.ResponseStd(model):
        model(images())
        gc.collect()
        known = {id(o) for o in before}
        new = [o.numel() for o in gc.get_objects() if type(o) is Tensor and id(o) not in known]
    assert max(new, default=0) < images().numel()


def test_a_probe_is_entered_once_at_a_time_and_adds_up() -> None:
    model = create("resnet8").eval()
    probe = gl.ResponseStd(model)
    with torch.no_grad():
        with probe:
            model(images(2))
            with pytest.raises(GradlabError, match="already attached"):
                probe.__enter__()
        with probe:
            model(images(4))
    assert probe.result().to_frame()["count"].iloc[0] == 6 * 16 * 32 * 32


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_compiled_models_are_measured(how: str) -> None:
    model = create("resnet8").eval()
    expected = probed(model)
    torch._dynamo.reset()
    if how == "wrapper":
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = model
        compiled.compile(backend="eager")
    with torch.no_grad():
        compiled(images())
    assert probed(compiled) == pytest.approx(expected, rel=1e-6)
    torch._dynamo.reset()


def test_a_compiled_function_around_the_model() -> None:
    torch._dynamo.reset()
    model = create("resnet8").eval()
    step = torch.compile(lambda x: model(x) * 2, backend="eager")
    with torch.no_grad():
        step(images())
        with gl.ResponseStd(model) as probe:
            step(images())
    assert probe.result().to_frame()["count"].gt(0).all()
    torch._dynamo.reset()


def test_scripted_modules_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 3)), images(1))
    with pytest.raises(UsageError, match="scripted"):
        gl.ResponseStd(scripted)


def test_no_forward_pass_is_an_error() -> None:
    with gl.ResponseStd(create("resnet8")) as probe:
        pass
    with pytest.raises(GradlabError, match="saw no forward pass"):
        probe.result()


@pytest.mark.parametrize("layers", ["conv9*", nn.Conv3d, lambda name, module: False])
def test_a_selection_that_matches_nothing_shows_names(layers: object) -> None:
    with pytest.raises(UsageError, match=r"CifarNet matches .* it has conv1, layer1\.0\.conv1, .* \(8 in all\)"):
        gl.ResponseStd(create("resnet8"), layers)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("layer2.*", ["layer2.0.conv1", "layer2.0.conv2"]),
        ("conv1,fc", ["conv1", "fc"]),
        ("layer3.0", ["layer3.0"]),
        (nn.Linear, ["fc"]),
        ((nn.Linear, nn.BatchNorm2d), ["bn1", "layer1.0.bn1", "layer1.0.bn2"]),
        (lambda name, module: name.endswith("conv2"), ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"]),
    ],
)
def test_selection(layers: object, expected: list[str]) -> None:
    model = create("resnet8").eval()
    assert list(select_layers(model, layers))[: len(expected)] == expected
    found = probed(model, layers)
    assert all(np.isfinite(list(found.values())))


def test_default_selection_takes_every_weight() -> None:
    assert len(select_layers(create("resnet20-B"))) == 22
    assert len(select_layers(create("torchvision/resnet50"))) == 54
    assert list(select_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))) == ["0", "2"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_synchronization_on_cuda() -> None:
    model = create("resnet20").eval().cuda()
    x = images().cuda()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                model(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert probe.result().to_frame()["std"].notna().all()
