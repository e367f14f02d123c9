"""Gradients of single examples: their norms, their sum and the sum of their directions, without storing them.

A layer's gradient is a sum over examples, and each type of layer has its own way to separate the terms. The classes
here hold the operands of one layer's backward pass, and reduce them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.stats.example_rows import LEAST, any_nonzero, reduced_rows
from gradlab.stats.norms import all_tame, joint_norms, tame_norms
from gradlab.stats.pair_products import PairProducts, pair_products
from gradlab.stats.workspace import Workspace

_VALUES = 1 << 24
"""Number of values of single examples' gradients held at a time: 64 MiB of float32."""


class Reduced(NamedTuple):
    """The gradients g_1 … g_B of the examples, reduced.

    Attributes:
        norms: Their norms, float64 (float32 on mps) of shape (B,).
        sums: Their sum, and the sum of the directions g_i/‖g_i‖ of the nonzero gradients unless its norm is known, in
            the order of `ExampleContributions.parts`, shape (k, 2 or 1, P / k).
        direction_norm: The norm of the sum of directions, shape (); None if the sum itself is given.
        sum_norm: The norm of the sum, shape (); None if it is not known yet.
    """

    norms: Tensor
    sums: Tensor
    direction_norm: Tensor | None = None
    sum_norm: Tensor | None = None


class ExampleContributions(ABC):
    """The contributions of one use of a parameter to the gradients of B examples.

    Attributes:
        examples: The number B of examples.
        numel: The number P of elements of the parameter.
        factor: A factor of every term, shape (B, …), if there is one; where it is 0, so is the gradient.
    """

    examples: int
    numel: int
    factor: Tensor | None = None

    @abstractmethod
    def rows(self) -> Tensor:
        """Return the gradients themselves, shape (B, P), with their values in the parameter's order."""

    @abstractmethod
    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """Yield the gradients of b examples at a time, in k pieces: shape (k, b, P / k).

        The order of their values is arbitrary but the same for all examples. Each part is valid until the next one is
        requested.

        Args:
            workspace: The memory in which they are computed.
            first: The number of parts to skip.
        """

    def doubtful(self, norms: Tensor) -> Tensor:
        """Return the examples whose gradients float32 may not have represented on the way, and that `exact` computes.

        Args:
            norms: The norms of the gradients as `rows` or `parts` compute them, shape (B,).

        Returns:
            The numbers of the examples, on the CPU.
        """
        return torch.zeros(0, dtype=torch.int64)

    def exact(self, examples: Tensor) -> Tensor:
        """Compute the gradients of some examples in float64 from sums of products, shape (n, P), in order."""
        raise AssertionError("a contribution with doubtful examples says how to compute them")

    def computed(self) -> RowGradients:
        """Return the gradients as such that are computed, with their sum where it is known."""
        rows = self.rows()
        if rows.is_cpu and len(places := self.doubtful(joint_norms(rows[None]))):
            rows = rows.double()
            rows[places] = self.exact(places)
        return RowGradients(rows)

    def in_order(self, values: Tensor) -> Tensor:
        """Convert values from the order of `parts`, shape (k, P / k), to that of the parameter, shape (P,)."""
        return values.flatten()

    def reduced(self, workspace: Workspace, products: PairProducts | None = None) -> Reduced:
        """Compute norms, the sum and the sum of directions.

        Args:
            workspace: The memory in which they are computed.
            products: The inner products ⟨g_i, g_j⟩ are added here.
        """
        found_norms, sums = [], None
        for part in self.parts(workspace):
            whole = part.shape[1] == self.examples
            summed = None if products is None else products.sums(part.device)
            if len(part) == 1 and whole and (native := reduced_rows(part[0], summed, self.factor)):
                if native.doubtful and len(places := self.doubtful(native.norms)):
                    if products is not None and native.added:
                        products.add(-native.products)
                    return self._reduced_anew(workspace, products, places)
                if products is not None and not native.added:
                    products.add(native.products)
                return Reduced(native.norms, native.total[None, None], native.direction_norm, native.sum_norm)
            found, tame = tame_norms(part)
            if tame and products is not None and whole:
                return _reduced_with_products(part, found, products)
            if whole and not tame and len(places := self.doubtful(found)):
                return self._reduced_anew(workspace, products, places)
            found_norms.append(found)
            weights = workspace.weights(found.reciprocal() if tame else inverse(found, part.dtype), part.dtype)
            added = torch.bmm(weights if len(part) == 1 else weights.expand(len(part), -1, -1), part)
            tame = tame or (found.is_cpu and part.dtype is torch.float32 and all_tame(found))
            if not tame and found.is_cpu:
                added[:, 1] = _wide_direction_sum(part, found)
            sums = added if sums is None else sums.add_(added)
            if products is not None and whole:
                products.add(pair_products(part, part, tame))
        assert sums is not None
        joined = found_norms[0] if len(found_norms) == 1 else torch.cat(found_norms)
        if len(found_norms) > 1:
            if len(places := self.doubtful(joined)):
                return self._reduced_anew(workspace, products, places)
            if products is not None:
                self._add_products(workspace, products, joined)
        return Reduced(joined, sums)

    def _reduced_anew(self, workspace: Workspace, products: PairProducts | None, places: Tensor) -> Reduced:
        """Compute `reduced` in float64, with the gradients of some examples computed anew."""
        found = _Mended(self, places).reduced(workspace, products)
        # To the order of parts, which is that of the sums.
        sums = torch.empty_like(found.sums, dtype=torch.float32)
        sums[..., self.in_order(torch.arange(self.numel))] = found.sums.float()
        return found._replace(sums=sums)

    def _add_products(self, workspace: Workspace, products: PairProducts, norms: Tensor) -> None:
        """Add the inner products of gradients that are held in several parts, each pair of parts computed anew."""
        tame = norms.is_cpu and all_tame(norms)
        spans = list(self.spans())
        for place, here in enumerate(spans):
            parts = self.parts(workspace, place)
            mine = next(parts).clone()
            tame_part = tame and mine.dtype is torch.float32
            products.add(pair_products(mine, mine, tame_part), here, here)
            for there, part in zip(spans[place + 1 :], parts, strict=True):
                block = pair_products(mine, part, tame_part)
                products.add(block, here, there)
                products.add(block.mT, there, here)

    def spans(self) -> Iterator[slice]:
        """Return the ranges of examples whose gradients are held at a time."""
        size = max(1, _VALUES // max(1, self.numel))
        return (slice(start, min(start + size, self.examples)) for start in range(0, self.examples, size))


class RowGradients(ExampleContributions):
    """Gradients that have already been computed.

    Args:
        values: The gradients, shape (B, P).
        total: Their sum, shape (P,), if it is known.
    """

    def __init__(self, values: Tensor, total: Tensor | None = None) -> None:
        self.values, self._total = values, total
        self.examples, self.numel = values.shape

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return self.values

    @property
    def total(self) -> Tensor:
        """The sum of the gradients, shape (P,)."""
        return self.values.sum(0) if self._total is None else self._total

    def computed(self) -> RowGradients:
        """See `ExampleContributions`."""
        return self

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        if not first:
            yield self.values[None]


class _Mended(ExampleContributions):
    """Gradients of which those of some examples are computed by `exact`.

    Args:
        given: The gradients.
        places: The numbers of these examples.
    """

    def __init__(self, given: ExampleContributions, places: Tensor) -> None:
        self.given, self.places = given, places
        self.examples, self.numel = given.examples, given.numel

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return torch.cat([part[0] for part in self.parts(Workspace())])

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        spans = islice(self.spans(), first, None)
        # They lie in memory of their own, since reducing these parts takes from the workspace as well.
        for span, part in zip(spans, self.given.parts(Workspace(), first), strict=True):
            rows = torch.stack([self.given.in_order(example) for example in part.unbind(1)]).double()
            here = (self.places >= span.start) & (self.places < span.stop)
            if here.any():
                rows[self.places[here] - span.start] = self.given.exact(self.places[here])
            yield rows[None]


def _reduced_with_products(part: Tensor, norms: Tensor, products: PairProducts) -> Reduced:
    """Reduce gradients with tame norms, shape (k, B, P / k): ‖Σ g_i/‖g_i‖‖² is the sum of the cosines of all pairs."""
    found = pair_products(part, part, True)
    products.add(found)
    cosines = (found / norms[:, None] / norms).fill_diagonal_(1)
    return Reduced(norms, part.sum(1, keepdim=True), cosines.sum().clamp(min=0).sqrt())


def unresolved(norms: Tensor, *factors: Tensor) -> Tensor:
    """Return the examples whose gradients, sums of products in float32, may have left its range on the way.

    Args:
        norms: The norms of the gradients as computed, shape (B,).
        factors: The factors of the products, each of shape (B, …), that of the output last. If one is 0, so is the
            gradient.

    Returns:
        The numbers of the examples. There are none on accelerators, of which no value is read, nor in other dtypes.
    """
    if not all(factor.is_cpu and factor.dtype is torch.float32 for factor in factors):
        return torch.zeros(0, dtype=torch.int64)
    places = (~((norms >= LEAST) & norms.isfinite())).nonzero().flatten()
    # Most often a gradient is 0 since that of the output is, the last factor, for an example classified with certainty.
    there = [
        norm != 0 or all(any_nonzero(factor[i]) for factor in factors[::-1])
        for i, norm in zip(places.tolist(), norms[places].tolist(), strict=True)
    ]
    return places[torch.tensor(there, dtype=torch.bool)]


def inverse(norms: Tensor, dtype: torch.dtype) -> Tensor:
    """Invert norms, for use as weights that turn a sum of gradients into a sum of directions.

    A gradient of 0 has no direction: its weight is finite here, and adds nothing.

    Args:
        norms: The norms, float64 (float32 on mps).
        dtype: The dtype that has to represent the inverses. Norms below its smallest normal number are raised to it.
    """
    return norms.clamp(min=torch.finfo(dtype).tiny).reciprocal()


def _wide_direction_sum(part: Tensor, norms: Tensor) -> Tensor:
    """Sum directions in float64, from shape (k, b, P) to (k, P), for norms whose inverse float32 cannot represent."""
    wide = torch.promote_types(part.dtype, torch.float64)
    return (inverse(norms, wide).to(wide) @ part.to(wide)).to(part.dtype)
