"""Training on a GPU: a captured step is the step that it captured, and what cannot be captured trains as well."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from devices.gpu import DEVICE, MARKS
from torch import Tensor, nn

import gradlab as gl
from gradlab.models import create
from gradlab.training import captured, preset

pytestmark = [*MARKS, pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs")]

SGD = preset("he2015").changed(iterations=40, batch_size=16, learning_rate=0.01)


class Passes:
    """Forward and backward passes of a network, with an optimizer; they may wait for the device."""

    def __init__(self, name: str, waits: bool = False) -> None:
        self.model: nn.Module = create(name).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.waits, self.calls = waits, 0

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(self.model(inputs), labels)
        if self.waits:
            loss = loss * float(loss.detach().isfinite())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def train(self, steps: captured.Passes) -> list[float]:
        generator, losses = torch.Generator().manual_seed(0), []
        for _ in range(20):
            images = torch.rand(16, 3, 32, 32, generator=generator).cuda().to(memory_format=torch.channels_last)
            losses.append(float(steps(images, torch.randint(10, (16,), generator=generator).cuda())))
            self.optimizer.step()
        return losses


@pytest.mark.parametrize("name", ["resnet20", "plain8", "resnet20-preact"])
def test_a_captured_step_is_the_same(name: str) -> None:
    usual, graph = Passes(name), Passes(name)
    torch.backends.cudnn.deterministic = True
    try:
        expected, found = usual.train(usual), graph.train(captured.CapturedPasses(graph))
    finally:
        torch.backends.cudnn.deterministic = False
    assert found == expected
    assert graph.calls == captured.WARM_UP + 1
    for (key, weight), other in zip(usual.model.state_dict().items(), graph.model.state_dict().values(), strict=True):
        assert torch.equal(weight, other), key


def test_what_waits_for_the_device_trains_as_usual() -> None:
    usual, graph = Passes("resnet8", waits=True), Passes("resnet8", waits=True)
    torch.backends.cudnn.deterministic = True
    try:
        assert graph.train(captured.CapturedPasses(graph)) == usual.train(usual)
    finally:
        torch.backends.cudnn.deterministic = False


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_training_learns_what_it_learns_on_the_cpu(amp: str, tmp_path: Path) -> None:
    runs: dict[str, pd.DataFrame] = {}
    for device in ("cpu", "cuda"):
        recipe = SGD.changed(amp=amp)
        runs[device] = gl.train("resnet8", "cifar10-sample", recipe=recipe, out=tmp_path / device, device=device).frame
    last = {device: frame["train_loss"].iloc[-1] for device, frame in runs.items()}
    assert last["cuda"] == pytest.approx(last["cpu"], rel=0.05)
