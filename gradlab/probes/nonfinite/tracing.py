"""Traces non-finite values back to their origin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradlab.probes.nonfinite.naming import PRODUCTS
from gradlab.probes.nonfinite.values import Operation, Source, Value


@dataclass(frozen=True)
class Fault:
    """The origin of a non-finite value.

    Attributes:
        value: The first non-finite value, as it was read if it came from outside.
        operation: The operation that returned it, or the first operation that read it.
        source: The source of a value that came from outside; None if an operation returned it.
        on_purpose: Whether it is an infinity that was inserted deliberately, such as a mask.
        masked: Whether the operation turned infinities that were inserted deliberately into NaN.
    """

    value: Value
    operation: Operation | None = None
    source: Source | None = None
    on_purpose: bool = False
    masked: bool = False


def faults(values: Iterable[Value]) -> dict[Value, Fault]:
    """The origin of each non-finite value.

    A non-finite value originates from an operation whose inputs are finite. An output computed from non-finite inputs
    has their origin, unless the inputs were only infinities inserted deliberately, as masks are, and the output is
    NaN. Finite values have no origin, including those computed from non-finite ones.

    Args:
        values: The settled values, in the order of their numbers.
    """
    found: dict[Value, Fault] = {}
    for value in values:
        if not value.is_finite and not value.unset:
            found[value] = _made(value, found) if value.maker else _read(value, found)
    return found


def earliest(candidates: Iterable[Fault]) -> Fault | None:
    """The earliest fault; a deliberate one only if there is no other."""
    # For a value from outside, an operation that has computed with it is more informative than a later sum.
    return min(candidates, key=lambda f: (f.on_purpose, f.value.number, f.operation is None), default=None)


def _read(value: Value, found: dict[Value, Fault]) -> Fault:
    """The origin of a value that was read from memory: the value written there, or else a value from outside."""
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
        # This is the first operation that reads a value from outside. In a product, an infinity is not a mask.
        return Fault(before.value, operation, before.source, before.on_purpose and operation.name not in PRODUCTS)
    if before.on_purpose and value.has_nan:
        return Fault(before.value, before.operation, before.source)
    return before


def _may_be_mask(value: Value) -> bool:
    """Whether a tensor from outside has infinities of one sign only and is not a weight of the model."""
    kind = value.source.kind if value.source else "input"
    if value.has_nan or kind == "weight":
        return False
    low, high = value.smallest == -float("inf"), value.largest == float("inf")
    return low and not high
