"""Count, mean and centred second moment of tensors, mergeable in float64.

There are two implementations of one interface: `CentredMoments` is exact for any data, and `FastMoments` (in
`fast_moments`) makes two passes at the speed of memory, for use inside hooks. `Moments.merge` joins batches (Chan,
Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances", Eq. 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gradlab.stats.across_devices import joint_device

WELL_CONDITIONED = 10.0
"""Largest |mean| / std for which `FastMoments` of float32 gives the std with a relative error of at most 1e-6."""

_CHUNK = 1 << 20
"""Number of elements copied at a time, where a copy is needed."""


@dataclass
class Moments:
    """Moments of one set of values, or of one set per channel, as float64 tensors of shape () or (C,).

    Attributes:
        count: The number of finite values.
        mean: Their mean, 0 where the count is 0.
        m2: The sum of their squared deviations from the mean.
        non_finite: The number of NaNs and infinities, which are left out.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    non_finite: Tensor

    @property
    def variance(self) -> Tensor:
        """Population variance (divisor n), NaN where the count is 0."""
        return self.m2 / self.count

    @property
    def std(self) -> Tensor:
        """Population standard deviation (divisor n), NaN where the count is 0."""
        return self.variance.sqrt()

    @property
    def condition(self) -> Tensor:
        """The ratio |mean| / std; above `WELL_CONDITIONED`, `FastMoments` in float32 loses digits."""
        return self.mean.abs() / self.std

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the union of both sets, on whichever devices, without host synchronization."""
        if self.count.device != other.count.device:
            device = joint_device(self.count, other.count)
            return self.to(device).merge(other.to(device))
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * share,
            m2=self.m2 + other.m2 + delta.square() * self.count * share,
            non_finite=self.non_finite + other.non_finite,
        )

    def to(self, device: torch.device) -> Moments:
        """Return the moments on a device."""
        values = (self.count, self.mean, self.m2, self.non_finite)
        return Moments(*(value.to(device, non_blocking=device.type != "cpu") for value in values))

    def pooled(self) -> Moments:
        """Return the moments of all channels as one set, from shape (C,) to shape ()."""
        count = self.count.sum()
        mean = (self.count * self.mean).sum() / count.clamp(min=1)
        between = (self.count * (self.mean - mean).square()).sum()
        return Moments(count, mean, self.m2.sum() + between, self.non_finite.sum())


def joined_parts(parts: Sequence[Moments]) -> Moments:
    """Return the moments of real values, given one part, or of complex ones, given their real and imaginary parts."""
    return parts[0] if len(parts) == 1 else complex_moments(*parts)


def fetched(moments: Sequence[Moments]) -> list[Moments]:
    """Copy moments of any shapes to the CPU, in one transfer."""
    if not moments:
        return []
    rows = [torch.stack((m.count, m.mean, m.m2, m.non_finite)) for m in moments]
    flat = torch.cat([row.flatten().to(rows[0].device) for row in rows]).cpu()
    parts = flat.split([row.numel() for row in rows])
    return [Moments(*part.view(row.shape)) for part, row in zip(parts, rows, strict=True)]


def complex_moments(real: Moments, imaginary: Moments) -> Moments:
    """Combine the moments of the real and imaginary parts, as split by `finite_parts`, into those of complex values.

    Returns:
        Moments whose mean is |E x| and whose m2 sums |x − E x|², so that the std is √E|x − E x|². They cannot be
        merged; merge the moments of the parts instead.
    """
    return Moments(real.count, torch.hypot(real.mean, imaginary.mean), real.m2 + imaginary.m2, real.non_finite)


def finite_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real and the imaginary part of complex values, both NaN where either is not finite."""
    x = x.where(x.isfinite(), complex(float("nan"), float("nan")))
    return x.real, x.imag


def centred_moments(x: Tensor, channel_dim: int | None = None) -> Moments:
    """Compute the moments of a tensor, exact to float64 rounding whatever its mean; see `CentredMoments`."""
    accumulator = CentredMoments(channel_dim)
    accumulator.update(x)
    return accumulator.moments()


class Accumulator(Protocol):
    """Moments of a stream of tensors, of shape () or (C,)."""

    def update(self, x: Tensor) -> None:
        """Add a tensor of any dtype and keep no reference to it; see `complex_moments` for complex tensors."""

    def mark(self) -> None:
        """Mark the present state as the one that `undo` restores."""

    def undo(self) -> None:
        """Forget the tensors added since `mark`."""

    def moments(self) -> Moments:
        """Return the moments of all tensors so far, of which there must be at least one."""

    def parts(self) -> list[Moments]:
        """Return the moments of the values, or of the real and the imaginary parts of complex ones, to be merged."""


class CentredMoments:
    """Accumulates moments that are exact to float64 rounding for any data.

    Args:
        channel_dim: The dimension to keep; None treats all values as one set.
    """

    def __init__(self, channel_dim: int | None = None) -> None:
        self.channel_dim = channel_dim
        self._total: Moments | None = None
        self._marked: Moments | None = None
        self._imaginary: CentredMoments | None = None

    def update(self, x: Tensor) -> None:
        """Add a tensor of any dtype and keep no reference to it; see `complex_moments` for complex tensors."""
        x = x.detach()
        if x.is_complex():
            x, imaginary = finite_parts(x)
            self._imaginary = self._imaginary or CentredMoments(self.channel_dim)
            self._imaginary.update(imaginary)
        part = _centred(x, self.channel_dim)
        self._total = part if self._total is None else self._total.merge(part)

    def mark(self) -> None:
        """Mark the present state as the one that `undo` restores."""
        self._marked = self._total
        if self._imaginary is not None:
            self._imaginary.mark()

    def undo(self) -> None:
        """Forget the tensors added since `mark`."""
        self._total = self._marked
        if self._imaginary is not None:
            self._imaginary.undo()

    def moments(self) -> Moments:
        """Return the moments of all tensors so far, of which there must be at least one."""
        return joined_parts(self.parts())

    def parts(self) -> list[Moments]:
        """Return the moments of the values, or of the real and the imaginary parts of complex ones, to be merged."""
        assert self._total is not None
        return [self._total, *([] if self._imaginary is None else self._imaginary.parts())]


def _centred(x: Tensor, channel_dim: int | None) -> Moments:
    """Compute the moments of one real tensor.

    Deviations from the mean itself are formed in float64, one chunk at a time to save memory.

    Args:
        x: A tensor of any real dtype.
        channel_dim: The dimension to keep; None treats all values as one set.

    Returns:
        Moments of shape () or (x.shape[channel_dim],).
    """
    x = x.cpu() if x.device.type == "mps" else x
    channels = 1 if channel_dim is None else x.shape[channel_dim]
    rows = x.reshape(1, -1) if channel_dim is None else x.movedim(channel_dim, 0).flatten(1)
    width = max(1, _CHUNK // max(1, channels))
    total: Moments | None = None
    for chunk in rows.split(width, dim=1):
        chunk = chunk.double()
        finite = chunk.isfinite()
        count = finite.sum(1, dtype=torch.float64)
        mean = chunk.where(finite, 0).sum(1) / count.clamp(min=1)
        m2 = (chunk - mean[:, None]).where(finite, 0).square().sum(1)
        part = Moments(count, mean, m2, chunk.shape[1] - count)
        total = part if total is None else total.merge(part)
    if total is None:
        zeros = x.new_zeros(channels, dtype=torch.float64)
        total = Moments(zeros, zeros, zeros, zeros)
    return total if channel_dim is not None else _first(total)


def _first(moments: Moments) -> Moments:
    return Moments(moments.count[0], moments.mean[0], moments.m2[0], moments.non_finite[0])
