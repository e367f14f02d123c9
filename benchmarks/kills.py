"""Kill commands at many moments, and compare: `python benchmarks/kills.py --moments 50`.

Each command is run once to its end. Then it is started anew and killed (SIGKILL), at moments spread over its time. What
it leaves must be whole: each file as an earlier run left it, or new and complete. A training is then resumed, and
another command run again, to the end: tables, weights and figures must have the bytes of the run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COMMANDS = {
    "train": "train --model resnet8 --data d.npz --iterations 12 --batch-size 16 --checkpoint-every 2 "
    "--record gradients --every 3 --device cpu --out out",
    "responses": "responses --model resnet8@init --images 16 --device cpu --out out",
    "figures": "figures he2015-table1 --device cpu --out out",
}
WATCHED = """
import os, torch, gradlab as gl
os.makedirs("out", exist_ok=True)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
sinks = [gl.sinks.CSV("out/watch.csv"), gl.sinks.JSONL("out/watch.jsonl")]
with gl.watch(model, optimizer, every=1, sinks=sinks) as watch:
    for _ in range(300):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
watch.result().save("out")
"""
"""A loop of a user's own with `gl.watch`, which is killed like the commands and begins anew."""
GROWING = {"train", "watch"}
"""What writes tables that grow while it runs."""

JOBS = [*COMMANDS, "watch"]
VARYING = {"record.json", "README.md", "checkpoint.pt"}
"""Files that say when or how long; a checkpoint is compared by its weights."""


def arguments(name: str) -> list[str]:
    """The command line of a command, or of the loop."""
    if name == "watch":
        return [sys.executable, "-c", WATCHED]
    return [sys.executable, "-m", "gradlab", *COMMANDS[name].split(), "--quiet"]


def write_data(folder: Path) -> None:
    """A little noise to train on."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "d.npz", x_train=x, y_train=np.arange(64) % 10, x_test=x, y_test=np.arange(64) % 10)


def contents(folder: Path) -> dict[str, bytes]:
    """What a command left, but for what names a moment; a checkpoint's weights as bytes."""
    import torch

    found = {}
    for path in sorted(folder.glob("out/*")):
        if path.name == "checkpoint.pt":
            state = torch.load(path, weights_only=True)["model"]
            found["weights"] = b"".join(value.numpy().tobytes() for value in state.values())
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.name not in VARYING and not path.name.startswith("."):
            found[path.name] = path.read_bytes()
    return found


def whole(folder: Path, expected: dict[str, bytes], growing: bool) -> None:
    """Make sure that what a killed command left is whole: a growing table is the beginning of the whole one."""
    for name, content in contents(folder).items():
        if growing and name != "weights":
            lines = content[: content.rfind(b"\n") + 1]
            assert expected[name].startswith(lines), f"{name} is no beginning of what it will be"
        elif not growing:
            assert content == expected[name], f"{name} is neither old nor new"


def try_one(name: str, moments: int) -> int:
    """Kill one command at so many moments.

    Returns:
        How many faults were found.
    """
    faults = 0
    with tempfile.TemporaryDirectory() as text:
        reference = Path(text) / "reference"
        reference.mkdir()
        write_data(reference)
        start = time.perf_counter()
        subprocess.run(arguments(name), cwd=reference, check=True)
        seconds = time.perf_counter() - start
        expected = contents(reference)
        for moment in range(moments):
            folder = Path(text) / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write_data(folder)
            process = subprocess.Popen(arguments(name), cwd=folder)
            # Most of the first half is the start of Python; what writes files comes late.
            time.sleep(seconds * (0.3 + 0.75 * moment / moments))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            try:
                whole(folder, expected, name in GROWING)
                subprocess.run(arguments(name), cwd=folder, check=True)
                after = contents(folder)
                assert after == expected, f"{[key for key in expected if after.get(key) != expected[key]]} differ"
                litter = [path.name for path in folder.glob("out/.*.part")]
                assert not litter, f"{litter} was left"
            except Exception as error:
                faults += 1
                print(f"{name}, moment {moment} of {moments}: {type(error).__name__}: {error}")
        print(f"{name}: {moments} kills over {seconds:.1f} s, {faults} faults", flush=True)
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50, help="kills of each command")
    parser.add_argument("--only", choices=JOBS)
    asked = parser.parse_args()
    return 1 if sum(try_one(name, asked.moments) for name in JOBS if asked.only in (None, name)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
