"""Count, mean and centred second moment of tensors, mergeable in float64.

Two forms behind one interface: `CentredMoments` is exact for any data, `FastMoments` (in `fast_moments`) costs two
passes at the speed of memory and serves inside hooks. `Moments.merge` joins batches (Chan, Golub and LeVeque 1979,
"Updating formulae and a pairwise algorithm for computing sample variances", Eq. 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

WELL_CONDITIONED = 10.0
"""|mean| / std up to which `FastMoments` of float32 gives the std to 1e-6 relative."""

_CHUNK = 1 << 20
"""Elements copied at a time, where a copy is needed."""


@dataclass
class Moments:
    """Moments of a set of values, or of one set a channel; all four tensors have one shape, () or (C,).

    Attributes:
        count: Finite values seen, float64.
        mean: Their mean, float64; 0 where count is 0.
        m2: Sum of squared deviations from the mean, float64.
        non_finite: NaNs and infinities seen and left out, float64.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    non_finite: Tensor

    @property
    def variance(self) -> Tensor:
        """Population variance (divisor n), NaN where nothing was counted."""
        return self.m2 / self.count

    @property
    def std(self) -> Tensor:
        """Population standard deviation (divisor n), NaN where nothing was counted."""
        return self.variance.sqrt()

    @property
    def condition(self) -> Tensor:
        """|mean| / std: beyond `WELL_CONDITIONED` the fast form in float32 loses digits."""
        return self.mean.abs() / self.std

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together; no host synchronization."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * share,
            m2=self.m2 + other.m2 + delta.square() * self.count * share,
            non_finite=self.non_finite + other.non_finite,
        )

    def pooled(self) -> Moments:
        """The moments of all channels taken as one set: from shape (C,) to shape ()."""
        count = self.count.sum()
        mean = (self.count * self.mean).sum() / count.clamp(min=1)
        between = (self.count * (self.mean - mean).square()).sum()
        return Moments(count, mean, self.m2.sum() + between, self.non_finite.sum())


def complex_moments(real: Moments, imaginary: Moments) -> Moments:
    """The moments of complex values from those of their parts as of `finite_parts`.

    Returns:
        The mean is |E x|, the sum of squared deviations that of |x − E x|², so that the std is √E|x − E x|². Such
        moments cannot be merged: `Moments.merge` wants those of the parts.
    """
    return Moments(real.count, torch.hypot(real.mean, imaginary.mean), real.m2 + imaginary.m2, real.non_finite)


def finite_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """The real and the imaginary part of complex values, both NaN where either is not finite."""
    x = x.where(x.isfinite(), complex(float("nan"), float("nan")))
    return x.real, x.imag


def centred_moments(x: Tensor, channel_dim: int | None = None) -> Moments:
    """Moments of a tensor, exact to float64 rounding whatever its mean; see `CentredMoments`."""
    accumulator = CentredMoments(channel_dim)
    accumulator.update(x)
    return accumulator.moments()


class Accumulator(Protocol):
    """Moments of a stream of tensors, of shape () or (C,)."""

    def update(self, x: Tensor) -> None:
        """Take in a tensor of any dtype, see `complex_moments` for complex ones; nothing of it is kept."""

    def mark(self) -> None:
        """Have `undo` come back to here."""

    def undo(self) -> None:
        """Forget the tensors since `mark`."""

    def moments(self) -> Moments:
        """The moments of all tensors so far; there must have been one."""


class CentredMoments:
    """Accumulates `centred_moments`: exact for any data.

    Args:
        channel_dim: Dimension to keep; None takes all values as one set.
    """

    def __init__(self, channel_dim: int | None = None) -> None:
        self.channel_dim = channel_dim
        self._total: Moments | None = None
        self._marked: Moments | None = None
        self._imaginary: CentredMoments | None = None

    def update(self, x: Tensor) -> None:
        """Take in a tensor of any dtype, see `complex_moments` for complex ones; nothing of it is kept."""
        x = x.detach()
        if x.is_complex():
            x, imaginary = finite_parts(x)
            self._imaginary = self._imaginary or CentredMoments(self.channel_dim)
            self._imaginary.update(imaginary)
        part = _centred(x, self.channel_dim)
        self._total = part if self._total is None else self._total.merge(part)

    def mark(self) -> None:
        """Have `undo` come back to here."""
        self._marked = self._total
        if self._imaginary is not None:
            self._imaginary.mark()

    def undo(self) -> None:
        """Forget the tensors since `mark`."""
        self._total = self._marked
        if self._imaginary is not None:
            self._imaginary.undo()

    def moments(self) -> Moments:
        """The moments of all tensors so far; there must have been one."""
        assert self._total is not None
        return self._total if self._imaginary is None else complex_moments(self._total, self._imaginary.moments())


def _centred(x: Tensor, channel_dim: int | None) -> Moments:
    """Moments of one real tensor.

    Deviations are formed in float64 from the mean itself, a chunk at a time, so memory stays small.

    Args:
        x: Of any real dtype.
        channel_dim: Dimension to keep; None takes all values as one set.

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
