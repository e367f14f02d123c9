"""What `gl.watch` costs: paired ratios against the bare training step in one process, and memory over many steps.

    python -m benchmarks.watch [--device cuda] [--rounds 10] [--depth 56] [--batch 128] [--only steps|memory]
        [--clock cpu] [--steps 20000] [--variants "every step;bare step"]

Each variant has a network of its own, whose watch stays on, and is timed between two bare steps, in turn, so that a
drift of the machine's speed cancels in the ratio to their mean. Printed: the median ratio over the rounds, and the
quartiles. A bare step is the forward pass, the backward pass and a step of SGD with momentum. "One step in two" puts
hooks on and takes them off again: the cost of one measured step in fifty is its excess over one, times two, over fifty.
`--clock cpu` counts the process's own seconds, on a machine that others use as well; with one thread. Memory is the
resident memory of a small net's process along so many steps that are all recorded, and what Python has allocated.
"""

from __future__ import annotations

import argparse
import statistics
import tracemalloc
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gradlab as gl
from benchmarks.readings import CLOCKS, resident, seconds, spread

NO_RESPONSES = ("gradients", "updates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--variants", help="some of them, with semicolons; by default all")
    parser.add_argument("--only", choices=["steps", "memory"])
    args = parser.parse_args()
    if args.only != "memory":
        print(f"ResNet-{args.depth}, batch {args.batch}, {args.device}, {torch.get_num_threads()} threads")
        compare(args)
    if args.only != "steps":
        memory(args.steps)


class Training:
    """A network, a batch, and its training step."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.clock = CLOCKS[args.clock]
        self.model = gl.build(f"resnet{args.depth}@init", device=args.device).train()
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(args.batch, 3, 32, 32, generator=generator).to(args.device)
        self.labels = torch.randint(10, (args.batch,), generator=generator).to(args.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6, momentum=0.9)

    def steps(self, number: int) -> None:
        """So many steps."""
        for _ in range(number):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.images), self.labels).backward()
            self.optimizer.step()

    def seconds(self, steps: int) -> float:
        """The time of so many steps."""
        return seconds(partial(self.steps, steps), self.clock)


VARIANTS: dict[str, dict[str, Any] | None] = {
    "bare step": None,
    "every step": {"every": 1},
    "every step, without responses": {"every": 1, "measure": NO_RESPONSES},
    "responses and gradients": {"every": 1, "measure": ("responses", "gradients")},
    "one step in two": {"every": 2},
    "no step": {"every": lambda step: False},
    "no step, dead units followed": {"every": lambda step: False, "dead_units": "since the last record"},
}


def compare(args: argparse.Namespace) -> None:
    """Print each variant's time over that of the bare steps before and after it."""
    names = args.variants.split(";") if args.variants else list(VARIANTS)
    bare, trainings = Training(args), {name: Training(args) for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name, training in trainings.items():
            if (options := VARIANTS[name]) is not None:
                stack.enter_context(gl.watch(training.model, training.optimizer, **options))
            training.steps(2)
        for _ in range(args.rounds):
            before = bare.seconds(1)
            for name, training in trainings.items():
                steps = 2 if name == "one step in two" else 1
                inner, after = training.seconds(steps), bare.seconds(1)
                ratios[name].append(2 * inner / steps / (before + after))
                before = after
    for name, values in ratios.items():
        print(f"  {name:34s} {spread(values)}", flush=True)
    if {"one step in two", "no step"} <= ratios.keys():
        excess = 2 * (statistics.median(ratios["one step in two"]) - 1)
        off = statistics.median(ratios["no step"]) - 1
        print(f"  every 50 steps, from the last two  {1 + excess / 50:6.4f}   and {off:+.4f} of a step not measured")


def memory(steps: int) -> None:
    """Print the memory along a training of which every step is recorded."""
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(5) for part in (nn.Linear(16, 16), nn.ReLU())))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(8, 16)
    marks: list[str] = []
    with gl.watch(model, optimizer, every=1, sinks=[lambda rows: None]):
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if step == steps // 16:
                tracemalloc.start()
            if step in (steps // 8, steps // 4, steps // 2, steps):
                allocated = tracemalloc.get_traced_memory()[0] / 1024
                marks.append(f"{resident():.1f} MiB and {allocated:.0f} KiB of Python's after {step:,} steps")
    print("memory:", "; ".join(marks))


if __name__ == "__main__":
    main()
