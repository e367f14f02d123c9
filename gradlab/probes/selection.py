"""Selection of the layers that a probe measures."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Never

from torch import nn
from torch.nn.modules.conv import _ConvNd

from gradlab.errors import UsageError
from gradlab.models import is_projection
from gradlab.probes.weights import (
    Parameters,
    Part,
    WeightRow,
    layer_kind,
    owning_modules,
    owns_weight,
    trained_parts,
    weight_rows,
)
from gradlab.results.grouping import some

__all__ = [
    "Predicate",
    "Selection",
    "depth_layers",
    "find_blocks",
    "layer_kind",
    "layer_stride",
    "paper_layers",
    "select_layers",
    "select_rows",
    "select_weight_layers",
    "weight_layers",
]

Predicate = Callable[[str, nn.Module], bool]
Selection = str | type[nn.Module] | tuple[type[nn.Module], ...] | Sequence[str] | Predicate | None
"""A name or glob (or several, in a list or separated by commas), a class, a predicate of name and module, or None for
the default."""


def select_layers(model: nn.Module, layers: Selection = None) -> dict[str, nn.Module]:
    """Select layers by name, class or predicate, and return them by name in the order of registration.

    Args:
        model: Any module.
        layers: The selection. None selects every module that owns a parameter of two or more dimensions, except for
            normalizations and modules with a descendant that owns one. A glob selects among these (`*` matches dots);
            a name without wildcards selects exactly that module, of any kind.

    Raises:
        UsageError: If nothing is selected, or no module has a given name. The message lists names that exist.
    """
    weighted = weight_layers(model)
    modules = {name: module for name, module in model.named_modules() if name or name in weighted}
    if layers is None:
        return weighted or _nothing(model, "a weight", modules)
    chosen: set[str] = set()
    for wanted in _each(layers):
        if isinstance(wanted, str):
            found = fnmatch.filter(weighted, wanted) if _is_glob(wanted) else [wanted] if wanted in modules else []
            if not found and not _is_glob(wanted):
                _nothing(model, repr(wanted), weighted or modules)
            chosen.update(found)
        else:
            chosen.update(_matching(modules, wanted))
    if not chosen:
        _nothing(model, _words(layers), weighted or modules)
    return {name: module for name, module in modules.items() if name in chosen}


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of any class that apply a weight; see `select_layers`."""
    owners = {name: module for name, module in owning_modules(model) if owns_weight(module)}
    inner = {name.rpartition(".")[0] for name in owners if name}
    above = {
        ".".join(parts[:length]) for name in inner for parts in [name.split(".")] for length in range(len(parts) + 1)
    }
    return {
        name: module
        for name, module in owners.items()
        if name not in above and "norm" not in type(module).__name__.lower()
    }


def select_rows(model: nn.Module, layers: Selection = None, parameters: Parameters = "weights") -> dict[str, WeightRow]:
    """Select the weights whose gradients are measured, as rows of a table.

    Args:
        model: Any module.
        layers: The selection. None selects all of `weight_rows`, or every parameter if there are no weights. A glob
            selects among these rows. A name, class or predicate selects modules: a layer is measured by its weight,
            and any other module by all parameters below it.
        parameters: The parameters to include, see `weight_rows`; `all` adds a selected layer's other parameters.

    Raises:
        UsageError: If nothing is selected, a selected module has no parameters, or parameters are flattened.
    """
    refuse_flattened(model)
    every = weight_rows(model, "all")
    if not every:
        raise UsageError(f"{type(model).__name__} has no parameters: there is no gradient to measure")
    rows = weight_rows(model, parameters)
    if layers is None:
        return rows or every
    modules = {name: module for name, module in model.named_modules() if name or name in rows}
    chosen: dict[str, WeightRow] = {}
    for wanted in _each(layers):
        if not isinstance(wanted, str):
            names = _matching(modules, wanted)
        elif _is_glob(wanted):
            chosen |= {name: rows[name] for name in fnmatch.filter(rows, wanted)}
            continue
        elif wanted in rows or wanted not in modules:
            row = _row_called(model, wanted, rows, every)
            chosen[row.name] = row
            names = [wanted] if wanted in modules else []
        else:
            names = [wanted]
        for name in names:
            chosen |= _rows_of(name, modules[name], every, parameters)
    if not chosen:
        _nothing(model, _words(layers), rows or every)
    order = {id(p): place for place, p in enumerate(p for row in every.values() for p in _parameters(row))}
    places = {name: min(order[id(p)] for p in _parameters(row)) for name, row in chosen.items()}
    return dict(sorted(chosen.items(), key=lambda item: places[item[0]]))


def refuse_flattened(model: nn.Module) -> None:
    """Raise an error for `FullyShardedDataParallel`, under which a weight is a piece of a line of numbers.

    Raises:
        UsageError: That says what to do.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise UsageError(
            "FullyShardedDataParallel flattens parameters, so that no layer has a weight that it is known by: shard "
            "the model with torch.distributed.fsdp.fully_shard, under which every layer is measured over all shards"
        )


def _parameters(row: WeightRow) -> list[nn.Parameter]:
    return [part.parameter for part in row.parts]


def _row_called(model: nn.Module, name: str, rows: dict[str, WeightRow], every: dict[str, WeightRow]) -> WeightRow:
    """Return the row with a name, or that of the parameter with the name."""
    if row := rows.get(name) or every.get(name):
        return row
    found = next((row for row in every.values() if any(part.name == name for part in row.parts)), None)
    return found or _nothing(model, repr(name), rows or every)


def _rows_of(name: str, module: nn.Module, every: dict[str, WeightRow], parameters: Parameters) -> dict[str, WeightRow]:
    """Return the row of a selected module: its weight without its bias, or all parameters below it."""
    own = {key: row for key, row in every.items() if row.module == name}
    if name in own:
        return own if parameters == "all" else {name: own[name]}
    if weight := trained_parts(name, module).get("weight"):
        return own if parameters == "all" else {name: WeightRow(name, layer_kind(module), name, weight)}
    parts = [Part(f"{name}.{key}" if name else key, parameter) for key, parameter in module.named_parameters()]
    if not parts:
        raise UsageError(f"layer {name} ({type(module).__name__}) has no parameters: select another")
    return {name: WeightRow(name, layer_kind(module), name, parts)}


def _each(layers: Selection) -> list[str | type[nn.Module] | Predicate]:
    """Return the items of a selection as a list."""
    if isinstance(layers, str):
        return [name.strip() for name in layers.split(",")]
    if isinstance(layers, Iterable) and not isinstance(layers, type):
        return [part for one in layers for part in _each(one)]
    if layers is None or not callable(layers):
        raise UsageError(f"layers takes names, globs, classes or a predicate of name and module, not {layers!r}")
    return [layers]


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _matching(modules: dict[str, nn.Module], wanted: type[nn.Module] | Predicate) -> list[str]:
    """Return the names of the modules of a class, or of those that satisfy a predicate."""
    if isinstance(wanted, type):
        return [name for name, module in modules.items() if isinstance(module, wanted)]
    return [name for name, module in modules.items() if wanted(name, module)]


def _words(layers: Selection) -> str:
    if isinstance(layers, str):
        return repr(layers)
    if isinstance(layers, type):
        return f"the class {layers.__name__}"
    return f"any of {layers}" if isinstance(layers, Iterable) else "the given predicate"


def _nothing(model: nn.Module, asked: str, names: Iterable[str]) -> Never:
    """Raise the error that nothing is selected, with names that exist."""
    there = [name for name in names if name] or ["no layers"]
    raise UsageError(f"no layer of {type(model).__name__} matches {asked}; it has {some(there, 6)}")


def layer_stride(module: nn.Module) -> int:
    """Return the stride of a convolution's first dimension, or 1 for any other module."""
    return int(module.stride[0]) if isinstance(module, _ConvNd) else 1


def select_weight_layers(model: nn.Module, layers: Selection = None) -> dict[str, nn.Module]:
    """Select layers with `select_layers`, from a model that must have parameters.

    Raises:
        UsageError: If nothing is selected, or the model has no parameters.
    """
    if next(model.parameters(), None) is None:
        raise UsageError(f"{type(model).__name__} has no parameters: there is no gradient to measure")
    return select_layers(model, layers)


def paper_layers(model: nn.Module) -> list[str] | None:
    """Name the layers of Fig. 7 of He et al. 2015: a convolutional network's convolutions, without projections.

    Returns:
        The names, or None for a network whose weight layers are not mostly convolutions, where all of them count.
    """
    layers = {n: m for n, m in weight_layers(model).items() if n and not is_projection(n, m)}
    convolutions = [name for name, module in layers.items() if isinstance(module, _ConvNd)]
    return convolutions if 2 * len(convolutions) > len(layers) else None


def depth_layers(model: nn.Module) -> list[str] | None:
    """Name the layers of the depth of a network of convolutions and linear layers, without projections.

    Returns:
        The names, or None if other modules have weights as well, where all of them count.
    """
    rows = weight_rows(model)
    modules = {name: model.get_submodule(name) for name, row in rows.items() if row.module == name}
    plain = len(modules) == len(rows) and all(isinstance(m, _ConvNd | nn.Linear) for m in modules.values())
    return [name for name, row in rows.items() if not row.shortcut] if plain and "" not in rows else None


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Find the building blocks of a network, such as its residual blocks, by name.

    A block is an element of an `nn.Sequential` or `nn.ModuleList` that contains at least two convolutions or linear
    layers, and no smaller such element.
    """
    elements = {
        f"{name}.{child}".removeprefix("."): module
        for name, row in model.named_modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
        for child, module in row.named_children()
        if sum(isinstance(m, _ConvNd | nn.Linear) for m in module.modules()) >= 2
    }
    return {n: m for n, m in elements.items() if not any(other.startswith(f"{n}.") for other in elements)}
