"""Follows what is not finite back to where it began."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradlab.probes.nonfinite.naming import PRODUCTS
from gradlab.probes.nonfinite.values import Operation, Source, Value


@dataclass(frozen=True)
class Fault:
    """Where a value that is not finite began.

    Attributes:
        value: The first one; of what came from outside as it was taken.
        operation: What made it, or the first to compute with it.
        source: Whose it is that came from outside; None where an operation made it.
        on_purpose: Whether it is an infinity alone that somebody put there, as masks are.
        masked: Whether the operation made NaN of infinities that were put there on purpose.
    """

    value: Value
    operation: Operation | None = None
    source: Source | None = None
    on_purpose: bool = False
    masked: bool = False


def faults(values: Iterable[Value]) -> dict[Value, Fault]:
    """Where each value began that is not finite.

    An operation whose inputs are finite and whose output is not is where it began. What it makes of an input that is
    not finite began there, unless infinities alone were put there on purpose, as masks are, and NaN comes of them. What
    becomes finite again ends there: no value that is finite has a beginning.

    Args:
        values: Settled, in the order of their numbers.
    """
    found: dict[Value, Fault] = {}
    for value in values:
        if not value.is_finite and not value.unset:
            found[value] = _made(value, found) if value.maker else _read(value, found)
    return found


def earliest(candidates: Iterable[Fault]) -> Fault | None:
    """The one that began first; one on purpose only where there is no other."""
    # Of what came from outside, an operation that has computed with it knows more than a sum that it skips to.
    return min(candidates, key=lambda f: (f.on_purpose, f.value.number, f.operation is None), default=None)


def _read(value: Value, found: dict[Value, Fault]) -> Fault:
    """Of what was looked at in memory: what was written there, else it came from outside."""
    before = earliest(found[writer] for writer in value.writers if writer in found)
    if before is not None:
        return before
    unset = next((writer for writer in value.writers if writer.unset), None)
    if unset is not None:
        return Fault(value, unset.maker)
    return Fault(value, source=value.source or Source("input"), on_purpose=_may_be_mask(value))


def _made(value: Value, found: dict[Value, Fault]) -> Fault:
    operation = value.maker
    assert operation is not None
    before = earliest(found[given] for given in operation.inputs if given in found)
    if before is None:
        return Fault(value, operation, on_purpose=operation.constant and not value.has_nan)
    if before.on_purpose and value.has_nan and operation.name not in PRODUCTS and not operation.passes:
        return Fault(value, operation, masked=True)
    if before.operation is None and not operation.passes:
        # The first to compute with what came from outside. A product takes no infinity for a mask.
        return Fault(before.value, operation, before.source, before.on_purpose and operation.name not in PRODUCTS)
    if before.on_purpose and value.has_nan:
        return Fault(before.value, before.operation, before.source)
    return before


def _may_be_mask(value: Value) -> bool:
    """Whether a tensor from outside holds infinities of one sign alone, and is none of the model's weights."""
    kind = value.source.kind if value.source else "input"
    if value.has_nan or kind == "weight":
        return False
    low, high = value.smallest == -float("inf"), value.largest == float("inf")
    return low and not high
