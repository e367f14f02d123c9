"""The networks of Balduzzi et al. 2017: looks-linear plain nets, and residual nets x + β·F(x)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.models import cost, create, infer_architectures, parse_name, weighted_layers
from gradlab.models.looks_linear import LooksLinearNet, crelu

LOOKS_LINEAR = ["plain8-ll", "plain20-ll-width=4", "plain56-ll", "plain110-ll-width=3"]


def images(n=4, dtype=torch.float64, seed=0):
    return torch.randn(n, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_crelu_keeps_everything():
    x = images()
    both = crelu(x)
    assert torch.equal(both[:, :3] - both[:, 3:], x)
    assert both.min() >= 0
    assert both.shape == (4, 6, 32, 32)


def test_crelu_passes_every_gradient_by_exactly_one_half():
    x = torch.tensor([[-2.0, -0.0, 0.0, 3.0]], requires_grad=True)
    first, second = crelu(x).chunk(2, dim=1)
    (by_first,) = torch.autograd.grad(first.sum(), x, retain_graph=True)
    (by_second,) = torch.autograd.grad(second.sum(), x)
    assert by_first.tolist() == [[0, 0, 0, 1]]
    assert by_second.tolist() == [[-1, -1, -1, 0]]


@pytest.mark.parametrize("name", ["plain56-ll-width=4", "mlp50-ll"])
def test_looks_linear_has_one_gradient_in_float32_even_where_values_are_zero(name):
    model = gl.build(f"{name}@init:1")
    shape = (1,) if name.startswith("mlp") else (3, 32, 32)
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    x[0] = 0  # every value on the way is 0 exactly, or as good as
    (gradient,) = torch.autograd.grad(model(x.requires_grad_()).sum(), x)
    assert gradient.abs().max() > 0
    # The tolerance covers the last bits: some processors round the first and last rows of a matrix product differently.
    torch.testing.assert_close(gradient, gradient[3:4].expand_as(gradient), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", LOOKS_LINEAR)
def test_looks_linear_is_linear_as_initialized(name):
    model = create(name).double()
    x, y = images(), images(seed=1)
    with torch.no_grad():
        torch.testing.assert_close(model(2 * x - 3 * y), 2 * model(x) - 3 * model(y), rtol=0, atol=1e-12)
        assert model(torch.zeros_like(x)).abs().max() == 0


def test_looks_linear_is_the_product_of_its_orthogonal_blocks():
    model = create("plain8-ll-width=5", seed=3).double()
    x = images()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    z, stride = x, 1
    for number, layer in enumerate(layers):
        matrix = layer.weight.detach()[:, :, 1, 1]
        block = matrix if number == 0 else matrix[:, : matrix.shape[1] // 2]
        z = torch.einsum("oc,bchw->bohw", block, z[:, :, :: layer.stride[0], :: layer.stride[0]])
        stride *= layer.stride[0]
    assert (len(layers), stride) == (7, 4)
    head = model.fc.weight.detach()[:, :20]
    torch.testing.assert_close(model(x), z.mean((2, 3)) @ head.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOOKS_LINEAR)
def test_looks_linear_weights(name):
    model = create(name, seed=1)
    for layer_name in weighted_layers(model):
        layer = model.get_submodule(layer_name)
        weight = layer.weight.detach().double()
        if isinstance(layer, nn.Conv2d):
            taps = weight.flatten(2).abs().amax((0, 1))
            assert (taps > 0).tolist() == [False] * 4 + [True] + [False] * 4
            weight = weight[:, :, 1, 1]
        if layer_name != "conv1":
            weight, mirrored = weight.chunk(2, dim=1)
            assert torch.equal(weight, -mirrored)
        tall = weight if len(weight) >= weight.shape[1] else weight.T
        torch.testing.assert_close(tall.T @ tall, torch.eye(tall.shape[1]).double(), rtol=0, atol=1e-5)
        assert layer.bias.abs().max() == 0


def test_looks_linear_has_the_layers_of_the_plain_net():
    looks_linear, plain = create("plain20-ll"), create("plain20")
    assert weighted_layers(looks_linear) == weighted_layers(plain)
    for name in weighted_layers(plain):
        one, other = looks_linear.get_submodule(name).weight, plain.get_submodule(name).weight
        assert one.shape[0] == other.shape[0]
        assert one.shape[1] == other.shape[1] * (1 if name == "conv1" else 2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in looks_linear.modules())
    assert cost(looks_linear, (3, 32, 32)).layers == 20


def test_looks_linear_draws_depend_only_on_the_seed():
    torch.manual_seed(5)
    one = create("plain8-ll", seed=7).state_dict()
    state = torch.get_rng_state()
    other, third = create("plain8-ll", seed=7).state_dict(), create("plain8-ll", seed=8).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(one["fc.weight"], third["fc.weight"])


def test_crelu_with_he_initialization_keeps_the_second_moment():
    model, looks_linear = create("plain20-crelu-width=64").double(), create("plain20-ll-width=64")
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in looks_linear.state_dict().items()
    }
    # N(0, 2/n) with n = 9 · 128, of which half the inputs are 0: the variance of the outputs is that of the inputs.
    weight = model.layer1[0].conv1.weight
    assert weight.var().item() == pytest.approx(2 / (9 * 128), rel=0.02)
    x = torch.randn(8, 64, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        inner = model.layer1[0].conv1(crelu(x))[..., 1:-1, 1:-1]
    assert inner.square().mean().item() == pytest.approx(1, rel=0.1)


def test_looks_linear_learns():
    model, x = create("plain20-ll-width=4"), images(16, torch.float32)
    labels = torch.arange(16) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    # It is no longer linear.
    with torch.no_grad():
        gap = model(x) + model(-x) - 2 * model(torch.zeros_like(x))
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize(
    "name", ["resnet14-width=4-beta=0.1", "resnet8-B-width=4-beta=0.25", "resnet8-C-width=4-beta=3"]
)
def test_beta_scales_every_residual_branch(name):
    model = create(name).double().eval()
    beta = parse_name(name).beta
    x = z = images()
    z = F.relu(model.bn1(model.conv1(z)))
    for block in [*model.layer1, *model.layer2, *model.layer3]:
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(z)))))
        z = F.relu(block.shortcut(z) + beta * branch)
    torch.testing.assert_close(model(x), model.fc(z.mean((2, 3))), rtol=1e-12, atol=1e-12)


def test_beta_of_a_bottleneck():
    model = create("imagenet/resnet50-width=4-beta=0.5", classes=3).double().eval()
    block, x = model.layer1[1], torch.randn(2, 16, 8, 8, dtype=torch.float64)
    branch = F.relu(block.bn1(block.conv1(x)))
    branch = block.bn3(block.conv3(F.relu(block.bn2(block.conv2(branch)))))
    torch.testing.assert_close(block(x), F.relu(x + 0.5 * branch))


def test_beta_does_not_change_the_weights():
    one, other = create("resnet8", seed=2).state_dict(), create("resnet8-beta=0.1", seed=2).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("resnet56-beta=0.1", "resnet56-beta=0.1"),
        ("resnet56-beta=.10", "resnet56-beta=0.1"),
        ("resnet56-beta=1.0", "resnet56"),
        ("resnet56-A-beta=2", "resnet56-beta=2"),
        ("resnet56-B-width=8-beta=1e-3", "resnet56-B-width=8-beta=0.001"),
        ("imagenet/resnet50-beta=0.5", "imagenet/resnet50-beta=0.5"),
        ("plain56-ll", "plain56-ll"),
        ("plain56-ll-width=16", "plain56-ll"),
        ("plain56-ll-width=8", "plain56-ll-width=8"),
    ],
)
def test_names(name, canonical):
    architecture = parse_name(name)
    assert architecture.name == canonical
    assert parse_name(architecture.name) == architecture


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain20-beta=0.1", "no residual branches, so no beta"),
        ("plain20-ll-beta=0.1", "no residual branches, so no beta"),
        ("resnet20-beta=0", "beta scales the residual branches, a number above 0"),
        ("resnet20-beta=1e999", "a number above 0"),
        ("resnet20-beta=-1", "unknown network"),
        ("resnet20-beta=", "unknown network"),
        ("resnet20-beta=0.1-width=8", "unknown network"),
        ("resnet20-ll", "looks-linear networks are plain CIFAR nets"),
        ("imagenet/plain18-ll", "looks-linear networks are plain CIFAR nets"),
        ("plain21-ll", "6n . 2 layers"),
        ("plain20-ll-crelu", "two initializations of one network"),
    ],
)
def test_invalid_names_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        parse_name(name)


def test_weights_go_out_and_in(tmp_path):
    path = tmp_path / "net.safetensors"
    model = gl.build("plain8-ll@init:3")
    gl.save_checkpoint(model, path)
    assert [a.name for a in infer_architectures(model.state_dict())] == ["plain8-ll"]
    again = gl.build(f"plain8-ll@{path}")
    assert isinstance(again, LooksLinearNet)
    assert torch.equal(again(images(dtype=torch.float32)), model(images(dtype=torch.float32)))
    state = tmp_path / "net.pt"
    torch.save(model.state_dict(), state)
    assert torch.equal(
        gl.build(f"plain8-crelu@{state}")(images(dtype=torch.float32)), model(images(dtype=torch.float32))
    )
    for wrong in ("plain8", "resnet8", "plain14-ll", "plain8-ll-width=8"):
        with pytest.raises(UsageError, match=f"holds plain8-ll, not {wrong}"):
            gl.build(f"{wrong}@{path}")


def test_only_a_record_says_beta_else_the_name_does(tmp_path):
    model = gl.build("resnet8-beta=0.1@init")
    recorded = tmp_path / "net.safetensors"
    gl.save_checkpoint(model, recorded)
    with pytest.raises(UsageError, match=r"holds resnet8-beta=0.1, as its record says, not resnet8$"):
        gl.build(f"resnet8@{recorded}")
    path = tmp_path / "net.pt"
    torch.save(model.state_dict(), path)
    assert [a.name for a in infer_architectures(model.state_dict())] == ["resnet8", "plain8"]
    x = images(dtype=torch.float32)
    again, other = gl.build(f"resnet8-beta=0.1@{path}"), gl.build(f"resnet8@{path}")
    assert torch.equal(again(x), model(x))
    assert not torch.equal(other(x), model(x))
    with pytest.raises(UsageError, match=r"holds resnet8 or plain8, not resnet14-beta=0.1"):
        gl.build(f"resnet14-beta=0.1@{path}")


def test_their_records_say_how_they_were_drawn():
    assert gl.build("plain8-ll@init").network.recipe == "looks-linear initialization"
    assert gl.build("resnet8-beta=0.1@init").network.recipe == "He initialization"
    with pytest.raises(UsageError, match="has no published weights"):
        gl.build("resnet56-beta=0.1@hub")


def test_responses_of_both_can_be_measured():
    result = gl.responses(["plain8-ll", "resnet8-beta=0.1"], weights="init", images=8, batch_size=4)
    assert result.to_frame().groupby("network").size().to_dict() == {"plain8-ll@init": 7, "resnet8-beta=0.1@init": 7}
