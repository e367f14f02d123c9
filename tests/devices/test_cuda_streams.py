"""Streams and threads of a GPU: what a probe has on one stream is whole when it is read on another."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from devices.gpu import DEVICE, MARKS, Case, Copies, by_layer, weight_norms
from torch import Tensor, nn

import gradlab as gl

pytestmark = [*MARKS, pytest.mark.skipif(DEVICE == "cpu", reason="streams")]
LONG = 200_000_000
"""Cycles for which a stream is kept busy: about a tenth of a second."""


def busy(stream: torch.cuda.Stream) -> None:
    """Have a stream wait, so that what comes after it is late, while the host and other streams go on."""
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)


def std_of(case: Case, batches: Iterable[int]) -> dict[str, float]:
    with Copies(case.model, case.read) as copies, torch.no_grad():
        for batch in batches:
            case.model(case.batches[batch])
    return copies.stds()


def columns(*names: str) -> Callable[[Any], list[float]]:
    return lambda probe: [value for name in names for value in probe.result().frame[name].astype(float)]


Read = Callable[[Any], list[float]]
FORWARD: dict[str, tuple[str, Callable[[nn.Module], Any], Read]] = {
    "ResponseStd": ("conv", gl.ResponseStd, columns("std", "mean")),
    "ResponseStd, exact": ("conv", lambda m: gl.ResponseStd(m, exact=True), columns("std", "mean")),
    "ResponseStd, channels": (
        "conv", lambda m: gl.ResponseStd(m, per_channel=True), lambda probe: [*probe.channels()["std"]],
    ),
    "ResponseStd.moments": ("conv", gl.ResponseStd, lambda probe: [v for row in probe.moments().values() for v in row]),
    "BlockSignal": ("conv", gl.BlockSignal, columns("stream_std", "branch_std", "ratio", "cosine")),
    "InputGradients": ("conv", gl.InputGradients, lambda p: [v for sample in p.samples for v in sample.values()]),
    "AttentionStatistics": ("gpt", gl.AttentionStatistics, columns("entropy", "largest_logit")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
def test_a_result_is_read_on_another_stream(name: str) -> None:
    """Passes on a stream that is still busy when the result is asked for, on the default stream."""
    network, make, read = FORWARD[name]
    case = Case(network, training=False)
    found = []
    for aside in (False, True):
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.no_grad(), make(case.model) as probe:
            for x in case.batches:
                if aside:
                    busy(stream)
                with torch.cuda.stream(stream if aside else torch.cuda.current_stream()):
                    case.model(x)
        found.append(read(probe))
    plain, aside = found
    assert aside == pytest.approx(plain, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", FORWARD)
def test_passes_on_several_streams(name: str) -> None:
    """Each pass on a stream of its own, of which the first are the slowest."""
    network, make, read = FORWARD[name]
    case = Case(network, training=False, batches=6)
    found = []
    for several in (False, True):
        streams = [torch.cuda.Stream() for _ in range(3)] if several else [torch.cuda.current_stream()] * 3
        torch.cuda.synchronize()
        with torch.no_grad(), make(case.model) as probe:
            for number, x in enumerate(case.batches):
                if several and number in (0, 1, 3):
                    busy(streams[number % 3])
                with torch.cuda.stream(streams[number % 3]):
                    case.model(x)
        found.append(read(probe))
        torch.cuda.synchronize()
    plain, several_streams = found
    assert several_streams == pytest.approx(plain, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("kind", [gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients])
def test_steps_on_a_side_stream(kind: Any) -> None:
    case = Case("conv", training=False)
    columns_of = {gl.ParameterGradients: "grad_norm", gl.ResponseGradients: "response_grad_norm"}
    column = columns_of.get(kind, "example_norm")
    found = []
    for aside in (False, True):
        stream = torch.cuda.Stream() if aside else torch.cuda.current_stream()
        torch.cuda.synchronize()
        with kind(case.model) as probe:
            for x, y in zip(case.batches, case.labels, strict=True):
                with torch.cuda.stream(stream):
                    case.model.zero_grad()
                    case.loss(case.model(x), y).backward()
                    if aside:
                        busy(stream)
                    probe.step()
        found.append(probe.result().frame[column].astype(float).tolist())
        torch.cuda.synchronize()
    assert found[1] == pytest.approx(found[0], rel=1e-5, nan_ok=True)


def test_a_watch_of_a_training_on_a_side_stream() -> None:
    found = []
    for aside in (False, True):
        case = Case("conv", batches=4)
        stream = torch.cuda.Stream() if aside else torch.cuda.current_stream()
        torch.cuda.synchronize()
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
        with gl.watch(case.model, optimizer, every=1) as watch:
            for x, y in zip(case.batches, case.labels, strict=True):
                with torch.cuda.stream(stream):
                    optimizer.zero_grad()
                    if aside:
                        busy(stream)
                    case.loss(case.model(x), y).backward()
                    optimizer.step()
        frame = watch.result().frame
        found.append({(r.step, r.layer, r.statistic): r.value for r in frame.itertuples()})
        torch.cuda.synchronize()
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-6)


def test_batches_from_pinned_memory_on_a_copy_stream() -> None:
    """Data prefetched on a stream of its own while the model runs, as loaders do."""
    case = Case("conv", training=False, batches=6)
    expected = std_of(case, range(6))
    pinned = [x.cpu().pin_memory() for x in case.batches]
    copying, computing = torch.cuda.Stream(), torch.cuda.current_stream()
    with torch.no_grad(), gl.ResponseStd(case.model) as probe:
        for x in pinned:
            busy(copying)
            with torch.cuda.stream(copying):
                batch = x.to(DEVICE, non_blocking=True)
            computing.wait_stream(copying)
            batch.record_stream(computing)
            case.model(batch)
    assert by_layer(probe.result().frame, "std") == pytest.approx(expected, rel=1e-5)


def test_models_in_several_threads() -> None:
    """Each thread has a model, a stream and a probe of its own."""
    cases = [Case("conv", training=False, batches=4) for _ in range(4)]
    for number, case in enumerate(cases):
        case.batches = [x * (number + 1) for x in case.batches]
    expected = [std_of(case, range(4)) for case in cases]
    found: dict[int, dict[str, float]] = {}
    norms: dict[int, dict[str, float]] = {}

    def work(number: int) -> None:
        case = cases[number]
        with torch.cuda.stream(torch.cuda.Stream()), gl.ResponseStd(case.model) as probe:
            with gl.ResponseGradients(case.model) as gradients:
                for x, y in zip(case.batches, case.labels, strict=True):
                    case.loss(case.model(x), y).backward()
                found[number] = by_layer(probe.result().frame, "std")
                frame = gradients.result().frame
                norms[number] = by_layer(frame[~frame["block"]], "response_grad_norm")

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, case in enumerate(cases):
        assert found[number] == pytest.approx(expected[number], rel=1e-5)
        with Copies(case.model, case.read) as copies:
            for x, y in zip(case.batches, case.labels, strict=True):
                case.loss(case.model(x), y).backward()
        assert norms[number] == pytest.approx(copies.norms(), rel=1e-5)


def test_data_parallel_on_one_device() -> None:
    case = Case("conv", batches=2)
    model = nn.DataParallel(case.model, device_ids=[0])
    twin = copy.deepcopy(case.model)
    with gl.ResponseStd(model) as probe, gl.ParameterGradients(model) as gradients:
        case.loss(model(case.batches[0]), case.labels[0]).backward()
        gradients.step()
    with Copies(twin, case.read) as copies:
        case.loss(twin(case.batches[0]), case.labels[0]).backward()
    assert by_layer(probe.result().frame, "std") == pytest.approx(copies.stds(), rel=1e-5)
    assert by_layer(gradients.result().frame, "grad_norm") == pytest.approx(weight_norms(twin), rel=1e-4)


class TwoStreams(nn.Module):
    """A model that runs one of its halves on a stream of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.stream: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.stream is None:
            return self.head(self.one(x) + self.other(x))
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(LONG)
            other = self.other(x)
        one = self.one(x)
        current.wait_stream(self.stream)
        return self.head(one + other)


def test_a_model_that_uses_two_streams() -> None:
    torch.manual_seed(0)
    model, x = TwoStreams().to(DEVICE), torch.randn(16, 8, device=DEVICE)
    found = []
    for stream in (None, torch.cuda.Stream()):
        model.stream = stream
        with gl.ResponseStd(model) as probe, gl.ResponseGradients(model) as gradients:
            for _ in range(3):
                model(x).square().mean().backward()
        frame = gradients.result().frame
        found.append((by_layer(probe.result().frame, "std"), by_layer(frame[~frame["block"]], "response_grad_norm")))
    for plain, other in zip(*found, strict=True):
        assert other == pytest.approx(plain, rel=1e-5)
