"""Gradients of an embedding table for single examples, which touch few of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from gradlab.stats.example_gradients import ExampleContributions, Reduced, inverse, unresolved
from gradlab.stats.pair_products import PairProducts, position_products
from gradlab.stats.precision import widest
from gradlab.stats.workspace import Workspace


class EmbeddingGradients(ExampleContributions):
    """Gradients Σ_t e(id_t) g_tᵀ of an embedding table, from the looked-up rows and the gradients of the output.

    Args:
        ids: The looked-up rows, integers from 0 to V − 1, shape (B, T).
        gradient: The gradient of the output, shape (B, T, D), float32 or float64.
        entries: The number V of rows of the table.
    """

    def __init__(self, ids: Tensor, gradient: Tensor, entries: int) -> None:
        self.ids, self.gradient, self.entries = ids, gradient, entries
        self.examples, self.numel = len(ids), entries * gradient.shape[2]

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        width = self.gradient.shape[2]
        found = self.gradient.new_zeros(self.examples, self.entries, width)
        return found.scatter_add_(1, self.ids[..., None].expand(-1, -1, width), self.gradient).flatten(1)

    def doubtful(self, norms: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        return unresolved(norms, self.gradient)

    def exact(self, examples: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        return EmbeddingGradients(self.ids[examples], self.gradient[examples].double(), self.entries).rows()

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        for span in islice(self.spans(), first, None):
            yield EmbeddingGradients(self.ids[span], self.gradient[span], self.entries).rows()[None]

    def reduced(self, workspace: Workspace, products: PairProducts | None = None) -> Reduced:
        """See `ExampleContributions`. The norms follow from ‖g‖² = Σ_st [id_s = id_t] ⟨g_s, g_t⟩.

        On the CPU, gradients of a table that is small against the products of positions are computed themselves.
        """
        if self.gradient.is_cpu and self._is_small():
            return super().reduced(workspace, products)
        wide = self.gradient.to(widest(self.gradient.device))
        # The scale, whose square may overflow any dtype, is divided out; a power of two changes no digit.
        scale = torch.exp2(wide.abs().amax((1, 2)).clamp(min=torch.finfo(wide.dtype).tiny).log2().floor())
        wide = wide / scale[:, None, None]
        grams = torch.bmm(wide, wide.mT).mul_(self.ids[:, :, None] == self.ids[:, None, :])
        norms = grams.sum((1, 2)).clamp(min=0).sqrt() * scale
        if products is not None:
            products.add(position_products([wide], self.ids) * scale[:, None] * scale)
        directions = (wide * (inverse(norms, wide.dtype) * scale)[:, None, None]).to(self.gradient.dtype)
        sums = self.gradient.new_zeros(2, self.entries, self.gradient.shape[2])
        for place, values in enumerate((self.gradient, directions)):
            sums[place].index_add_(0, self.ids.flatten(), values.flatten(0, 1))
        return Reduced(norms, sums.flatten(1)[None])

    def _is_small(self) -> bool:
        """Return whether all gradients are held at once, with fewer products than between positions."""
        return next(self.spans()).stop == self.examples and self.entries <= self.ids.shape[1] ** 2
