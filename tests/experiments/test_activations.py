"""Activity of rectifiers: patterns against modules, runs against counting, rates against closed forms."""

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import gradlab as gl
from gradlab.models import activation_patterns, batch_statistics, create_mlp, forward_mode, parse_family
from gradlab.models.mlp import MLPArchitecture
from gradlab.results.activations.figure import activations_figure
from gradlab.stats.activation_runs import run_lengths, switch_rate
from gradlab.theory import coin_flip_runs, first_layer_runs, switch_rates

X = torch.linspace(-2, 2, 64, dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "text", ["ff-norm=none", "ff-norm=center", "ff-norm=bn", "resnet", "resnet-norm=none-beta=0.5"]
)
@torch.no_grad()
def test_patterns_are_the_signs_before_the_relus_of_the_module(text: str) -> None:
    family = parse_family(text).at(6)
    model = create_mlp(MLPArchitecture(family, 6, 30), seed=2, dtype=torch.float64)
    seen = []
    for block in model.body:
        block.norm.register_forward_hook(lambda module, args, output: seen.append(output.T > 0))
    with batch_statistics(model.eval()):
        model(X[:, None])
    patterns = [active for active, _ in activation_patterns(family, X, 2, 6, width=30, dtype=torch.float64)]
    assert all(torch.equal(one, other) for one, other in zip(patterns, seen, strict=False))
    counts = forward_mode(family, X, [2], [6], width=30, dtype=torch.float64).active[:, 0]
    assert torch.equal(torch.stack([pattern.sum(1) for pattern in patterns]).double(), counts)


def test_runs_and_switches_are_counted() -> None:
    active = torch.rand(40, 23, generator=GENERATOR) < 0.6
    active[0], active[1] = True, False
    expected, switches = np.zeros(23), 0
    for row in active.tolist():
        for on, group in itertools.groupby(row):
            expected[len([*group]) - 1] += on
        switches += sum(one != other for one, other in itertools.pairwise(row))
    assert run_lengths(active).tolist() == pytest.approx(expected / 40)
    assert switch_rate(active).item() == pytest.approx(switches / (40 * 22))


@pytest.mark.parametrize("points", [1, 2, 9])
def test_runs_of_coin_flips_are_those_of_all_sequences(points: int) -> None:
    every = torch.tensor([*itertools.product((False, True), repeat=points)])
    assert coin_flip_runs(points).tolist() == pytest.approx(run_lengths(every).tolist())


def test_the_first_layer_has_its_closed_form() -> None:
    neurons = 200_000
    weights, biases = torch.randn(2, neurons, 1, generator=GENERATOR, dtype=torch.float64)
    x = torch.linspace(-2, 2, 8, dtype=torch.float64)
    found, law = run_lengths(weights * x + biases > 0), first_layer_runs(x)
    assert (found - law).abs().max() < 5 * math.sqrt(0.25 / neurons)
    assert law.sum().item() == pytest.approx(1 - (1 - 2 * math.atan(2) / math.pi) / 2)
    assert switch_rates(x, 1).item() == pytest.approx(2 * math.atan(2) / math.pi / 7)


@pytest.mark.parametrize("text", ["ff-norm=none", "ff-norm=center", "resnet-norm=none-shortcut=0.8-beta=0.6"])
def test_switch_rates_are_those_of_wide_nets(text: str) -> None:
    frame = gl.activations(4, text, seeds=6, width=1200, points=32).frame
    rates = frame.groupby("layer")["switch_rate"]
    theory = frame.groupby("layer")["theory"].first()
    assert theory.notna().all()
    assert ((rates.mean() - theory).abs() < 5 * rates.sem() + 0.02 * theory).all()


def test_result_and_files(tmp_path: Path) -> None:
    result = gl.activations(12, ("ff-norm=none", "ff-norm=bn", "resnet"), seeds=3, width=40, points=48)
    last = result.last_layers().groupby("network")["switch_rate"].mean()
    assert last["ff-norm=bn"] > last["resnet"] > last["ff-norm=none"]
    assert {path.name for path in result.save(tmp_path, formats=("svg",))} >= {"activations.svg", "rasters.npz"}
    again = gl.Result.load(tmp_path)
    pd.testing.assert_frame_equal(again.frame, result.frame, check_dtype=False)
    pd.testing.assert_frame_equal(again.runs_frame, result.runs_frame, check_dtype=False)
    assert all(np.array_equal(again.rasters[name], raster) for name, raster in result.rasters.items())
    assert again.findings() == result.findings()
    with pytest.raises(gl.UsageError, match="from a lower to a higher input"):
        gl.activations(interval=(2.0, -2.0))
    with pytest.raises(gl.UsageError, match="unknown family"):
        gl.activations(families="mlp")


@pytest.mark.parametrize("measure", [gl.activations, partial(gl.shatter, lags=3)])
@pytest.mark.parametrize(
    ("family", "interval", "error", "told"),
    [
        # Of infinite inputs, rectifiers are neither active nor inactive, which once read as a gradient of 0 throughout.
        ("ff-norm=none", (0.0, 1e308), gl.UsageError, "not as many different numbers in float32"),
        ("ff-norm=none", (0.0, 1e-300), gl.UsageError, "not as many different numbers in float32"),
        ("resnet-norm=none", (0.0, 3e38), gl.GradlabError, "the net of seed 0 values leave the range of float32"),
        ("ff-norm=bn", (0.0, 1e25), gl.GradlabError, r"leave the range of float32: .*, or --dtype float64"),
        ("resnet-norm=rms", (0.0, 1e25), gl.GradlabError, "leave the range of float32"),
    ],
)
def test_inputs_beyond_the_range_of_the_dtype_are_refused(
    measure: Any, family: str, interval: tuple[float, float], error: type[Exception], told: str
) -> None:
    sizes: Any = {"seeds": 1, "width": 8, "points": 16, "device": "cpu"}
    with pytest.raises(error, match=told):
        measure(3, family, interval=interval, **sizes)
    # In float64 the same is measured, unless it has no different inputs there.
    if error is gl.GradlabError:
        measure(3, family, interval=interval, dtype="float64", **sizes)


def test_bars_of_runs_end_on_an_axis_that_all_networks_share() -> None:
    result = gl.activations(8, ("ff-norm=none", "ff-norm=bn"), seeds=1, width=20, points=64, device="cpu")
    runs = result.runs_frame
    # As many as the random signs of 4,096 inputs have.
    runs.loc[(runs["network"] == "ff-norm=bn") & (runs["length"] == 1), "runs"] = 512.0
    axes = activations_figure(result.to_frame(), runs, result.rasters, result.x, Figure()).axes
    panels = [ax for ax in axes if ax.get_xlabel().startswith("length")]
    assert [max(bar.get_height() for bar in ax.patches) for ax in panels][1] == 512  # type: ignore[attr-defined]
    ends = [ax.get_ylim() for ax in panels]
    assert ends[0] == ends[1]
    assert ends[0][1] > 512
