"""What responses and gradients cost, in one table.

    OMP_NUM_THREADS=1 python -m benchmarks [--depth 56] [--rounds 10]

Every variant runs between two bare passes in one process, in turn, and is held against their mean: a drift of the
machine's speed cancels. Times are the process's own seconds on one thread, so that other work on the machine counts as
little as possible. Given are the median and the quartiles of the ratios. Results that were kept are in RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from benchmarks.compiled import measure
from gradlab.experiments.responses.known import KnownResponseStd, fastest_layout
from gradlab.experiments.subject import runner
from gradlab.stats import native


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compiled", default="resnet20", help="networks to compile, which takes a while; '' for none")
    args = parser.parse_args()
    torch.set_num_threads(1)
    library = "with" if native.is_available() else "without"
    print(f"ResNet-{args.depth}, one thread, {library} the C library; ratios to the bare pass, µs a layer beyond it")
    for batch, rounds in ((128, args.rounds), (8, 4 * args.rounds)):
        model, images = network(args.depth, batch)
        bare = Pass(nullcontext(), model, images)
        for name, variant in variants(model, images).items():
            report(f"{name}, batch {batch}", bare, variant, rounds)
    memory()
    for name in filter(None, args.compiled.split(",")):
        measure(name, batch=128, backend="inductor", rounds=args.rounds)


class Pass:
    """A forward pass of a model inside a context, which is entered before the clock starts."""

    def __init__(self, context: AbstractContextManager[Any], model: nn.Module, images: Tensor) -> None:
        self.context, self.model, self.images = context, model, images

    def seconds(self) -> float:
        with torch.no_grad(), self.context:
            start = time.process_time()
            self.model(self.images)
            return time.process_time() - start


def network(depth: int, batch: int) -> tuple[nn.Module, Tensor]:
    model = gl.build(f"resnet{depth}@init")
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # Running statistics of real magnitude: at their initial values eval-mode responses grow without bound.
    with torch.no_grad():
        model.train()(images)
    return model.eval(), images


def variants(model: nn.Module, images: Tensor) -> dict[str, Pass]:
    layout = fastest_layout()
    clone = runner(model, "batch").to(memory_format=layout)
    return {
        "bare pass": Pass(nullcontext(), model, images),
        "ResponseStd": Pass(gl.ResponseStd(model), model, images),
        "gradlab responses NAME@init": Pass(KnownResponseStd(clone), clone, images.contiguous(memory_format=layout)),
    }


def report(name: str, bare: Pass, variant: Pass, rounds: int) -> None:
    ratios, extra = [], []
    for round_ in range(rounds + 2):
        before, seconds, after = bare.seconds(), variant.seconds(), bare.seconds()
        if round_ >= 2:
            ratios.append(2 * seconds / (before + after))
            extra.append(seconds - (before + after) / 2)
    low, median, high = statistics.quantiles(ratios, n=4)
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in bare.model.modules())
    beyond = statistics.median(extra) / layers * 1e6
    print(f"{name:42s} {median:6.3f}   ({low:.3f} to {high:.3f})   {beyond:6.0f} µs", flush=True)


def memory(steps: int = 120) -> None:
    """Print the resident memory that a recorded step adds, where nothing but the probe keeps anything."""
    model, images = network(20, 16)
    labels = torch.arange(len(images)) % 10
    marks = []
    with gl.ParameterGradients(model.train()) as probe:
        for step in range(steps):
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            probe.step()
            if step in (steps // 3, steps - 1):
                marks.append(resident())
    print(f"{'ParameterGradients, memory of a step':42s} {(marks[1] - marks[0]) / (steps * 2 / 3):6.3f} MiB")


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    main()
