"""Distributed runs on a single GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from devices.gpu import DEVICE, MARKS

pytestmark = [*MARKS, pytest.mark.slow]
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("how", ["ddp", "fsdp", "compiled"])
def test_one_process_over_nccl(how: str, tmp_path: Path) -> None:
    if how == "compiled" and DEVICE == "cpu":
        pytest.skip("a compiler for the CPU")
    check(how, "gloo" if DEVICE == "cpu" else "nccl", 1, tmp_path)


def test_two_processes_on_one_device(tmp_path: Path) -> None:
    """NCCL refuses a device that two processes share, gloo does not."""
    check("ddp", "gloo", 2, tmp_path)


def check(how: str, backend: str, world: int, folder: Path) -> None:
    """Compare what each process has found with one process that has all examples."""
    command = [sys.executable, "-W", "ignore", "-m", "oracles.cuda_ranks", DEVICE, backend, str(folder), how]
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "NVIDIA_TF32_OVERRIDE": "0", "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": TESTS}
    running = [subprocess.Popen([*command, str(rank), str(world)], **options) for rank in range(world)]
    for process in running:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]
    for rank in range(world):
        found, expected = json.loads((folder / f"{rank}.json").read_text())
        for step, (here, right) in enumerate(zip(found, expected, strict=True)):
            for kind, values in right.items():
                assert here[kind] == pytest.approx(values, rel=1e-4), (rank, step, kind)
            assert here["watched"] == pytest.approx(right["grad_norm"], rel=1e-4), (rank, step)
