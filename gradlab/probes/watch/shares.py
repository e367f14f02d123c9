"""What one rank has found of a statistic, as it is joined with what others have found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from gradlab.probes.ranks import joint_order
from gradlab.probes.watch.piece import Found, Value

_SAME = 1e-6
"""The largest relative difference between ranks of what is the same on all of them, such as averaged gradients."""


class Share(Protocol):
    """A statistic over the examples of one rank."""

    @property
    def value(self) -> float:
        """The statistic."""

    def join(self, others: Sequence[Self], ranks: int) -> float:
        """Return the statistic over the examples of all ranks.

        Args:
            others: The shares of the ranks that have any, with this one.
            ranks: The number of all ranks.
        """


@dataclass(frozen=True)
class MeanShare:
    """The mean of some values, and how many there are."""

    value: float
    count: float

    def join(self, others: Sequence[MeanShare], ranks: int) -> float:
        """See `Share`."""
        return _mean([(share.value, share.count) for share in others])


@dataclass(frozen=True)
class StdShare:
    """The population std of some values, their mean, and how many there are."""

    value: float
    mean: float
    count: float

    def join(self, others: Sequence[StdShare], ranks: int) -> float:
        """Return the std of all values (Chan et al.): their squared distances from the mean over all of them."""
        mean = _mean([(share.mean, share.count) for share in others])
        return math.sqrt(_mean([(share.value**2 + (share.mean - mean) ** 2, share.count) for share in others]))


@dataclass(frozen=True)
class LargestShare:
    """The largest of some values."""

    value: float

    def join(self, others: Sequence[LargestShare], ranks: int) -> float:
        """See `Share`."""
        return max(share.value for share in others)


@dataclass(frozen=True)
class RmsShare:
    """The root mean square of the loss's gradient by some values, and how many there are.

    The loss is the mean of the ranks' losses, as in `gradlab.probes.response_steps.merged_steps`.
    """

    value: float
    count: float

    def join(self, others: Sequence[RmsShare], ranks: int) -> float:
        """See `Share`."""
        return math.sqrt(_mean([(share.value**2, share.count) for share in others])) / ranks


@dataclass(frozen=True)
class IdleShare:
    """Which units of an activation are 0 for all examples of a rank."""

    units: tuple[bool, ...]

    @property
    def value(self) -> float:
        """Their share."""
        return sum(self.units) / len(self.units)

    def join(self, others: Sequence[IdleShare], ranks: int) -> float:
        """Return the share of units that are 0 for the examples of all ranks."""
        units = [all(together) for together in zip(*(share.units for share in others), strict=True)]
        return sum(units) / len(units)


def _mean(weighted: Sequence[tuple[float, float]]) -> float:
    total = math.fsum(count for _, count in weighted)
    return math.fsum(value * count for value, count in weighted) / total if total else math.nan


def values_of(found: Sequence[Found]) -> list[Value]:
    """Return the values of one rank alone."""
    values = [(layer, name, share if isinstance(share, float) else share.value) for layer, name, share in found]
    return [value for value in values if _is_said(value)]


def joined_values(by_rank: Sequence[Sequence[Found]], differing: dict[str, None]) -> list[Value]:
    """Return the values over the examples of all ranks.

    Args:
        by_rank: What each rank has found.
        differing: Gets the names of statistics that should be the same on all ranks and are not; these are left out.
    """
    tables = [{(layer, name): share for layer, name, share in found} for found in by_rank]
    values: list[Value] = []
    for layer, name in joint_order([list(table) for table in tables]):
        found = [table[layer, name] for table in tables if (layer, name) in table]
        first = found[0]
        if isinstance(first, StdShare) and len(found) < sum((layer, "response_mean") in table for table in tables):
            # The mean has taken the digits of another rank's std.
            continue
        if not isinstance(first, float):
            values.append((layer, name, first.join(found, len(by_rank))))  # type: ignore[arg-type]
        elif all(_same(first, other) for other in found):
            values.append((layer, name, first))
        else:
            differing.setdefault(name)
    return [value for value in values if _is_said(value)]


def _is_said(value: Value) -> bool:
    """Return whether a value is recorded: a share of what is not finite only where there is any."""
    return value[1] != "non_finite_fraction" or value[2] > 0


def _same(one: float, other: object) -> bool:
    if not isinstance(other, float) or math.isnan(one) or math.isnan(other):
        return isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= _SAME * max(abs(one), abs(other))
