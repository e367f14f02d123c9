"""The statistics of layers and of the whole model, of what was measured of their parameters: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from gradlab.probes.watch.shares import Value
from gradlab.probes.weights import Part, WeightRow
from gradlab.results.dynamics.names import TOTAL
from gradlab.stats.updates import angle

Fields = Mapping[str, float]

_SAME_FACTOR = 1e-3
"""By how much, relatively, the factors may differ that clipping by the total norm multiplies gradients by."""


def layer_values(rows: Mapping[str, WeightRow], parts: Sequence[Part], known: Mapping[int, Fields]) -> Iterator[Value]:
    """The statistics of every layer whose parameters were measured.

    Args:
        rows: What counts as one layer, by name.
        parts: In the order of their numbers.
        known: Of parts by number, some of `parameters.FIELDS`.
    """
    numbers = {part.key: number for number, part in enumerate(parts)}
    for name, row in rows.items():
        fields = [known[number] for part in row.parts if (number := numbers[part.key]) in known]
        if fields:
            for statistic, value in _statistics(fields, row.numel):
                yield name, statistic, value


def total_values(parts: Sequence[Part], known: Mapping[int, Fields]) -> Iterator[Value]:
    """The statistics of all parameters together, no element of which counts twice.

    Besides those of layers: the norm of the gradient after clipping, as the optimizer was given it, and the change of
    the loss that the gradient predicts, Σ g·Δw, where clipping was by the total norm, or none.
    """
    whole = {id(part.parameter) for part in parts if part.rows is None}
    once = [n for n in known if parts[n].rows is None or id(parts[n].parameter) not in whole]
    fields = [known[number] for number in once]
    if not fields:
        return
    for statistic, value in _statistics(fields, sum(parts[number].numel for number in once)):
        yield TOTAL, statistic, value
    if there := [f["given"] for f in fields if "given" in f]:
        yield TOTAL, "grad_norm_clipped", math.hypot(*there)
    factor = _clipping(fields)
    if factor is not None and (products := [f["product"] for f in fields if "product" in f]):
        yield TOTAL, "predicted_loss_change", math.fsum(products) * factor


def _statistics(fields: Sequence[Fields], numel: int) -> Iterator[tuple[str, float]]:
    weight = _joint(fields, "weight")
    gradient, update = _joint(fields, "gradient"), _joint(fields, "update")
    if gradient is not None:
        yield "grad_norm", gradient
        yield "grad_rms", gradient / math.sqrt(numel) if numel else math.nan
    if weight is not None:
        yield "weight_norm", weight
        if gradient is not None and weight:
            yield "relative", gradient / weight
    if update is None or weight is None:
        return
    if not all(math.isfinite(f.get("stored", 0.0)) for f in fields):
        # The step in 16 bits has come out otherwise than in float32, as where its ε is 0 there.
        yield "update_norm", math.nan
        return
    yield "update_norm", update
    if weight:
        yield "update_ratio", update / weight
    if moving := math.fsum(f.get("moving", 0.0) for f in fields):
        yield "cancelled_fraction", 1 - math.fsum(f.get("changed", 0.0) for f in fields) / moving
    # Of parameters that this step has left alone nothing is known of the gradient.
    moved = [f for f in fields if "product" in f]
    given = _joint(moved, "given")
    if update and given:
        # Rounding may carry the quotient past its ends.
        cosine = -math.fsum(f["product"] for f in moved) / (update * given)
        yield "update_cosine", max(-1.0, min(1.0, cosine))
    ends = [f.get("after", f.get("weight", math.nan)) for f in fields]
    if weight and not math.isnan(turned := angle(weight, math.hypot(*ends), update)):
        yield "angular_update", turned


def _joint(fields: Sequence[Fields], name: str) -> float | None:
    """A norm of several parts as of one; None where none has it."""
    there = [f[name] for f in fields if name in f]
    return math.hypot(*there) if there else None


def _clipping(fields: Sequence[Fields]) -> float | None:
    """By what the given gradients are to be multiplied to be those of the loss; None where that differs by layer."""
    factors = [f["gradient"] / f["given"] for f in fields if f.get("given") and "gradient" in f]
    if not factors or not max(factors) - min(factors) <= _SAME_FACTOR * max(factors):
        return None
    return math.hypot(*(f.get("gradient", 0.0) for f in fields)) / math.hypot(*(f.get("given", 0.0) for f in fields))
