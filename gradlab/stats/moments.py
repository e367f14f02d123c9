"""Count, mean and centred second moment of tensors, mergeable in float64.

Two forms behind one interface: `CentredMoments` is exact for any data, `FastMoments` costs two passes at
the speed of memory and serves inside hooks. `Moments.merge` joins batches (Chan, Golub and LeVeque 1979,
"Updating formulae and a pairwise algorithm for computing sample variances", Eq. 2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gradlab.stats.precision import widest

WELL_CONDITIONED = 10.0
"""|mean| / std up to which `FastMoments` of float32 gives the std to 1e-6 relative."""

_ROW = 1024
"""Length of a row summed in float32: short enough for its rounding, long enough to be as fast as memory."""

FEW = 1 << 17
"""Below so many elements rounding does not average out over rows, and float64 costs next to nothing."""

_PENDING_ROWS = 8192
"""Rows that `FastMoments` lets wait before it joins them: 64 KiB, so that small batches cost few operations."""

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


def centred_moments(x: Tensor, channel_dim: int | None = None) -> Moments:
    """Moments of a tensor, exact to float64 rounding whatever its mean.

    Deviations are formed in float64 from the mean itself, a chunk at a time, so memory stays small.

    Args:
        x: Any real tensor, of any floating dtype.
        channel_dim: Dimension to keep; None takes all values as one set.

    Returns:
        Moments of shape () or (x.shape[channel_dim],).
    """
    x = x.detach().cpu() if x.device.type == "mps" else x.detach()
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


def fast_moments(x: Tensor, channel_dim: int | None = None) -> Moments:
    """Moments of one tensor as `FastMoments` takes them."""
    accumulator = FastMoments(channel_dim)
    accumulator.update(x)
    return accumulator.moments()


class Accumulator(Protocol):
    """Moments of a stream of tensors, of shape () or (C,)."""

    def update(self, x: Tensor) -> None:
        """Take in a real tensor of any floating dtype; nothing of it is kept."""

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

    def update(self, x: Tensor) -> None:
        """Take in a real tensor of any floating dtype; nothing of it is kept."""
        part = centred_moments(x, self.channel_dim)
        self._total = part if self._total is None else self._total.merge(part)

    def moments(self) -> Moments:
        """The moments of all tensors so far; there must have been one."""
        assert self._total is not None
        return self._total


class FastMoments:
    """Accumulates sums and sums of squares of short rows: two passes at the speed of memory.

    Rows are summed in the tensor's own precision (float32 at least) and joined in float64. For float32 the
    std is good to 1e-6 relative while |mean| / std is at most `WELL_CONDITIONED`; `Moments.condition` tells.
    On an accelerator there is no host synchronization. On mps, which has no float64, all is float32.

    Args:
        channel_dim: Dimension to keep; None takes all values as one set.
    """

    def __init__(self, channel_dim: int | None = None) -> None:
        self.channel_dim = channel_dim
        self._channels = 1
        self._elements = 0
        self._rows = 0
        self._block: Tensor | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._total: Moments | None = None

    def update(self, x: Tensor) -> None:
        """Take in a real tensor of any floating dtype; nothing of it is kept."""
        x = x.detach()
        if x.numel() < FEW and x.device.type != "mps":
            x = x.double()
        elif x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if self.channel_dim is None:
            rows = memory_rows(x)
        else:
            self._channels = x.shape[self.channel_dim]
            rows = _channel_rows(x, self.channel_dim)
        if self._pending and self._rows + len(rows) > _PENDING_ROWS:
            self._join()
        self._pending.append(_row_sums(rows, self._room(rows)))
        self._elements += x.numel()
        self._rows += len(rows)

    def moments(self) -> Moments:
        """The moments of all tensors so far; there must have been one."""
        if self._pending:
            self._join()
        assert self._total is not None
        return self._total

    def _room(self, rows: Tensor) -> Tensor:
        """A place for the sums and norms of these rows, (2, R), in a block that is allocated once.

        Small tensors that outlive a forward pass would lie between its large ones and break up the heap.
        """
        stop = self._rows + len(rows)
        if self._block is None or self._block.dtype != rows.dtype or stop > self._block.shape[1]:
            # What is pending holds on to the old block.
            with torch.inference_mode(False):
                self._block = torch.empty(2, max(_PENDING_ROWS, stop), dtype=rows.dtype, device=rows.device)
        return self._block[:, self._rows : stop]

    def _join(self) -> None:
        sums, norms, lost = zip(*self._pending, strict=True)
        wide = widest(sums[0].device)
        total = self._by_channel(torch.cat(sums).to(wide))
        squares = self._by_channel(torch.cat(norms).to(wide).square())
        some_lost = [rows for rows in lost if rows is not None]
        non_finite = self._by_channel(torch.cat(some_lost).to(wide)) if some_lost else torch.zeros_like(total)
        count = self._elements / self._channels - non_finite
        mean = total / count.clamp(min=1)
        part = Moments(count, mean, (squares - total * mean).clamp(min=0), non_finite)
        self._total = part if self._total is None else self._total.merge(part)
        self._pending, self._elements, self._rows = [], 0, 0

    def _by_channel(self, rows: Tensor) -> Tensor:
        return rows.sum() if self.channel_dim is None else rows.view(-1, self._channels).sum(0)


def _row_sums(rows: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sum and norm of each row's finite values, and how many are not; None where that is known to be none.

    Args:
        rows: Shape (R, w).
        out: (2, R), for sums and norms on the CPU.
    """
    if rows.device.type == "cpu":
        sums, norms = out
        torch.sum(rows, 1, out=sums)
        torch.linalg.vector_norm(rows, dim=1, out=norms)
        if math.isfinite(norms.sum().item()):
            return sums, norms, None
        # Something is not finite, or its square is not in float32: the rare case may cost what it costs.
        rows = rows.double()
    parts = []
    # In parts, so that the copies stay small beside the tensor.
    for part in rows.split(max(1, _CHUNK // rows.shape[1])):
        finite = part.nan_to_num(0.0, 0.0, 0.0)
        parts.append((finite.sum(1), torch.linalg.vector_norm(finite, dim=1), (finite != part).sum(1)))
    sums, norms, lost = (torch.cat(values) for values in zip(*parts, strict=True))
    return sums, norms, lost


def memory_rows(x: Tensor) -> Tensor:
    """All values as rows of `_ROW` where their number allows, in memory order: a view if x allows one."""
    if not x.is_contiguous() and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    length = math.gcd(x.numel(), _ROW)
    if length < _ROW // 8:
        length = x.shape[-1] if x.ndim else 1
    return x.reshape(-1, length) if x.numel() else x.new_zeros(0, 1)


def _channel_rows(x: Tensor, channel_dim: int) -> Tensor:
    """Rows of one channel each, the channels in turn."""
    channel_dim %= x.ndim
    if channel_dim == x.ndim - 1:
        x, channel_dim = x.movedim(-1, 0), 0
    length = math.prod(x.shape[channel_dim + 1 :])
    return x.reshape(-1, length) if x.numel() else x.new_zeros(x.shape[channel_dim], 1)


def _first(moments: Moments) -> Moments:
    return Moments(moments.count[0], moments.mean[0], moments.m2[0], moments.non_finite[0])
