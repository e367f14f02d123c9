"""Models that move to a GPU while they are measured, and models of which only a part lies there."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices.gpu import DEVICE, MARKS, ON_CUDA, Case, Copies, weight_norms
from devices.moving import PROBES, measured
from torch import Tensor, nn

import gradlab as gl

pytestmark = MARKS


def test_a_model_that_is_moved_after_the_probe_was_attached() -> None:
    case = Case("conv", "cpu", training=False)
    there = Case("conv", training=False)
    with Copies(there.model, there.read) as copies, torch.no_grad():
        there.model(there.batches[0])
        there.model(there.batches[1])
    with torch.no_grad(), gl.ResponseStd(case.model) as probe, gl.BlockSignal(case.model) as signal:
        case.model(case.batches[0])
        case.model.to(DEVICE)
        case.model(case.batches[1].to(DEVICE))
    frame = probe.result().frame
    assert dict(zip(frame["layer"], frame["std"], strict=True)) == pytest.approx(copies.stds(), rel=1e-5)
    assert np.isfinite(signal.result().frame["branch_std"]).all()


def test_gradients_of_a_model_that_is_moved() -> None:
    case = Case("conv", "cpu")
    expected, copies = [], list[dict[str, float]]()
    twin = copy.deepcopy(case.model)
    for x, y in zip(case.batches, case.labels, strict=True):
        twin.zero_grad()
        with Copies(twin, case.read) as seen:
            case.loss(twin(x), y).backward()
        expected.append(weight_norms(twin))
        copies.append(seen.norms())
    with gl.ParameterGradients(case.model) as probe, gl.ResponseGradients(case.model) as responses:
        for device, x, y in zip(("cpu", DEVICE), case.batches, case.labels, strict=True):
            case.model.zero_grad()
            case.model.to(device)
            case.loss(case.model(x.to(device)), y.to(device)).backward()
            probe.step()
            responses.step()
    frame, other = probe.result().frame, responses.result().frame
    for step in range(2):
        rows = frame[frame["step"] == step]
        assert dict(zip(rows["layer"], rows["grad_norm"], strict=True)) == pytest.approx(expected[step], rel=1e-4)
        rows = other[(other["step"] == step) & ~other["block"]]
        found = dict(zip(rows["layer"], rows["response_grad_norm"], strict=True))
        assert found == pytest.approx(copies[step], rel=1e-4)


@pytest.mark.parametrize("places", [("cpu", DEVICE), (DEVICE, "cpu"), ("cpu", DEVICE, "cpu")], ids="-".join)
@pytest.mark.parametrize("name", PROBES)
def test_probes_of_a_model_that_moves(name: str, places: tuple[str, ...]) -> None:
    """The numbers of a model that stays on the CPU."""
    expected = measured(name, ["cpu"] * len(places))
    assert measured(name, places) == pytest.approx(expected, rel=1e-3, abs=1e-6, nan_ok=True)


class Split(nn.Module):
    """A residual network whose stem is on the CPU and whose blocks are on the device."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole
        whole.blocks.to(DEVICE)
        whole.head.to(DEVICE)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.whole.norm(self.whole.stem(x))).to(DEVICE)
        for block in self.whole.blocks:
            x = block(x)
        return self.whole.head(x.mean((2, 3)))


def test_a_model_on_two_devices() -> None:
    case = Case("conv", "cpu", batches=1)
    model, (x,), (y,) = Split(case.model), case.batches, case.labels
    read = {f"whole.{layer}": f"whole.{name}" for layer, name in case.read.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probes = gl.ResponseStd(model), gl.ResponseGradients(model), gl.ParameterGradients(model)
    watch = gl.watch(model, optimizer, every=1)
    with Copies(model, read) as copies, probes[0], probes[1], probes[2], watch, gl.BlockSignal(model) as signal:
        F.cross_entropy(model(x), y.to(DEVICE)).backward()
        probes[1].step()
        probes[2].step()
        optimizer.step()
    frames = [probe.result().frame for probe in probes]
    frames[1] = frames[1][~frames[1]["block"]]
    columns = ("std", "response_grad_norm", "grad_norm")
    expected = copies.stds(), copies.norms(), weight_norms(model)
    for frame, column, right in zip(frames, columns, expected, strict=True):
        assert dict(zip(frame["layer"], frame[column], strict=True)) == pytest.approx(right, rel=1e-5)
    rows = watch.result().frame.query("statistic == 'grad_norm' and layer != 'total'")
    assert dict(zip(rows["layer"], rows["value"], strict=True)) == pytest.approx(weight_norms(model), rel=1e-5)
    assert len(signal.result().frame) == 2
    model.eval()
    with gl.ExampleGradients(model) as single:
        model.zero_grad()
        F.cross_entropy(model(x), y.to(DEVICE)).backward()
        single.step()
    assert np.isfinite(single.examples()["norm"]).all()


def test_random_numbers_and_buffers_stay() -> None:
    """What runs the model once more leaves the device's random numbers and the running statistics as they were."""
    case = Case("conv")
    model = nn.Sequential(case.model, nn.Dropout(0.5)).to(DEVICE)
    x, y = case.batches[0], case.labels[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def state() -> list[Tensor]:
        random = torch.cuda.get_rng_state() if ON_CUDA else torch.get_rng_state()
        return [random, *(buffer.clone() for buffer in model.buffers())]

    before = state()
    assert gl.find_nonfinite(model, (x, y), F.cross_entropy) is None
    assert all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
    with gl.watch(model, optimizer, every=1, measure=("gradients", "noise")) as watch:
        for _ in range(2):
            F.cross_entropy(model(x), y).backward()
            between = state()
            watch.log(again=lambda: F.cross_entropy(model(x), y), part=lambda: F.cross_entropy(model(x[:3]), y[:3]))
            optimizer.step()
            assert all(torch.equal(one, other) for one, other in zip(between, state(), strict=True))
    assert "actual_loss_change" in set(watch.result().frame["statistic"])
