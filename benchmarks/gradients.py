"""What measuring gradients costs: paired ratios against the bare training step, in one process.

    pip install backpack-for-pytorch
    python -m benchmarks.gradients [--device cuda] [--rounds 20] [--depth 56] [--batch 128] [--example-batch 32]
        [--only loop|examples|memory]

Each variant is timed between two bare steps, in turn, so that a drift of the machine's speed cancels in the ratio
to their mean. On the CPU the process's own seconds count, whatever else runs on the machine. Printed: the median ratio
over the rounds, and the quartiles. A bare step is the forward pass, the backward pass and an SGD step. For gradients of
single examples the model is in eval mode; the probe is timed with its own backward pass and with autograd's, without
the C library and without the mean cosine over all parameters. Timed beside it: two other ways to such gradients, and
one more weight gradient of every convolution, summed over the batch as autograd's own or with the examples as groups.
Peak memory is measured in a process for each way (`--memory` is that process).
"""

import argparse
import copy
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gradlab as gl
from benchmarks.readings import CLOCKS, seconds, spread
from gradlab.stats import example_native, example_normalizations, example_rows

Variant = tuple[AbstractContextManager[Any], Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--example-batch", type=int, default=32)
    parser.add_argument("--only", choices=["loop", "examples", "memory"])
    parser.add_argument("--memory", choices=["bare", "probe"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(peak_memory(Training(args, args.example_batch), args.memory == "probe"))
        return

    print(f"ResNet-{args.depth}, {args.device}, {torch.get_num_threads()} threads")
    if args.only in (None, "loop"):
        training = Training(args, args.batch)
        training.model.train()
        print(f"batch {args.batch}, train mode")
        compare(training.bare_variant, training.loop_variants(), args.rounds)
    training = Training(args, args.example_batch)
    if args.only in (None, "examples"):
        print(f"batch {args.example_batch}, eval mode, gradients of single examples")
        compare(training.bare_variant, training.example_variants(), args.rounds)
    if args.only in (None, "memory"):
        extra = memory_of("probe") - memory_of("bare")
        times = extra / training.saved_bytes()
        print(f"extra peak memory of ExampleGradients: {extra / 2**20:.0f} MiB, {times:.2f} × the activations")
    if args.device.startswith("cuda"):
        no_synchronization(training)


class Training:
    """A network, a batch, and what one training step of it may be."""

    def __init__(self, args: argparse.Namespace, batch: int) -> None:
        self.model = gl.build(f"resnet{args.depth}@init", device=args.device)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, 32, 32, generator=generator).to(args.device)
        self.labels = torch.randint(10, (batch,), generator=generator).to(args.device)
        # Running statistics of real magnitude: at their initial values eval-mode gradients grow without bound.
        with torch.no_grad():
            self.model.train()(self.images)
        self.model.eval()
        # The network stays what it is, however many steps are timed.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-12)
        self.bare_variant: Variant = nullcontext(), self.step

    def step(
        self,
        before_optimizer: Callable[[], object] = lambda: None,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> None:
        self.optimizer.zero_grad()
        backward(F.cross_entropy(self.model(self.images), self.labels))
        before_optimizer()
        self.optimizer.step()

    def loop_variants(self) -> dict[str, Variant]:
        parameters, responses = gl.ParameterGradients(self.model), gl.ResponseGradients(self.model)
        return {
            "ParameterGradients every step": (parameters, lambda: self.step(parameters.step)),
            "ResponseGradients every step": (responses, lambda: self.step(responses.step)),
        }

    def example_variants(self) -> dict[str, Variant]:
        probe, plain = gl.ExampleGradients(self.model), gl.ExampleGradients(self.model, total_cosine=False)
        variants: dict[str, Variant] = {
            "ExampleGradients, probe.backward": (probe, lambda: self.step(probe.step, probe.backward)),
            "ExampleGradients, loss.backward": (probe, lambda: self.step(probe.step)),
            "the first without the C library": (
                WithoutLibrary(probe),
                lambda: self.step(probe.step, probe.backward),
            ),
            "the first without total_cosine": (plain, lambda: self.step(plain.step, plain.backward)),
            "one more weight gradient": (MoreWeightGradients(self.model, grouped=False), self.step),
            "the same, examples as groups": (MoreWeightGradients(self.model, grouped=True), self.step),
            "vmap(grad)": (nullcontext(), self.vmap_of_grad),
        }
        try:
            variants["BackPACK BatchL2Grad"] = self.backpack()
        except ImportError:
            print("BackPACK is not installed: pip install backpack-for-pytorch")
        return variants

    def vmap_of_grad(self) -> list[Tensor]:
        parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}

        def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.model, parameters, (image[None],)), label[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, self.images, self.labels)
        return [gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]

    def backpack(self) -> Variant:
        from backpack import backpack, extend
        from backpack.extensions import BatchL2Grad

        model, loss = extend(copy.deepcopy(self.model)), extend(nn.CrossEntropyLoss())

        def step() -> None:
            model.zero_grad()
            loss(model(self.images), self.labels).backward()

        return backpack(BatchL2Grad()), step

    def saved_bytes(self) -> int:
        """What autograd keeps between the forward and the backward pass, without the parameters."""
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = F.cross_entropy(self.model(self.images), self.labels)
        own = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        loss.backward()
        return sum(size for pointer, size in kept.items() if pointer not in own)


class WithoutLibrary:
    """A probe in a `with` block in which it goes by torch's own operations."""

    def __init__(self, probe: gl.ExampleGradients) -> None:
        self.probe = probe
        modules = example_native, example_normalizations, example_rows
        self.patches = [patch.object(module, "_library", lambda: None) for module in modules]

    def __enter__(self) -> None:
        for each in self.patches:
            each.start()
        self.probe.__enter__()

    def __exit__(self, *exception: object) -> None:
        self.probe.__exit__(*exception)
        for each in self.patches:
            each.stop()


class MoreWeightGradients:
    """In a `with` block every convolution's weight gradient is taken once more, and thrown away."""

    def __init__(self, model: nn.Module, grouped: bool) -> None:
        self.convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        self.grouped = grouped

    def __enter__(self) -> None:
        self.handles = [module.register_forward_hook(self.watch) for module in self.convolutions]

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()

    def watch(self, module: nn.Conv2d, args: tuple[Tensor], output: Tensor) -> None:
        output.register_hook(lambda gradient: self.take(module, args[0].detach(), gradient))

    def take(self, module: nn.Conv2d, x: Tensor, gradient: Tensor) -> None:
        groups = len(x) if self.grouped else 1
        x, gradient = (t.reshape(-1, groups * t.shape[1], *t.shape[2:]) for t in (x, gradient))
        shape = groups * module.out_channels, *module.weight.shape[1:]
        settings = module.stride, module.padding, module.dilation, False, [0, 0], groups, [False, True, False]
        torch.ops.aten.convolution_backward(gradient, x, x.new_empty(shape), None, *settings)


def compare(bare: Variant, variants: dict[str, Variant], rounds: int) -> None:
    """Print the ratio of each variant's time to the mean of the bare steps before and after."""
    ratios: dict[str, list[float]] = {name: [] for name in ("bare step", *variants)}
    for round_ in range(rounds + 2):
        for name, variant in {"bare step": bare, **variants}.items():
            before, inner, after = timed(bare), timed(variant), timed(bare)
            if round_ >= 2:
                ratios[name].append(2 * inner / (before + after))
    for name, values in ratios.items():
        print(f"  {name:34s} {spread(values)}", flush=True)


def timed(variant: Variant) -> float:
    """Seconds of one step, the device's work included; attaching hooks is not: it is done once."""
    context, step = variant
    with context:
        return seconds(step, CLOCKS["wall" if torch.cuda.is_initialized() else "cpu"])


def peak_memory(training: Training, probed: bool) -> int:
    """Bytes at the peak of some steps."""
    probe = gl.ExampleGradients(training.model)
    with probe if probed else nullcontext():
        for _ in range(3):
            training.step(probe.step if probed else lambda: None)
    if training.images.is_cuda:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_of(way: str) -> int:
    """The same in a process of its own, whose peak nothing else has raised."""
    command = [sys.executable, "-m", "benchmarks.gradients", *sys.argv[1:], "--memory", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def no_synchronization(training: Training) -> None:
    """Run the probes where any host synchronization is an error."""
    for kind in (gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients):
        with kind(training.model) as probe:
            torch.cuda.set_sync_debug_mode("error")
            try:
                training.step(probe.step)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    print("no host synchronization in the probed steps")


if __name__ == "__main__":
    main()
