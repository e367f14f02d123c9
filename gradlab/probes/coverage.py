"""What part of a model's parameters a probe has measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from gradlab.probes.weights import Part, WeightRow, weight_rows
from gradlab.results import Coverage

NOT_SELECTED = "not selected"
VECTORS = 'vectors and scalars, which parameters="all" adds'


def coverage_of(
    model: nn.Module,
    measured: Iterable[WeightRow],
    left_out: Mapping[str, str] | None = None,
    *,
    vectors: str = VECTORS,
) -> Coverage:
    """Count what was measured of a model's parameters, each element once, and name the rest.

    Args:
        model: The model.
        measured: The rows that have a value, or a reason to have none: of `weight_rows`, or made of such parameters.
        left_out: Why a row of `weight_rows(model, "all")` was not measured, by its name; the others of two or more
            dimensions were not selected.
        vectors: The reason for all other parameters.
    """
    every, weights = weight_rows(model, "all"), weight_rows(model)
    seen = {part.key for row in measured for part in row.parts}
    covered = {row.name for row in every.values() if all(_is_among(part, seen) for part in row.parts)}
    reasons: dict[str, list[str]] = {}
    for name in every:
        if name not in covered:
            reason = (left_out or {}).get(name) or (NOT_SELECTED if name in weights else vectors)
            reasons.setdefault(reason, []).append(name)
    return Coverage(
        measured=_elements(every[name] for name in covered),
        total=_elements(every.values()),
        weights_measured=_elements(row for name, row in weights.items() if name in covered),
        weights_total=_elements(weights.values()),
        layers_measured=sum(name in covered for name in weights),
        layers_total=len(weights),
        left_out=reasons,
    )


def module_rows(model: nn.Module, name: str) -> list[WeightRow]:
    """The rows of all parameters that a module has itself or below it.

    Args:
        model: The model.
        name: The module's qualified name.
    """
    inner = f"{name}." if name else ""
    return [row for row in weight_rows(model, "all").values() if f"{row.module}.".startswith(inner)]


def depth_of(model: nn.Module) -> int:
    """The layers that count towards a network's depth: those that apply a weight, without the projections of shortcuts.

    The query, key and value of `nn.MultiheadAttention` count as one, as do the weights of a recurrent layer.
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
    """Whether a part was seen, or the whole parameter that it is of."""
    return part.key in seen or (id(part.parameter), str(None)) in seen


def _elements(rows: Iterable[WeightRow]) -> int:
    """The elements of rows, those of tied parameters once."""
    sizes = {part.key: part.numel for row in rows for part in row.parts}
    return sum(sizes.values())
