"""The values of ResponseStd on our networks, those of torchvision and timm, and unusual ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.responses import Checkpointed, InPlace, Repeated, batches, brute_force, images, probed, randomized
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.models import create


def own_pairs(model: nn.Module) -> dict[str, str]:
    layers = [
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n and "downs" not in n
    ]
    return {layer: layer.replace("conv", "bn") for layer in layers}


CASES = {
    "resnet20": (lambda: create("resnet20"), own_pairs),
    "resnet20-B": (lambda: create("resnet20-B"), own_pairs),
    "plain20": (lambda: create("plain20"), own_pairs),
    "bottlenecks": (lambda: create("imagenet/resnet50"), own_pairs),
    "torchvision": (lambda: create("torchvision/resnet18"), own_pairs),
    "timm": (lambda: create("timm/resnet18"), own_pairs),
    "in-place": (InPlace, lambda model: {"stem": "stem", "conv": "norm"}),
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_response_is_what_the_paper_defines(case: str, exact: bool) -> None:
    make, pairs = CASES[case]
    model = randomized(make())
    expected = brute_force(model, pairs(model))
    found = probed(model, [*expected], exact=exact)
    assert list(found) == list(expected)
    for layer, std in found.items():
        assert std == pytest.approx(expected[layer], rel=1e-6), layer


def test_a_normalization_with_its_activation_inside() -> None:
    """For timm's BatchNormAct2d, the response is the input of its activation."""
    model = randomized(create("timm/regnety_002"))
    found = probed(model, "stem.conv,s1.b1.conv2.conv")
    for layer, norm in (("stem.conv", "stem.bn"), ("s1.b1.conv2.conv", "s1.b1.conv2.bn")):
        assert layer in found
        expected = []
        bn = model.get_submodule(norm)
        hook = bn.register_forward_pre_hook(
            lambda m, args, to=expected: to.append(
                F.batch_norm(args[0], m.running_mean, m.running_var, m.weight, m.bias, False, 0, m.eps)
            )
        )
        with torch.no_grad():
            for batch in batches():
                model(batch)
        hook.remove()
        assert found[layer] == pytest.approx(torch.cat(expected).double().std(correction=0).item(), rel=1e-6)


def test_without_normalization_and_with_others() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))
    found = probed(net)
    expected = brute_force(net, {"0": "1", "3": "3"})
    assert found == pytest.approx(expected, rel=1e-6)


class BetweenLayerAndNorm(nn.Module):
    """An in-place operation, or a keyword argument, between a convolution and a normalization."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), how
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.how == "module":
            out = self.relu(out)
        elif self.how == "function":
            out += 1
        return self.norm(input=out) if self.how == "keyword" else self.norm(out)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("how", ["nothing", "keyword", "module", "function"])
def test_the_input_of_the_normalization_is_the_output_itself(how: str, context: type) -> None:
    if how == "function" and context is torch.inference_mode:
        pytest.skip("inference tensors do not tell that they were changed")
    model = randomized(BetweenLayerAndNorm(how))
    with context(), gl.ResponseStd(model, "conv") as probe:
        for batch in batches():
            model(batch)
    kept = []
    followed = model.norm if how in ("nothing", "keyword") else model.conv
    followed.register_forward_hook(lambda m, args, out: kept.append(out.detach().double().clone()))
    for batch in batches():
        model(batch)
    expected = torch.cat(kept).std(correction=0).item()
    result = probe.result()
    assert result.to_frame()["std"][0] == pytest.approx(expected, rel=1e-6)
    assert any("directly follows a measured layer" in note for note in result.notes) == (followed is model.conv)


def test_each_call_is_a_site() -> None:
    model = Repeated()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for batch in batches():
            model(batch)
    frame = probe.result().to_frame()
    assert frame[["layer", "call", "index"]].values.tolist() == [["conv", 1, 1], ["conv", 2, 2], ["conv", 3, 3]]
    assert (frame["count"] == 10 * 3 * 32 * 32).all()
    x = torch.cat(list(batches()))
    with torch.no_grad():
        for std in frame["std"]:
            response = model.conv(x)
            assert std == pytest.approx(response.double().std(correction=0).item(), rel=1e-6)
            x = torch.relu(response) * 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_is_not_counted_twice(reentrant: bool) -> None:
    model = Checkpointed(reentrant)
    with gl.ResponseStd(model) as probe:
        model(images().requires_grad_()).sum().backward()
    frame = probe.result().to_frame()
    assert frame["count"].tolist() == [6 * 4 * 32 * 32]
    assert frame["call"].tolist() == [1]


def test_layers_are_in_order_of_execution() -> None:
    frame = pd_frame(create("resnet68"))
    layers = frame["layer"].tolist()
    assert layers.index("layer1.2.conv1") < layers.index("layer1.10.conv1")
    assert frame["index"].tolist() == list(range(1, 69))
    assert (layers[0], layers[-1]) == ("conv1", "fc")


def pd_frame(model: nn.Module) -> object:
    with torch.no_grad(), gl.ResponseStd(model.eval()) as probe:
        model(images(1, 8))
    return probe.result().to_frame()


def test_parts_called_outside_the_models_forward() -> None:
    """As with `model.features(x)`, each call is the first call of its layer, and batches are accumulated."""
    model = InPlace().eval()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for batch in batches():
            model.norm(model.conv(torch.relu(model.stem(batch))))
    frame = probe.result().to_frame()
    assert frame["call"].tolist() == [1, 1]
    assert frame["count"].tolist() == [10 * 8 * 32 * 32] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(dtype)
    kept = []
    model[0].register_forward_hook(lambda m, args, out: kept.append(out.double()))
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(images().to(dtype))
    assert probe.result().to_frame()["std"][0] == pytest.approx(kept[0].std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_non_finite_values_do_not_poison_the_rest(exact: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        model[0].weight[1, 0, 0, 0] = float("nan")
    with torch.no_grad(), gl.ResponseStd(model, exact=exact) as probe:
        for batch in batches():
            model(batch)
    result = probe.result()
    frame = result.to_frame()
    assert frame["non_finite"].tolist() == [10 * 30 * 30, 10 * 4 * 28 * 28]
    clean = torch.cat([model[0](batch) for batch in batches()])[:, [0, 2, 3]].double()
    assert frame["std"][0] == pytest.approx(clean.std(correction=0).item(), rel=1e-6)
    assert frame["count"].tolist() == [10 * 3 * 30 * 30, 0]
    assert np.isnan(frame["std"][1])
    assert "9,000 of 36,000 values are NaN or infinite" in result.notes[0]


def test_bad_conditioning_is_noted_and_exact_measures_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3))
    with torch.no_grad():
        model[0].bias += 300
        model[0].weight *= 0.5
    with torch.no_grad(), gl.ResponseStd(model) as fast, gl.ResponseStd(model, exact=True) as exact:
        for batch in batches():
            model(batch)
    assert "times the std" in fast.result().notes[0]
    assert exact.result().notes == []
    expected = brute_force(model, {"0": "0"})["0"]
    assert exact.result().to_frame()["std"][0] == pytest.approx(expected, rel=1e-9)


def test_channels() -> None:
    model = randomized(create("resnet8"))
    with torch.no_grad(), gl.ResponseStd(model, per_channel=True) as probe:
        for batch in batches():
            model(batch)
    channels = probe.channels()
    found = channels[channels["layer"] == "layer2.0.conv1"]["std"].to_numpy()
    outs = []
    model.layer2[0].bn1.register_forward_hook(lambda m, args, out: outs.append(out.double()))
    with torch.no_grad():
        for batch in batches():
            model(batch)
    np.testing.assert_allclose(found, torch.cat(outs).std((0, 2, 3), correction=0), rtol=1e-6)
    whole = probed(model)["layer2.0.conv1"]
    assert probe.result().to_frame().set_index("layer")["std"]["layer2.0.conv1"] == pytest.approx(whole, rel=1e-7)
    # The mean of the channels' stds is a different quantity.
    assert found.mean() < 0.95 * whole


def test_a_layer_that_returns_no_tensor() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> dict[str, str]:
            return {"x": "text"}

    model = nn.Sequential(Odd())
    with pytest.raises(GradlabError, match="layer 0 returns dict"), gl.ResponseStd(model, "0"):
        model(images())
