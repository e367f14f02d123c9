"""CUDA graphs that are captured by hand: refused while a probe needs its hooks, and no old number for a new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices.gpu import DEVICE, MARKS, Case, by_layer, weight_norms
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError

pytestmark = [*MARKS, pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs")]
PROBES: dict[str, Callable[[nn.Module], Any]] = {
    **{one.__name__: one for one in (gl.ResponseStd, gl.ResponseGradients, gl.InputGradients)},
    **{one.__name__: one for one in (gl.ExampleGradients, gl.BlockSignal, gl.NonfiniteOrigin)},
    "watch": lambda model: gl.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), every=1),
}


def warmed(case: Case) -> None:
    """Run the model on a side stream, as before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            case.model.zero_grad(set_to_none=True)
            case.loss(case.model(case.batches[0]), case.labels[0]).backward()
    torch.cuda.current_stream().wait_stream(stream)


class Captured:
    """A forward and backward pass in a CUDA graph."""

    def __init__(self, case: Case) -> None:
        self.case = case
        warmed(case)
        self.x, self.y = case.batches[0].clone(), case.labels[0].clone()
        case.model.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = case.model(self.x)
            self.loss = case.loss(self.output, self.y)
            self.loss.backward()

    def replay(self, batch: int) -> None:
        self.x.copy_(self.case.batches[batch])
        self.y.copy_(self.case.labels[batch])
        self.graph.replay()


@pytest.mark.parametrize("name", PROBES)
def test_a_capture_is_refused(name: str) -> None:
    case = Case("conv", training=False)
    warmed(case)
    with PROBES[name](case.model):
        case.model(case.batches[0])
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(GradlabError, match="CUDA graph is being captured"), torch.cuda.graph(graph):
            case.model(case.batches[0])
    # The device goes on, and so does a capture without the probe.
    torch.cuda.synchronize()
    Captured(case).replay(1)
    torch.cuda.synchronize()


def test_a_capture_of_attention_is_refused() -> None:
    case = Case("gpt", training=False)
    with torch.no_grad():
        case.model(case.batches[0])
        with gl.AttentionStatistics(case.model):
            with pytest.raises(GradlabError, match="CUDA graph is being captured"):
                with torch.cuda.graph(torch.cuda.CUDAGraph()):
                    case.model(case.batches[0])


@pytest.mark.slow
@pytest.mark.parametrize("probe", [gl.ResponseStd, gl.ResponseGradients])
def test_a_capture_of_a_compiled_model_is_refused(probe: Any) -> None:
    torch._dynamo.reset()
    case = Case("conv", training=False)
    model = torch.compile(case.model)
    for _ in range(2):
        model(case.batches[0]).sum().backward()
    with probe(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            model(case.batches[0]).sum().backward()
        with pytest.raises(GradlabError, match="CUDA graph is being captured"):
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                model(case.batches[0])
    torch.cuda.synchronize()


@pytest.mark.parametrize("make", [gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients])
def test_a_step_is_not_captured(make: Any) -> None:
    """What a capture calls runs once, however often it is replayed."""
    case = Case("conv", training=False)
    warmed(case)
    with make(case.model) as probe:
        with pytest.raises(GradlabError, match="CUDA graph is being captured"):
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                probe.step()
    torch.cuda.synchronize()


def test_a_watched_step_of_the_optimizer_is_not_captured() -> None:
    case = Case("conv", training=False)
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-3, capturable=True)
    warmed(case)
    optimizer.step()
    with gl.watch(case.model, optimizer, every=1, measure=("gradients", "updates")):
        with pytest.raises(GradlabError, match="CUDA graph is being captured"):
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                optimizer.step()
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", PROBES)
def test_replays_show_nothing_to_hooks(name: str) -> None:
    """A probe that was attached after the capture sees no pass, and says so."""
    captured = Captured(Case("conv", training=False))
    with PROBES[name](captured.case.model) as probe:
        for batch in (0, 1):
            captured.replay(batch)
        torch.cuda.synchronize()
    if name == "NonfiniteOrigin":
        assert probe.origin() is None
        return
    with pytest.raises(GradlabError, match=r"saw no|was seen|measured no"):
        probe.result()


def test_steps_after_replays_show_no_old_gradient() -> None:
    """Gradients of responses are of hooks, which replays do not call."""
    captured = Captured(Case("conv", training=False))
    case = captured.case
    with gl.ResponseGradients(case.model) as probe:
        case.model.zero_grad(set_to_none=False)
        case.loss(case.model(case.batches[0]), case.labels[0]).backward()
        probe.step()
        captured.replay(1)
        probe.step()
    frame = probe.result().frame
    assert frame[frame["step"] == 0]["response_grad_norm"].notna().all()
    rest = frame[frame["step"] == 1]
    assert rest["response_grad_norm"].isna().all()
    assert rest["absent"].notna().all()


def test_what_replays_leave_in_gradients() -> None:
    """The gradients of weights are there after a replay: each step has its own."""
    captured = Captured(Case("conv", training=False, batches=3))
    twin = Case("conv", training=False, batches=3)
    optimizer = torch.optim.SGD(captured.case.model.parameters(), lr=0.0)
    watch = gl.watch(captured.case.model, optimizer, every=1)
    expected = []
    with gl.ParameterGradients(captured.case.model) as probe, watch:
        for batch in range(3):
            captured.replay(batch)
            probe.step()
            optimizer.step()
            twin.model.zero_grad()
            twin.loss(twin.model(twin.batches[batch]), twin.labels[batch]).backward()
            expected.append(weight_norms(twin.model))
    frame, records = probe.result().frame, watch.result().frame
    assert any(note.startswith("3 steps had no forward pass") for note in watch.result().notes)
    assert "response_std" not in set(records["statistic"])
    for step, norms in enumerate(expected):
        assert by_layer(frame, "grad_norm", step=step) == pytest.approx(norms, rel=1e-4)
        found = by_layer(records[records["layer"] != "total"], "value", step=step, statistic="grad_norm")
        assert found == pytest.approx(norms, rel=1e-4)


class Callables:
    """A model whose blocks are graphed callables."""

    def __init__(self) -> None:
        self.case = Case("conv", batches=3)
        sample = torch.randn(6, 8, 12, 12, device=DEVICE, requires_grad=True)
        blocks = tuple(self.case.model.blocks)
        torch.cuda.make_graphed_callables(blocks, tuple((sample,) for _ in blocks))


def test_graphed_callables() -> None:
    """What lies outside of them is measured; what lies in them is missing and named, or refused."""
    callables = Callables()
    case = callables.case
    with gl.ResponseStd(case.model) as probe, gl.ResponseGradients(case.model) as gradients:
        for x, y in zip(case.batches, case.labels, strict=True):
            case.loss(case.model(x), y).backward()
    names = {"stem", "head"}
    result = probe.result()
    assert set(result.frame["layer"]) == names
    assert any("blocks.0.conv1" in note for note in result.notes)
    frame = gradients.result().frame
    seen = frame[frame["response_grad_norm"].notna() & ~frame["block"]]
    assert set(seen["layer"]) == names
    assert frame[~frame["layer"].isin(names) & ~frame["block"]]["response_grad_norm"].isna().all()


def test_single_examples_of_graphed_callables() -> None:
    case = Callables().case
    with gl.ExampleGradients(case.model) as probe:
        with pytest.raises(GradlabError):  # noqa: PT012 - wherever it is noticed
            case.loss(case.model(case.batches[0]), case.labels[0]).backward()
            probe.step()
            probe.result()


def test_weights_of_graphed_callables() -> None:
    case, twin = Callables().case, Case("conv", batches=3)
    case.model.load_state_dict(twin.model.state_dict())
    with gl.ParameterGradients(case.model) as probe:
        for step, (x, y) in enumerate(zip(case.batches, case.labels, strict=True)):
            for its in (case, twin):
                its.model.zero_grad()
                its.loss(its.model(x), y).backward()
            probe.step()
            found = by_layer(probe.result().frame, "grad_norm", step=step)
            assert found == pytest.approx(weight_norms(twin.model), rel=1e-3)


def test_a_graphed_model_as_a_whole() -> None:
    case = Case("conv", training=False)
    model: Any = torch.cuda.make_graphed_callables(case.model, (case.batches[0].clone(),))
    with gl.ResponseStd(model) as probe:
        model(case.batches[1])
    with pytest.raises(GradlabError, match="saw no forward pass"):
        probe.result()
    output: Tensor = model(case.batches[1])
    assert output.isfinite().all()
