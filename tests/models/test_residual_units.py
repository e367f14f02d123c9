"""The residual units of He et al. 2016, against whole networks written out from Fig. 4 and the appendix."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.models import cost, create, infer_architectures, is_foldable, parse_name
from gradlab.results.responses.findings import AT_INITIALIZATION

UNITS = ("bn-after-add", "relu-before-add", "relu-preact", "preact")
State = dict[str, Tensor]
Seen = dict[str, Tensor]


def conv(state: State, key: str, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], stride=stride, padding=1)


def bn(state: State, key: str, x: Tensor) -> Tensor:
    """Batch normalization with running statistics, by its definition."""
    mean, var, weight, bias = (
        state[f"{key}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def zero_padded(x: Tensor, channels: int, stride: int) -> Tensor:
    """Option A: every second position, with zero channels on both sides."""
    extra = channels - x.shape[1]
    x = x[:, :, ::stride, ::stride]
    return torch.cat(
        [x.new_zeros(len(x), extra // 2, *x.shape[2:]), x, torch.zeros_like(x[:, : extra - extra // 2])], 1
    )


def by_hand(unit: str, state: State, x: Tensor, scale: float, beta: float) -> tuple[Tensor, Seen]:
    """Logits of an 8-layer net, and the response of every convolution, each written out."""
    seen: Seen = {}

    def see(key: str, value: Tensor) -> Tensor:
        seen[key] = value
        return value

    x = F.relu(see("conv1", bn(state, "bn1", conv(state, "conv1", x))))
    for stage in (1, 2, 3):
        key, channels, stride = f"layer{stage}.0", 16 * 2 ** (stage - 1), 1 if stage == 1 else 2
        c1, c2, b1, b2 = (f"{key}.{part}" for part in ("conv1", "conv2", "bn1", "bn2"))
        if unit == "preact":
            # The first unit shares the stem's activation; so do units whose shape changes.
            shared = x if stage == 1 else F.relu(bn(state, b1, x))
            branch = see(c2, conv(state, c2, F.relu(see(c1, bn(state, b2, conv(state, c1, shared, stride))))))
            x = scale * zero_padded(shared, channels, stride) + beta * branch
        elif unit == "relu-preact":
            shared = F.relu(x)
            inner = F.relu(see(c1, bn(state, b1, conv(state, c1, shared, stride))))
            x = scale * zero_padded(shared, channels, stride) + beta * see(c2, bn(state, b2, conv(state, c2, inner)))
        else:
            kept = scale * zero_padded(x, channels, stride)
            inner = F.relu(see(c1, bn(state, b1, conv(state, c1, x, stride))))
            if unit == "bn-after-add":
                x = F.relu(bn(state, b2, kept + beta * see(c2, conv(state, c2, inner))))
            else:
                response = see(c2, bn(state, b2, conv(state, c2, inner)))
                x = kept + beta * F.relu(response) if unit == "relu-before-add" else F.relu(kept + beta * response)
    if unit == "preact":
        x = F.relu(bn(state, "last.0", x))
    elif unit == "relu-preact":
        x = F.relu(x)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]), seen


def altered(name: str) -> nn.Module:
    """A network in double precision whose normalizations are not the identity."""
    model = create(name, seed=1).double().eval()
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value.uniform_(0.3, 1.5, generator=generator)
    return model


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 1.0), (0.5, 0.25)])
@pytest.mark.parametrize("unit", ["original", *UNITS])
def test_networks_and_their_responses_by_hand(unit: str, scales: tuple[float, float]) -> None:
    suffix = "" if unit == "original" else f"-{unit}"
    model = altered(f"resnet8{suffix}-shortcut={scales[0]}-beta={scales[1]}")
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), gl.ResponseStd(model, layers="*conv*") as probe:
        logits = model(x)
    expected, responses = by_hand(unit, model.state_dict(), x, *scales)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    frame = probe.result().to_frame()
    assert frame["layer"].tolist() == list(responses)
    np.testing.assert_allclose(frame["std"], [r.std(correction=0).item() for r in responses.values()], rtol=1e-9)


@pytest.mark.parametrize("unit", UNITS)
def test_units_have_the_same_components(unit: str) -> None:
    """Fig. 4: "All these units consist of the same components — only the orders are different"."""
    original, model = create("resnet20", seed=3), create(f"resnet20-{unit}", seed=3)
    assert cost(model, (3, 32, 32)) == cost(original, (3, 32, 32))
    ours, theirs = model.state_dict(), original.state_dict()
    weights = [key for key in theirs if "conv" in key or "fc" in key]
    assert all(torch.equal(ours[key], theirs[key]) for key in weights)


def test_the_state_passes_a_pre_activation_net_unchanged() -> None:
    """Eq. 4 and 5: if branches are 0, a stage is the identity for values of any sign, and so is its derivative."""
    model = create("resnet20-preact").eval()
    for name, parameter in model.named_parameters():
        if "conv2" in name:
            nn.init.zeros_(parameter)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    out = model.layer1(x)
    assert torch.equal(out, x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_the_family_is_inferred(depth: int) -> None:
    name = f"resnet{depth}-preact-width=8"
    assert [found.name for found in infer_architectures(create(name).state_dict())] == [name]


@pytest.mark.parametrize("name", ["resnet20-preact", "resnet20-relu-preact", "resnet20-shortcut=0.5", "resnet8-B"])
def test_names_are_written_back(name: str) -> None:
    assert parse_name(name).name == name
    assert parse_name(name).shown in infer_architectures(create(name).state_dict())


def test_names_in_any_spelling_of_a_number() -> None:
    assert parse_name("resnet20-preact-shortcut=.50-beta=1").name == "resnet20-preact-shortcut=0.5"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("plain20-preact", "preact is for residual CIFAR networks"),
        ("imagenet/resnet18-preact", "preact is for residual CIFAR networks"),
        ("plain20-shortcut=0.5", "shortcut is for residual CIFAR networks"),
        ("resnet20-B-preact", "without option B"),
        ("resnet20-shortcut=0", "without them the network is plain"),
        ("resnet20-preactivation", "did you mean"),
    ],
)
def test_invalid_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_name(name)


@pytest.mark.parametrize(
    ("asked", "held", "message"),
    [
        ("resnet8", "resnet8-preact", "holds resnet8-preact, not resnet8$"),
        ("plain8", "resnet8-preact", "holds resnet8-preact, not plain8$"),
        ("resnet8-preact", "resnet8", "holds resnet8 or plain8, not resnet8-preact$"),
        ("resnet14-preact", "resnet8-preact", "holds resnet8-preact, not resnet14-preact$"),
    ],
)
def test_a_checkpoint_of_another_family_is_caught(asked: str, held: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "held.pt"
    torch.save(create(held).state_dict(), path)
    with pytest.raises(UsageError, match=message):
        gl.build(f"{asked}@{path}")


@pytest.mark.parametrize("unit", UNITS)
def test_checkpoints_are_read_back(unit: str, tmp_path: Path) -> None:
    source, path = create(f"resnet8-{unit}", seed=5), tmp_path / "own.pt"
    torch.save(source.state_dict(), path)
    model = gl.build(f"resnet8-{unit}@{path}")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), source.eval()(x))


def test_our_own_checkpoints_say_which_unit_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    gl.save_checkpoint(gl.build("resnet8-relu-preact@init"), path)
    with pytest.raises(UsageError, match="holds resnet8-relu-preact, as its record says, not resnet8"):
        gl.build(f"resnet8@{path}")


def test_only_original_units_are_folded() -> None:
    assert is_foldable(create("resnet8-C"))
    assert not any(is_foldable(create(f"resnet8-{unit}")) for unit in UNITS)


def test_at_initialization_the_claims_are_not_judged() -> None:
    result = gl.responses(["resnet8-preact", "resnet14-preact"], weights="init", images=20)
    assert (result.frame["std"] - 1).abs().max() > 0.05  # a block's last convolution is not normalized
    assert result.findings() == [AT_INITIALIZATION]


Measure = Callable[[str], gl.Result]
MEASURES: dict[str, Measure] = {
    "responses": lambda name: gl.responses(name, images=8, bn="eval"),
    "gradients": lambda name: gl.gradients(name, images=8, batch_size=8, seeds=1),
    "shatter --model": lambda name: gl.input_gradients(name, images=8, batch_size=4, points=8, lags=2, seeds=1),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_everything_measures_them(measure: Measure, unit: str) -> None:
    result = measure(f"resnet8-{unit}@init")
    assert result.networks == [f"resnet8-{unit}@init"]
    assert result.summary().shape[0] == 1
