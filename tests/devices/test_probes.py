"""Every probe on a device: no wait in the loop, as few at the end however many layers there are, the CPU's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from devices.accelerator import EVENT, NAME, SUPPORTED, accelerator, own_waits, waits
from torch import Tensor, nn

import gradlab as gl

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")


def network(blocks: int) -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    body = [Block() for _ in range(blocks)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.end = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.end(self.second(self.norm(self.first(x)).relu())))


def tokens(blocks: int) -> nn.Module:
    torch.manual_seed(0)
    return gl.build(f"gpt{blocks}-width=16-heads=2@init")


class Work(NamedTuple):
    """A model, its batch, and passes under a probe."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor

    def forward(self, probe: Any) -> None:
        self.model.eval()
        with torch.no_grad(), probe:
            self.model(self.inputs)
            self.model(self.inputs)

    def train(self, probe: Any, backward: bool = False, mode: bool = True, first: int = 0) -> None:
        self.model.train(mode)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        with probe:
            for step in range(3):
                if step == first:
                    waits.clear()
                optimizer.zero_grad()
                loss = F.cross_entropy(self.model(self.inputs), self.labels)
                probe.backward(loss) if backward else loss.backward()
                if hasattr(probe, "step"):
                    probe.step()
                optimizer.step()

    def watch(self, probe: Any) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        measure = ("responses", "activations", "response_gradients", "gradients", "updates", "noise")
        probe.append(gl.watch(self.model, optimizer, every=1, measure=measure))
        with probe[0]:
            for _ in range(2):
                optimizer.zero_grad()
                for part in (slice(0, 2), slice(2, 4)):
                    (F.cross_entropy(self.model(self.inputs[part]), self.labels[part]) / 2).backward()
                optimizer.step()

    def origin(self, probe: Any) -> None:
        self.train(probe, mode=False)


def columns(*names: str) -> Callable[[Any], list[float]]:
    return lambda probe: [value for name in names for value in probe.result().frame[name].astype(float)]


def numbers(probe: Any) -> list[float]:
    return probe.result().frame.select_dtypes("number").astype(float).to_numpy().ravel().tolist()


def examples(probe: Any) -> list[float]:
    return [*probe.examples()["norm"], *columns("variance", "mean_cosine")(probe)]


def samples(probe: Any) -> list[float]:
    return [value for sample in probe.samples for value in sample.values()]


# The first backward pass of a kind finds out where the examples lie, and waits for that.
of_examples = {"mode": False, "first": 1}
Job = tuple[Callable[[nn.Module], Any], Callable[[Work, Any], None], Callable[[Any], list[float]]]
JOBS: dict[str, Job] = {
    "ResponseStd": (gl.ResponseStd, Work.forward, columns("std", "mean", "count", "predicted_std")),
    "ResponseStd, exact": (lambda m: gl.ResponseStd(m, exact=True), Work.forward, columns("std", "mean")),
    "ResponseStd, channels": (
        lambda m: gl.ResponseStd(m, per_channel=True), Work.forward, lambda probe: [*probe.channels()["std"]],
    ),
    "ParameterGradients": (gl.ParameterGradients, Work.train, columns("grad_norm", "weight_norm")),
    "ResponseGradients": (gl.ResponseGradients, Work.train, columns("response_grad_norm")),
    "InputGradients": (gl.InputGradients, Work.forward, samples),
    "BlockSignal": (gl.BlockSignal, Work.train, numbers),
    "ExampleGradients": (gl.ExampleGradients, lambda w, p: w.train(p, **of_examples), examples),
    "ExampleGradients.backward": (gl.ExampleGradients, lambda w, p: w.train(p, backward=True, **of_examples), examples),
    "watch": (lambda m: [], Work.watch, lambda probe: numbers(probe[0])),
}  # fmt: skip


def run(job: Job, place: str, blocks: int, make: Callable[[int], nn.Module] = network) -> tuple[list[float], int]:
    """The numbers of a job, and how often its end waits; its loop must not."""
    make_probe, work, read = job
    model = make(blocks).to(place)
    if make is network:
        inputs, labels = torch.linspace(-1, 1, 4 * 3 * 64).view(4, 3, 8, 8).sin(), torch.arange(4)
    else:
        inputs, labels = torch.arange(4 * 6).view(4, 6) * 7 % 50, torch.arange(4)
    probe, batch = make_probe(model), (inputs.to(place), labels.to(place))
    waits.clear()
    work(Work(model, *batch), probe)
    # Records are written one step late, when their values have long arrived, and the last one at the end.
    late = sum(wait.what == EVENT for wait in waits)
    assert late <= 2
    assert len(own_waits()) == late, "\n".join(own_waits())
    waits.clear()
    found = read(probe)
    return found, len(own_waits())


@pytest.mark.parametrize("name", JOBS)
def test_a_probe_on_a_device(name, monkeypatch):
    monkeypatch.setattr("gradlab.stats.row_gram.noise_effective_rank", lambda *shape, unit: 2.0)
    with accelerator():
        expected, _ = run(JOBS[name], "cpu", 2)
        found, at_the_end = run(JOBS[name], NAME, 2)
        _, less = run(JOBS[name], NAME, 1)
    assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert len(found) > 4
    assert at_the_end == less


ATTENTION: Job = (gl.AttentionStatistics, Work.forward, columns("entropy", "relative_entropy", "largest_logit"))


def test_attention_on_a_device():
    with accelerator():
        expected, _ = run(ATTENTION, "cpu", 2, tokens)
        found, at_the_end = run(ATTENTION, NAME, 2, tokens)
        _, less = run(ATTENTION, NAME, 1, tokens)
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(found) == 3 * 2 * 2
    assert at_the_end == less


class Faulty(nn.Module):
    """A network whose logarithm is −inf at one of its inputs, after some blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.body = network(blocks)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return (y * 0 if self.training else y.square() + 1).log()


@pytest.mark.parametrize("faulty", [False, True])
def test_the_origin_of_a_non_finite_value_on_a_device(faulty):
    found, counts = {}, []
    with accelerator():
        for place, blocks in (("cpu", 1), (NAME, 1), (NAME, 2)):
            model, labels = Faulty(blocks).train(faulty).to(place), torch.arange(4).to(place)
            inputs = torch.linspace(-1, 1, 4 * 3 * 64).view(4, 3, 8, 8).sin().to(place)
            waits.clear()
            found[place] = gl.find_nonfinite(model, (inputs, labels), F.cross_entropy)
            counts.append(len(own_waits()))
    assert str(found["cpu"]) == str(found[NAME])
    assert (found[NAME] is not None) is faulty
    assert counts[0] == 0 < counts[1] == counts[2]
