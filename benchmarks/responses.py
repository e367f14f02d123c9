"""What measuring responses costs: paired ratios against the bare forward pass, in one process.

    python benchmarks/responses.py [--device cuda] [--rounds 40] [--depth 56] [--batch 128]

Each round times every variant once, in turn, so that a drift of the machine's speed cancels in the ratio to
the bare forward pass of the same round. Printed: the median ratio, and the quartiles.
"""

import argparse
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

import gradlab as gl
from gradlab.experiments.responses import runner
from gradlab.stats import fast_moments

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
    variants = make_variants(model, images)
    ratios = {name: [] for name in variants}
    with torch.inference_mode():
        for round_ in range(args.rounds + 3):
            seconds = {name: timed(variant) for name, variant in variants.items()}
            if round_ >= 3:
                for name in variants:
                    ratios[name].append(seconds[name] / seconds["bare forward"])
    print(f"ResNet-{args.depth}, batch {args.batch}, {args.device}, {torch.get_num_threads()} threads")
    for name, values in ratios.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name:42s} {median:6.3f}   ({low:.3f} to {high:.3f})")
    print(f"extra peak memory of the probe: {extra_memory(model, images):.2f} MiB")
    if args.device.startswith("cuda"):
        no_synchronization(model, images)


def make_variants(model: nn.Module, images: torch.Tensor) -> dict[str, Variant]:
    """What is timed, by name: what is switched on around the forward pass, the model, and its input."""
    folded = runner(model, "eval")
    return {
        "bare forward": (nullcontext(), model, images),
        "bare forward, again": (nullcontext(), model, images),
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
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        self.stds = []
        self.handles = [
            norm.register_forward_hook(lambda module, args, out: self.stds.append(out.std().item()))
            for norm in self.norms
        ]

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()


def timed(variant: Variant) -> float:
    """Seconds of one forward pass, the device's work included; attaching hooks is not: it is done once."""
    context, model, images = variant
    with context:
        if images.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start


@torch.inference_mode()
def extra_memory(model: nn.Module, images: torch.Tensor) -> float:
    """Peak memory with the probe beyond that of the bare forward pass, in MiB.

    On the CPU as the profiler counts allocations during the statistics of the largest response.
    """
    if images.is_cuda:
        peaks = []
        for probed in (False, True):
            torch.cuda.reset_peak_memory_stats()
            with gl.ResponseStd(model) if probed else nullcontext():
                model(images)
            peaks.append(torch.cuda.max_memory_allocated())
        return (peaks[1] - peaks[0]) / 2**20
    response = torch.randn(images.shape[0], 16, 32, 32)
    with torch.profiler.profile(profile_memory=True) as profile:
        fast_moments(response)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    return allocated / 2**20


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
