"""Moments of tensors of any scale, at the speed of memory."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats import native
from gradlab.stats.memory_rows import channel_rows, memory_rows, summable
from gradlab.stats.moment_rows import Adder, MomentRow, MomentRows
from gradlab.stats.moments import Moments, finite_parts, joined_parts
from gradlab.stats.precision import trusted_norm, wide_norms, widened, widest

_PENDING_ROWS = 8192
"""Number of rows that `FastMoments` collects before it joins them: 64 KiB, so that small batches are cheap."""

_CHUNK = 1 << 20
"""Number of elements copied at a time, where a copy is needed."""

_DOUBLE = torch.finfo(torch.float64).eps

_Numbers = tuple[int, float, float]
"""Count, mean and m2."""


def fast_moments(x: Tensor, channel_dim: int | None = None) -> Moments:
    """Compute the moments of one tensor by `FastMoments`."""
    accumulator = FastMoments(channel_dim)
    accumulator.update(x)
    return accumulator.moments()


def resolves(precision: float, mean: float, std: float) -> bool:
    """Return whether a std is accurate to about 0.1 %, given that subtracting the squared mean costs digits.

    Args:
        precision: The relative rounding error of the sums, `FastMoments.precision`.
        mean: The mean.
        std: The std.
    """
    return std == 0 or 16 * precision * (mean / std) ** 2 <= 1e-3


class FastMoments:
    """Accumulates sums and sums of squares at the speed of memory.

    Float32 on the CPU is summed in double precision by `gradlab.stats.native`, where that is available, and all else
    in short rows and two passes.

    Rows are summed in the tensor's own precision (at least float32) and joined in float64. For float32 the relative
    error of the std is at most 1e-6 while |mean| / std, which is `Moments.condition`, is at most `WELL_CONDITIONED`.
    For float16, whose few values have correlated rounding errors, it is at most 1e-5.

    Where squares leave the range of float32, rows are summed in float64. On accelerators this is always done, without
    host synchronization. The exception is mps, which has no float64: there rows are summed in float32 and joined on
    the CPU.

    Args:
        channel_dim: The dimension to keep; None treats all values as one set.

    Attributes:
        precision: The relative rounding error of the coarsest sums so far.
    """

    def __init__(self, channel_dim: int | None = None) -> None:
        self.channel_dim = channel_dim
        self.precision = 0.0
        self._channels = 1
        self._rows = 0
        self._used = 0
        self._marked: int | None = None
        self._block: Tensor | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor | None, int]] = []
        self._total: Moments | None = None
        # What the native library has summed: count, mean and m2, or the moments of each channel.
        self._native: _Numbers | None = None
        self._native_channels: Moments | None = None
        self._marked_native: tuple[_Numbers | None, Moments | None] = None, None
        self._row: MomentRow | None = None
        self._imaginary: FastMoments | None = None

    def update(self, x: Tensor) -> None:
        """Add a tensor of any dtype and keep no reference to it; see `complex_moments` for complex tensors."""
        if self._add_native(x):
            return
        x = x.detach()
        if x.is_complex():
            x, imaginary = finite_parts(x)
            self._imaginary = self._imaginary or FastMoments(self.channel_dim)
            self._imaginary.update(imaginary)
        x = summable(x)
        self.precision = max(self.precision, torch.finfo(x.dtype if x.is_cpu else widest(x.device)).eps)
        if self.channel_dim is None:
            parts = memory_rows(x)
        else:
            self._channels = x.shape[self.channel_dim]
            parts = [channel_rows(x, self.channel_dim)]
        for rows in parts:
            if self._rows + len(rows) > _PENDING_ROWS and self._pending and self._marked != 0:
                self._join()
            self._pending.append((*self._row_sums(rows), rows.numel() if x.numel() else 0))
            self._rows += len(rows)

    def add(self, count: int, mean: float, m2: float) -> None:
        """Add values of which only the count, the mean and the sum of squared deviations from it are known."""
        self._native = _merged(self._native, (count, mean, m2))
        self.precision = max(self.precision, _DOUBLE)

    def adder(self, rows: MomentRows) -> Adder | None:
        """Return a function that adds ordinary tensors at once, or None if there is none.

        Args:
            rows: The room for their moments, which count with the others once `rows.end_pass` is called.
        """
        if self.channel_dim is None and self._row is None:
            self._row = rows.new()
            self.precision = max(self.precision, _DOUBLE)
        return None if self._row is None else self._row.add

    def mark(self) -> None:
        """Mark the present state as the one that `undo` restores."""
        self._marked, self._marked_native = len(self._pending), (self._native, self._native_channels)
        if self._imaginary is not None:
            self._imaginary.mark()

    def undo(self) -> None:
        """Forget the tensors added since `mark`."""
        self._keep(self._pending[: self._marked])
        self._native, self._native_channels = self._marked_native
        if self._imaginary is not None:
            self._imaginary.undo()

    def moments(self) -> Moments:
        """Return the moments of all tensors so far, of which there must be at least one."""
        return joined_parts(self.parts())

    def parts(self) -> list[Moments]:
        """Return the moments of the values, or of the real and the imaginary parts of complex ones, to be merged."""
        self._marked = None
        if self._pending:
            self._join()
        numbers = self._native
        if self._row is not None and (row := self._row.values())[0]:
            numbers = _merged(numbers, row)
        summed = self._native_channels if numbers is None else _moments(*numbers)
        total = self._total if summed is None else summed if self._total is None else self._total.merge(summed)
        assert total is not None
        return [total, *([] if self._imaginary is None else self._imaginary.parts())]

    def resolves(self, mean: float, std: float) -> bool:
        """Return whether a std is accurate to about 0.1 %; see the function `resolves`."""
        return resolves(self.precision, mean, std)

    def _add_native(self, x: Tensor) -> bool:
        """Add a tensor by the native library, and return whether it could."""
        if self.channel_dim is None:
            if (numbers := native.sums(x)) is None:
                return False
            total, squares = numbers
            mean = total / x.numel()
            self.add(x.numel(), mean, max(0.0, squares - total * mean))
        else:
            if (both := native.channel_sums(x, self.channel_dim)) is None:
                return False
            count = both.new_full((both.shape[1],), x.numel() // both.shape[1])
            mean_of_each = both[0] / count
            deviations = (both[1] - both[0] * mean_of_each).clamp(min=0)
            part = Moments(count, mean_of_each, deviations, torch.zeros_like(count))
            self._native_channels = part if self._native_channels is None else self._native_channels.merge(part)
            self.precision = max(self.precision, _DOUBLE)
        return True

    def _row_sums(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the sum and norm of each row's finite values, and the count of others, or None if known to be 0."""
        if rows.is_cpu and rows.numel():
            sums, norms = self._room(rows)
            torch.sum(rows, 1, out=sums)
            torch.linalg.vector_norm(rows, dim=1, out=norms)
            if trusted_sums(norms, rows, together=self.channel_dim is None):
                return sums, norms, None
        return wide_row_sums(rows)

    def _room(self, rows: Tensor) -> Tensor:
        """Return room for the sums and norms of these rows, shape (2, R), in a block that is allocated once.

        Small tensors that outlive a forward pass would lie between its large ones and fragment the heap.
        """
        stop = self._used + len(rows)
        if self._block is None or self._block.dtype != rows.dtype or stop > self._block.shape[1]:
            # The pending rows keep the old block alive.
            stop = len(rows)
            with torch.inference_mode(False):
                self._block = torch.empty(2, max(_PENDING_ROWS, stop), dtype=rows.dtype, device=rows.device)
        start, self._used = stop - len(rows), stop
        return self._block[:, start:stop]

    def _join(self) -> None:
        """Join the pending rows, or only those before the mark, since later ones may have to be forgotten."""
        count = len(self._pending) if self._marked is None else self._marked
        joined, rest = self._pending[:count], self._pending[count:]
        sums, norms, lost, elements = zip(*joined, strict=True)
        total = self._by_channel(widened(torch.cat(sums)))
        squares = self._by_channel(widened(torch.cat(norms)).square())
        some_lost = [rows for rows in lost if rows is not None]
        non_finite = self._by_channel(widened(torch.cat(some_lost))) if some_lost else torch.zeros_like(total)
        finite = sum(elements) / max(1, self._channels) - non_finite
        mean = total / finite.clamp(min=1)
        part = Moments(finite, mean, (squares - total * mean).clamp(min=0), non_finite)
        self._total = part if self._total is None else self._total.merge(part)
        self._keep(rest)
        self._marked = None if self._marked is None else 0
        self._used = self._used if rest else 0

    def _keep(self, pending: list[tuple[Tensor, Tensor, Tensor | None, int]]) -> None:
        self._pending = pending
        self._rows = sum(len(sums) for sums, *_ in pending)

    def _by_channel(self, rows: Tensor) -> Tensor:
        if self.channel_dim is None:
            return rows.sum()
        return rows.view(len(rows) // max(1, self._channels), self._channels).sum(0)


def _merged(one: _Numbers | None, other: _Numbers) -> _Numbers:
    """Return count, mean and m2 of the union of two sets, as `Moments.merge` does for tensors."""
    if one is None:
        return other
    count, share, delta = one[0] + other[0], other[0] / (one[0] + other[0]), other[1] - one[1]
    return count, one[1] + delta * share, one[2] + other[2] + delta * delta * one[0] * share


def _moments(count: int, mean: float, m2: float) -> Moments:
    return Moments(*torch.tensor([count, mean, m2, 0.0], dtype=torch.float64).unbind())


def trusted_sums(norms: Tensor, rows: Tensor, together: bool) -> bool:
    """Return whether the norms of rows on the CPU are accurate and finite.

    Args:
        norms: The norms of the rows, shape (R,).
        rows: The rows, shape (R, w).
        together: Whether only the joint norm of all rows need be accurate.
    """
    largest = norms.max().item()
    if rows.dtype is torch.float64 or not largest < torch.inf:
        return largest < torch.inf
    if together:
        return largest >= trusted_norm(rows.numel(), rows.dtype) or (largest == 0 and not bool(rows.any()))
    least = trusted_norm(rows.shape[1], rows.dtype)
    if norms.min().item() >= least:
        return True
    zero = norms == 0
    return bool((zero | (norms >= least)).all()) and not bool(rows[zero].any())


def wide_row_sums(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `FastMoments._row_sums` in float64; on the CPU this is rare, so its cost does not matter."""
    parts = []
    # The rows are split so that the copies stay small compared with the tensor.
    for part in rows.split(max(1, _CHUNK // rows.shape[1])):
        part = part.to(widest(part.device))
        finite = part.nan_to_num(0.0, 0.0, 0.0)
        parts.append((finite.sum(1), wide_norms(finite, 1), (finite != part).sum(1)))
    sums, norms, lost = (torch.cat(values) for values in zip(*parts, strict=True))
    return sums, norms, lost
