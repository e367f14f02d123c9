"""Fully connected nets: names, modules, and the forward-mode pass against autograd, loops and differences."""

import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.models import (
    MLPArchitecture,
    batch_statistics,
    create,
    create_mlp,
    forward_mode,
    full_gradient,
    parse_family,
    parse_mlp,
)

X = torch.linspace(-2, 2, 32, dtype=torch.float64)
NORMED = ["ff-norm=center", "ff-norm=bn", "ff-norm=rms", "resnet", "resnet-shortcut=0.9-beta=0.4", "resnet-norm=rms"]
FAMILIES = [*NORMED, "ff-norm=none", "ff-norm=none-bias=0", "resnet-norm=none", "resnet-norm=center", "ll"]


def gradients(text, depths, seeds=(0,), x=X, **options):
    options = {"width": 40, "dtype": torch.float64, **options}
    family = parse_family(text).at(max(depths))
    return forward_mode(family, x, seeds, depths, **options).gradients


@torch.no_grad()
def freeze(model, x):
    """Set running statistics to those of the batch, so that eval mode gives each input's own gradient."""
    aside = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(lambda module, args, name=name: aside.__setitem__(name, args[0]))
    with batch_statistics(model):
        model(x)
    for name, z in aside.items():
        module = model.get_submodule(name)
        module.running_mean.copy_(z.mean(0))
        rms = type(module).__name__ == "BatchRMSNorm"
        module.running_var.copy_(z.square().mean(0) if rms else z.var(0, correction=0))
    return model


@pytest.mark.parametrize("text", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2, 6])
def test_frozen_gradients_equal_autograd_point_by_point(text, depth):
    model = create_mlp(MLPArchitecture(parse_family(text).at(6), depth, 40), seed=3, dtype=torch.float64).eval()
    freeze(model, X[:, None])
    expected = []
    for value in X:
        point = value.reshape(1, 1).requires_grad_()
        expected.append(torch.autograd.grad(model(point).sum(), point)[0].item())
    # All depths of one pass, so that the prefix property is tested too.
    got = gradients(text, [1, 2, 6], [3])[depth][0]
    assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("text", NORMED)
def test_full_gradients_equal_central_differences(text):
    family, step = parse_family(text).at(4), 1e-6
    model = create_mlp(MLPArchitecture(family, 4, 40), seed=1, dtype=torch.float64).eval()
    got = full_gradient(family, X, 1, 4, width=40, dtype=torch.float64)
    with torch.no_grad(), batch_statistics(model):
        for place in range(0, 32, 5):
            moved = torch.zeros_like(X)
            moved[place] = step
            difference = (model((X + moved)[:, None]).sum() - model((X - moved)[:, None]).sum()) / (2 * step)
            assert got[place].item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("text", [*NORMED, "ll"])
def test_full_gradients_equal_those_of_the_module_beyond_a_segment(text):
    family = parse_family(text).at(37)
    model = create_mlp(MLPArchitecture(family, 37, 20), seed=2, dtype=torch.float64).eval()
    inputs = X[:, None].clone().requires_grad_()
    with batch_statistics(model):
        (expected,) = torch.autograd.grad(model(inputs).sum(), inputs)
    got = full_gradient(family, X, 2, 37, width=20, dtype=torch.float64)
    assert torch.allclose(got, expected.squeeze(1), rtol=1e-6, atol=1e-8 * expected.abs().max().item())


@pytest.mark.parametrize("text", ["ff-norm=center", "ff-norm=bn", "resnet-norm=center", "resnet"])
def test_full_gradients_of_very_deep_nets_stay_finite(text):
    g = full_gradient(parse_family(text).at(400), X, 0, 400, width=20)
    assert g.isfinite().all()
    assert g.abs().max() > 0


def test_full_gradients_are_blind_to_shifts_and_scales_before_a_norm():
    """With batch normalization directly after the first layer, Σ g = Σ x g = 0 up to ε."""
    # The range is so wide that ε is negligible compared with the variance, as is the shortcut around the norm.
    x = 1e6 * X
    g = full_gradient(parse_family("resnet-beta=1e12").at(1), x, 0, 1, width=1000, dtype=torch.float64)
    assert abs(g.sum()) < 1e-4 * g.abs().sum()
    assert abs((x * g).sum()) < 1e-4 * (x * g).abs().sum()


@pytest.mark.parametrize("depth", [1, 3, 40])
@pytest.mark.parametrize("points", [32, 37])
def test_looks_linear_nets_are_linear(depth, points):
    x = torch.linspace(-2, 2, points)
    g = gradients("ll", [depth], x=x, dtype=torch.float32)[depth]
    assert gl.stats.is_constant(g).all()
    x = torch.linspace(-2, 2, points, dtype=torch.float64)
    y = create_mlp(MLPArchitecture(parse_family("ll"), depth, 40), dtype=torch.float64)(x[:, None]).squeeze(1)
    assert torch.allclose(y[2:] - 2 * y[1:-1] + y[:-2], torch.zeros(points - 2).double(), atol=1e-12)


def test_without_bias_and_norm_the_gradient_is_a_step():
    acf = gl.stats.autocorrelation(gradients("ff-norm=none-bias=0", [7], x=torch.linspace(-2, 2, 256))[7], 20)[0]
    assert acf.tolist() == pytest.approx([1 - 3 * k / 256 for k in range(21)], abs=1e-7)


@pytest.mark.parametrize("text", FAMILIES)
def test_depths_and_seeds_do_not_disturb_each_other(text):
    alone = gradients(text, [2], [5], dtype=torch.float32)[2]
    among = gradients(text, [4, 2, 6], [1, 5], dtype=torch.float32)[2]
    assert torch.allclose(alone[0], among[1], rtol=1e-5, atol=1e-6)
    one_by_one = gradients(text, [2, 6], [5], dtype=torch.float32)[2]
    assert torch.equal(alone, one_by_one)


@pytest.mark.parametrize("text", ["ff-norm=none", "resnet-norm=none", "ff-norm=bn", "resnet"])
def test_very_deep_nets_stay_finite(text):
    g = gradients(text, [300], dtype=torch.float32, width=20)[300]
    assert g.isfinite().all()


def test_rescaling_is_exact():
    """2¹⁰⁰ and more of growth, against the module in float64."""
    family = parse_family("resnet-norm=none-beta=2")
    got = gradients("resnet-norm=none-beta=2", [60])[60][0]
    assert torch.allclose(got, full_gradient(family, X, 0, 60, width=40, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize("init", ["he", "glorot", "orthogonal"])
def test_initializations(init):
    model = create_mlp(MLPArchitecture(parse_family("ff-norm=none"), 3, 64), seed=0, init=init)
    weight = model.body[0].linear.weight
    assert weight.square().sum().item() / 64 == pytest.approx(1.0 if init == "glorot" else 2.0, rel=0.1)
    if init == "orthogonal":
        assert torch.allclose(weight @ weight.T, 2 * torch.eye(64), atol=1e-4)


NAMES = ["mlp50", "resmlp50-beta=0.1", "mlp50-ll", "mlp24-norm=none", "mlp3-norm=bn-width=10", "resmlp4-norm=rms"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read_and_written_back(name):
    assert parse_mlp(name).name == name
    assert create(name)(torch.zeros(3, 1)).shape == (3, 1)


@pytest.mark.parametrize("text", FAMILIES)
def test_families_are_read_and_written_back(text):
    assert parse_family(parse_family(text).name) == parse_family(text)


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (parse_family, "plain", "unknown family"),
        (parse_family, "ff-norm=layer", "the norm is none, center, rms, bn"),
        (parse_family, "ff-beta=0.1", "only a residual net has a beta"),
        (parse_family, "resnet-beta=0", "beta is a number above 0"),
        (parse_family, "resnet-beta=x", "beta is a number above 0"),
        (parse_family, "ll-norm=bn", "the norm is none"),
        (parse_family, "ff-width=3", "not width"),
        (parse_family, "ff-bias=2", "bias is 0 or 1"),
        (parse_mlp, "mlp0", "at least 1"),
        (parse_mlp, "mlp", "mlp50"),
        (parse_mlp, "resmlp5-ll", "no shortcuts"),
        (parse_mlp, "mlp5-depth=3", "not depth"),
    ],
)
def test_invalid_names_are_refused(read, text, says):
    with pytest.raises(UsageError, match=says):
        read(text)


def test_plain_ff_centres_up_to_50_and_normalizes_above():
    assert [parse_family("ff").at(depth).norm for depth in (50, 51)] == ["center", "bn"]


@pytest.mark.parametrize("name", ["mlp4", "mlp4-norm=rms", "resmlp4", "mlp4-ll"])
def test_modules_train_and_are_probed(name):
    model = gl.build(f"{name}@init").train()
    assert model.network.weights == "init:0"
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x = torch.linspace(-1, 1, 64)[:, None]
    losses = []
    for _ in range(20):
        loss = (model(x) - x.square()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with gl.ResponseStd(model.eval(), layers="*linear*") as probe:
        model(x)
    assert len(probe.result().frame) == (4 if name.startswith("res") else 3)


def test_the_list_of_networks_has_them():
    from gradlab.experiments.catalog import list_networks

    frame, _ = list_networks("*mlp*")
    rows = frame.set_index("network")
    assert list(rows.index) == ["mlp50", "mlp50-ll", "resmlp50", "resmlp50-beta=0.1"]
    # A stem with biases, 49 or 50 matrices of 200 by 200 (by 400 with CReLU), and a head without biases.
    assert rows.loc["mlp50", "parameters"] == 400 + 49 * 200**2 + 200
    assert rows.loc["mlp50-ll", "parameters"] == 400 + 49 * 200 * 400 + 400
    assert rows.loc["resmlp50", "layers"] == 52
