"""The fraction of a model's parameters that a probe has measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from gradlab.facts import architecture_of
from gradlab.probes.weights import Part, WeightRow, weight_rows
from gradlab.results.coverage import Coverage

NOT_SELECTED = "not selected"
VECTORS = 'vectors and scalars, which parameters="all" adds'
PACKED = "quantized weights that are no parameters, and are not counted"


def coverage_of(
    model: nn.Module,
    measured: Iterable[WeightRow],
    left_out: Mapping[str, str] | None = None,
    *,
    vectors: str = VECTORS,
) -> Coverage:
    """Count the measured elements of a model's parameters, each once, and list the rest.

    Args:
        model: The model.
        measured: The rows with a value or a stated reason for its absence, from `weight_rows` or with the same
            parameters.
        left_out: The reason why a row of `weight_rows(model, "all")` was not measured, by name; other weights were
            not selected.
        vectors: The reason for all other parameters, which have fewer than two dimensions.
    """
    every, weights = weight_rows(model, "all"), weight_rows(model)
    seen = {part.key for row in measured for part in row.parts}
    covered = {row.name for row in every.values() if all(_is_among(part, seen) for part in row.parts)}
    reasons: dict[str, list[str]] = {}
    for name in every:
        if name not in covered:
            reason = (left_out or {}).get(name) or (NOT_SELECTED if name in weights else vectors)
            reasons.setdefault(reason, []).append(name)
    if packed := _packed_layers(model):
        reasons[PACKED] = packed
    return Coverage(
        measured=_elements(every[name] for name in covered),
        total=_elements(every.values()),
        weights_measured=_elements(row for name, row in weights.items() if name in covered),
        weights_total=_elements(weights.values()),
        layers_measured=sum(name in covered for name in weights),
        layers_total=len(weights),
        left_out=reasons,
    )


def _packed_layers(model: nn.Module) -> list[str]:
    """The layers of `torch.ao.nn.quantized`, whose weights only a method returns."""
    return [
        name
        for name, module in model.named_modules()
        if type(module).__module__.startswith("torch.ao.nn.quantized")
        and (callable(getattr(module, "weight", None)) or hasattr(module, "get_weight"))
    ]


def module_rows(model: nn.Module, name: str) -> list[WeightRow]:
    """Return the rows of all parameters of a module and its descendants.

    Args:
        model: The model.
        name: The qualified name of the module.
    """
    inner = f"{name}." if name else ""
    return [row for row in weight_rows(model, "all").values() if f"{row.module}.".startswith(inner)]


def coverage_of_modules(model: nn.Module, names: Iterable[str], reason: str) -> Coverage:
    """Count the elements of the parameters of modules and their descendants, and list the rest.

    Args:
        model: The model.
        names: The qualified names of the modules; for one without parameters, its closest ancestor with some counts.
        reason: The reason why the other parameters do not count.
    """
    owners = dict.fromkeys(_owner(model, name) for name in names)
    rows = {row.name: row for name in owners for row in module_rows(model, name)}
    return coverage_of(model, rows.values(), dict.fromkeys(weight_rows(model, "all"), reason))


def _owner(model: nn.Module, name: str) -> str:
    while name and next(model.get_submodule(name).parameters(), None) is None:
        name = name.rpartition(".")[0]
    return name


def depth_of(model: nn.Module) -> int:
    """Count the layers of a network's depth: those that apply a weight, without the projections of shortcuts.

    The query, key and value of `nn.MultiheadAttention` count as one layer, as do the weights of a recurrent layer.
    """
    rows = weight_rows(model).values()
    return len(
        {
            row.name if row.name == row.module else row.module
            for row in rows
            if not row.shortcut and row.kind != "parameter"
        }
    )


def _is_among(part: Part, seen: set[tuple[int, str]]) -> bool:
    """Return whether a part was seen, or the whole parameter to which it belongs."""
    return part.key in seen or (id(part.parameter), str(None)) in seen


def _elements(rows: Iterable[WeightRow]) -> int:
    """Count the elements of rows, those of tied parameters once."""
    sizes = {part.key: part.numel for row in rows for part in row.parts}
    return sum(sizes.values())


def description_of(model: nn.Module) -> dict[str, Any] | None:
    """The facts of the architecture of a network that `gl.build` made, as plain values; None of any other."""
    description = architecture_of(model)
    return None if description is None else dict(description.to_dict())
