"""The commands on a GPU, against the same commands on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from devices.gpu import DEVICE, MARKS
from torch import Tensor

import gradlab as gl
from gradlab.training import preset

pytestmark = [*MARKS, pytest.mark.slow]
COMMANDS = {
    "responses": "responses resnet8@init,plain8@init --images 40 --batch-size 20",
    "responses, exact": "responses resnet8@init --images 40 --batch-size 20 --exact",
    "responses, tokens": "responses gpt2-width=32-heads=2@init --images 8 --batch-size 4 --data tokens",
    "gradients": "gradients resnet8@init --images 20 --batch-size 20 --seeds 1",
    "gradients, float64": "gradients resnet8@init --images 20 --batch-size 20 --seeds 2 --dtype float64",
    "gradients per example": "gradients resnet8@init --images 8 --batch-size 8 --seeds 1 --per-example",
    "gradients, tokens": "gradients gpt2-width=32-heads=2@init --images 8 --batch-size 4 --seeds 1 --data tokens",
    "shatter": "shatter --depths 2,4 --families ff,resnet --points 32 --seeds 2 --width 20",
    "shatter, images": "shatter resnet8@init --images 16 --batch-size 8 --seeds 1",
    "signal": "signal resnet8@init --images 40 --batch-size 20",
    "signal, tokens": "signal gpt2-width=32-heads=2@init --images 8 --batch-size 4 --data tokens --tokens",
    "lesion": "lesion resnet8@init --images 40 --batch-size 20",
    "attention": "attention gpt2-width=32-heads=2@init --images 8 --batch-size 4",
    "jacobian": "jacobian resnet8@init --images 4 --probes 2 --steps 4 --seeds 1",
    "coordinates": "coordinates resnet{depth} --depths 8,14,20 --seeds 2 --steps 2 --images 8",
    "activations": "activations --depth 8 --width 16 --points 64 --seeds 2 --families ff",
}


ALL = """
import json, sys, traceback
from gradlab.cli import app

for name, folder, arguments in json.load(sys.stdin):
    try:
        app(arguments, prog_name="gradlab", standalone_mode=False)
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit) or error.code:
            print(f"FAILED {name}: " + "".join(traceback.format_exception(error)[-3:]), file=sys.stderr)
"""
"""Runs several commands in one process, since each would take seconds to begin."""


def environment() -> dict[str, str]:
    """Have convolutions on the GPU compute in float32 rather than TF32."""
    return {**os.environ, "NVIDIA_TF32_OVERRIDE": "0", "OMP_NUM_THREADS": "2"}


def arguments(name: str, folder: Path, device: str) -> list[str]:
    return [*COMMANDS[name].split(), "--device", device, "--out", str(folder / name.replace(" ", "")), "--seed", "0"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, str]]:
    """The folders of all commands on the CPU and on the GPU, and what each said of its failures."""
    folders = {place: tmp_path_factory.mktemp(place) for place in ("cpu", "there")}
    running = {}
    for place, folder in folders.items():
        wanted = [
            (name, str(folder), arguments(name, folder, DEVICE if place == "there" else "cpu")) for name in COMMANDS
        ]
        options = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", ALL], cwd=folder, env=environment(), **options
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(wanted))
        process.stdin.close()
        process.stdin = None
        running[place] = process
    return folders, {place: process.communicate(timeout=280)[1] for place, process in running.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_numbers_of_the_cpu(name: str, results: tuple[dict[str, Path], dict[str, str]]) -> None:
    folders, said = results
    for place, errors in said.items():
        assert f"FAILED {name}:" not in errors, (place, errors[errors.index(f"FAILED {name}:") :][:2000])
    here, there = (folder / name.replace(" ", "") for folder in folders.values())
    tables = sorted(path.relative_to(here) for path in here.rglob("*.csv"))
    assert tables, said["cpu"][-2000:]
    assert tables == sorted(path.relative_to(there) for path in there.rglob("*.csv")), said["there"][-2000:]
    for table in tables:
        mine, other = pd.read_csv(here / table), pd.read_csv(there / table)
        assert [*mine] == [*other]
        # Of rounding alone, which differs between any two devices.
        numbers = [column for column in mine.select_dtypes("number") if column != "float32_error"]
        found, expected = other[numbers].astype(float), mine[numbers].astype(float)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5, err_msg=f"{table} {numbers}")


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gradlab", *arguments("responses", tmp_path, DEVICE)]
    run = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    record = json.loads(next(tmp_path.rglob("responses.json")).read_text())
    assert DEVICE in json.dumps(record)


RECIPE = preset("he2015").changed(iterations=16, batch_size=8, learning_rate=0.01)
OPTIONS = {"checkpoint_every": 8, "test_every": 8}


class Stopped(Exception):
    pass


def stop(name: str, done: int, steps: int) -> None:
    if done == 12:
        raise Stopped


def weights(folder: Path) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    return saved


@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_a_training_goes_on(amp: str | None, tmp_path: Path) -> None:
    """Continued from its last checkpoint, a run has the weights of a whole one; they open where there is no GPU."""
    if amp == "fp16" and DEVICE == "cpu":
        pytest.skip("a scaler of the CPU")
    recipe = RECIPE if amp is None else RECIPE.changed(amp=amp)
    for folder in ("whole", "run"):
        progress = stop if folder == "run" else None
        with pytest.raises(Stopped) if progress else nullcontext():
            gl.train(
                "resnet8",
                "cifar10-sample",
                recipe=recipe,
                out=tmp_path / folder,
                device=DEVICE,
                progress=progress,
                **OPTIONS,
            )
    gl.train("resnet8", "cifar10-sample", recipe=recipe, out=tmp_path / "run", device=DEVICE, **OPTIONS)
    whole, run = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(value.is_cpu for value in whole.values())
    for name, value in whole.items():
        # The kernels of a GPU may add in another order each time.
        torch.testing.assert_close(run[name], value, rtol=5e-2, atol=5e-3, msg=name)


def test_a_training_moves_to_the_gpu(tmp_path: Path) -> None:
    """A run begun on the CPU goes on on the GPU, with the losses that it would have had on the CPU."""
    kept = {**OPTIONS, "test_every": 16}
    gl.train("resnet8", "cifar10-sample", recipe=RECIPE, out=tmp_path / "whole", device="cpu", **kept)
    with pytest.raises(Stopped):
        gl.train("resnet8", "cifar10-sample", recipe=RECIPE, out=tmp_path / "cpu", device="cpu", progress=stop, **kept)
    gl.train(
        "resnet8", "cifar10-sample", recipe=RECIPE, out=tmp_path / "new", device=DEVICE, resume=tmp_path / "cpu", **kept
    )
    whole, moved = weights(tmp_path / "whole"), weights(tmp_path / "new")
    for name, value in whole.items():
        torch.testing.assert_close(moved[name], value, rtol=5e-2, atol=5e-3, msg=name)
