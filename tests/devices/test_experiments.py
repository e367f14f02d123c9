"""Every experiment on a device: read when a network is done, whatever its batches and layers; the CPU's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from devices.accelerator import NAME, SUPPORTED, accelerator, own_waits, waits
from PIL import Image
from torch import nn

import gradlab as gl

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")


class Size(NamedTuple):
    """How much an experiment has to do."""

    batches: int
    blocks: int

    @property
    def resnet(self) -> str:
        return f"resnet{6 * self.blocks + 2}@init"

    @property
    def gpt(self) -> str:
        return f"gpt{self.blocks}-width=16-heads=2@init"

    def data(self, device: str, **options: Any) -> dict[str, Any]:
        return {"images": 2 * self.batches, "batch_size": 2, "device": device, **options}


SMALL, LARGE = Size(2, 1), Size(3, 2)


def perceptron(width: int, hidden: int) -> nn.Module:
    layers = [nn.Linear(3072, width), *(nn.Linear(width, width) for _ in range(hidden)), nn.Linear(width, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def coordinates(device: str, size: Size) -> Any:
    options = {"steps": size.batches, "seeds": 2, "images": 4, "optimizer": "adam", "device": device}
    return gl.coordinate_check(lambda width: perceptron(width, size.blocks), widths=(4, 8, 16), **options)


def lesion(device: str, size: Size) -> Any:
    options = {"samples": 2, "several": (2,), "swaps": (1,), "paths": 4, "bn": "eval", "device": device}
    return gl.lesion(size.resnet, images=9, batch_size=5 if size == SMALL else 4, **options)


def crops(device: str, size: Size) -> Any:
    with TemporaryDirectory() as folder:
        for number in range(10):
            (path := Path(folder) / str(number)).mkdir()
            Image.new("RGB", (40, 36), (25 * number, 99, 9)).save(path / "x.png")
        options = size.data(device, bn="eval", crops="ten") | {"images": size.batches, "batch_size": 2}
        result = gl.responses(size.resnet, f"imagefolder:{folder}", **options)
    return result.frame.assign(**{name: result.record["networks"][0][name] for name in ("accuracy", "loss")})


def activations(device: str, size: Size) -> Any:
    options = {"families": ("ff",), "seeds": 2, "width": 8, "points": 8 * size.batches, "device": device}
    return gl.activations(4 * size.blocks, **options)


def shattering(device: str, size: Size) -> Any:
    net = perceptron(4, size.blocks)[2:].double()
    function = nn.Sequential(nn.Linear(1, 4, dtype=torch.float64), net, nn.Linear(10, 1, dtype=torch.float64))
    return gl.shattering(function.to(device), torch.linspace(-1, 1, 8 * size.batches, dtype=torch.float64), lags=2)


Job = tuple[Callable[[str, Size], Any], dict[str, int]]
# The folders of gradlab that are waited in, and how often: for each network, or for each set of weights.
JOBS: dict[str, Job] = {
    "responses": (
        lambda device, size: gl.responses(size.resnet, **size.data(device)),
        {"stats": 1, "probes": 1, "experiments/responses": 1},
    ),
    "responses, exact": (
        lambda device, size: gl.responses(size.resnet, **size.data(device, bn="eval", exact=True)),
        {"stats": 1, "experiments/responses": 1},
    ),
    "responses, ten crops": (crops, {"stats": 1, "experiments/responses": 2}),
    "gradients": (
        lambda device, size: gl.gradients(size.resnet, **size.data(device, seeds=1, dtype="float64")),
        {"experiments/gradients": 1, "probes": 2},
    ),
    "gradients, float32 beside float64": (
        lambda device, size: gl.gradients(size.gpt, **size.data(device, seeds=1)),
        {"experiments/gradients": 3, "probes": 4},
    ),
    "input_gradients": (
        lambda device, size: gl.input_gradients(size.resnet, **size.data(device, seeds=2, points=6, lags=2)),
        {"experiments/input_gradients": 4, "stats": 2},
    ),
    "input_gradients, tokens": (
        lambda device, size: gl.input_gradients(size.gpt, **size.data(device, seeds=1, points=6, lags=2)),
        {"experiments/input_gradients": 2, "stats": 1},
    ),
    "signal": (
        lambda device, size: gl.signal(size.resnet, **size.data(device)),
        {"probes/blocks": 1},
    ),
    "signal, tokens": (
        lambda device, size: gl.signal(size.gpt, **size.data(device, tokens=True)),
        {"probes/blocks": 1, "experiments/signal": 1},
    ),
    "attention": (
        lambda device, size: gl.attention(size.gpt, **size.data(device)),
        {"probes/attention": 1},
    ),
    "jacobian": (
        lambda device, size: gl.jacobian(
            size.resnet, images=size.batches, device=device, seeds=1, probes=1, steps=2, bn="eval"
        ),
        {"experiments/jacobian": 1},
    ),
    # The answers, how many are NaN, whether blocks stood still, whether paths are a chain, and the norms on paths.
    "lesion": (lesion, {"experiments/lesion": 5}),
    "coordinates": (coordinates, {"experiments/coordinates": 6}),
    "activations": (activations, {"experiments/activations": 4}),
    "shattering": (shattering, {"experiments/shatter": 4}),
}
ROUNDING = "float32_error"
"""The column of what differs between any two devices."""


def numbers(result: Any) -> np.ndarray:
    """The numbers of a table, without `ROUNDING`."""
    frame = (result if isinstance(result, pd.DataFrame) else result.frame).drop(columns=ROUNDING, errors="ignore")
    values: np.ndarray = frame.select_dtypes("number").astype(float).to_numpy()
    return values


def places() -> dict[str, int]:
    """How often the device is waited for in each folder of gradlab."""
    return dict(Counter(str(Path(wait.where).parent) for wait in waits if wait.own))


@pytest.fixture(autouse=True)
def _quick_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.stats.row_gram.noise_effective_rank", lambda *shape, unit: 2.0)


@pytest.mark.parametrize("name", JOBS)
def test_an_experiment_on_a_device(name: str) -> None:
    run, allowed = JOBS[name]
    with accelerator():
        expected = numbers(run("cpu", SMALL))
        assert not waits
        found = numbers(run(NAME, SMALL))
        assert places() == allowed, "\n".join(own_waits())
        waits.clear()
        run(NAME, LARGE)
        assert places() == allowed, "\n".join(own_waits())
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)
    assert found.size > 4


@pytest.mark.slow
def test_a_comparison_on_a_device() -> None:
    found = {}
    with accelerator():
        for device in ("cpu", NAME):
            found[device] = numbers(gl.compare("shortcut", depths=[8], images=2, seeds=2, device=device))
        # Of two networks with two sets of weights each, of which the first is also measured in another precision.
        assert places() == {"probes": 6, "probes/blocks": 6, "stats": 4}, "\n".join(own_waits())
    np.testing.assert_allclose(found[NAME], found["cpu"], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("model", ["resnet8@init", "gpt1-width=16-heads=2@init"])
def test_gradients_of_single_examples_on_a_device(model: str) -> None:
    """A probe of examples finds out in its first pass where they lie, and waits for that once."""

    def run(device: str, batches: int, name: str = model) -> np.ndarray:
        waits.clear()
        options = Size(batches, 1).data(device, per_example=True, dtype="float64")
        return numbers(gl.gradients(name, **options, seeds=1))

    with accelerator():
        expected, found = run("cpu", 2), run(NAME, 2)
        before = places()
        run(NAME, 3)
        assert places() == before, "\n".join(own_waits())
        run(NAME, 2, model.replace("resnet8", "resnet14").replace("gpt1", "gpt2"))
        assert places() == before, "\n".join(own_waits())
    assert set(before) == {"experiments/gradients", "probes", "probes/examples"}
    assert before["probes/examples"] == 4
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)
