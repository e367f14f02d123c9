"""A distributed run of one process on a GPU, over NCCL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from devices.gpu import DEVICE, MARKS

pytestmark = [*MARKS, pytest.mark.slow]
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("how", ["ddp", "fsdp", "compiled"])
def test_one_process(how: str, tmp_path: Path) -> None:
    if how == "compiled" and DEVICE == "cpu":
        pytest.skip("a compiler for the CPU")
    backend = "gloo" if DEVICE == "cpu" else "nccl"
    command = [sys.executable, "-W", "ignore", "-m", "oracles.cuda_ranks", DEVICE, backend, str(tmp_path), how]
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "NVIDIA_TF32_OVERRIDE": "0", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd=TESTS)
    assert run.returncode == 0, run.stderr[-3000:]
    found, expected = json.loads((tmp_path / "found.json").read_text())
    for step, (here, right) in enumerate(zip(found, expected, strict=True)):
        for kind, values in right.items():
            assert here[kind] == pytest.approx(values, rel=1e-4), (step, kind)
        assert here["watched"] == pytest.approx(right["grad_norm"], rel=1e-4), step
