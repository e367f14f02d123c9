"""Inference of the network to which a state dict belongs, from its keys and shapes."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from gradlab.models.imagenet import STAGES
from gradlab.models.residual import GATE_BIAS, Architecture
from gradlab.models.shortcuts import ShortcutOption

_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(.+)")


def infer_architectures(state: Mapping[str, Tensor]) -> list[Architecture]:
    """Find the residual and plain architectures that have exactly the layers of a state dict.

    A plain net and the residual net with option A have the same keys and shapes: both are returned, the residual net
    first. A state dict determines neither scales nor what a gate multiplies, nor the order of operations in a
    residual unit, except for full pre-activation. Scales are returned as 1 and units as original; the name under
    which a file is loaded must state them (`Architecture.shown`). The list is empty if no architecture fits.

    Args:
        state: Parameters and buffers with the keys of this package.
    """
    stages: dict[int, set[int]] = {}
    projected: set[tuple[int, int]] = set()
    bottleneck = False
    for key in state:
        if match := _BLOCK.fullmatch(key):
            stage, block = int(match[1]), int(match[2])
            stages.setdefault(stage, set()).add(block)
            bottleneck |= match[3].startswith("conv3.")
            if match[3].startswith("shortcut."):
                projected.add((stage, block))
    stem = state.get("conv1.weight")
    head = state.get("fc.weight")
    if (
        stem is None
        or stem.ndim != 4
        or head is None
        or head.ndim != 2
        or sorted(stages) not in ([1, 2, 3], [1, 2, 3, 4])
    ):
        return []
    counts = tuple(len(stages[stage]) for stage in sorted(stages))
    imagenet = len(counts) == 4
    depth = _imagenet_depth(counts, bottleneck) if imagenet else _cifar_depth(counts, bottleneck)
    if depth is None or stem.shape[-1] != (7 if imagenet else 3):
        return []
    width = stem.shape[0]
    first = state.get("layer1.0.conv1.weight")
    if first is not None and first.shape[1:2] == (2 * width,) and not imagenet:
        return [Architecture("plain", depth, None, width, looks_linear=True)]
    option = _option(projected, counts, bottleneck)
    if option is None:
        return []
    of_bottlenecks = bottleneck and not imagenet
    if "last.0.weight" in state:
        preact = Architecture("resnet", depth, option, width, unit="preact", bottleneck=of_bottlenecks)
        return [] if imagenet or (option != "A" and not bottleneck) else [preact]
    residual = Architecture("resnet", depth, option, width, imagenet, bottleneck=of_bottlenecks)
    if any(".shortcut_gate." in key for key in state):
        return [replace(residual, shortcut_gate=GATE_BIAS), replace(residual, exclusive_gate=GATE_BIAS)]
    found = [residual]
    if option == "A" and not bottleneck:
        found.append(Architecture("plain", depth, None, width, imagenet))
    return found


def _cifar_depth(counts: tuple[int, ...], bottleneck: bool) -> int | None:
    return (9 if bottleneck else 6) * counts[0] + 2 if len(set(counts)) == 1 else None


def _imagenet_depth(counts: tuple[int, ...], bottleneck: bool) -> int | None:
    for depth, (block, blocks) in STAGES.items():
        if blocks == counts and (block.expansion == 4) == bottleneck:
            return depth
    return None


def _option(projected: set[tuple[int, int]], counts: tuple[int, ...], bottleneck: bool) -> ShortcutOption | None:
    size_changes = {(stage, 0) for stage in range(1 if bottleneck else 2, len(counts) + 1)}
    every = {(stage, block) for stage, n in enumerate(counts, 1) for block in range(n)}
    # With one block per stage, B and C differ only in the first stage, where the size does not change.
    options: dict[ShortcutOption, set[tuple[int, int]]] = {"A": set(), "B": size_changes, "C": every}
    return next((option for option, where in options.items() if projected == where), None)
