"""Training on a device: read every so many steps and at tests, records and checkpoints only; the CPU's numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from devices.accelerator import EVENT, NAME, SUPPORTED, accelerator, own_waits, waits

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.training import preset

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")

SGD = preset("he2015").changed(iterations=12, batch_size=4, learning_rate=0.01)
ADAMW = preset("adamw").changed(iterations=12, batch_size=4, warm_up=2)
RECORD = ("responses", "gradients", "updates")
FEW = {"checkpoint_every": 100, "test_every": 100}
RUNS: dict[str, dict[str, Any]] = {
    "sgd": {"model": "resnet8", "recipe": SGD},
    "sgd in bfloat16": {"model": "resnet8", "recipe": SGD.changed(amp="bf16")},
    "adamw": {"model": "gpt1-width=16-heads=2", "data": "tokens", "recipe": ADAMW},
    "recorded": {"model": "resnet8", "recipe": SGD, "record": RECORD, "every": 4},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    path, generator = tmp_path_factory.mktemp("data") / "images.npz", np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 24), ("test", 12)):
        parts[f"x_{part}"] = generator.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
        parts[f"y_{part}"] = np.arange(count) % 3
    np.savez(path, **parts)
    return str(path)


def train(folder: Path, device: str, images: str, **options: Any) -> pd.DataFrame:
    """The metrics of a run, on these images if the options name no other data."""
    waits.clear()
    return gl.train(**{"data": images, **options}, out=folder, device=device).frame


def places() -> Counter[str]:
    """How often the device is waited for in each file of gradlab, without the moments of records."""
    return Counter(wait.where.partition(":")[0] for wait in waits if wait.own and wait.what != EVENT)


@pytest.mark.parametrize("name", RUNS)
def test_a_training_on_a_device(name: str, images: str, tmp_path: Path) -> None:
    with accelerator():
        expected = train(tmp_path / "cpu", "cpu", images, **FEW, **RUNS[name])
        assert not waits
        found = train(tmp_path / "device", NAME, images, **FEW, **RUNS[name])
    saved = torch.load(tmp_path / "device" / "checkpoint.pt", weights_only=True)
    weights = len(saved["model"])
    moments = sum(
        isinstance(value, torch.Tensor) for of in saved["optimizer"]["state"].values() for value in of.values()
    )
    # Adam counts its steps on the CPU.
    steps_of_adam = len(saved["optimizer"]["state"]) if name == "adamw" else 0
    data = "tokens" if name == "adamw" else "images"
    # The data are sent once. The last step is tested and saved: losses, error and the sums of weights are read, and the
    # state tensor by tensor.
    assert places() == {
        f"training/{data}.py": 4,
        "training/trainer.py": 3,
        "training/evaluation.py": 1,
        "training/run_folder.py": weights + moments - steps_of_adam,
        "checkpoints/digests.py": sum(not key.endswith("num_batches_tracked") for key in saved["model"]),
    }, "\n".join(own_waits())
    # A record is read when the next one is made.
    assert sum(wait.what == EVENT for wait in waits) == (3 if "record" in RUNS[name] else 0)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3 if name == "adamw" else 1e-6)
    if "record" in RUNS[name]:
        tables = [pd.read_csv(tmp_path / device / "dynamics.csv") for device in ("cpu", "device")]
        # Means of normalized responses are 0 up to rounding, which differs with the layout of memory.
        for of_means in (True, False):
            here, there = (table[(table["statistic"] == "response_mean") == of_means] for table in tables)
            pd.testing.assert_frame_equal(here, there, rtol=1e-5, atol=1e-6 if of_means else 1e-8)
        assert len(tables[0]) > 100


def test_steps_between_two_looks_are_not_waited_for(images: str, tmp_path: Path) -> None:
    with accelerator():
        counts = []
        for steps in (12, 24):
            train(tmp_path / str(steps), NAME, images, model="resnet8", recipe=SGD.changed(iterations=steps), **FEW)
            counts.append(places())
    assert counts[0] == counts[1]


def test_a_run_goes_on_on_the_device_with_the_same_bits(images: str, tmp_path: Path) -> None:
    def stop(name: str, done: int, steps: int) -> None:
        if done == 8:
            raise GradlabError("stopped")

    options = {**RUNS["sgd"], "checkpoint_every": 6, "test_every": 6}
    with accelerator():
        whole = train(tmp_path / "whole", NAME, images, **options)
        with pytest.raises(GradlabError, match="stopped"):
            train(tmp_path / "run", NAME, images, progress=stop, **options)
        resumed = train(tmp_path / "run", NAME, images, **options)
        # What is saved opens where there is no such device.
    before, after = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "run"))
    pd.testing.assert_frame_equal(resumed, whole)
    assert all(value.is_cpu and torch.equal(value, after["model"][name]) for name, value in before["model"].items())
