"""Every probe on a GPU, in every precision, against plain hooks in the same pass and loops in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices.gpu import DEVICE, MARKS, TRAINED, Case, Copies, by_layer, example_norms, weight_norms
from torch import Tensor, nn

import gradlab as gl

pytestmark = MARKS
NETWORKS = ["conv", "gpt"]
SCALE = 2.0**14


def rel(expected: dict[str, float], tolerance: float) -> Any:
    return pytest.approx(expected, rel=tolerance, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"exact": True}], ids=["fast", "exact"])
@pytest.mark.parametrize("precision", TRAINED)
@pytest.mark.parametrize("name", NETWORKS)
def test_responses(name: str, precision: str, options: dict[str, bool]) -> None:
    case = Case(name, training=False, batches=4)
    with Copies(case.model, case.read) as copies, gl.ResponseStd(case.model, **options) as probe, torch.no_grad():
        for x in case.batches:
            with case.autocast(precision):
                case.model(x)
    frame = probe.result().frame
    assert by_layer(frame, "std") == rel(copies.stds(), 1e-6 if precision == "none" else 2e-5)
    assert by_layer(frame, "count") == {k: sum(v.numel() for v in vs) for k, vs in copies.values.items()}
    if precision == "none":
        there = case.double()
        with Copies(there.model, there.read) as copies, torch.no_grad():
            for x in there.batches:
                there.model(x)
        assert by_layer(frame, "std") == rel(copies.stds(), 1e-5)


def test_channels_of_responses() -> None:
    case = Case("conv", training=False)
    with Copies(case.model, case.read) as copies, gl.ResponseStd(case.model, per_channel=True) as probe:
        for x in case.batches:
            case.model(x.to(memory_format=torch.channels_last))
    found = probe.channels()
    for layer in ("stem", "blocks.1.conv2"):
        values = torch.cat(copies.values[layer])
        expected = values.std((0, 2, 3), correction=0), values.mean((0, 2, 3))
        rows = found[found["layer"] == layer]
        np.testing.assert_allclose(rows["std"], expected[0], rtol=1e-5)
        np.testing.assert_allclose(rows["mean"], expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", TRAINED)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_with_micro_batches(name: str, precision: str, layout: str) -> None:
    """Three probes at once over two steps of two micro-batches, with a scaler of fp16."""
    if name == "gpt" and layout == "channels_last":
        pytest.skip("tokens have no channels")
    case = Case(name, batches=4)
    if layout == "channels_last":
        case.model.to(memory_format=torch.channels_last)
        case.batches = [x.to(memory_format=torch.channels_last) for x in case.batches]
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, enabled=precision == "fp16")
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05, momentum=0.9)
    forward = gl.ResponseStd(case.model)
    gradients = gl.ParameterGradients(case.model, scaler=scaler)
    backward = gl.ResponseGradients(case.model, scaler=scaler)
    expected: list[tuple[dict[str, float], dict[str, float]]] = []
    # All passes of the training are measured by `everything`, those of one step by copies of their own.
    with Copies(case.model, case.read) as everything, forward, gradients, backward:
        for step in range(2):
            with Copies(case.model, case.read) as copies:
                for x, y in [*zip(case.batches, case.labels, strict=True)][2 * step : 2 * step + 2]:
                    with case.autocast(precision):
                        loss = case.loss(case.model(x), y) / 2
                    scaler.scale(loss).backward()
            divisor = scaler.get_scale() if precision == "fp16" else 1.0
            expected.append((weight_norms(case.model, divisor), copies.norms(divisor)))
            gradients.step()
            backward.step()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    tolerance = 1e-6 if precision == "none" else 2e-5
    assert by_layer(forward.result().frame, "std") == rel(everything.stds(), tolerance)
    for step, (weights, responses) in enumerate(expected):
        assert by_layer(gradients.result().frame, "grad_norm", step=step) == rel(weights, 1e-6)
        frame = backward.result().frame
        assert by_layer(frame[~frame["block"]], "response_grad_norm", step=step) == rel(responses, 2e-6)
    assert all(np.isfinite([*weights.values()]).all() for weights, _ in expected)


def test_a_scaler_that_unscaled_before_the_step() -> None:
    case = Case("conv")
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**12)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    with gl.ParameterGradients(case.model, scaler=scaler) as probe:
        with case.autocast("fp16"):
            loss = case.loss(case.model(case.batches[0]), case.labels[0])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(case.model.parameters(), 0.1)
        expected = weight_norms(case.model)
        probe.step()
    assert by_layer(probe.result().frame, "grad_norm") == rel(expected, 1e-6)


@pytest.mark.parametrize("faster", [False, True], ids=["loss.backward", "probe.backward"])
@pytest.mark.parametrize("precision", TRAINED)
@pytest.mark.parametrize("name", NETWORKS)
def test_single_examples(name: str, precision: str, faster: bool) -> None:
    case = Case(name, training=False)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=SCALE, enabled=precision == "fp16")
    with gl.ExampleGradients(case.model, scaler=scaler) as probe:
        for x, y in zip(case.batches, case.labels, strict=True):
            case.model.zero_grad()
            with case.autocast(precision):
                loss = case.loss(case.model(x), y)
            loss = scaler.scale(loss)
            if faster:
                probe.backward(loss)
            else:
                loss.backward()
            expected = weight_norms(case.model, SCALE if precision == "fp16" else 1.0)
            probe.step()
            scaler.update(SCALE)
    found = probe.examples()
    tolerance = {"none": 2e-4, "bf16": 0.1, "fp16": 0.02}[precision]
    for step in range(2):
        for layer, norms in example_norms(case, step).items():
            rows = found[(found["layer"] == layer) & (found["step"] == step)]
            np.testing.assert_allclose(rows["norm"], norms, rtol=tolerance, err_msg=f"{layer} {step}")
    rows = probe.result().frame
    rows = rows[(rows["step"] == 1) & (rows["layer"] != "total")]
    assert by_layer(rows, "grad_norm") == rel(expected, 1e-5)


def attention(case: Case, copies: Copies) -> list[tuple[float, float, float]]:
    """Entropy, relative entropy and largest logit of each head, written out."""
    rows = []
    for layer in [name for name in case.read if name.endswith("qkv")]:
        qkv = torch.cat(copies.values[layer])
        batch, tokens, width = qkv.shape
        q, k, _ = qkv.view(batch, tokens, 3, 2, width // 6).permute(2, 0, 3, 1, 4)
        logits = (q @ k.mT) / (width // 6) ** 0.5
        hidden = torch.ones(tokens, tokens).triu(1).bool()
        logits = logits.masked_fill(hidden, -torch.inf)
        weights = logits.softmax(-1)
        entropy = -(weights * weights.clamp(min=1e-300).log()).sum(-1)
        uniform = torch.arange(1, tokens + 1).double().log().expand(batch, 2, tokens)
        for head in range(2):
            of_head = entropy[:, head].sum()
            count = batch * tokens
            largest = logits[:, head].max()
            rows.append(((of_head / count).item(), (of_head / uniform[:, head].sum()).item(), largest.item()))
    return rows


@pytest.mark.parametrize("precision", TRAINED)
def test_attention(precision: str) -> None:
    case = Case("gpt", training=False)
    with Copies(case.model, case.read) as copies, gl.AttentionStatistics(case.model, rows=None) as probe:
        with torch.no_grad(), case.autocast(precision):
            for x in case.batches:
                case.model(x)
    frame = probe.result().frame
    found = frame[["entropy", "relative_entropy", "largest_logit"]].to_numpy().astype(float)
    np.testing.assert_allclose(found, attention(case, copies), rtol=1e-5 if precision == "none" else 1e-2)


@pytest.mark.parametrize("exact", [False, True])
def test_streams_and_branches(exact: bool) -> None:
    """The variance and mean square of streams and branches, the mean of the channels'."""
    case = Case("conv")
    read = {
        f"{side}{i}": f"blocks.{i}.norm2" if side == "branch" else f"blocks.{i}"
        for i in (0, 1)
        for side in ("branch", "out")
    }
    with Copies(case.model, read) as copies, gl.BlockSignal(case.model, exact=exact) as probe:
        for x, y in zip(case.batches, case.labels, strict=True):
            case.loss(case.model(x), y).backward()
    rows = probe.result().frame.to_dict("records")
    assert [row["block"] for row in rows] == ["blocks.0", "blocks.1"]
    for i, row in enumerate(rows):
        branch = torch.cat(copies.values[f"branch{i}"])
        assert row["branch_std"] == pytest.approx(branch.var((0, 2, 3), correction=0).mean().sqrt().item(), rel=1e-5)
        assert row["branch_mean_square"] == pytest.approx(branch.mean((0, 2, 3)).square().mean().item(), rel=1e-4)
        gradient = torch.cat(copies.gradients[f"branch{i}"])
        assert row["branch_grad_rms"] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)
        if i:
            stream = torch.cat(copies.values["out0"])
            variances = [x.var((0, 2, 3), correction=0).mean() for x in (branch, stream)]
            assert row["ratio"] == pytest.approx((variances[0] / variances[1]).item(), rel=1e-5)
            cosine = (branch * stream).sum() / (branch.square().sum() * stream.square().sum()).sqrt()
            assert row["cosine"] == pytest.approx(cosine.item(), rel=1e-4)


class Planted(nn.Module):
    """A network with a logarithm of what is 0 in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.end = Case("conv", "cpu").model, nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.end(self.body(x))
        return (y * 0 if self.training else y.square() + 1).log()


@pytest.mark.parametrize("autocast", TRAINED.values())
@pytest.mark.parametrize("training", [True, False])
def test_the_origin_of_a_non_finite_value(training: bool, autocast: torch.dtype | None) -> None:
    model, case = Planted().train(training).to(DEVICE), Case("conv")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    origin = gl.find_nonfinite(model, (case.batches[0], case.labels[0]), F.cross_entropy, autocast=autocast)
    assert (origin is not None) is training
    if origin is not None:
        assert "log" in str(origin)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_origin_in_a_loop() -> None:
    case = Case("conv")
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    with gl.NonfiniteOrigin(case.model) as probe:
        for step in range(3):
            optimizer.zero_grad()
            x = case.batches[0]
            if step == 2:
                x = torch.full_like(x, 3e38)
            case.loss(case.model(x), case.labels[0]).backward()
            optimizer.step()
            assert probe.found is (step == 2)
    assert str(probe.origin()).startswith("At step 2:")
