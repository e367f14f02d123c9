"""What gradlab's training loop costs: its throughput against a bare PyTorch loop, in one process.

    python -m benchmarks.training [--model resnet20] [--batch 256] [--rounds 10] [--device cuda] [--compile]

Both train the same network in the same arithmetic. The bare loop gets one ready batch again and again: no
augmentation, no data, no look at the loss. Blocks of steps alternate; printed are the median of the paired ratios
and the quartiles, and images a second.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.readings import CLOCKS, seconds, spread
from gradlab.models import create
from gradlab.normalization import Normalization
from gradlab.training import PRESETS, Arithmetic, Trainer
from gradlab.training.images import LabelledImages, Split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    device = torch.device(args.device)
    arithmetic = Arithmetic.choose(args.amp, device)
    recipe = PRESETS["fast"].changed(batch_size=args.batch, epochs=1000)
    count = 20 * args.batch
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    images = LabelledImages(pixels, torch.randint(0, 10, (count,)), Normalization("cifar10"))
    split = Split(images, images, 10, held_out=False)
    trainer = Trainer(create(args.model), recipe, split, arithmetic, compiled=args.compile)
    loops = {"bare loop": bare_loop(args.model, args.batch, arithmetic, args.compile), "gradlab": trainer.advance}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(args.rounds + 1):
        for name, step in loops.items():
            elapsed = seconds(partial(repeat, step, args.steps), CLOCKS["wall"])
            if round_:
                times[name].append(elapsed)
    print(f"{args.model}, batch {args.batch}, {arithmetic}, {device}, {torch.get_num_threads()} threads")
    for name, values in times.items():
        print(f"{name:10s} {args.batch * args.steps / statistics.median(values):10,.0f} images/s")
    ratios = [bare / own for bare, own in zip(times["bare loop"], times["gradlab"], strict=True)]
    print(f"throughput, gradlab / bare loop: {spread(ratios)}")


def bare_loop(model: str, batch: int, arithmetic: Arithmetic, compiled: bool) -> Callable[[], None]:
    """One step as one writes it by hand."""
    network = arithmetic.prepare(create(model)).train()
    images = arithmetic.layout(torch.randn(batch, 3, 32, 32, device=arithmetic.device))
    labels = torch.randint(0, 10, (batch,), device=arithmetic.device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    called = torch.compile(network) if compiled else network

    def step() -> None:
        with arithmetic.autocast():
            loss = F.cross_entropy(called(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def repeat(step: Callable[[], None], steps: int) -> None:
    for _ in range(steps):
        step()


if __name__ == "__main__":
    main()
