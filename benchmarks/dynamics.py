"""What recording costs a training: a recorded step against bare ones, paired, in one process.

    python benchmarks/dynamics.py [--device cuda] [--depth 56] [--batch 128] [--rounds 20] [--amp bf16] [--compile]

A step is forward, backward and the optimizer's. Each recorded one is timed between two bare ones, so that a drift of
the machine's speed cancels in the ratio to their mean; its rows are written to a file. Printed: the median ratio,
its quartiles, and the share of the training time that recording every 100 steps takes. On the CPU time is that of
the process, in which other processes do not count.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gradlab.models import create
from gradlab.training import Arithmetic, DynamicsRecorder, Recording

EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--amp", default="off")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    arithmetic = Arithmetic.choose(args.amp, torch.device(args.device))
    step = TrainingStep(args.depth, args.batch, arithmetic, args.compile)
    print(f"ResNet-{args.depth}, batch {args.batch}, {args.device}, {arithmetic}, {torch.get_num_threads()} threads")
    for what in (("gradients",), ("responses",), ("responses", "gradients")):
        with tempfile.TemporaryDirectory() as folder:
            with DynamicsRecorder(step.network, Recording(what, every=1), Path(folder)) as recorder:
                ratios = []
                for round_ in range(args.rounds + 2):
                    before, seconds, after = (
                        step.timed(context) for context in (nullcontext(), recorder.at(round_), nullcontext())
                    )
                    if round_ >= 2:
                        ratios.append(2 * seconds / (before + after))
        low, median, high = statistics.quantiles(ratios, n=4)
        share = (median - 1) / EVERY
        print(f"{', '.join(what):24s} {median:6.3f}   ({low:.3f} to {high:.3f})   every {EVERY} steps: {share:.3%}")


class TrainingStep:
    """A network that is trained on one batch of noise."""

    def __init__(self, depth: int, batch: int, arithmetic: Arithmetic, compiled: bool) -> None:
        model = arithmetic.prepare(create(f"resnet{depth}")).train()
        self.arithmetic = arithmetic
        self.network: Any = torch.compile(model) if compiled else model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self.images = arithmetic.layout(torch.randn(batch, 3, 32, 32, device=arithmetic.device))
        self.labels = torch.arange(batch, device=arithmetic.device) % 10

    def timed(self, recorded: AbstractContextManager[object]) -> float:
        """Seconds of one step."""
        start = self._now()
        with recorded:
            with self.arithmetic.autocast():
                logits = self.network(self.images)
            self.optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()
        return self._now() - start

    def _now(self) -> float:
        if self.arithmetic.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    main()
