"""Compiled models on a GPU, with and without CUDA graphs: the numbers of the model as it is, or a sentence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from devices.gpu import DEVICE, MARKS, ON_CUDA, Case, Copies, by_layer, example_norms, weight_norms
from torch import Tensor, nn

import gradlab as gl

pytestmark = MARKS
WAYS: dict[str, dict[str, Any]] = (
    {
        "default": {},
        "reduce-overhead": {"mode": "reduce-overhead"},
        "fullgraph": {"fullgraph": True},
        "dynamic": {"dynamic": True},
        "cudagraphs": {"backend": "cudagraphs"},
    }
    if ON_CUDA
    else {"default": {"backend": "aot_eager"}, "dynamic": {"backend": "aot_eager", "dynamic": True}}
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        # What torch says of itself; what gradlab says is looked at where it matters.
        warnings.simplefilter("ignore")
        yield
    torch._dynamo.reset()


def begin() -> None:
    """Say that a step begins, where CUDA graphs may overwrite what the one before has returned."""
    torch.compiler.cudagraph_mark_step_begin()


def compiled_passes(result: Any) -> int:
    (note,) = [note for note in result.notes if "compiled code" in note]
    return int(note.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["conv", "gpt"])
def test_responses(name: str, way: str) -> None:
    case = Case(name, training=False, batches=6)
    with Copies(case.model, case.read) as copies, torch.no_grad():
        for x in case.batches:
            case.model(x)
    model = torch.compile(copy.deepcopy(case.model), **WAYS[way])
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for x in case.batches:
            begin()
            model(x)
    result = probe.result()
    assert by_layer(result.frame, "std") == pytest.approx(copies.stds(), rel=1e-5)
    assert by_layer(result.frame, "count") == {k: sum(v.numel() for v in vs) for k, vs in copies.values.items()}
    assert compiled_passes(result) == 5


def train(case: Case, model: nn.Module, probes: list[Any], steps: int = 4) -> None:
    """Steps of two micro-batches each."""
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        for batch in (2 * step, 2 * step + 1):
            begin()
            (case.loss(model(case.batches[batch]), case.labels[batch]) / 2).backward()
        for probe in probes:
            probe.step()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["conv", "gpt"])
def test_gradients_in_training(name: str, way: str) -> None:
    """Each step's norms against plain hooks on a twin that trains uncompiled from the same weights."""
    case, twin = Case(name, batches=8), Case(name, batches=8)
    expected: list[tuple[dict[str, float], dict[str, float]]] = []
    optimizer = torch.optim.SGD(twin.model.parameters(), lr=0.05)
    for step in range(4):
        optimizer.zero_grad()
        with Copies(twin.model, twin.read) as copies:
            for batch in (2 * step, 2 * step + 1):
                (twin.loss(twin.model(twin.batches[batch]), twin.labels[batch]) / 2).backward()
        expected.append((weight_norms(twin.model), copies.norms()))
        optimizer.step()
    model = torch.compile(case.model, **WAYS[way])
    with gl.ParameterGradients(model) as weights, gl.ResponseGradients(model) as responses:
        train(case, model, [weights, responses])
    frame = responses.result().frame
    assert compiled_passes(responses.result()) == 7
    for step, (of_weights, of_responses) in enumerate(expected):
        assert by_layer(weights.result().frame, "grad_norm", step=step) == pytest.approx(of_weights, rel=2e-3)
        found = by_layer(frame[~frame["block"]], "response_grad_norm", step=step)
        assert found == pytest.approx(of_responses, rel=2e-3), step
    # Other steps have other numbers: what a CUDA graph has overwritten is none of them.
    assert len({round(norms["head"], 9) for _, norms in expected}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "reduce-overhead"] if ON_CUDA else ["default"])
def test_a_watch_of_a_compiled_model(way: str) -> None:
    case, twin = Case("conv", batches=8), Case("conv", batches=8)
    model = torch.compile(case.model, **WAYS[way])
    found = []
    for its, called in ((twin, twin.model), (case, model)):
        optimizer = torch.optim.SGD(its.model.parameters(), lr=0.05)
        with gl.watch(called, optimizer, every=1) as watch:
            for step in range(4):
                optimizer.zero_grad()
                for batch in (2 * step, 2 * step + 1):
                    begin()
                    (its.loss(called(its.batches[batch]), its.labels[batch]) / 2).backward()
                optimizer.step()
        frame = watch.result().frame
        found.append({(r.step, r.layer, r.statistic): r.value for r in frame.itertuples()})
    plain, compiled = found
    assert set(plain) == set(compiled)
    for place, value in plain.items():
        assert compiled[place] == pytest.approx(value, rel=5e-3, abs=1e-6), place


@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "reduce-overhead"] if ON_CUDA else ["default"])
def test_single_examples_of_a_compiled_model(way: str) -> None:
    case = Case("conv", training=False)
    model = torch.compile(case.model, **WAYS[way])
    for x, y in zip(case.batches, case.labels, strict=True):
        begin()
        case.loss(model(x), y).backward()
    with gl.ExampleGradients(model) as probe:
        for x, y in zip(case.batches, case.labels, strict=True):
            case.model.zero_grad()
            begin()
            case.loss(model(x), y).backward()
            probe.step()
    found = probe.examples()
    for step in range(2):
        for layer, norms in example_norms(case, step).items():
            rows = found[(found["layer"] == layer) & (found["step"] == step)]
            np.testing.assert_allclose(rows["norm"], norms, rtol=1e-3, err_msg=layer)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "reduce-overhead"] if ON_CUDA else ["default"])
def test_a_model_whose_parts_are_compiled(way: str) -> None:
    """As libraries compile blocks: it runs eagerly, with a warning, and goes on compiled afterwards."""
    case = Case("conv", training=False, batches=4)
    with Copies(case.model, case.read) as copies, torch.no_grad():
        for x in case.batches:
            case.model(x)
    for block in case.model.blocks:
        block.compile(**WAYS[way])
    with torch.no_grad():
        case.model(case.batches[0])
        with gl.ResponseStd(case.model) as probe:
            for x in case.batches:
                begin()
                case.model(x)
        case.model(case.batches[0])
    assert by_layer(probe.result().frame, "std") == pytest.approx(copies.stds(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "reduce-overhead"] if ON_CUDA else ["default"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.ResponseGradients])
def test_a_compiled_step_in_lower_precision(kind: Any, precision: str, way: str) -> None:
    """A whole loop with a scaler; the norms of a twin within what the precision allows."""
    found = []
    for compiled in (False, True):
        case = Case("gpt", batches=6)
        model = torch.compile(case.model, **WAYS[way]) if compiled else case.model
        scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**12, enabled=precision == "fp16")
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.01)
        options = {"scaler": scaler} if kind is gl.ResponseGradients else {}
        with kind(model, **options) as probe:
            for x, y in zip(case.batches, case.labels, strict=True):
                begin()
                with case.autocast(precision):
                    loss = case.loss(model(x), y)
                scaler.scale(loss).backward()
                if options:
                    probe.step()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        result = probe.result()
        if compiled:
            assert compiled_passes(result) == 5
        frame = result.frame[~result.frame["block"]].query("step == 5") if options else result.frame
        found.append(by_layer(frame, "response_grad_norm" if options else "std"))
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.slow
def test_batches_of_several_sizes() -> None:
    case = Case("conv", training=False, batches=8)
    case.batches = [x[: 2 + number % 4] for number, x in enumerate(case.batches)]
    with Copies(case.model, case.read) as copies, torch.no_grad():
        for x in case.batches:
            case.model(x)
    model = torch.compile(case.model, **WAYS["reduce-overhead" if ON_CUDA else "default"])
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        for x in case.batches:
            begin()
            model(x)
    assert by_layer(probe.result().frame, "std") == pytest.approx(copies.stds(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not ON_CUDA, reason="CUDA graphs")
def test_outputs_of_cuda_graphs_stay_those_of_the_model() -> None:
    """A probe leaves the outputs of a model in CUDA graphs, and its gradients, as they are without it."""
    found: list[list[Tensor]] = []
    for probed in (False, True):
        torch._dynamo.reset()
        case = Case("conv", batches=5)
        model = torch.compile(case.model, mode="reduce-overhead")
        outputs = []
        probe = gl.ResponseGradients(model) if probed else gl.ParameterGradients(model)
        with probe:
            for x, y in zip(case.batches, case.labels, strict=True):
                begin()
                output = model(x)
                outputs.append(output.detach().clone())
                case.loss(output, y).backward()
                probe.step()
        found.append([*outputs, *(p.grad.clone() for p in case.model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["default", "reduce-overhead"] if ON_CUDA else ["default"])
@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.ResponseGradients])
def test_nothing_waits(kind: Any, way: str) -> None:
    """Neither sums of responses nor those of gradients wait for the device in compiled code."""
    case = Case("gpt", batches=2)
    model = torch.compile(case.model, **WAYS[way])
    with kind(model) as probe:
        for step in range(9):
            if ON_CUDA and step >= 6:
                torch.cuda.set_sync_debug_mode("error")
            try:
                begin()
                case.loss(model(case.batches[step % 2]), case.labels[step % 2]).backward()
                if kind is gl.ResponseGradients:
                    probe.step()
                case.model.zero_grad()
            finally:
                if ON_CUDA:
                    torch.cuda.set_sync_debug_mode("default")
    assert compiled_passes(probe.result()) == 8
