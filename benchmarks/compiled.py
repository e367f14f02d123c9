"""What `ResponseStd` and `ResponseGradients` cost on compiled models.

    OMP_NUM_THREADS=1 python -m benchmarks.compiled [--models resnet20,gpt6-width=256] [--batch 128] [--rounds 20]

Every pass with a probe runs between two passes of the same compiled model without one, in one process; the probe is
attached before the clock starts and was so once before, so that everything is compiled. With `ResponseGradients` a pass
is forward and backward, of the model in training mode. Times are the process's own seconds on one thread. Given are the
median and the quartiles of the ratios.
"""

from __future__ import annotations

import argparse
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import gradlab as gl
from benchmarks.readings import spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet20,gpt6-width=256")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--backend", default="inductor")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models.split(","):
        measure(name, args.batch, args.backend, args.rounds)


def measure(name: str, batch: int, backend: str, rounds: int) -> None:
    """Print the ratios of one model."""
    model, inputs = network(name, batch)
    compiled = torch.compile(model, backend=backend)
    start = time.process_time()
    seconds(nullcontext(), compiled, inputs)
    print(f"{name}, batch {batch}, {backend}: compiled in {time.process_time() - start:.0f} s of CPU", flush=True)
    probe = gl.ResponseStd(compiled)
    start = time.process_time()
    with torch.no_grad(), probe:
        compiled(inputs)
        compiled(inputs)
    print(f"{'compiled again with the sums':42s} {time.process_time() - start:6.1f} s of CPU", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report("ResponseStd in compiled code", probe, compiled, compiled, inputs, rounds)
        # What a probe does where it cannot stay in compiled code.
        report("ResponseStd, the model running eagerly", gl.ResponseStd(model), model, compiled, inputs, rounds)
    print(*probe.result().notes[-1:], sep="\n")
    measure_gradients(model.train(), compiled, inputs, rounds)


def measure_gradients(model: nn.Module, compiled: Any, inputs: Tensor, rounds: int) -> None:
    """Print the ratios of forward and backward passes."""
    for _ in range(2):
        seconds(nullcontext(), compiled, inputs, backward=True)
    probe = gl.ResponseGradients(compiled)
    start = time.process_time()
    with probe:
        for _ in range(2):
            compiled(inputs).sum().backward()
            probe.step()
    print(f"{'compiled again with the sums of squares':42s} {time.process_time() - start:6.1f} s of CPU", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report("ResponseGradients in compiled code", probe, compiled, compiled, inputs, rounds, backward=True)
        eager = gl.ResponseGradients(model)
        report("ResponseGradients, the model eagerly", eager, model, compiled, inputs, rounds, backward=True)
    print(*probe.result().notes[-1:], sep="\n")


def network(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """A network at initialization and a batch of noise: images, or sequences of tokens."""
    model = gl.build(f"{name}@init")
    generator = torch.Generator().manual_seed(0)
    if hasattr(model, "vocabulary"):
        return model.eval(), torch.randint(0, model.vocabulary, (batch, *model.input_shape), generator=generator)
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    with torch.no_grad():
        model.train()(images)
    return model.eval(), images


def report(
    name: str,
    context: AbstractContextManager[Any],
    model: nn.Module,
    bare: nn.Module,
    inputs: Tensor,
    rounds: int,
    backward: bool = False,
) -> None:
    """Print the median ratio and the quartiles."""
    ratios = []
    for round_ in range(rounds + 2):
        before = seconds(nullcontext(), bare, inputs, backward)
        probed = seconds(context, model, inputs, backward)
        after = seconds(nullcontext(), bare, inputs, backward)
        if round_ >= 2:
            ratios.append(2 * probed / (before + after))
    print(f"{name:42s} {spread(ratios)}", flush=True)


def seconds(context: AbstractContextManager[Any], model: nn.Module, inputs: Tensor, backward: bool = False) -> float:
    """CPU time of a pass within a context, which is entered before the clock starts."""
    with torch.set_grad_enabled(backward), context as probe:
        start = time.process_time()
        output = model(inputs)
        if backward:
            output.sum().backward()
            if probe is not None:
                probe.step()
        taken = time.process_time() - start
    model.zero_grad()
    return taken


if __name__ == "__main__":
    main()
