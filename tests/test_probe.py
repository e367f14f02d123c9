"""ResponseStd: the eight rules of the design, on our networks, torchvision's, timm's, and awkward ones."""

import copy
import gc
import io
import pickle
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create
from gradlab.probes import select_layers


class InPlace(nn.Module):
    """In-place ReLU and `out +=`, which overwrite what a hook keeps; one convolution without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        out = self.norm(self.conv(x))
        out += x
        return self.act(out)


class Repeated(nn.Module):
    """One module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.relu(self.conv(x)) * 2
        return x


class Checkpointed(nn.Module):
    """A block whose activations are recomputed in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


def images(n: int = 6, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def batches() -> Iterator[Tensor]:
    yield from (images(4, seed=1), images(4, seed=2), images(2, seed=3))


def randomized(model: nn.Module) -> nn.Module:
    """Normalization far from the identity, so that a response before it is not taken for one after it."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return model.eval()


def brute_force(model: nn.Module, pairs: dict[str, str]) -> dict[str, float]:
    """float64 std of copies, taken at once, of the outputs of the named modules over all batches."""
    kept: dict[str, list[np.ndarray]] = {layer: [] for layer in pairs}
    handles = [
        model.get_submodule(where).register_forward_hook(
            lambda m, args, out, layer=layer: kept[layer].append(out.detach().double().clone().numpy().ravel())
        )
        for layer, where in pairs.items()
    ]
    with torch.no_grad():
        for batch in batches():
            model(batch)
    for handle in handles:
        handle.remove()
    return {layer: float(np.concatenate(values).std()) for layer, values in kept.items()}


def probed(model: nn.Module, layers: object = None, **options: object) -> dict[str, float]:
    with torch.no_grad(), gl.ResponseStd(model, layers, **options) as probe:
        for batch in batches():
            model(batch)
    frame = probe.result().to_frame()
    return dict(zip(frame["layer"], frame["std"], strict=True))


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
def test_rules_1_and_5_the_response_is_what_the_paper_defines(case: str, exact: bool) -> None:
    make, pairs = CASES[case]
    model = randomized(make())
    expected = brute_force(model, pairs(model))
    found = probed(model, exact=exact)
    assert list(found) == list(expected)
    for layer, std in found.items():
        assert std == pytest.approx(expected[layer], rel=1e-6), layer


def test_rule_5_a_normalization_with_its_activation_inside() -> None:
    """timm's BatchNormAct2d: the response is what it hands to its activation."""
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


def test_rule_5_without_normalization_and_with_others() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))
    found = probed(net)
    expected = brute_force(net, {"0": "1", "3": "3"})
    assert found == pytest.approx(expected, rel=1e-6)


class BetweenLayerAndNorm(nn.Module):
    """Something in place, or by keyword, between a convolution and a normalization."""

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
def test_rule_5_the_input_of_the_normalization_is_the_output_itself(how: str, context: type) -> None:
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
    assert any("takes a measured layer's output" in note for note in result.notes) == (followed is model.conv)


def test_rule_2_gradients_pass_through() -> None:
    model = create("torchvision/resnet18").train()
    model(images()).sum().backward()
    expected = model.conv1.weight.grad.clone()
    model.zero_grad()
    fresh = create("torchvision/resnet18").train()
    with gl.ResponseStd(fresh):
        fresh(images()).sum().backward()
    assert torch.equal(fresh.conv1.weight.grad, expected)


@pytest.mark.parametrize("training", [False, True])
def test_rule_3_the_model_is_left_alone(training: bool) -> None:
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


def test_rule_3_hooks_come_off_on_an_exception() -> None:
    model = create("resnet20")
    with pytest.raises(RuntimeError), gl.ResponseStd(model):
        model(torch.zeros(1, 5, 32, 32))
    assert count_hooks(model) == 0
    with pytest.raises(KeyboardInterrupt), gl.ResponseStd(model):
        raise KeyboardInterrupt
    assert count_hooks(model) == 0


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch"])
def test_rule_3_copies_carry_no_hook_that_fires(how: str) -> None:
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


def test_rule_3_nothing_is_kept() -> None:
    model = create("resnet8").eval()
    with torch.no_grad(), gl.ResponseStd(model):
        model(images())
        gc.collect()
        largest = max((o.numel() for o in gc.get_objects() if type(o) is Tensor), default=0)
    assert largest < images().numel()


def test_rule_3_a_probe_is_entered_once_at_a_time_and_adds_up() -> None:
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


def test_rule_4_each_call_is_a_site() -> None:
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
def test_rule_4_recomputation_is_not_counted_twice(reentrant: bool) -> None:
    model = Checkpointed(reentrant)
    with gl.ResponseStd(model) as probe:
        model(images().requires_grad_()).sum().backward()
    frame = probe.result().to_frame()
    assert frame["count"].tolist() == [6 * 4 * 32 * 32]
    assert frame["call"].tolist() == [1]


def test_rule_4_layers_are_in_order_of_execution() -> None:
    frame = pd_frame(create("resnet68"))
    layers = frame["layer"].tolist()
    assert layers.index("layer1.2.conv1") < layers.index("layer1.10.conv1")
    assert frame["index"].tolist() == list(range(1, 68))
    assert layers[0] == "conv1"


def pd_frame(model: nn.Module) -> object:
    with torch.no_grad(), gl.ResponseStd(model.eval()) as probe:
        model(images(1, 8))
    return probe.result().to_frame()


def test_parts_called_outside_the_models_forward() -> None:
    """As `model.features(x)` is: each call is the first call of its layer, and batches add up."""
    model = InPlace().eval()
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for batch in batches():
            model.norm(model.conv(torch.relu(model.stem(batch))))
    frame = probe.result().to_frame()
    assert frame["call"].tolist() == [1, 1]
    assert frame["count"].tolist() == [10 * 8 * 32 * 32] * 2


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_rule_6_compiled_models_are_measured(how: str) -> None:
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
    with pytest.warns(UserWarning, match="compiled"):
        found = probed(compiled)
    assert found == pytest.approx(expected, rel=1e-6)
    torch._dynamo.reset()


def test_rule_6_a_compiled_function_around_the_model() -> None:
    torch._dynamo.reset()
    model = create("resnet8").eval()
    step = torch.compile(lambda x: model(x) * 2, backend="eager")
    with torch.no_grad():
        step(images())
        with gl.ResponseStd(model) as probe:
            step(images())
    assert probe.result().to_frame()["count"].gt(0).all()
    torch._dynamo.reset()


def test_rule_6_scripted_modules_are_refused() -> None:
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
def test_rule_7_a_selection_that_matches_nothing_shows_names(layers: object) -> None:
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
def test_rule_7_selection(layers: object, expected: list[str]) -> None:
    model = create("resnet8").eval()
    assert list(select_layers(model, layers))[: len(expected)] == expected
    found = probed(model, layers)
    assert all(np.isfinite(list(found.values())))


def test_default_selection_leaves_projections_out() -> None:
    assert len(select_layers(create("resnet20-B"))) == 19
    assert len(select_layers(create("resnet20-B"), "*")) == 22
    assert len(select_layers(create("torchvision/resnet50"))) == 49
    assert list(select_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))) == ["0", "2"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rule_8_other_precisions(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(dtype)
    kept = []
    model[0].register_forward_hook(lambda m, args, out: kept.append(out.double()))
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(images().to(dtype))
    assert probe.result().to_frame()["std"][0] == pytest.approx(kept[0].std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_rule_8_non_finite_values_do_not_poison_the_rest(exact: bool) -> None:
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


def test_bad_conditioning_is_told_and_exact_measures_it() -> None:
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
    # The mean of the channels' stds is another quantity.
    assert found.mean() < 0.95 * whole


def test_a_layer_that_returns_no_tensor() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    model = nn.Sequential(Odd())
    with pytest.raises(GradlabError, match="layer 0 returns dict"), gl.ResponseStd(model, "0"):
        model(images())


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
