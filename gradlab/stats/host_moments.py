"""Moments of tensors in the CPU's memory as plain numbers, for hooks that run at every layer of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.stats import native
from gradlab.stats.fast_moments import trusted_sums, wide_row_sums
from gradlab.stats.memory_rows import memory_rows, summable


@dataclass(frozen=True, slots=True)
class HostMoments:
    """Moments of one set of values.

    Attributes:
        count: The number of finite values.
        mean: Their mean, 0 where the count is 0.
        m2: The sum of their squared deviations from the mean.
        non_finite: The number of NaNs and infinities, which are left out of the above.
        largest: The largest absolute value, NaN if a value is NaN.
        precision: The relative rounding error of the sums; see `fast_moments.resolves`.
    """

    count: float = 0.0
    mean: float = 0.0
    m2: float = 0.0
    non_finite: float = 0.0
    largest: float = 0.0
    precision: float = 0.0

    @property
    def std(self) -> float:
        """The population standard deviation (divisor n), NaN where the count is 0."""
        return math.sqrt(self.m2 / self.count) if self.count else math.nan

    def merge(self, other: HostMoments) -> HostMoments:
        """Return the moments of both sets together (Chan, Golub and LeVeque 1979, Eq. 2.1)."""
        count = self.count + other.count
        share = other.count / max(1.0, count)
        delta = other.mean - self.mean
        return HostMoments(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * self.count * share,
            self.non_finite + other.non_finite,
            math.nan if math.isnan(self.largest + other.largest) else max(self.largest, other.largest),
            max(self.precision, other.precision),
        )


def host_moments(x: Tensor) -> HostMoments:
    """Compute the moments of a real tensor in the CPU's memory, in two or three passes at the speed of memory.

    Sums, range and accuracy are those of `FastMoments`, whose tensors cost more than the sums where layers are small.
    The sums take one pass by `gradlab.stats.native` where that is available, and two otherwise.

    Args:
        x: Any floating dtype, shape and layout of strides.
    """
    x = x.detach()
    if not x.numel():
        return HostMoments()
    low, high = torch.aminmax(x)
    precision, lost = torch.finfo(torch.float64).eps, 0.0
    if (found := native.sums(x)) is not None:
        total, squares = found
    else:
        wide = summable(x)
        precision, total, squares = torch.finfo(wide.dtype).eps, 0.0, 0.0
        for rows in memory_rows(wide):
            if rows.numel():
                part = _row_totals(rows)
                total, squares, lost = total + part[0], squares + part[1], lost + part[2]
    count = x.numel() - lost
    mean = total / max(1.0, count)
    m2 = max(0.0, squares - total * mean)
    largest = max(abs(low.item()), abs(high.item()))
    return HostMoments(count, mean, m2, lost, largest, precision)


def _row_totals(rows: Tensor) -> tuple[float, float, float]:
    """Return the sum and the sum of squares of the finite values of rows, and the number of others."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    if trusted_sums(norms, rows, together=True):
        wide = norms.double()
        return rows.sum(1).sum(dtype=torch.float64).item(), torch.dot(wide, wide).item(), 0.0
    sums, norms, lost = wide_row_sums(rows)
    return sums.sum().item(), norms.double().square().sum().item(), float(lost.sum().item())
