"""Moments at the speed of memory, in tensors of any scale."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats.memory_rows import channel_rows, memory_rows, summable
from gradlab.stats.moments import Moments, complex_moments, finite_parts
from gradlab.stats.precision import trusted_norm, wide_norms, widened, widest

_PENDING_ROWS = 8192
"""Rows that `FastMoments` lets wait before it joins them: 64 KiB, so that small batches cost few operations."""

_CHUNK = 1 << 20
"""Elements copied at a time, where a copy is needed."""


def fast_moments(x: Tensor, channel_dim: int | None = None) -> Moments:
    """Moments of one tensor as `FastMoments` takes them."""
    accumulator = FastMoments(channel_dim)
    accumulator.update(x)
    return accumulator.moments()


class FastMoments:
    """Accumulates sums and sums of squares of short rows: two passes at the speed of memory.

    Rows are summed in the tensor's own precision (float32 at least) and joined in float64. For float32 the
    std is good to 1e-6 relative while |mean| / std is at most `WELL_CONDITIONED`; `Moments.condition` tells. For
    float16, whose values are few and round alike, it is good to 1e-5.

    Where squares leave the range of float32, rows are summed in float64. On an accelerator this is always so, and
    there is no host synchronization, but on mps, which has no float64: rows are summed in float32 there, and joined
    on the CPU.

    Args:
        channel_dim: Dimension to keep; None takes all values as one set.

    Attributes:
        precision: The relative rounding error of the coarsest sums that were made.
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
        self._imaginary: FastMoments | None = None

    def update(self, x: Tensor) -> None:
        """Take in a tensor of any dtype, see `complex_moments` for complex ones; nothing of it is kept."""
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

    def mark(self) -> None:
        """Have `undo` come back to here."""
        self._marked = len(self._pending)
        if self._imaginary is not None:
            self._imaginary.mark()

    def undo(self) -> None:
        """Forget the tensors since `mark`."""
        self._keep(self._pending[: self._marked])
        if self._imaginary is not None:
            self._imaginary.undo()

    def moments(self) -> Moments:
        """The moments of all tensors so far; there must have been one."""
        self._marked = None
        if self._pending:
            self._join()
        assert self._total is not None
        return self._total if self._imaginary is None else complex_moments(self._total, self._imaginary.moments())

    def resolves(self, mean: float, std: float) -> bool:
        """Whether a std beside a mean is good to about a thousandth: the square of the mean takes its digits."""
        return std == 0 or 16 * self.precision * (mean / std) ** 2 <= 1e-3

    def _row_sums(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum and norm of each row's finite values, and how many are not; None where that is known to be none."""
        if rows.is_cpu and rows.numel():
            sums, norms = self._room(rows)
            torch.sum(rows, 1, out=sums)
            torch.linalg.vector_norm(rows, dim=1, out=norms)
            if _trusted(norms, rows, together=self.channel_dim is None):
                return sums, norms, None
        return _wide_row_sums(rows)

    def _room(self, rows: Tensor) -> Tensor:
        """A place for the sums and norms of these rows, (2, R), in a block that is allocated once.

        Small tensors that outlive a forward pass would lie between its large ones and break up the heap.
        """
        stop = self._used + len(rows)
        if self._block is None or self._block.dtype != rows.dtype or stop > self._block.shape[1]:
            # What is pending holds on to the old block.
            stop = len(rows)
            with torch.inference_mode(False):
                self._block = torch.empty(2, max(_PENDING_ROWS, stop), dtype=rows.dtype, device=rows.device)
        start, self._used = stop - len(rows), stop
        return self._block[:, start:stop]

    def _join(self) -> None:
        """Join what was there at the mark, if there is one: what came since may have to be forgotten."""
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


def _trusted(norms: Tensor, rows: Tensor, together: bool) -> bool:
    """Whether the norms of rows on the CPU are right and finite.

    Args:
        norms: Shape (R,).
        rows: Shape (R, w).
        together: Whether only the norm of all rows need be right.
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


def _wide_row_sums(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As of `FastMoments._row_sums`, by sums in float64: the rare case on the CPU may cost what it costs."""
    parts = []
    # In parts, so that the copies stay small beside the tensor.
    for part in rows.split(max(1, _CHUNK // rows.shape[1])):
        part = part.to(widest(part.device))
        finite = part.nan_to_num(0.0, 0.0, 0.0)
        parts.append((finite.sum(1), wide_norms(finite, 1), (finite != part).sum(1)))
    sums, norms, lost = (torch.cat(values) for values in zip(*parts, strict=True))
    return sums, norms, lost
