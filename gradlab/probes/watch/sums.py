"""What is summed of the responses of one site: moments, and the largest absolute value."""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

from gradlab.stats import FastMoments
from gradlab.stats.fast_moments import resolves
from gradlab.stats.host_moments import HostMoments, host_moments


class Sums(Protocol):
    """Sums over the tensors of one site, none of which is kept."""

    def update(self, x: Tensor) -> None:
        """Add a tensor."""

    def mark(self) -> None:
        """Mark the present state as the one that `undo` restores."""

    def undo(self) -> None:
        """Forget the tensors added since `mark`."""

    def numbers(self) -> Tensor:
        """Return count, mean, std, number of non-finite values and largest absolute value, shape (5,)."""

    def resolves(self, mean: float, std: float) -> bool:
        """Return whether a std is accurate to about 0.1 %."""


def sums_for(x: Tensor) -> Sums:
    """Return empty sums of the kind that is fastest for tensors like this one."""
    return HostSums() if x.is_cpu and not x.is_complex() else DeviceSums()


class HostSums:
    """Sums as plain numbers, for real tensors in the CPU's memory."""

    def __init__(self) -> None:
        self._parts: list[HostMoments] = []
        self._marked = 0

    def update(self, x: Tensor) -> None:
        """See `Sums`."""
        self._parts.append(host_moments(x))

    def mark(self) -> None:
        """See `Sums`."""
        self._marked = len(self._parts)

    def undo(self) -> None:
        """See `Sums`."""
        del self._parts[self._marked :]

    def numbers(self) -> Tensor:
        """See `Sums`."""
        whole = self._whole()
        values = [whole.count, whole.mean, whole.std, whole.non_finite, whole.largest]
        return torch.tensor(values, dtype=torch.float64)

    def resolves(self, mean: float, std: float) -> bool:
        """See `Sums`."""
        return resolves(self._whole().precision, mean, std)

    def _whole(self) -> HostMoments:
        return functools.reduce(HostMoments.merge, self._parts, HostMoments())


class DeviceSums:
    """Sums that stay on the tensors' device, so that nothing waits for it."""

    def __init__(self) -> None:
        self._moments = FastMoments()
        self._largest: list[Tensor] = []
        self._marked = 0

    def update(self, x: Tensor) -> None:
        """See `Sums`."""
        self._moments.update(x)
        if x.numel():
            x = x.detach()
            low, high = torch.aminmax(x.abs() if x.is_complex() else x)
            self._largest.append(torch.maximum(low.abs(), high.abs()))

    def mark(self) -> None:
        """See `Sums`."""
        self._moments.mark()
        self._marked = len(self._largest)

    def undo(self) -> None:
        """See `Sums`."""
        self._moments.undo()
        del self._largest[self._marked :]

    def numbers(self) -> Tensor:
        """See `Sums`."""
        moments = self._moments.moments()
        largest = [value.to(moments.mean) for value in self._largest] or [torch.zeros_like(moments.mean)]
        return torch.stack([moments.count, moments.mean, moments.std, moments.non_finite, torch.stack(largest).amax()])

    def resolves(self, mean: float, std: float) -> bool:
        """See `Sums`."""
        return self._moments.resolves(mean, std)
