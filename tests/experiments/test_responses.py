"""The experiment: its numbers, its modes of batch normalization, its prediction and its findings."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.accuracy import near_chance
from gradlab.models import batch_statistics, create, fold_batch_norm
from gradlab.results.label import with_descriptions
from gradlab.results.responses.findings import AT_INITIALIZATION, findings
from gradlab.results.responses.result import ResponsesResult
from gradlab.stats import normalized_response_std


def test_labels_beyond_the_outputs_of_a_network_give_no_accuracy(tmp_path: Path) -> None:
    images = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    for last, accuracy in ((9, True), (10, False)):
        np.savez(tmp_path / "x.npz", x_test=images, y_test=np.arange(8) + last - 7)
        result = gl.responses("resnet8@init", str(tmp_path / "x.npz"), batch_size=4)
        assert (result.record["networks"][0]["accuracy"] is not None) is accuracy
        assert any("no accuracy" in note and "labels up to 10" in note for note in result.notes) is not accuracy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints of one recipe whose batch normalization is far from its initial state."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name in ("plain8", "resnet8", "resnet14"):
        model = create(name, seed=2)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                    module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
            model.train()
            for _ in range(10):
                model(torch.randn(20, 3, 32, 32, generator=generator))
        paths[name] = str(folder / f"{name}.safetensors")
        gl.save_checkpoint(model, paths[name], {"recipe": "toy", "normalization": "imagenet"})
    return {name: f"{name}@{path}" for name, path in paths.items()}


def by_hand(model: nn.Module, batch_size: int, images: int, batch_mode: bool) -> np.ndarray:
    """The float64 std of every batch-normalized output, with batch normalization written out."""
    norms = [m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and "shortcut" not in n]
    outputs: dict[int, list[torch.Tensor]] = {id(m): [] for m in norms}

    def replace(module: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        z = args[0]
        if batch_mode:
            mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
        else:
            mean, var = module.running_mean, module.running_var
        y = (z - mean[:, None, None]) / torch.sqrt(var + module.eps)[:, None, None]
        y = y * module.weight[:, None, None] + module.bias[:, None, None]
        outputs[id(module)].append(y.clone())
        return y

    model = model.double().eval()
    for norm in norms:
        norm.register_forward_hook(replace)
    with torch.no_grad():
        for x, _ in gl.batches("cifar10-sample", batch_size, model, images=images):
            model(x.double())
    return np.array([torch.cat(outputs[id(m)]).std(correction=0).item() for m in norms])


@pytest.mark.parametrize("bn", ["eval", "batch"])
@pytest.mark.parametrize("name", ["plain8", "resnet14"])
def test_numbers_against_batch_normalization_by_hand(name: str, bn: str, trained: dict[str, str]) -> None:
    result = gl.responses([trained[name]], images=90, batch_size=40, bn=bn)
    expected = by_hand(gl.build(trained[name]), 40, 90, bn == "batch")
    np.testing.assert_allclose(result.to_frame()["std"], expected, rtol=1e-6)


def test_modes_of_batch_normalization(trained: dict[str, str]) -> None:
    result = gl.responses([trained["resnet8"], "resnet8@init"], images=40)
    assert [facts["bn"] for facts in result.record["networks"]] == ["eval", "batch"]
    np.testing.assert_allclose(result.frame["std"][7:], 1, rtol=1e-3)
    assert AT_INITIALIZATION in result.findings()
    exploding = gl.responses("resnet110@init", images=2, bn="eval").frame["std"]
    assert exploding.iloc[-1] > 1e6


def test_batch_statistics_do_not_change_the_buffers() -> None:
    model = create("resnet8").eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad(), batch_statistics(model):
        inside = model(x)
    with pytest.raises(ZeroDivisionError), batch_statistics(model):
        raise ZeroDivisionError
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(inside, model.train()(x))


@pytest.mark.parametrize("name", ["resnet8", "resnet20-B", "imagenet/resnet50", "imagenet/plain18"])
def test_folding_changes_nothing(name: str) -> None:
    model = create(name).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64, dtype=torch.float64))
        expected = model.eval()(x)
        folded = fold_batch_norm(model)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9)


def test_prediction_is_exact_for_batch_statistics() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12, eps=0.1).double().train()
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.normal_(norm.bias)
    z = torch.randn(20, 12, 7, 7, dtype=torch.float64) * torch.rand(12, 1, 1, dtype=torch.float64)
    measured = norm(z).std(correction=0)
    predicted = normalized_response_std(z.var((0, 2, 3), correction=0), norm.weight, norm.bias, norm.eps)
    assert predicted.item() == pytest.approx(measured.item(), rel=1e-12)
    plain = normalized_response_std(z.var((0, 2, 3), correction=0), None, None, 0.0)
    assert plain.item() == pytest.approx(1, rel=1e-12)


def test_predicted_std_agrees_with_batch_statistics(trained: dict[str, str]) -> None:
    result = gl.responses([trained["resnet14"]], images=200, bn="batch")
    frame = result.to_frame()
    np.testing.assert_allclose(frame["predicted_std"], frame["std"], rtol=1e-3)
    predicted = gl.predicted_response_std(gl.build(trained["resnet14"]))
    assert list(predicted) == frame["layer"].tolist()
    np.testing.assert_allclose(list(predicted.values()), frame["predicted_std"], rtol=1e-12)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "imagenet/resnet50", "resnet20-C"])
def test_prediction_needs_no_data(name: str) -> None:
    model = gl.build(f"{name}@init")
    predicted = gl.predicted_response_std(model)
    assert all(std == pytest.approx(1, abs=1e-4) or std == 0 for std in predicted.values())
    result = gl.responses([f"{name}@init"], no_data=True)
    assert result.frame["std"].isna().all()
    assert result.frame["predicted_std"].tolist() == list(predicted.values())


def test_prediction_without_batch_normalization() -> None:
    assert np.isnan(list(gl.predicted_response_std(create("torchvision/squeezenet1_1")).values())).all()
    result = gl.responses(["torchvision/squeezenet1_1@init"], no_data=True)
    assert result.summary()["layers"].tolist() == [26]

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(GradlabError, match="cannot be traced"):
        gl.predicted_response_std(Fork())


def test_any_module_and_any_options() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    result = gl.responses([net, "resnet8@init"], "noise", images=20, seed=3, layers="*")
    assert result.networks == ["Sequential", "resnet8@init:3"]
    assert result.record["networks"][0]["bn"] == "none"
    frame = result.frame.set_index("network")
    assert frame.loc["Sequential", "kind"].tolist() == ["conv3x3", "linear"]
    assert result.summary()["accuracy (%)"].isna().all()


def test_the_same_call_gives_the_same_numbers() -> None:
    a, b = (gl.responses(["resnet8@init", "plain8@init:4"], images=30, seed=1).frame for _ in range(2))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_columns_and_ranks(trained: dict[str, str]) -> None:
    frame = gl.responses([trained["plain8"]], images=20).frame
    contract = ["network", "layer", "index", "kind", "std", "mean", "count", "rank", "predicted_std"]
    assert frame.columns[:9].tolist() == contract
    assert frame.sort_values("rank")["std"].is_monotonic_decreasing
    assert frame["rank"].sort_values().tolist() == list(range(1, 8))
    assert frame["count"].tolist() == [20 * 16 * 1024] * 3 + [20 * 32 * 256] * 2 + [20 * 64 * 64] * 2


def test_accuracy_and_the_flag_near_chance(trained: dict[str, str]) -> None:
    result = gl.responses([trained["resnet8"]], images=100)
    facts = result.record["networks"][0]
    model = gl.build(trained["resnet8"])
    with torch.no_grad():
        correct = sum(
            (model(x).argmax(1) == y).sum().item() for x, y in gl.batches(batch_size=50, model=model, images=100)
        )
    assert facts["accuracy"] == correct / 100
    assert any("near chance" in note for note in result.notes)
    assert not any("near chance" in note for note in gl.responses("resnet8@init", images=100).notes)


def test_near_chance() -> None:
    assert near_chance(0.1, 10, 10_000)
    assert near_chance(0.2, 10, 10_000)
    assert not near_chance(0.25, 10, 10_000)
    assert near_chance(0.4, 10, 16)


def test_an_unknown_normalization_is_noted(tmp_path: object) -> None:
    path = f"{tmp_path}/unknown.pt"
    torch.save(create("resnet8").state_dict(), path)
    notes = gl.responses(f"resnet8@{path}", images=10).notes
    assert any("the normalization of its images in training is unknown" in note for note in notes)
    assert not any("nothing says" in n for n in gl.responses(f"resnet8@{path}", images=10, normalize="none").notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "at least one"),
        ({"models": ["resnet8@init"], "bn": "train"}, "eval or batch"),
        ({"models": ["resnet8@init"], "device": "tpu"}, "no device 'tpu'"),
        ({"models": ["resnet8@init"], "normalize": ["none", "none"]}, "got 2"),
        ({"models": ["resnet8@init"], "layers": "nothing*"}, "matches 'nothing"),
        ({"models": ["resnet8@init"], "batch_size": 0}, "batch size"),
    ],
)
def test_invalid_requests_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gl.responses(**options, images=2)


def test_a_model_that_does_not_accept_the_images() -> None:
    with pytest.raises(GradlabError, match=r"Sequential cannot run on images of shape \(2, 3, 32, 32\)"):
        gl.responses(nn.Sequential(nn.Conv2d(5, 4, 3)), images=2)


def toy_frame(**medians: float) -> pd.DataFrame:
    rows = [(n, m * f) for n, m in medians.items() for f in np.linspace(0.8, 1.2, 11)]
    return pd.DataFrame(rows, columns=["network", "std"])


def toy_facts(recipe: str | None = "r", **kinds: str | None) -> list[dict[str, object]]:
    return with_descriptions({"network": n, "recipe": kinds.get(n, recipe), "bn": "eval"} for n in kinds)


def test_claims_are_computed_and_not_canned() -> None:
    names = {"plain20": "r", "resnet20": "r", "resnet56": "r"}
    smaller = findings(toy_frame(plain20=1.0, resnet20=0.5, resnet56=0.25), "std", toy_facts(**names))
    assert smaller[0] == (
        "At 20 layers the residual net has smaller responses than the plain net: smaller at 11 of 11 layers, a median "
        "ratio of 0.50; median std 0.500 (quartiles 0.450 to 0.550) against 1.000 (quartiles 0.900 to 1.100)."
    )
    assert smaller[1].startswith("Deeper residual nets have smaller responses: median std 0.500")
    larger = findings(toy_frame(plain20=1.0, resnet20=2.0, resnet56=4.0), "std", toy_facts(**names))
    assert "has larger responses than" in larger[0]
    assert larger[1].startswith("Deeper residual nets have larger responses")
    equal = findings(toy_frame(plain20=1.0, resnet20=1.0, resnet56=1.001), "std", toy_facts(**names))
    assert "responses that are not significantly different from the plain net's" in equal[0]
    assert equal[1].startswith("Responses of residual nets of different depths are not significantly different")
    names["resnet110"] = "r"
    mixed = findings(toy_frame(plain20=1, resnet20=0.5, resnet56=0.2, resnet110=0.4), "std", toy_facts(**names))
    assert mixed[1].startswith("Responses of residual nets do not change with depth in one direction")


def test_networks_of_different_recipes_are_not_compared() -> None:
    frame = toy_frame(plain20=1.0, resnet20=0.5)
    (sentence,) = findings(frame, "std", toy_facts(plain20="a", resnet20="b"))
    assert sentence == "Networks of different recipes or lengths of training are not compared: plain20; resnet20."
    (sentence,) = findings(frame, "std", toy_facts(plain20=None, resnet20=None, recipe=None))
    assert sentence.startswith("The weights of plain20 and resnet20 have unknown recipes and are not compared")
    facts = toy_facts(plain20="a", resnet20="a")
    facts[0]["bn"] = "batch"
    (sentence,) = findings(frame, "std", facts)
    assert "are not compared" in sentence


def test_no_conclusions_are_drawn_from_networks_near_chance() -> None:
    facts = toy_facts(plain20="a", resnet20="a")
    assert len(findings(toy_frame(plain20=1.0, resnet20=0.5), "std", facts)) == 1
    facts[1]["near_chance"] = True
    said = findings(toy_frame(plain20=1.0, resnet20=0.5), "std", facts)
    assert said == ["resnet20 is near chance and not compared."]


def test_shortcut_options_are_all_compared_with_the_plain_net_and_apart_by_depth() -> None:
    medians = {"plain20": 1.0, "resnet20": 0.5, "resnet20-B": 0.6, "resnet56-B": 0.3, "resnet56": 0.4}
    found = findings(toy_frame(**medians), "std", toy_facts(**dict.fromkeys(medians, "r")))
    # The deepest pair and the trends come first: they answer what is asked.
    first, trend, trend_of_b, last = found
    assert [s.split(" has ")[0] for s in (first, last)] == [
        "At 20 layers the residual net (resnet20)",
        "At 20 layers the residual net (resnet20-B)",
    ]
    assert "0.500" in trend
    assert "0.400" in trend
    assert "0.600" in trend_of_b
    assert "0.300" in trend_of_b


def test_same_recipe_applies_to_unknown_recipes(tmp_path: object) -> None:
    specs = []
    for name in ("plain8", "resnet8"):
        torch.save(create(name).state_dict(), f"{tmp_path}/{name}.pt")
        specs.append(f"{name}@{tmp_path}/{name}.pt")
    assert gl.responses(specs, no_data=True).findings()[0].startswith("The weights of plain8@plain8.pt")
    assert gl.responses(specs, no_data=True, same_recipe=True).findings()[0].startswith("At 8 layers")
    with_known = [specs[0], "resnet8@init"]
    assert any("At 8 layers" in said for said in gl.responses(with_known, no_data=True, same_recipe=True).findings())


def test_without_finite_values_there_is_no_prediction() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    result = gl.responses(model, images=4)
    assert result.measured
    assert result.summary()["mean std"].isna().all()


def test_save_load_and_show(trained: dict[str, str], tmp_path: object) -> None:
    result = gl.responses(list(trained.values()), images=20)
    paths = result.save(f"{tmp_path}/out", ("png", "pdf", "svg"), ("csv", "latex", "markdown"))
    assert {p.name for p in paths} == {
        *(f"responses.{kind}" for kind in ("csv", "json", "png", "pdf", "svg")),
        *(f"responses-summary.{kind}" for kind in ("csv", "tex", "md")),
    }
    loaded = ResponsesResult.load(f"{tmp_path}/out")
    pd.testing.assert_frame_equal(loaded.frame, result.frame, check_dtype=False)
    assert loaded.findings() == result.findings()
    assert "<table" in result._repr_html_()
    first = {p.name: p.read_bytes() for p in paths}
    again = gl.responses(list(trained.values()), images=20).save(f"{tmp_path}/two", ("png", "pdf", "svg"))
    for path in again:
        assert path.suffix == ".json" or path.read_bytes() == first[path.name], path.name
    with pytest.raises(GradlabError, match="holds no whole responses result"):
        ResponsesResult.load(f"{tmp_path}/nothing")


def test_outputs_that_hold_nan_are_said_and_count_as_wrong() -> None:
    model = gl.build("resnet8@init")
    with torch.no_grad():
        model.fc.bias[3] = torch.nan
    result = gl.responses(model, images=20)
    assert result.summary()["accuracy (%)"].item() == 0
    assert any("20 of 20 outputs hold NaN and count as wrong answers" in note for note in result.notes)
    assert not any("hold NaN" in note for note in gl.responses("resnet8@init", images=4).notes)


def test_layers_that_do_not_run_are_refused_by_the_name_of_the_network():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    model.add_module("unused", nn.Linear(2, 2))
    model.forward = lambda x: model[1](model[0](x))
    with pytest.raises(GradlabError, match=r"^Sequential does not run the layers to measure: choose others"):
        gl.responses(model, images=2, layers="unused")


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_coverage_is_of_the_parameters_that_the_network_has(bn):
    result = gl.responses("resnet8-width=4@init", images=4, bn=bn)
    parameters = dict(gl.build("resnet8-width=4@init").named_parameters())
    convolutions = sum(p.numel() for p in parameters.values() if p.ndim == 4)
    assert result.coverage.total == sum(p.numel() for p in parameters.values())
    assert result.coverage.measured == convolutions
    left_out = {name for names in result.coverage.left_out.values() for name in names}
    assert left_out == {name for name, p in parameters.items() if p.ndim == 1} - {"fc.bias"} | {"fc", "fc.bias"}
    assert result.coverage.left_out["not selected"] == ["fc"]


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there alone")
def test_names_of_files_that_are_no_text_are_shown_as_escapes(tmp_path):
    weights, data = (os.fsdecode(os.fsencode(tmp_path) + name) for name in (b"/caf\xe9\n.pth", b"/d\xe9.npz"))
    torch.save(create("resnet8-width=4").state_dict(), weights)
    np.savez(data, x_test=np.zeros((2, 32, 32, 3), np.uint8))
    result = gl.responses(f"resnet8-width=4@{weights}", data, images=2)
    assert result.networks == ["resnet8-width=4@caf\\udce9 .pth"]
    result.save(tmp_path / "saved", formats=("svg",), tables=("latex",))
    again = ResponsesResult.load(tmp_path / "saved")
    assert again.networks == result.networks
    assert again.record["networks"][0]["data"] == f"{tmp_path}/d\\udce9.npz"
