import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.models import describe
from gradlab.plots.style import KIND_COLORS, shades

SMALL = {"images": 8, "batch_size": 4, "seeds": 2, "points": 12, "lags": 5, "device": "cpu"}
NETWORKS = ["plain8-width=4", "resnet8-width=4"]
ONE_NUMBER = [
    "relative_effective_rank",
    "relative_effective_rank_raw",
    "mean_cosine",
    "mean_abs_cosine",
    "row_norm_variation",
    "segment_lag1",
    "segment_power",
]


@pytest.fixture(scope="module")
def result():
    return gl.input_gradients(NETWORKS, weights="init", **SMALL)


def reference(model, images, points=12, lags=5):
    """One batch, without gradlab except for the model: every sample and every point of the segment is run alone."""
    model = model.double().eval()
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:

        def fix(module, args):
            module.running_mean = args[0].detach().mean((0, 2, 3))
            module.running_var = args[0].detach().var((0, 2, 3), correction=0)

        handle = norm.register_forward_pre_hook(fix)
        with torch.no_grad():
            model(images)
        handle.remove()

    def gradient(image):
        alone = image[None].clone().requires_grad_()
        return torch.autograd.grad(model(alone).sum(), alone)[0].flatten().numpy()

    rows = np.stack([gradient(image) for image in images])
    line = np.stack([gradient(images[0] + (images[1] - images[0]) * t / (points - 1)) for t in range(points)])
    line -= line.mean(0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    noise = gl.stats.noise_effective_rank
    return {
        "relative_effective_rank": len(rows) / np.linalg.norm(unit, 2) ** 2 / noise(*rows.shape, unit=True),
        "relative_effective_rank_raw": (np.linalg.norm(rows) / np.linalg.norm(rows, 2)) ** 2
        / noise(*rows.shape, unit=False),
        "mean_cosine": np.mean((unit @ unit.T)[~np.eye(len(unit), dtype=bool)]),
        "segment_acf": [(line[: points - k] * line[k:]).sum() / (line**2).sum() for k in range(lags + 1)],
        "segment_power": (line**2).sum(),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [*NETWORKS, "resnet8-width=4-beta=0.1"])
def test_against_a_reference_that_runs_every_point_alone(name, dtype):
    result = gl.input_gradients(f"{name}@init:3", **{**SMALL, "images": 4}, dtype=dtype)
    ((images, _),) = gl.batches("cifar10-sample", 4, images=4)
    expected = reference(gl.models.create(name, seed=3), images.double())
    frame = result.to_frame()
    tolerance = 1e-6 if dtype == "float64" else 2e-3
    for statistic, value in expected.items():
        measured = frame.loc[frame["statistic"] == statistic, "value"]
        np.testing.assert_allclose(measured, value, rtol=tolerance, atol=tolerance)
    assert frame.loc[frame["statistic"] == "segment_lag1", "value"].item() == pytest.approx(
        expected["segment_acf"][1], abs=tolerance
    )


def test_columns_and_rows(result):
    frame = result.to_frame()
    contract = ["network", "norm", "depth", "statistic", "value", "sem", "theory", "seeds"]
    assert set(contract) <= set(frame.columns)
    for network in ("plain8-width=4@init", "resnet8-width=4@init"):
        rows = frame[frame["network"] == network]
        assert rows["statistic"].tolist() == [*ONE_NUMBER, *["segment_acf"] * 6]
        assert rows["lag"].dropna().tolist() == list(range(6))
        assert set(rows["seeds"]) == {2}
        assert set(rows["batches"]) == {2}
        assert set(rows["depth"]) == {8}
        assert set(rows["norm"]) == {"bn"}
        assert set(rows["bn"]) == {"batch"}
    assert frame["value"].notna().all()
    assert frame["sem"].notna().all()
    assert frame["theory"].isna().all()
    acf = result.acf()
    contract = ["network", "norm", "depth", "lag", "acf", "acf_sem", "acf_pooled", "n_constant", "seeds"]
    assert acf.columns.tolist() == contract
    assert (acf["n_constant"] == 0).all()
    assert (acf.loc[acf["lag"] == 0, "acf"] == 1).all()


def test_mean_and_error_are_over_seeds(result):
    single = [gl.input_gradients(f"plain8-width=4@init:{seed}", **SMALL) for seed in (0, 1)]
    for statistic in ONE_NUMBER:
        values = [one.value(one.networks[0], statistic)[0] for one in single]
        value, sem = result.value("plain8-width=4@init", statistic)
        assert value == pytest.approx(np.mean(values), rel=1e-12)
        assert sem == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-9)


def test_pooled_autocorrelation_sums_numerators_and_denominators():
    samples = [[{"segment_acf": [1.0, 0.5], "segment_power": 3.0}, {"segment_acf": [1.0, 0.1], "segment_power": 1.0}]]
    samples.append([{"segment_acf": [1.0, 1.0], "segment_power": 0.0}] * 2)
    how = {"depth": 8, "norm": "bn", "bn": "batch", "norm_grad": "frozen"}
    acf = gl.InputGradientsResult.from_samples("mine", samples, **how).acf()
    assert acf["acf_pooled"].tolist() == pytest.approx([1, (3 * 0.5 + 0.1) / 4])
    assert acf["acf"].tolist() == pytest.approx([1, (0.3 + 1) / 2])
    assert acf["acf_sem"].tolist() == pytest.approx([0, 0.35])
    assert acf["n_constant"].tolist() == [2, 2]
    constant = gl.InputGradientsResult.from_samples("mine", samples[1:], **how).acf()
    assert constant["acf_pooled"].tolist() == [1, 1]


def test_a_network_does_not_depend_on_the_others_requested(result):
    alone = gl.input_gradients(NETWORKS[1], weights="init", **SMALL)
    rows = result.frame[result.frame["network"] == "resnet8-width=4@init"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.frame, rows)


def test_the_same_call_gives_the_same_bytes(result, tmp_path):
    again = gl.input_gradients(NETWORKS, weights="init", **SMALL)
    for number, one in enumerate((result, again)):
        one.save(tmp_path / str(number), ("pdf", "svg"))
    for kind in ("csv", "pdf", "svg"):
        files = [(tmp_path / str(number) / f"shatter.{kind}").read_bytes() for number in (0, 1)]
        assert files[0] == files[1]


def test_the_users_module_does_not_change():
    model = gl.build("resnet8-width=4@init").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    result = gl.input_gradients(model, **SMALL)
    assert model.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    reference = gl.input_gradients("resnet8-width=4@init:0", **SMALL)
    pd.testing.assert_frame_equal(result.frame, reference.frame)


@pytest.mark.parametrize(("bn", "norm_grad"), [("eval", "frozen"), ("eval", "full"), ("batch", "full")])
def test_modes_of_batch_normalization(bn, norm_grad, result):
    other = gl.input_gradients(NETWORKS[1], weights="init", **SMALL, bn=bn, norm_grad=norm_grad)
    network = "resnet8-width=4@init"
    assert set(other.frame["norm_grad"]) == {norm_grad}
    assert other.value(network)[0] != result.value(network)[0]
    # Along a segment the statistics are fixed for both kinds of derivative.
    same = other.value(network, "segment_lag1") == result.value(network, "segment_lag1")
    assert same == (bn == "batch")
    assert any("running statistics are still 0 and 1" in note for note in other.notes) == (bn == "eval")


def test_looks_linear_networks_have_exact_values():
    result = gl.input_gradients("plain56-ll-width=4", weights="init", **SMALL)
    frame = result.to_frame()
    assert set(frame["norm"]) == {"none"}
    np.testing.assert_allclose(frame["value"], frame["theory"], rtol=0, atol=1e-5)
    assert frame["theory"].notna().all()
    assert any("is a linear function as initialized" in line for line in result.findings())


def test_networks_without_normalization_and_user_networks():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return F.relu(self.conv(x)).mean((2, 3))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mine()
    result = gl.input_gradients([model, copy.deepcopy(model)], **SMALL)
    assert result.networks == ["Mine", "Mine (2)"]
    assert set(result.frame["norm"]) == {"none"}
    assert set(result.frame["depth"]) == {1}
    assert result.findings() == []
    assert result.value("Mine") == result.value("Mine (2)")
    assert sum("cifar10 is assumed" in note for note in result.notes) == 2
    assert not gl.input_gradients(model, **SMALL, normalize="none").notes


def test_one_seed_and_one_batch_have_a_note_that_there_is_no_error():
    result = gl.input_gradients("resnet8-width=4", weights="init", **{**SMALL, "seeds": 1, "images": 4})
    assert result.frame["sem"].isna().all()
    assert any("no standard error" in note for note in result.notes)
    assert "±" not in str(result.summary()["mean cosine"].item())


def test_a_last_batch_that_is_not_full_is_left_out(result):
    more = gl.input_gradients(NETWORKS, weights="init", **{**SMALL, "images": 11})
    pd.testing.assert_frame_equal(more.frame, result.frame)
    assert [facts["images"] for facts in more.record["networks"]] == [8, 8]


def test_save_and_load(result, tmp_path):
    paths = result.save(tmp_path, ("png",), ("csv", "latex", "markdown"))
    assert {path.name for path in paths} == {
        *(f"shatter.{kind}" for kind in ("csv", "json", "png")),
        "shatter-summary.csv",
        *(f"shatter-table.{kind}" for kind in ("csv", "tex", "md")),
    }
    again = gl.InputGradientsResult.load(tmp_path)
    assert again.findings() == result.findings()
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    record = json.loads((tmp_path / "shatter.json").read_text())
    assert record["measurement"] == "input-gradients"
    assert record["options"]["norm_grad"] == "frozen"
    assert record["networks"][0]["images"] == 8
    assert len(set(record["networks"][0]["digests"])) == 2


def test_progress_counts_images_of_all_seeds():
    calls = []
    gl.input_gradients(NETWORKS[0], weights="init", **SMALL, progress=lambda *call: calls.append(call))
    assert calls == [("plain8-width=4@init", done, 16) for done in (4, 8, 12, 16)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bn": "train"}, "bn is eval or batch, not 'train'"),
        ({"norm_grad": "none"}, "norm_grad is frozen or full, not 'none'"),
        ({"dtype": "float16"}, "dtype is float32 or float64, not 'float16'"),
        ({"batch_size": 1}, "batch size must be at least 2; got 1"),
        ({"seeds": 0}, "seeds must be from 1 to 10,000; got 0"),
        ({"points": 5, "lags": 5}, "5 points have the lags 1 to 4, not 5"),
        ({"lags": 0}, "lags must be at least 1; got 0"),
        ({"images": 1, "batch_size": 4}, "1 image does not fill a batch of 4: take more images"),
        ({"images": 3, "batch_size": 4}, "3 images do not fill a batch of 4: take more images, or smaller batches"),
        ({"images": 5000}, "from 1 to 1,000"),
        ({"models": []}, "at least one network"),
        ({"models": "resnet9"}, "6n . 2 layers"),
        ({"normalize": "blue"}, "unknown normalization"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_invalid_requests_are_refused(options, message):
    arguments = {"models": "resnet8-width=4", "weights": "init", **SMALL, **options}
    with pytest.raises(UsageError, match=message):
        gl.input_gradients(**arguments)


def test_networks_that_fail_are_named():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn(F.relu(self.bn(self.conv(x)))).mean((2, 3)).square()

    with pytest.raises(GradlabError, match="Shared calls one batch normalization twice"):
        gl.input_gradients(Shared(), **SMALL, bn="batch")
    with pytest.raises(GradlabError, match="Linear cannot run on images"):
        gl.input_gradients(nn.Linear(4, 4), **SMALL)
    with pytest.raises(GradlabError, match="Dead: the input gradients of a batch are 0, NaN or infinite"):
        gl.input_gradients(type("Dead", (nn.Module,), {"forward": lambda self, x: x.sum((2, 3)) * 0})(), **SMALL)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same():
    frames = [
        gl.input_gradients(NETWORKS, weights="init", **{**SMALL, "device": device}, dtype="float64").frame
        for device in ("cpu", "cuda")
    ]
    pd.testing.assert_frame_equal(*frames, rtol=1e-6)


def test_values_near_zero_have_no_sign():
    samples = [[{"mean_cosine": -0.0001}]]
    result = gl.InputGradientsResult.from_samples("mine", samples, depth=8, norm="bn", bn="batch", norm_grad="full")
    assert str(result.summary()["mean cosine"].item()) == "0.000"


def frame_of(**ranks):
    samples = {
        name: [
            [{"relative_effective_rank": value + shift, "mean_cosine": 1 - value - shift}]
            for shift in (-0.01, -0.002, 0.002, 0.01)
        ]
        for name, value in ranks.items()
    }
    return gl.InputGradientsResult.concat(
        gl.InputGradientsResult.from_samples(
            f"{name}@init",
            of_seeds,
            depth=8,
            norm="bn",
            bn="batch",
            norm_grad="frozen",
            facts={"weights_label": "init", "description": describe(name).to_dict()},
        )
        for name, of_seeds in samples.items()
    )


def test_findings_compare_the_difference_with_its_error():
    lines = frame_of(plain20=0.9, resnet20=0.5, plain56=0.95, resnet56=0.94).findings()
    # The answer comes first: the deepest pair, and the first family over depth.
    assert lines[0].startswith(
        "The input gradients of plain56@init are not significantly different from those of resnet56@init: "
    )
    assert lines[1].startswith(
        "From 20 to 56 layers, of plain@init, the relative effective rank rises: 0.900 (0.887 to 0.913) to 0.950"
    )
    assert lines[2] == (
        "The input gradients of plain20@init are nearer to noise than those of resnet20@init by relative effective "
        "rank and mean cosine: relative effective rank 0.900 (0.887 to 0.913) against 0.500 (0.487 to 0.513), mean "
        "cosine 0.100 (0.087 to 0.113) against 0.500 (0.487 to 0.513)."
    )
    assert "the relative effective rank rises: 0.500" in lines[3]
    assert "mean cosine falls: 0.500 (0.487 to 0.513) to 0.060" in lines[3]
    assert lines[4].startswith(
        "Near the rank of noise: plain20@init (0.900), plain56@init (0.950) and resnet56@init (0.940)."
    )
    assert len(lines) == 5


def test_findings_compare_beta_with_plain_and_not_other_widths():
    lines = frame_of(
        **{"plain20": 0.9, "resnet20-beta=0.1": 0.1, "resnet20-width=8": 0.4, "plain20-ll": 0.02}
    ).findings()
    assert len([line for line in lines if "than those of" in line]) == 1
    assert "plain20@init are nearer to noise than those of resnet20-beta=0.1@init" in lines[0]


def test_the_figure_has_one_line_per_family_dashed_for_plain():
    result = frame_of(**{"plain20": 0.9, "plain56": 0.95, "resnet20": 0.5, "resnet56": 0.9, "resnet20-beta=0.1": 0.1})
    figure = result.figure()
    assert [ax.get_ylabel() for ax in figure.axes] == ["relative effective rank", "mean cosine"]
    lines = {line.get_label(): line for line in figure.legends[0].get_lines()}
    assert list(lines) == ["plain", "resnet", "resnet-beta=0.1", "Gaussian noise"]
    assert lines["plain"].is_dashed()
    assert not lines["resnet"].is_dashed()
    assert lines["plain"].get_color() == KIND_COLORS["plain"]
    assert [lines[f"resnet{beta}"].get_color() for beta in ("", "-beta=0.1")] == shades("residual", 2)


def test_at_initialization_plain_nets_shatter_sooner_than_residual_nets():
    names = ["plain8", "plain20", "resnet8", "resnet20"]
    result = gl.input_gradients(names, weights="init", images=24, batch_size=24, seeds=1, points=32, lags=2)
    rank, lag1 = (
        {n: result.value(f"{n}@init", s)[0] for n in names} for s in ("relative_effective_rank", "segment_lag1")
    )
    assert 0.5 < rank["plain8"] < rank["plain20"] < 1
    assert rank["resnet8"] < rank["resnet20"]
    assert all(rank[f"resnet{depth}"] < rank[f"plain{depth}"] for depth in (8, 20))
    assert lag1["plain8"] - lag1["plain20"] > lag1["resnet8"] - lag1["resnet20"] > 0


def test_images_of_an_incomplete_batch_are_counted():
    result = gl.input_gradients("resnet8@init", images=7, batch_size=4, seeds=1)
    assert result.record["networks"][0]["images"] == 4
    assert "resnet8@init: the last 3 images do not fill a batch and are left out" in result.notes
