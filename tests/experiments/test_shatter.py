"""`gl.shatter` and `gl.shattering`: published facts, reproducibility, files, and invalid requests."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.results.shatter.result import FIGURES

SMALL = {"seeds": 3, "width": 30, "points": 40, "lags": 5, "device": "cpu"}


def lag1(result, **where):
    rows = result.frame
    for column, value in where.items():
        rows = rows[rows[column] == value]
    row = rows[rows["lag"] == 1].iloc[0]
    return row["acf"], row["acf_sem"]


@pytest.fixture(scope="module")
def small():
    return gl.shatter((2, 4), ("ff", "resnet", "ll"), **SMALL)


def test_unnormalized_nets_do_not_shatter_and_agree_with_theory():
    result = gl.shatter((2, 4, 24), ("ff-norm=none", "ff-norm=center"), seeds=24, points=128, width=150)
    assert lag1(result, network="ff-norm=none", depth=24)[0] > 0.7
    assert lag1(result, network="ff-norm=center", depth=24)[0] < 0.2
    shallow = result.frame[(result.frame["depth"] <= 4) & (result.frame["lag"] > 0)]
    assert ((shallow["acf"] - shallow["theory"]).abs() <= 4.5 * shallow["acf_sem"] + 0.01).all()


@pytest.mark.slow
def test_published_lag1_autocorrelations():
    plain = gl.shatter(24, "ff-norm=none", seeds=20)
    value, error = lag1(plain)
    assert abs(value - 0.87) <= 4 * error + 0.01
    for mode, expected in (("frozen", 0.70), ("full", 0.51)):
        value, error = lag1(gl.shatter(50, "resnet", seeds=10, norm_grad=mode))
        assert abs(value - expected) <= 4 * error + 0.01


def test_full_gradients_are_less_correlated_than_frozen():
    options = {"seeds": 8, "points": 128, "width": 100}
    frozen, full = (lag1(gl.shatter(20, "resnet", norm_grad=mode, **options))[0] for mode in ("frozen", "full"))
    assert full < frozen - 0.05


def test_columns_are_as_documented(small):
    assert list(small.frame)[:9] == [
        "network", "norm", "depth", "lag", "acf", "acf_sem", "acf_pooled", "n_constant", "seeds"
    ]  # fmt: skip
    assert list(small.summary_frame)[:8] == [
        "network", "norm", "depth", "statistic", "value", "sem", "theory", "seeds"
    ]  # fmt: skip
    assert {"lag1", "half_life", "coactivation", "path_correlation"} <= set(small.summary_frame["statistic"])
    assert (small.frame.groupby(["network", "depth"])["lag"].apply(list).map(lambda lags: lags == list(range(6)))).all()


def test_looks_linear_is_constant_and_counted(small):
    rows = small.frame[small.frame["network"] == "ll"]
    assert (rows["acf"] == 1).all()
    assert (rows["n_constant"] == 3).all()
    assert "constant" in set(small.summary()["nearest to"])


def test_the_frame_is_the_statistics_of_the_gradients(small):
    g = torch.from_numpy(small.gradients["resnet", 4])
    rows = small.frame[(small.frame["network"] == "resnet") & (small.frame["depth"] == 4)]
    assert rows["acf"].tolist() == pytest.approx(gl.stats.autocorrelation(g, 5).mean(0).tolist())
    assert rows["acf_pooled"].tolist() == pytest.approx(gl.stats.pooled_autocorrelation(g, 5).tolist())


def test_numbers_do_not_depend_on_other_families_or_the_order_of_depths(small):
    alone = gl.shatter((4,), ("resnet",), **SMALL).frame
    other = gl.shatter((4, 1, 2), ("ll", "resnet", "ff"), **SMALL).frame
    for frame in (small.frame, other):
        chosen = frame[(frame["network"] == "resnet") & (frame["depth"] == 4)].reset_index(drop=True)
        pd.testing.assert_frame_equal(chosen, alone, check_exact=True)


def test_the_same_seed_gives_the_same_bytes(small, tmp_path):
    again = gl.shatter((2, 4), ("ff", "resnet", "ll"), **SMALL)
    again.figures = small.figures = FIGURES
    first = small.save(tmp_path / "first", ("png",), ("latex",))
    second = again.save(tmp_path / "second", ("png",), ("latex",))
    assert [path.name for path in first] == [path.name for path in second]
    assert {"shatter.csv", "shatter-summary.csv", "gradients.npz", "shatter.json", "shatter.png"} <= {
        path.name for path in first
    }
    for one, other in zip(first, second, strict=True):
        if one.suffix != ".json":
            assert one.read_bytes() == other.read_bytes(), one.name
    small.figures = ("acf",)


def test_saved_results_load_again(small, tmp_path):
    small.save(tmp_path, ("png",))
    loaded = gl.ShatterResult.load(tmp_path)
    assert loaded.findings() == small.findings()
    pd.testing.assert_frame_equal(loaded.summary(), small.summary(), check_exact=False)
    assert np.array_equal(loaded.gradients["ff", 4], small.gradients["ff", 4])
    record = json.loads((tmp_path / "shatter.json").read_text())
    assert record["options"]["norm_grad"] == "frozen"
    assert record["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("which", FIGURES)
def test_figures_have_the_width_of_the_paper(small, which):
    width = small.figure(which).get_size_inches()[0] * 25.4
    assert any(width == pytest.approx(allowed, abs=1) for allowed in (85, 89, 133.5, 178))


def test_one_seed_has_a_note_that_there_is_no_error_bar():
    result = gl.shatter(2, "resnet", **{**SMALL, "seeds": 1})
    assert result.frame["acf_sem"].isna().all()
    assert any("no error bar" in note for note in result.notes)
    assert "nan" not in " ".join(result.findings())


def test_width_one_runs():
    result = gl.shatter((1, 3), ("ff-norm=none", "resnet", "ll"), **{**SMALL, "width": 1})
    assert result.frame["acf"].notna().all()


def test_findings_compare_the_decay_with_its_law():
    result = gl.shatter(48, ("ff-norm=bn", "resnet"), seeds=6, points=128, width=100)
    said = " ".join(result.findings())
    assert "-0.734" in said
    fits = result.summary_frame.set_index("statistic")
    power = fits.loc["decay_exponent"]
    assert power["value"] == pytest.approx(power["theory"], abs=0.1)
    assert fits.loc["decay_log_factor", "value"] == pytest.approx(math.log(0.5), abs=0.1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depths": 0}, "depths must be from 1 to 10,000; got 0"),
        ({"depths": ()}, "at least one depth"),
        ({"lags": 40}, "lags 0 to 39, not 40"),
        ({"seeds": 0}, "seeds must be from 1"),
        ({"width": 0}, "width must be from 1"),
        ({"points": 2, "lags": 1}, "points must be from 3"),
        ({"interval": (1.0, 1.0)}, "lower to a higher"),
        ({"norm_grad": "half"}, "norm_grad is frozen or full"),
        ({"init": "xavier"}, "init is he, glorot or orthogonal"),
        ({"dtype": "float16"}, "dtype is float32 or float64"),
        ({"families": ("ff-norm=none-bias=0",), "points": 41}, "even number of points"),
        ({"families": ()}, "at least one family"),
        ({"device": "tpu"}, "no device"),
    ],
)
def test_invalid_requests_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        gl.shatter(**{"depths": 2, "families": "resnet", **SMALL, **options})


LINE = torch.linspace(-2, 2, 50, dtype=torch.float64)


def test_shattering_of_a_function_with_a_known_gradient():
    result = gl.shattering(lambda x: x.sin(), LINE, lags=10)
    expected = gl.stats.autocorrelation(LINE.cos(), 10)
    assert result.frame["acf"].tolist() == pytest.approx(expected.tolist())
    assert any("no error bar" in note for note in result.notes)
    assert result.plot() is not None


def test_shattering_of_a_gradlab_net_equals_the_experiment():
    options = {"seeds": 2, "points": 64, "lags": 5, "dtype": "float64"}
    ours = gl.shatter(6, "ff-norm=none", **options)
    nets = [gl.build(f"mlp6-norm=none@init:{seed}").double() for seed in (0, 1)]
    theirs = gl.shattering(nets, torch.linspace(-2, 2, 64, dtype=torch.float64), lags=5)
    assert theirs.frame["acf"].tolist() == pytest.approx(ours.frame["acf"].tolist(), abs=1e-6)
    assert all(parameter.grad is None for net in nets for parameter in net.parameters())


def test_shattering_along_a_line_in_more_dimensions():
    direction = torch.tensor([3.0, 4.0], dtype=torch.float64) / 5
    result = gl.shattering(lambda x: x[:, 0] ** 3 + x[:, 1], LINE[:, None] * direction, lags=3)
    expected = gl.stats.autocorrelation(3 * (0.6 * LINE) ** 2 * 0.6 + 0.8, 3)
    assert result.frame["acf"].tolist() == pytest.approx(expected.tolist())


def test_a_linear_function_is_constant():
    result = gl.shattering(nn.Linear(1, 1), LINE.float())
    assert result.frame["n_constant"].eq(1).all()
    assert (result.frame["acf"] == 1).all()


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (lambda x: torch.stack([x, x], -1), UsageError, r"returns \(50, 2\) for 50 inputs"),
        (lambda x: 3.0, UsageError, "returns float"),
        (lambda x: (x - 1).log(), GradlabError, r"value at x\[0\] = -2 is nan, and at 36 more"),
        (lambda x: (x - LINE[7]).abs().sqrt(), GradlabError, r"gradient at x\[7\] = -1\.42857 is"),
        (lambda x: x.detach(), GradlabError, "does not depend on the input"),
        (lambda x: torch.ones(50, requires_grad=True), GradlabError, "does not depend on the input"),
    ],
)
def test_functions_that_cannot_be_measured(function, error, says):
    with pytest.raises(error, match=says):
        gl.shattering(function, LINE)


@pytest.mark.parametrize(("x", "lags"), [(LINE, 50), (LINE[:2], 1), (torch.tensor(1.0), 0)])
def test_too_few_inputs_for_the_lags(x, lags):
    with pytest.raises(UsageError, match="points have the lags"):
        gl.shattering(torch.sin, x, lags=lags)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (LINE[torch.arange(50) ^ 1], "goes back and forth"),
        (torch.stack([LINE.cos(), LINE.sin()], 1), "not evenly spaced on a line"),
        (LINE[:, None] ** 3, "not evenly spaced on a line"),
    ],
)
def test_inputs_that_are_no_line(x, says):
    with pytest.raises(UsageError, match=says):
        gl.shattering(lambda x: x.reshape(len(x), -1).sum(1), x)
    for good in (LINE.flip(0), LINE.half(), LINE[:, None].bfloat16(), LINE.exp()):
        assert len(gl.shattering(lambda x: x.reshape(len(x), -1).sin().sum(1), good, lags=2).frame) == 3


def test_figures_of_layers_need_layers():
    with pytest.raises(UsageError, match="layers"):
        gl.shattering(torch.sin, LINE).figure("coactivation")


def test_the_path_correlation_of_an_average_pair_is_the_product_over_layers():
    layers = gl.shatter(6, "ff-norm=bn", **{**SMALL, "seeds": 1}).layers_frame
    np.testing.assert_allclose(
        layers["mean_path_correlation"], (layers["coactivation"] / layers["activation"]).cumprod(), rtol=1e-9
    )


def test_the_theory_figure_draws_each_network_with_its_theory(small):
    left, right = small.figure("theory").axes
    drawn = [line.get_label() for line in small.figure("theory").legends[0].legend_handles]
    assert drawn == ["ff", "resnet", "ll", "exact theory"]
    black = [line for line in right.lines if line.get_color() == "black"]
    assert len(black) == 1, "only normalized nets have a law of coin flips"
    rows = small.layers_frame[small.layers_frame["network"] == "resnet"]
    np.testing.assert_array_equal(black[0].get_ydata(), rows["law"])
    assert left.get_ylabel() == "autocorrelation at lag 1"
