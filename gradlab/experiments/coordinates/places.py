"""Corresponding modules of networks of several sizes, and the dimensions of their weights that grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from gradlab.errors import UsageError

OUTPUT = "output"
"""The name of the network itself as a place."""


def places(models: Mapping[int, nn.Module]) -> dict[int, dict[str, str]]:
    """The measured modules for each size: their places, which are common to all sizes, by their names.

    They are the modules with parameters of their own, `nn.Identity` (which marks a signal that no other module
    returns), the elements of an `nn.ModuleList`, and the network itself, called `output`. If a list of modules is
    longer in one size than in another, the first, the middle and the last of each class are taken: `blocks[first].fc`.

    Args:
        models: The networks by size.

    Raises:
        UsageError: If the networks have no layer in common.
    """
    growing = _growing_rows(models)
    found = {size: _places_of(model, growing) for size, model in models.items()}
    common = set.intersection(*(set(named.values()) for named in found.values()))
    if common <= {OUTPUT}:
        raise UsageError("networks of these sizes have no layer in common: make_model must give one kind of network")
    return {size: {name: p for name, p in named.items() if p in common} for size, named in found.items()}


def kinds(models: Mapping[int, nn.Module], found: Mapping[int, Mapping[str, str]]) -> dict[str, str]:
    """The kind of each place: `input`, `hidden` or `output` by the dimensions of its weight that grow with the size.

    The other kinds are `fixed` for a weight of constant shape, `vector` for one-dimensional parameters, `signal` for
    modules without parameters, and `block` for modules that contain others.
    """
    small, large = min(models), max(models)
    there = {place: name for name, place in found[large].items()}
    return {
        place: OUTPUT
        if place == OUTPUT
        else _kind(models[small].get_submodule(name), models[large].get_submodule(there[place]))
        for name, place in found[small].items()
    }


def _kind(small: nn.Module, large: nn.Module) -> str:
    weights = _weight(small), _weight(large)
    if weights[0] is None or weights[1] is None:
        return "signal" if isinstance(small, nn.Identity) else "block" if any(small.children()) else "vector"
    grows = [a != b for a, b in zip(weights[0].shape[:2], weights[1].shape[:2], strict=True)]
    # Embeddings and similar layers have their outputs in the last dimension.
    outputs_last = isinstance(small, nn.Embedding | _ConvTransposeNd) or type(small).__name__ == "Conv1D"
    outs, ins = reversed(grows) if outputs_last else grows
    return {(True, True): "hidden", (True, False): "input", (False, True): "output"}.get((outs, ins), "fixed")


def _weight(module: nn.Module) -> Tensor | None:
    """A module's own weight; a computed weight is found by its name."""
    own = [getattr(module, "weight", None), *module.parameters(recurse=False)]
    return next((tensor for tensor in own if isinstance(tensor, torch.Tensor) and tensor.ndim > 1), None)


def _growing_rows(models: Mapping[int, nn.Module]) -> set[str]:
    """The names of the outermost lists of modules that are longer in one size than in another."""
    lengths = [
        {name: len(row) for name, row in model.named_modules() if isinstance(row, nn.Sequential | nn.ModuleList)}
        for model in models.values()
    ]
    rows = {name for name in lengths[0] if len({length.get(name) for length in lengths}) > 1}
    return {name for name in rows if not any(name.startswith(f"{other}.") for other in rows)}


def _places_of(model: nn.Module, growing: set[str]) -> dict[str, str]:
    elements = {id(child) for row in model.modules() if isinstance(row, nn.ModuleList) for child in row.children()}
    measured = {
        name: module
        for name, module in model.named_modules()
        if id(module) in elements or isinstance(module, nn.Identity) or any(True for _ in module.parameters(False))
    }
    parts = {row: _parts(model.get_submodule(row)) for row in growing}
    found = {name: _place(name, parts) for name in measured if name}
    return {"": OUTPUT, **{name: place for name, place in found.items() if place is not None}}


def _parts(row: nn.Module) -> dict[str, str | None]:
    """The position of each child of a list within its class: `first`, `middle`, `last`, or None."""
    children = dict(row.named_children())
    counts, seen = Counter(type(child).__name__ for child in children.values()), Counter[str]()
    found: dict[str, str | None] = {}
    for name, child in children.items():
        kind = type(child).__name__
        place, count = seen[kind], counts[kind]
        seen[kind] += 1
        label = {count // 2: "middle", count - 1: "last", 0: "first"}.get(place)
        found[name] = label if label is None or len(counts) == 1 else f"{label} {kind}"
    return found


def _place(name: str, parts: Mapping[str, Mapping[str, str | None]]) -> str | None:
    """The place of a module, which is common to all sizes; None if it is left out."""
    for row, children in parts.items():
        prefix = f"{row}." if row else ""
        if name.startswith(prefix):
            child, _, rest = name.removeprefix(prefix).partition(".")
            if child in children:
                label = children[child]
                return None if label is None else f"{row}[{label}]{'.' if rest else ''}{rest}"
    return name
