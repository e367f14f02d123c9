"""Loops on a GPU with probes in them: no wait, no memory, the same bits without a probe, and `gl.watch`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices.gpu import DEVICE, MARKS, ON_CUDA, TRAINED, Case, Copies, weight_norms
from torch import Tensor, nn

import gradlab as gl

pytestmark = MARKS
MEASURES = ("responses", "activations", "response_gradients", "gradients", "updates", "noise")


@contextmanager
def no_waits() -> Iterator[None]:
    """Raise an error where the host waits for the device."""
    if not ON_CUDA:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


Make = Callable[[nn.Module, Any], Any]
PROBES: dict[str, Make] = {
    "ResponseStd": lambda model, scaler: gl.ResponseStd(model),
    "ResponseStd, exact": lambda model, scaler: gl.ResponseStd(model, exact=True),
    "ResponseStd, channels": lambda model, scaler: gl.ResponseStd(model, per_channel=True),
    "ResponseGradients": lambda model, scaler: gl.ResponseGradients(model, scaler=scaler),
    "ParameterGradients": lambda model, scaler: gl.ParameterGradients(model, parameters="all", scaler=scaler),
    "BlockSignal": lambda model, scaler: gl.BlockSignal(model),
    "BlockSignal, exact": lambda model, scaler: gl.BlockSignal(model, exact=True),
    "InputGradients": lambda model, scaler: gl.InputGradients(model),
    "AttentionStatistics": lambda model, scaler: gl.AttentionStatistics(model),
    "ExampleGradients": lambda model, scaler: gl.ExampleGradients(model, scaler=scaler),
}


def loop(case: Case, scaler: Any, probe: Any, steps: int = 6, guarded: int = 3, precision: str = "none") -> None:
    """Train, and let nothing wait after the first steps, in which kernels are chosen and structures are found."""
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-3, fused=ON_CUDA)
    case.model.zero_grad(set_to_none=True)
    with probe:
        for step in range(steps):
            with no_waits() if step >= guarded else nullcontext():
                x, y = case.batches[step % 2], case.labels[step % 2]
                with case.autocast(precision):
                    loss = case.loss(case.model(x), y)
                if scaler is None:
                    loss.backward()
                else:
                    scaler.scale(loss).backward()
                if hasattr(probe, "step"):
                    probe.step()
                optimizer.step()
                optimizer.zero_grad()


@pytest.mark.parametrize("precision", TRAINED)
@pytest.mark.parametrize("network", ["conv", "gpt"])
@pytest.mark.parametrize("name", PROBES)
def test_nothing_waits(name: str, network: str, precision: str) -> None:
    if (name == "InputGradients" and network == "gpt") or (name == "AttentionStatistics" and network == "conv"):
        pytest.skip("tokens have no gradients, and convolutions do not attend")
    # Batches of statistics couple examples.
    case = Case(network, training=name != "ExampleGradients")
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**14) if precision == "fp16" else None
    probe = PROBES[name](case.model, scaler)
    loop(case, scaler, probe, precision=precision)
    assert len(probe.result().frame) > 1


@pytest.mark.parametrize("network", ["conv", "gpt"])
def test_a_watch_waits_for_nothing(network: str) -> None:
    case = Case(network, batches=4)
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-3, fused=ON_CUDA)
    watch = gl.watch(case.model, optimizer, every=2, first=4, measure=MEASURES)
    with watch:
        for step in range(8):
            with no_waits() if step >= 4 else nullcontext():
                optimizer.zero_grad()
                for x, y in zip(case.batches[:2], case.labels[:2], strict=True):
                    (case.loss(case.model(x), y) / 2).backward()
                optimizer.step()
            if step % 2:
                # A record is read when the next one is made: it has arrived by then.
                (torch.cuda.synchronize if ON_CUDA else int)()
    assert sorted(watch.result().frame["step"].unique()) == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("precision", TRAINED)
def test_what_a_watch_records(precision: str) -> None:
    """Norms, updates, losses and responses of every step, against plain hooks and copies of the weights."""
    case = Case("conv", batches=6)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, enabled=precision == "fp16")
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9)
    expected: list[dict[tuple[str, str], float]] = []
    with gl.watch(case.model, optimizer, every=1, measure=MEASURES) as watch:
        for step in range(3):
            optimizer.zero_grad()
            loss_of_step = 0.0
            with Copies(case.model, case.read) as copies:
                for batch in (2 * step, 2 * step + 1):
                    with case.autocast(precision):
                        loss = case.loss(case.model(case.batches[batch]), case.labels[batch]) / 2
                    scaler.scale(loss).backward()
                    loss_of_step += loss.item()
            divisor = scaler.get_scale() if precision == "fp16" else 1.0
            before = {n: p.detach().double().cpu() for n, p in case.model.named_parameters()}
            norms, gradients = weight_norms(case.model, divisor), copies.norms(divisor)
            scaler.step(optimizer)
            scaler.update()
            after = {n: p.detach().double().cpu() for n, p in case.model.named_parameters()}
            found = {("total", "loss"): loss_of_step}
            for layer, norm in norms.items():
                weight, numel = before[f"{layer}.weight"], sum(g.numel() for g in copies.gradients[layer])
                update = (after[f"{layer}.weight"] - weight).norm().item()
                found |= {
                    (layer, "grad_norm"): norm,
                    (layer, "weight_norm"): weight.norm().item(),
                    (layer, "update_norm"): update,
                    (layer, "update_ratio"): update / weight.norm().item(),
                    (layer, "response_std"): copies.stds()[layer],
                    (layer, "response_max"): max(v.abs().max().item() for v in copies.values[layer]),
                    (layer, "response_grad_rms"): gradients[layer] / math.sqrt(numel),
                }
            for layer in ("stem", "blocks.0.conv1"):
                shown = torch.cat(copies.values[layer])
                found[layer, "zero_fraction"] = (shown <= 0).double().mean().item()
                found[layer, "dead_units"] = (shown <= 0).all(0).flatten(1).all(1).double().mean().item()
            expected.append(found)
    frame = watch.result().frame
    rows = {(row.step, row.layer, row.statistic): row.value for row in frame.itertuples()}
    for step, found in enumerate(expected):
        for (layer, statistic), value in found.items():
            here = rows[step, layer, statistic]
            assert here == pytest.approx(value, rel=2e-5, abs=1e-9), (step, layer, statistic)


@pytest.mark.parametrize("name", [*PROBES, "watch"])
@pytest.mark.parametrize("network", ["conv", "gpt"])
def test_a_training_goes_on_as_it_would(name: str, network: str) -> None:
    """The same weights to the last bit, and the same random numbers, as without the probe."""
    if (name == "InputGradients" and network == "gpt") or (name == "AttentionStatistics" and network == "conv"):
        pytest.skip("tokens have no gradients, and convolutions do not attend")
    results = []
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        for probed in (False, True):
            case = Case(network, training=name != "ExampleGradients")
            case.model = nn.Sequential(case.model, nn.Dropout(0.2).train())
            torch.manual_seed(3)
            optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-3)
            if not probed:
                probe: Any = nullcontext()
            elif name == "watch":
                probe = gl.watch(case.model, optimizer, every=1, measure=MEASURES)
            else:
                probe = PROBES[name](case.model, None)
            with probe:
                for x, y in [*zip(case.batches, case.labels, strict=True)] * 2:
                    optimizer.zero_grad()
                    case.loss(case.model(x), y).backward()
                    if isinstance(probe, gl.probes.StepProbe):
                        probe.step()
                    optimizer.step()
            results.append([*case.model.state_dict().values(), torch.rand(3, device=DEVICE)])
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


class Wide(nn.Module):
    """A perceptron whose activations weigh far more than its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


@pytest.mark.skipif(not ON_CUDA, reason="memory of the device is counted")
@pytest.mark.parametrize("name", ["ResponseStd", "ResponseGradients", "ParameterGradients", "BlockSignal", "watch"])
@pytest.mark.parametrize("training", [False, True])
def test_no_activation_is_kept(name: str, training: bool) -> None:
    """The peak of memory rises by less than the float64 copy of one response, and what stays by far less."""
    torch.manual_seed(0)
    model = Wide().to(DEVICE)
    x = torch.randn(1 << 15, 256, device=DEVICE)
    one = x.numel() * 4
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def steps(probe: Any) -> tuple[int, int]:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with probe:
            for _ in range(3):
                with torch.set_grad_enabled(training):
                    loss = model(x).square().mean()
                if training:
                    loss.backward()
                    if isinstance(probe, gl.probes.StepProbe):
                        probe.step()
                    optimizer.step()
                    optimizer.zero_grad()
                del loss
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before

    steps(nullcontext())
    peak, _ = steps(nullcontext())
    if name == "watch":
        probe: Any = gl.watch(model, optimizer, every=1)
    else:
        probe = PROBES[name](model, None)
    with_probe, kept = steps(probe)
    assert with_probe <= peak + 3 * one, (with_probe / one, peak / one)
    assert kept <= one // 8, kept / one


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_overflow_in_float16(fused: bool) -> None:
    """A scaler that begins far too high skips the first steps: no fault, no alert, and no record of them."""
    case = Case("gpt")
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**40)
    watch = gl.watch(case.model, optimizer, every=1, measure=("gradients", "updates"))
    with gl.NonfiniteOrigin(case.model) as origin, watch:
        for _ in range(40):
            optimizer.zero_grad()
            with case.autocast("fp16"):
                loss = case.loss(case.model(case.batches[0]), case.labels[0])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert origin.origin() is None
    frame = watch.result().frame
    assert np.isfinite(frame["value"]).all()
    assert origin.steps == frame["step"].nunique() < 40
    assert origin.steps > 5
