"""What the probes of blocks and of attention cost: paired ratios against the bare passes in one process.

    python -m benchmarks.blocks [--models resnet56,vit12] [--batch 64] [--rounds 10] [--clock cpu]

Each pass with a probe is timed between two bare ones, in turn, so that a drift of the machine's speed cancels in the
ratio to their mean. Printed: the median ratio over the rounds, and the quartiles. `BlockSignal` is held against a
forward and a backward pass, `AttentionStatistics` against the forward pass of the transformers. `--clock cpu` counts
the process's own seconds, on a machine that others use as well; with one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from benchmarks.readings import CLOCKS, ratio, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet56,vit12")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    clock = CLOCKS[args.clock]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (args.batch,), generator=generator)
    for name in args.models.split(","):
        model = gl.build(f"{name}@init").train()
        work = partial(both, model, images, labels)
        compare(f"BlockSignal, {name}", partial(gl.BlockSignal, model), work, args.rounds, clock)
        if name.startswith("vit"):
            work = partial(forward, model, images)
            compare(f"AttentionStatistics, {name}", partial(gl.AttentionStatistics, model), work, args.rounds, clock)


def both(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A forward and a backward pass."""
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()


def forward(model: nn.Module, images: Tensor) -> None:
    """A forward pass."""
    with torch.no_grad():
        model(images)


def compare(
    name: str,
    probe: Callable[[], gl.BlockSignal | gl.AttentionStatistics],
    work: Callable[[], None],
    rounds: int,
    clock: Callable[[], float],
) -> None:
    """Print the time of the work with a probe, result included, over that of the work before and after it."""

    def probed() -> None:
        with probe() as probing:
            work()
        probing.result()

    probed()
    ratios = [ratio(probed, work, clock) for _ in range(rounds)]
    print(f"{name:28s} {spread(ratios)}", flush=True)


if __name__ == "__main__":
    main()
