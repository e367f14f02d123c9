"""How alike the rows of a matrix are, from their Gram matrix, which is taken without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.stats.effective_rank import noise_effective_rank


@dataclass(frozen=True)
class RowGram:
    """The cosines and norms of the rows of a matrix of shape (n, p), in float64 on the device of the rows.

    Attributes:
        cosines: The products of the rows divided by their norms, shape (n, n), 1 on the diagonal. They are 0 for rows
            that are 0 or not finite, which have no direction.
        norms: The L2 norms over the largest one, shape (n,), 0 for rows without a direction.
        columns: The number p of columns.
    """

    cosines: Tensor
    norms: Tensor
    columns: int

    @classmethod
    def of(cls, rows: Tensor) -> RowGram:
        """Take the Gram matrix of rows of any scale, shape (n, p), without host synchronization except on mps."""
        rows = rows.detach()
        rows = (rows.cpu() if rows.device.type == "mps" else rows).double()
        rows = rows.where(rows.isfinite().all(1, keepdim=True), 0)
        largest = rows.abs().amax(1, keepdim=True)
        # Each row is scaled to about 1 first, so that no square leaves the range of float64.
        rows = rows / largest.where(largest > 0, 1)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        unit = rows / norms.where(norms > 0, 1)
        top = largest.amax()
        relative = (norms * (largest / top.where(top > 0, 1)))[:, 0]
        return cls(unit @ unit.mT, relative / relative.amax().clamp(min=torch.finfo(torch.float64).tiny), rows.shape[1])

    def usable(self) -> RowGram:
        """Return the same of the rows that have a direction; on an accelerator this synchronizes."""
        places = (self.cosines.diagonal() > 0).nonzero().flatten()
        return RowGram(self.cosines[places][:, places], self.norms[places], self.columns)

    def statistics(self) -> Tensor:
        """Return how alike the rows are, float64 of shape (5,), on the CPU or with a synchronization.

        Returns:
            The relative effective rank of the rows divided by their norms, and of the rows as they are; the mean
            cosine of two rows, and that of its absolute value; and the std (divisor n) of the norms over their mean.
            See `gradlab.stats.effective_rank`.
        """
        n = len(self.norms)
        scaled = self.cosines * self.norms * self.norms[:, None]
        ranks = [
            gram.trace() / torch.linalg.eigvalsh(gram)[-1] / noise_effective_rank(n, self.columns, unit=unit)
            for gram, unit in ((self.cosines, True), (scaled, False))
        ]
        i, j = torch.triu_indices(n, n, offset=1, device=self.cosines.device)
        pairs = self.cosines[i, j].clamp(-1, 1)
        variation = self.norms.std(correction=0) / self.norms.mean()
        return torch.stack([*ranks, pairs.mean(), pairs.abs().mean(), variation])


def fetched_grams(grams: Sequence[RowGram]) -> list[RowGram]:
    """Copy Gram matrices to the CPU, in one transfer."""
    if not grams:
        return []
    there = [torch.cat((gram.cosines, gram.norms[None])).flatten() for gram in grams]
    parts = torch.cat([part.to(there[0].device) for part in there]).cpu().split([len(part) for part in there])
    rows = [part.view(-1, len(gram.norms)) for part, gram in zip(parts, grams, strict=True)]
    return [RowGram(both[:-1], both[-1], gram.columns) for both, gram in zip(rows, grams, strict=True)]
