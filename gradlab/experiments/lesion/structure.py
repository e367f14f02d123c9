"""Finds what can be deleted from a network: its residual modules, or the layers of a network without any."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gradlab.experiments.subject import forward
from gradlab.probes.blocks.finder import BlockFinder, of_pyramids
from gradlab.probes.blocks.naming import branch_names, repeated_parts
from gradlab.probes.blocks.readings import Addition, Found, Reading
from gradlab.probes.weights import owns_weight
from gradlab.results.grouping import counted
from gradlab.stats import Moments

NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""The classes of normalizations that are deleted together with the layer before them."""


@dataclass(frozen=True)
class Part:
    """A residual module, of which the branch is deleted and the shortcut is kept, or a layer.

    Attributes:
        block: The name of the residual block, or of the layer.
        branch: The name of the branch, if the block has several.
        addition: The addition of the branch; None for a layer.
        layers: The names of the layer and of the normalization behind it; empty for a residual module.
    """

    block: str
    branch: str = ""
    addition: Addition | None = None
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """The parts of a network that can be deleted, in order of execution.

    Attributes:
        kind: `residual module` or `layer`.
        parts: The parts.
        blocks: The names of the blocks, whose outputs are kept and which can be reordered.
        left_out: The names of the layers that cannot be deleted since they change the shape of the signal.
        notes: What was found beside parts.
    """

    kind: str
    parts: list[Part]
    blocks: list[str]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def counted(self) -> str:
        """How many parts can be deleted, in words: not all layers can."""
        kept = " that keeps the shape of its input" if len(self.parts) == 1 else " that keep the shape of their input"
        return counted(len(self.parts), self.kind) + (kept if self.left_out else "")

    def not_deleted(self) -> str:
        """Which layers cannot be deleted, in words; empty if all can."""
        names = ", ".join(self.left_out[:4])
        others = f" and {counted(len(self.left_out) - 4, 'other layer')}" if len(self.left_out) > 4 else ""
        verbs = ("changes", "is") if len(self.left_out) == 1 else ("change", "are")
        return f"{names}{others} {verbs[0]} the shape of the signal and {verbs[1]} not deleted" if names else ""


def structure_of(model: nn.Module, label: str, inputs: Tensor) -> Structure:
    """Run a network once and find its parts.

    Args:
        model: A network in eval mode.
        label: Its label.
        inputs: A few of its inputs.
    """
    reader = _Places()
    finder = BlockFinder(model, reader)
    with ExitStack() as stack, torch.no_grad():
        finder.attach(stack)
        forward(model, label, inputs)
    named = dict(model.named_modules())
    notes = of_pyramids(sorted(finder.pyramids))
    if finder.residual:
        parts = _residual_modules(reader.found)
        blocks = list(dict.fromkeys(part.block for part in parts if part.block in named and part.block))
        return Structure("residual module", parts, _outermost(blocks), notes=notes)
    parts, left_out = _layers(model, label, inputs)
    return Structure("layer", parts, _outermost([*repeated_parts(model)]), left_out, notes)


class _Places:
    """A `Reader` that keeps the blocks of the last pass and measures nothing."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self._nothing = Moments(*torch.zeros(4, dtype=torch.float64))

    def read(self, value: Tensor, channel: int, watched: Tensor | None, behind: bool) -> Reading:
        """See `Reader`."""
        return Reading(self._nothing)

    def finish(self, found: list[Found]) -> None:
        """See `Reader`."""
        self.found = found


def _residual_modules(found: list[Found]) -> list[Part]:
    """One part for each addition; branches that are added at once are one part."""
    additions: dict[Addition, list[Found]] = {}
    for each in found:
        if each.addition is not None:
            additions.setdefault(each.addition, []).append(each)
    names: dict[Addition, str] = {}
    for block in {each.block for each in found}:
        own = {addition: all_ for addition, all_ in additions.items() if all_[0].block == block}
        branches = [branch for all_ in own.values() for branch in _branches(all_)]
        called = iter(branch_names(branches))
        names |= {addition: "+".join(next(called) for _ in all_) for addition, all_ in own.items()}
    return [Part(all_[0].block, names[addition], addition) for addition, all_ in additions.items()]


def _branches(found: list[Found]) -> list[tuple[str, str, bool]]:
    """What `branch_names` takes, for the branches of one addition."""
    return [
        (_within(each.block, each.branch.module), _within(each.block, each.place), each.branch.attends)
        for each in found
        if each.branch is not None
    ]


def _within(block: str, module: str) -> str:
    return module.removeprefix(block).removeprefix(".")


def _outermost(names: list[str]) -> list[str]:
    """The names of modules that lie in none of the others."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _layers(model: nn.Module, label: str, inputs: Tensor) -> tuple[list[Part], list[str]]:
    """The layers that keep the shape of their input, each with the normalization that takes its output; and others."""
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
    calls: Counter[str] = Counter()
    outputs: list[tuple[str, Tensor]] = []
    norms: dict[str, str] = {}

    def after(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not args or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            return
        if owns_weight(module):
            calls[name] += 1
            shapes[name] = args[0].shape, output.shape
            # Outputs are kept while the network runs, so that no other tensor gets their identity.
            outputs.append((name, output))
        elif isinstance(module, NORMALIZATIONS):
            norms.update({layer: name for layer, tensor in outputs if tensor is args[0]})

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if not [*module.children()]:
                hook = module.register_forward_hook(lambda *given, name=name: after(name, *given))
                hooks.enter_context(hook)
        forward(model, label, inputs)
    kept = [name for name, (before, behind) in shapes.items() if before == behind and calls[name] == 1]
    parts = [Part(name, layers=(name, norms[name]) if name in norms else (name,)) for name in kept]
    return parts, [name for name in shapes if name not in kept]
