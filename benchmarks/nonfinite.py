"""How often the origin of a non-finite value is named rightly, over random planted faults, and what the search costs.

    python benchmarks/nonfinite.py [--faults 300] [--seed 0]

A fault of the tests' kinds is planted into a module drawn at random, of an architecture drawn at random from the tests'
catalog. One that reaches neither the loss nor a gradient by plain PyTorch is none, and the search must find none. Every
architecture is also run as it is, in train and in eval mode.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from architectures.catalog import ARCHITECTURES, Architecture, Batch, loss_of
from probes.nonfinite.plants import PLANTS, Plant

import gradlab as gl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, count, costs = random.Random(args.seed), Counter[str](), []
    while count["faults"] < args.faults:
        architecture, plant = draw.choice(ARCHITECTURES), draw.choice(PLANTS)
        outcome, cost = tried(architecture, plant, draw)
        count.update(outcome)
        costs.append(cost)
    for architecture in ARCHITECTURES:
        for training in (True, False):
            model, batch = ready(architecture)
            origin = gl.find_nonfinite(model.train(training), batch, lambda output, batch: loss_of(output))
            count.update(["clean", *(["false alarm"] if origin else [])])
    faults, right = count["faults"], {key: count[key] / count["faults"] for key in ("module", "operation")}
    print(f"{faults} faults: module right in {right['module']:.1%}, operation in {right['operation']:.1%}")
    print(f"{count['clean']} clean runs: {count['false alarm']} false alarms")
    print(f"the search takes {sorted(costs)[len(costs) // 2]:.1f} × the time of the passes, median")


def tried(architecture: Architecture, plant: Plant, draw: random.Random) -> tuple[list[str], float]:
    """What came of one plant, and how much longer the search took than the bare passes."""
    model, batch = ready(architecture)
    layer, module = draw.choice(running(model, batch))
    plant.into(module)
    start = time.perf_counter()
    try:
        broken = not is_finite(model, batch)
    except RuntimeError:
        # The layer gives whole numbers, or what cannot be differentiated.
        return [], 1.0
    bare, start = time.perf_counter() - start, time.perf_counter()
    torch.manual_seed(0)
    origin = gl.find_nonfinite(model, batch, lambda output, batch: loss_of(output))
    cost = (time.perf_counter() - start) / bare
    if not broken:
        return ["clean", *(["false alarm"] if origin else [])], cost
    found = (None, None, None) if origin is None else (origin.layer, origin.operation, origin.direction)
    right = found[0] == layer, found[1:] == (plant.operation, plant.direction)
    if not all(right):
        print(f"{architecture.name}, {plant.name} in {layer}: {origin}")
    return ["faults", *(["module"] if right[0] else []), *(["operation"] if right[1] else [])], cost


def ready(architecture: Architecture) -> tuple[nn.Module, Batch]:
    model = architecture.model().float().train()
    return model, {k: v.float() if v.is_floating_point() else v for k, v in architecture.inputs().items()}


def running(model: nn.Module, batch: Batch) -> list[tuple[str, nn.Module]]:
    """The modules that run and give floating-point numbers."""
    seen: dict[str, nn.Module] = {}
    handles = []
    for name, module in model.named_modules():

        def note(module: nn.Module, args: object, output: object, name: str = name) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor) and first.is_floating_point() and first.ndim > 1:
                seen[name] = module

        handles.append(module.register_forward_hook(note))
    model(**batch)
    for handle in handles:
        handle.remove()
    return list(seen.items())


def is_finite(model: nn.Module, batch: Batch) -> bool:
    """Whether loss and gradients are finite, by plain PyTorch."""
    torch.manual_seed(0)
    loss = loss_of(model(**batch))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return bool(loss.isfinite()) and all(bool(gradient.isfinite().all()) for gradient in gradients)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
