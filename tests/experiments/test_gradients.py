"""The experiment: its numbers against float64 by brute force, its modes, the accuracy of float32, its findings."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.gradients.theory import predicted_gradients
from gradlab.models import batch_statistics
from gradlab.results.gradients.findings import findings
from gradlab.results.gradients.result import GradientsResult
from gradlab.results.gradients.summary import body_of, summary_row
from gradlab.results.label import with_descriptions

SMALL = {"images": 8, "batch_size": 4, "seeds": 2}


def by_hand(model, images, bn, data="cifar10-sample", batch_size=4, loss="cross-entropy"):
    """Norms of the weights' gradients and RMS of a response's gradient, in float64, over all images or by batch."""
    stream = replace(
        gl.batches(data, images if bn == "eval" else batch_size, model, images=images), dtype=torch.float64
    )
    model, found = model.double(), list(stream)
    weights = {n.removesuffix(".weight"): p for n, p in model.named_parameters() if p.ndim > 1 and "shortcut" not in n}
    norms = []
    for x, y in found:
        model.zero_grad()
        if bn == "batch":
            with batch_statistics(model):
                output = model(x)
        else:
            output = model(x)
        (F.cross_entropy(output, y) if loss == "cross-entropy" else output.sum(1).mean()).backward()
        norms.append({name: p.grad.norm().item() for name, p in weights.items()})
    return pd.DataFrame(norms).mean()


@pytest.mark.parametrize("bn", ["eval", "batch"])
@pytest.mark.parametrize("name", ["plain8@init", "resnet14-B@init:3"])
def test_norms_against_a_float64_brute_force(name, bn):
    result = gl.gradients(name, images=8, batch_size=4, seeds=1, bn=bn, dtype="float64")
    expected = by_hand(gl.build(name), 8, bn)
    measured = result.layers().set_index("layer")["grad_norm"].astype(float)
    assert set(measured.index) == set(expected.index)
    np.testing.assert_allclose(measured, expected[measured.index], rtol=1e-9)


def test_running_statistics_give_the_gradient_of_the_mean_for_any_batches():
    whole, parts = (
        gl.gradients("plain8@init", images=7, batch_size=n, bn="eval", seeds=1, dtype="float64") for n in (7, 3)
    )
    columns = ["grad_norm", "grad_rms", "relative", "response_grad_rms", "response_grad_norm"]
    np.testing.assert_allclose(parts.frame[columns].astype(float), whole.frame[columns].astype(float), rtol=1e-10)
    assert parts.record["networks"][0]["images"] == 7


def test_batches_with_batch_statistics_are_full():
    assert (gl.gradients("plain8@init", images=2, batch_size=3, seeds=1).frame["batches"] == 1).all()
    result = gl.gradients("plain8@init", images=7, batch_size=3, seeds=1)
    assert result.record["networks"][0]["images"] == 6
    assert (result.frame["batches"] == 2).all()
    assert any("the last image does not fill a batch and is left out" in note for note in result.notes)


def test_the_sum_of_outputs_needs_no_labels():
    result = gl.gradients("mlp4@init", "noise", images=8, batch_size=8, seeds=1, loss="sum", dtype="float64")
    expected = by_hand(gl.build("mlp4@init"), 8, "batch", data="noise", batch_size=8, loss="sum")
    measured = result.layers().set_index("layer")["grad_norm"].astype(float)
    np.testing.assert_allclose(measured, expected[measured.index], rtol=1e-9)


def test_a_plain_and_a_residual_net_of_one_seed_have_equal_weights():
    result = gl.gradients(["plain14@init", "resnet14@init"], **SMALL, dtype="float32")
    plain, residual = (result.layers(network) for network in result.networks)
    pd.testing.assert_series_equal(plain["weight_norm"], residual["weight_norm"], check_exact=True)
    digests = [network["digests"] for network in result.record["networks"]]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 2


def test_a_convolution_before_batch_normalization_is_scale_invariant():
    """⟨∂L/∂W, W⟩ = 0 with batch statistics, and for c times the weight the gradient is 1/c times as large."""
    models = [gl.build("resnet8@init") for _ in range(2)]
    for model, factor in zip(models, (1, 64), strict=True):
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.mul_(factor)
                elif isinstance(module, nn.BatchNorm2d):
                    module.eps = 1e-30
    norms = [
        gl.gradients(model, bn="batch", dtype="float64", images=8, batch_size=8)
        .layers()
        .set_index("layer")["grad_norm"]
        for model in models
    ]
    ratio = (norms[0] / norms[1]).astype(float)
    np.testing.assert_allclose(ratio.drop("fc"), 64, rtol=1e-9)
    assert ratio["fc"] == pytest.approx(1, rel=1e-9)


def test_inaccurate_float32_is_replaced_or_marked_if_it_was_requested():
    automatic = gl.gradients("plain44@init", images=8, batch_size=8, seeds=1)
    assert set(automatic.frame["dtype"]) == {"float64"}
    assert automatic.frame["float32_error"].max() > 5e-3
    assert any("float32 norms are off by up to" in n and "measured in float64" in n for n in automatic.notes)
    marked = gl.gradients("plain44@init", images=8, batch_size=8, seeds=1, dtype="float32")
    assert set(marked.frame["dtype"]) == {"float32"}
    assert any("--dtype float64 measures them accurately" in note for note in marked.notes)
    assert set(gl.gradients("resnet8@init", images=4, batch_size=4, seeds=1).frame["dtype"]) == {"float32"}


def test_float32_error_is_the_difference_from_float64():
    norms = [
        gl.gradients("plain20@init", images=16, batch_size=16, seeds=1, dtype=dtype).layers()
        for dtype in ("float32", "float64")
    ]
    expected = (norms[0]["grad_norm"] / norms[1]["grad_norm"] - 1).abs().astype(float)
    np.testing.assert_allclose(norms[0]["float32_error"], expected, rtol=1e-3, atol=1e-9)


def test_gradients_of_single_images():
    result = gl.gradients("resnet8@init", images=6, batch_size=4, seeds=1, per_example=True, dtype="float64")
    assert result.record["networks"][0]["bn"] == "eval"
    model = gl.build("resnet8@init").double()
    stream = replace(gl.batches("cifar10-sample", 1, model, images=6), dtype=torch.float64)
    for place, (x, y) in enumerate(stream):
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        total = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        rows = result.examples[result.examples["example"] == place].set_index("layer")
        assert rows.loc["total", "norm"] == pytest.approx(total, rel=1e-9)
        assert rows.loc["layer2.0.conv1", "norm"] == pytest.approx(
            model.layer2[0].conv1.weight.grad.norm().item(), rel=1e-9
        )
        assert rows["loss"].iloc[0] == pytest.approx(loss.item(), rel=1e-9)
    expected = by_hand(gl.build("resnet8@init"), 6, "eval")
    measured = result.layers().set_index("layer")["grad_norm"].astype(float)
    np.testing.assert_allclose(measured, expected[measured.index], rtol=1e-9)
    model.zero_grad()
    ((x, y),) = replace(gl.batches("cifar10-sample", 6, model, images=6), dtype=torch.float64)
    F.cross_entropy(model(x), y).backward()
    total = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    assert result.totals()["grad_norm"].item() == pytest.approx(total, rel=1e-9)


class Certain(nn.Module):
    """Logits so far apart that the loss is 0 in float32."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)
        nn.init.zeros_(self.fc.weight)
        with torch.no_grad():
            self.fc.bias.copy_(torch.tensor([14.0] + [0.0] * 9))

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_images_classified_with_certainty_are_measured_in_float64():
    result = gl.gradients(Certain(), images=40, per_example=True)
    assert any("have a loss below 1e-05" in note and "measured in float64" in note for note in result.notes)
    assert set(result.frame["dtype"]) == {"float64"}


def test_the_body_consists_of_layers_with_a_gradient():
    """If the convolutions are frozen, the linear layers are drawn."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10)).eval()
    model[0].requires_grad_(False)
    result = gl.gradients(model, images=8, bn="eval")
    assert result.body(result.networks[0])["layer"].tolist() == ["2"]


def test_frozen_and_unreached_layers_are_named():
    model = gl.build("resnet14@init")
    model.layer1[0].conv1.weight.requires_grad_(False)
    result = gl.gradients(model, **SMALL, bn="batch")
    assert any(note.startswith("layer1.0.conv1: frozen") for note in result.notes)
    assert result.layers().set_index("layer").loc["layer1.0.conv1", "absent"] == "frozen"
    assert result.summary()["growth a layer"].notna().all()


def test_non_finite_gradients_are_named_by_layer(tmp_path):
    model = gl.build("plain8@init")
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    result = gl.gradients(model, **SMALL)
    assert any("conv1" in note and "holds NaN or infinite values" in note for note in result.notes)
    assert result.summary()["first / last"].isna().all()
    assert result.save(tmp_path, ("png",))


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ([], {}, UsageError, "at least one network"),
        ("plain8@init", {"data": "noise"}, UsageError, "noise has no labels.*--loss sum"),
        ("plain8@init", {"per_example": True, "bn": "batch"}, UsageError, "couple the examples"),
        ("plain8@init", {"loss": "hinge"}, UsageError, "cross-entropy or sum"),
        ("plain8@init", {"layers": "nothing*"}, UsageError, "no layer of CifarNet matches"),
        (nn.Flatten(), {}, UsageError, "Flatten has no parameters"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), {}, UsageError, "do not fit the labels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).requires_grad_(False), {}, GradlabError, "is frozen"),
    ],
)
def test_invalid_requests_are_refused(models, options, error, message):
    with pytest.raises(error, match=message):
        gl.gradients(models, **{**SMALL, "seeds": 1, **options})


def toy_body(log_norms, numels, theory=math.nan):
    rows = [
        {
            "seed": seed,
            "layer": f"l{i}",
            "index": i,
            "call": 1,
            "kind": "conv3x3",
            "numel": n,
            "theory": theory,
            "grad_norm": math.exp(v),
        }
        for seed, norms in enumerate(log_norms)
        for i, (v, n) in enumerate(zip(norms, numels, strict=True), 1)
    ]
    return pd.DataFrame(rows)


def test_the_summary_is_over_logarithms():
    row = summary_row(toy_body([[3, 2, 1], [5, 3, 1]], [9, 9, 9]), "grad_norm", {"network": "toy@init"})
    assert row["first / last"] == pytest.approx(math.exp(3))
    assert row["×/÷"] == pytest.approx(math.exp(1))
    assert row["growth a layer"] == pytest.approx(math.exp(3))
    assert row["±"] == pytest.approx(2 * 0.5 * math.exp(3))
    assert math.isnan(row["theory"])


def test_the_body_consists_of_3x3_convolutions():
    layers = pd.DataFrame({"kind": ["conv7x7", "conv1x1", "conv3x3", "conv1x1", "linear"], "numel": 1})
    assert body_of(layers).index.tolist() == [2]
    assert body_of(layers.drop(2)).index.tolist() == [1, 3]
    linear = pd.DataFrame({"kind": "linear", "numel": [10, 100, 100, 10, 100]})
    assert body_of(linear).index.tolist() == [1, 2, 4]


def test_theory_is_given_only_if_it_applies():
    def claim(name, bn="batch", responses=False, summed=False):
        found = predicted_gradients(gl.build(name), bn, 32, responses=responses, summed=summed)
        return None if found is None else found.claim.key

    assert claim("plain20@init") == "batch norm"
    assert claim("resnet20@init") == claim("resnet20-beta=0.1@init") == "residual"
    assert claim("mlp9-norm=bn@init") == "batch norm"
    assert claim("mlp9-norm=none@init", responses=True) == claim("plain20@init", "eval", responses=True) == "he"
    none = ["resnet20-B@init", "plain20-ll@init", "imagenet/resnet18@init", "mlp9-norm=rms@init", "resmlp9@init"]
    assert {claim(name) for name in none} == {None}
    assert (
        claim("plain20@init", "eval") is claim("resnet20@init", "eval") is claim("resnet20@init", summed=True) is None
    )


def test_predicted_ratios_of_one_shape():
    plain = predicted_gradients(gl.build("plain8@init"), "batch", 32, responses=False, summed=False).norms
    growth = gl.stats.batch_norm_relu_growth(gl.stats.tap_coverage(32))
    assert (plain["layer1.0.conv1"] / plain["layer1.0.conv2"]) ** 2 == pytest.approx(growth)
    residual = predicted_gradients(gl.build("resnet14@init"), "batch", 32, responses=False, summed=False).norms
    assert (residual["layer1.0.conv1"] / residual["layer1.0.conv2"]) ** 2 == pytest.approx(growth)


def test_claims_are_computed():
    row = {"network": "plain20", "weights": "init", "BN": "batch", "depth": 20, "first / last": 10.0, "×/÷": 1.1}
    row |= {"growth a layer": 1.4, "±": 0.01, "theory": 1.41, "claim": "batch norm", "seeds": 5}
    other = row | {"network": "resnet20", "first / last": 2.0, "claim": "residual", "theory": 1.2}
    facts = with_descriptions([{"network": "plain20"}, {"network": "resnet20"}])
    found = findings(pd.DataFrame([row, other]), facts)
    assert "is 10 (7.67 to 13) times as large at its first layer as at its last" in found[0]
    assert "(resnet20) 2 (1.53 to 2.61) times, which is smaller (95 % intervals)." in found[0]
    assert "plain20 1.4 (1.373 to 1.428), not significantly different from theory, 1.410" in found[1]
    assert "resnet20 1.4 (1.373 to 1.428), more than in theory, 1.200" in found[2]
    assert not any("At 20 layers" in said for said in findings(pd.DataFrame([row, other | {"BN": "eval"}]), facts))


@pytest.mark.parametrize("mode", ["parameters", "responses"])
def test_save_load_and_draw(tmp_path, mode):
    result = gl.gradients(["plain8@init", "resnet8@init"], images=4, batch_size=4, seeds=2, mode=mode)
    paths = result.save(tmp_path / "a", ("png",), ("markdown",))
    assert {path.name for path in paths} == {
        "gradients.csv", "gradients.json", "gradients.png", "gradients-summary.md"
    }  # fmt: skip
    loaded = GradientsResult.load(tmp_path / "a")
    assert loaded.value == result.value
    assert loaded.findings() == result.findings()
    assert result.figure().axes[0].get_ylabel() == (
        "RMS of the response's gradient" if mode == "responses" else "norm of the weight's gradient"
    )
    if mode == "parameters":
        again = gl.gradients(["plain8@init", "resnet8@init"], images=4, batch_size=4, seeds=2)
        again.save(tmp_path / "b", ("png",))
        for name in ("gradients.csv", "gradients.png"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("images", [8, pytest.param(128, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    ("network", "file"),
    [
        ("resnet20", "resnet20-12fca82f.th"),
        ("resnet56", "resnet56-4bfd9763.th"),
        ("plain20", "caffe-plain20.pth"),
    ],
)
def test_real_checkpoints(network, file, images, checkpoint):
    """The values are for the first bundled images, mean cross-entropy and running statistics."""
    spec = f"{network}@{checkpoint(file)}"
    expected = by_hand(gl.build(spec), images, "eval")
    for dtype, rtol in (("float64", 1e-9), ("float32", 5e-3)):
        measured = gl.gradients(spec, images=images, dtype=dtype).layers().set_index("layer")["grad_norm"].astype(float)
        np.testing.assert_allclose(measured, expected[measured.index], rtol=rtol)


def test_gradients_that_are_not_finite_are_told_once(tmp_path):
    """The probes of parameters, responses and examples see them in other sets of rows."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10))
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    for per_example in (False, True):
        result = gl.gradients(model, images=4, batch_size=4, per_example=per_example, dtype="float32")
        told = [note for note in result.notes if "NaN" in note]
        assert told == ["0, 2: the gradient holds NaN or infinite values"]
        assert result.layers()["non_finite"].all()
        again = gl.Result.load(result.save(tmp_path / str(per_example), formats=())[0].parent)
        assert again.summary().equals(result.summary())


class InFloat32(nn.Module):
    """A network that makes a float32 tensor as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)[:, :4] @ torch.eye(4))


def test_a_network_that_runs_in_float32_alone_is_measured_without_a_comparison():
    model = InFloat32()
    result = gl.gradients(model, images=4)
    (told,) = (note for note in result.notes if "float32" in note)
    assert told.startswith("InFloat32: the error of float32 is not known, since InFloat32 cannot run on float64 images")
    ((x, y),) = gl.batches("cifar10-sample", 4, images=4)
    F.cross_entropy(model(x), y).backward()
    (row,) = result.layers().to_dict("records")
    assert row["grad_norm"] == pytest.approx(model.fc.weight.grad.double().norm().item(), rel=1e-6)
    assert row["dtype"] == "float32"
    assert math.isnan(row["float32_error"])
    with pytest.raises(GradlabError, match="InFloat32 cannot run on float64 images"):
        gl.gradients(model, images=4, dtype="float64")


def test_notes_on_layers_name_their_network_where_there_are_several():
    broken = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.constant_(broken[1].weight, math.nan)
    told = "1: the gradient holds NaN or infinite values"
    assert told in gl.gradients(broken, images=4).notes
    # A name may be found in a note that is not about it.
    for broken.name in ("broken", "a"):
        assert f"{broken.name}: {told}" in gl.gradients([broken, "plain8@init"], images=4, seeds=1).notes
