"""What one rank has found of a statistic, as it is joined with what others have found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from gradlab.probes.split_signals import Split

Value = tuple[str, str, float]
"""A layer, a statistic, and its value."""


class Share(Protocol):
    """A statistic over the values of one rank, or of several."""

    @property
    def value(self) -> float:
        """The statistic."""

    def joined(self, every: Sequence[Self], split: Split) -> Self | None:
        """Return the statistic over the values of several ranks.

        Args:
            every: The shares of those that have any, with this one.
            split: What the ranks have apart: examples or positions, or channels.

        Returns:
            The joint share; None if what they have apart does not tell it.
        """

    def of_mean_loss(self, ranks: int) -> float:
        """Return the statistic where the loss is the mean of the losses of some ranks, or of groups that share one."""


Found = tuple[str, str, float | Share]
"""A layer, a statistic, and what this process has found of it; a number is the same on all ranks of a training."""


@dataclass(frozen=True)
class MeanShare:
    """The mean of some values, and how many there are."""

    value: float
    count: float

    def joined(self, every: Sequence[MeanShare], split: Split) -> MeanShare:
        """See `Share`."""
        return MeanShare(*_mean([(share.value, share.count) for share in every]))

    def of_mean_loss(self, ranks: int) -> float:
        """See `Share`."""
        return self.value


@dataclass(frozen=True)
class StdShare:
    """The population std of some values, their mean, and how many there are."""

    value: float
    mean: float
    count: float

    def joined(self, every: Sequence[StdShare], split: Split) -> StdShare:
        """Return the std of all values (Chan et al.): their squared distances from the mean over all of them."""
        mean, count = _mean([(share.mean, share.count) for share in every])
        square, _ = _mean([(share.value**2 + (share.mean - mean) ** 2, share.count) for share in every])
        return StdShare(math.sqrt(square), mean, count)

    def of_mean_loss(self, ranks: int) -> float:
        """See `Share`."""
        return self.value


@dataclass(frozen=True)
class LargestShare:
    """The largest of some values."""

    value: float

    def joined(self, every: Sequence[LargestShare], split: Split) -> LargestShare:
        """See `Share`."""
        return LargestShare(max(share.value for share in every))

    def of_mean_loss(self, ranks: int) -> float:
        """See `Share`."""
        return self.value


@dataclass(frozen=True)
class RmsShare:
    """The root mean square of the gradient of the ranks' own losses by some values, and how many values there are."""

    value: float
    count: float

    def joined(self, every: Sequence[RmsShare], split: Split) -> RmsShare:
        """See `Share`."""
        square, count = _mean([(share.value**2, share.count) for share in every])
        return RmsShare(math.sqrt(square), count)

    def of_mean_loss(self, ranks: int) -> float:
        """Return that of the gradient of the mean loss, as in `gradlab.probes.response_steps.merged_steps`."""
        return self.value / ranks


@dataclass(frozen=True)
class IdleShare:
    """Which units of an activation are 0 for all examples of a rank."""

    units: tuple[bool, ...]

    @property
    def value(self) -> float:
        """Their share."""
        return sum(self.units) / len(self.units)

    def joined(self, every: Sequence[IdleShare], split: Split) -> IdleShare | None:
        """Return which units are 0 for the examples of all ranks, or those of all ranks one after the other."""
        if split == "channels":
            return IdleShare(tuple(unit for share in every for unit in share.units))
        if split == "unknown" or len({len(share.units) for share in every}) > 1:
            return None
        return IdleShare(tuple(all(together) for together in zip(*(share.units for share in every), strict=True)))

    def of_mean_loss(self, ranks: int) -> float:
        """See `Share`."""
        return self.value


def _mean(weighted: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the weighted mean, and the sum of the weights."""
    total = math.fsum(count for _, count in weighted)
    return (math.fsum(value * count for value, count in weighted) / total if total else math.nan), total


def values_of(found: Sequence[Found]) -> list[Value]:
    """Return the values of one rank alone."""
    values = [(layer, name, share if isinstance(share, float) else share.value) for layer, name, share in found]
    return [value for value in values if is_said(value)]


def is_said(value: Value) -> bool:
    """Return whether a value is recorded: what is not finite, and what was not cleared, only where there is any."""
    return value[1] not in ("non_finite_fraction", "left_grad_norm") or value[2] > 0
