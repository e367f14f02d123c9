"""A rank is killed in the middle of a command: torchrun names it, no file is torn, and the same command goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

SECONDS = 280
"""Until a command that hangs is given up."""

KILLING = """
import os, signal, sys

event, file, count, victim = os.environ.get("KILLING", ",,0,").split(",")
seen = 0
if "RANK" in os.environ:
    with open(f"pid-{os.environ['RANK']}", "w") as pid:
        pid.write(str(os.getpid()))


def watch(name, args):
    global seen
    if name == event and str(args[0] if name == "open" else args[1]).endswith(file):
        seen += 1
        if seen == int(count):
            with open(f"pid-{victim}") as pid:
                os.kill(int(pid.read()), signal.SIGKILL)


if file:
    sys.addaudithook(watch)
"""
"""A `sitecustomize` that kills a rank before the n-th time that some process opens or renames a certain file."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sitecustomize.py").write_text(KILLING)
    x = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(60) % 10, x_test=x[:30], y_test=np.arange(30) % 10)
    return tmp_path


def ran(folder: Path, command: str, killing: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command by two processes, one of which may be killed at an event."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment |= {} if killing is None else {"KILLING": killing}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gradlab"]
    return subprocess.run(
        [*torchrun, *command.split()],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=folder,
        env=environment,
    )


def check_that_it_ended(done: subprocess.CompletedProcess[str], victim: int) -> None:
    """It has failed, and torchrun's report names the rank that was killed as the cause."""
    assert done.returncode == 1
    (cause,) = re.findall(r"Root Cause.*?rank +: (\d).*?exitcode +: (-?\d+)", done.stderr, re.DOTALL)
    assert cause == (str(victim), "-9"), done.stderr[-2000:]


def files(folder: Path) -> set[str]:
    """The names of all files of a folder that the commands have written."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


TRAIN = "train --model plain8 --data data.npz --preset fast --epochs 4 --batch-size 24 --normalize none --device cpu"


@pytest.mark.thorough
@pytest.mark.parametrize("victim", [0, 1])
def test_a_training_goes_on_from_its_checkpoint(folder: Path, victim: int) -> None:
    """Rank 0 is killed as it is about to put its second checkpoint into its place, or the other one then."""
    command = f"{TRAIN} --checkpoint-every 2 --quiet --out"
    check_that_it_ended(ran(folder, f"{command} run", f"os.rename,checkpoint.pt,2,{victim}"), victim)
    content = torch.load(folder / "run" / "checkpoint.pt", weights_only=True)
    assert content["step"] in (2, 4)
    for name in ("run", "whole"):
        done = ran(folder, f"{command} {name}")
        assert done.returncode == 0, done.stderr[-2000:]
    weights = [torch.load(folder / name / "checkpoint.pt", weights_only=True)["model"] for name in ("run", "whole")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    metrics = [(folder / name / "metrics.csv").read_text() for name in ("run", "whole")]
    assert metrics[0] == metrics[1]
    assert not any(name.endswith(".part") for name in files(folder))


@pytest.mark.thorough
def test_nets_that_were_done_are_not_measured_again(folder: Path) -> None:
    command = "shatter --depths 3,12 --seeds 3 --width 12 --points 16 --lags 4 --quiet --out"
    check_that_it_ended(ran(folder, f"{command} one", "os.rename,.pt,2,1"), 1)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "one" / ".parts").glob("*.pt")}
    assert kept
    assert not any(name.startswith("shatter") for name in files(folder / "one"))
    # A third time, they are found as they were left.
    check_that_it_ended(ran(folder, f"{command} one", "os.rename,shatter.csv,1,0"), 0)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    for name in ("one", "two"):
        done = ran(folder, f"{command} {name}")
        assert done.returncode == 0, done.stderr[-2000:]
    for name in ("shatter.csv", "shatter-summary.csv"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()
    assert not any(name.endswith((".part", ".pt")) for name in files(folder))


@pytest.mark.thorough
def test_trainings_of_a_grid_that_are_complete_are_read(folder: Path) -> None:
    command = TRAIN.replace("train --model plain8", "degradation --depths 8,14 --families plain --runs runs --quiet")
    check_that_it_ended(ran(folder, command, "os.rename,checkpoint.pt,1,1"), 1)
    done = ran(folder, command)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("plain8", "plain14"):
        assert json.loads((folder / "runs" / name / "record.json").read_text())["complete"]
    assert not any(name.endswith(".part") for name in files(folder))


@pytest.mark.thorough
@pytest.mark.parametrize("killing", ["os.rename,responses.csv,1,0", "open,data.npz,1,1"])
def test_a_measurement_begins_anew(folder: Path, killing: str) -> None:
    """Rank 0 is killed between its files, and rank 1 while data are read."""
    command = "responses --model resnet8@init --images 30 --batch-size 10 --data data.npz --normalize none --quiet"
    check_that_it_ended(ran(folder, command, killing), int(killing[-1]))
    assert not any(name.startswith("responses") for name in files(folder))
    done = ran(folder, command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(folder / "results" / "responses" / "responses.csv")["std"].notna().all()
    assert {"responses.csv", "responses.json", "responses.png", "responses.pdf"} < files(folder)
    assert not any(name.endswith(".part") for name in files(folder))
