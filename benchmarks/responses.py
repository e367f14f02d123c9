"""What measuring responses costs: paired ratios against the bare forward pass, in one process.

    python -m benchmarks.responses [--device cuda] [--rounds 40] [--depth 56] [--batch 128]

Each variant is timed between two bare forward passes, in turn, so that a drift of the machine's speed cancels
in the ratio to their mean. Printed: the median ratio over the rounds, and the quartiles.

On the CPU it also prints what a layer costs beyond the bare pass from the second pass on, by the process's own seconds:
with 8 images, and with one of 8 × 8 pixels, where little pushes the probe's code out of the caches.
"""

import argparse
import copy
import resource
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import nn

import gradlab as gl
from benchmarks.readings import CLOCKS, seconds, spread
from gradlab.experiments.subject import runner

Variant = tuple[AbstractContextManager[Any], nn.Module, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()

    model = gl.build(f"resnet{args.depth}@init", device=args.device)
    # Running statistics of real magnitude: at their initial values eval-mode responses grow without bound.
    with torch.no_grad():
        model.train()(torch.randn(args.batch, 3, 32, 32, device=args.device))
    model.eval()
    images = torch.randn(args.batch, 3, 32, 32, device=args.device)
    extra = extra_memory(model, images)
    bare: Variant = (nullcontext(), model, images)
    variants = {"bare forward": bare, **make_variants(model, images)}
    ratios = {name: [] for name in variants}
    with torch.inference_mode():
        for round_ in range(args.rounds + 3):
            for name, variant in variants.items():
                before, inner, after = timed(bare), timed(variant), timed(bare)
                if round_ >= 3:
                    ratios[name].append(2 * inner / (before + after))
    print(f"ResNet-{args.depth}, batch {args.batch}, {args.device}, {torch.get_num_threads()} threads")
    for name, values in ratios.items():
        print(f"{name:42s} {spread(values)}")
    print(f"extra peak memory of the probe: {extra:.2f} MiB")
    if args.device.startswith("cuda"):
        no_synchronization(model, images)
    else:
        for batch, size in ((8, 32), (1, 8)):
            cost_of_a_layer(model, torch.randn(batch, 3, size, size), args.rounds)


def make_variants(model: nn.Module, images: torch.Tensor) -> dict[str, Variant]:
    """What is timed, by name: what is switched on around the forward pass, the model, and its input."""
    folded = runner(model, "eval")
    return {
        "ResponseStd on every BN output": (gl.ResponseStd(model), model, images),
        "naive out.std().item() hooks": (NaiveHooks(model), model, images),
        "the command's own loop": (
            gl.ResponseStd(folded),
            folded,
            images.contiguous(memory_format=torch.channels_last),
        ),
    }


class NaiveHooks:
    """What people paste into notebooks."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.Linear)]

    def __enter__(self) -> Self:
        self.stds: list[float] = []
        self.handles = [
            module.register_forward_hook(lambda module, args, out: self.stds.append(out.std().item()))
            for module in self.modules
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()


def timed(variant: Variant) -> float:
    """Seconds of one forward pass, the device's work included; attaching hooks is not: it is done once."""
    context, model, images = variant
    with context:
        return seconds(partial(model, images), CLOCKS["wall"])


@torch.inference_mode()
def extra_memory(model: nn.Module, images: torch.Tensor) -> float:
    """Peak memory of forward passes with the probe beyond that of bare ones, in MiB."""
    peaks = []
    for context in (nullcontext(), gl.ResponseStd(model)):
        if images.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        with context:
            for _ in range(3):
                model(images)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peaks.append(torch.cuda.max_memory_allocated() if images.is_cuda else resident)
    return (peaks[1] - peaks[0]) / 2**20


@torch.no_grad()
def cost_of_a_layer(model: nn.Module, images: torch.Tensor, rounds: int) -> None:
    """Print the time of a pass with the probe beyond that of a copy of the model before and after it, by layers."""
    bare, extra = copy.deepcopy(model), []
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    with gl.ResponseStd(model):
        for each in (model, model, bare):
            each(images)
        for _ in range(rounds):
            before, inner, after = (seconds(partial(each, images)) for each in (bare, model, bare))
            extra.append((inner - (before + after) / 2) / layers * 1e6)
    print(f"a layer, images {tuple(images.shape)}, in µs: {spread(extra, 0)}")


def no_synchronization(model: nn.Module, images: torch.Tensor) -> None:
    """Run the probe where any host synchronization is an error."""
    probe = gl.ResponseStd(model)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode(), probe:
            model(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print("no host synchronization in the probed loop")


if __name__ == "__main__":
    main()
