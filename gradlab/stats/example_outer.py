"""Gradients of a linear layer's weight for single examples: sums of outer products, reduced without forming them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from gradlab.stats.example_gradients import ExampleContributions, Reduced, inverse, unresolved
from gradlab.stats.norms import all_tame, joint_norms, tame_norms
from gradlab.stats.pair_products import PairProducts, position_products
from gradlab.stats.precision import unit_scaled, widest
from gradlab.stats.workspace import Workspace

_POSITIONS = 16
"""Largest number of positions for which Gram matrices were measured to be faster on the CPU."""

_LARGE = 1 << 14
"""Smallest number of elements of a weight for which Gram matrices were measured to be faster on the CPU."""

_CANCELLED = 0.05
"""Ratio Σ_st ⟨a_s, a_t⟩⟨b_s, b_t⟩ / Σ_t ‖a_t‖²‖b_t‖² below which float32 may miss a relative error of 1e-6."""


class OuterGradients(ExampleContributions):
    """Gradients Σ_t b_t a_tᵀ of a linear layer, from its inputs a and the gradients b of its outputs.

    Args:
        a: The inputs, shape (B, T, I).
        b: The gradients of the outputs, shape (B, T, O).
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b, self.factor = a, b, b
        self.examples, self.numel = len(a), a.shape[2] * b.shape[2]

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return torch.bmm(self.b.mT, self.a).flatten(1)

    def doubtful(self, norms: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        return unresolved(norms, self.a, self.b)

    def exact(self, examples: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        return torch.bmm(self.b[examples].double().mT, self.a[examples].double()).flatten(1)

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        for span in islice(self.spans(), first, None):
            a, b = self._turned(self.a[span], self.b[span])
            (out,) = workspace.take(a, (len(a), b.shape[2], a.shape[2]))
            yield torch.bmm(b.mT, a, out=out).flatten(1)[None]

    def in_order(self, values: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        a, b = self._turned(self.a, self.b)
        return values.flatten() if a is self.a else values.reshape(b.shape[2], a.shape[2]).mT.flatten()

    def _turned(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange the factors if there are more outputs than inputs, since products with longer rows are faster."""
        return (b, a) if self.b.shape[2] > self.a.shape[2] else (a, b)

    def reduced(self, workspace: Workspace, products: PairProducts | None = None) -> Reduced:
        """See `ExampleContributions`. ‖g‖² is Σ_st ⟨a_s, a_t⟩⟨b_s, b_t⟩, which for T = 1 is ‖a‖²‖b‖² (Goodfellow 2015,
        arXiv:1510.01799).

        The norms are those of the exact products, even where float32 cannot represent the products. On the CPU,
        examples outside the range of float32 are computed again in float64; on accelerators, values are scaled first.
        """
        length = self.a.shape[1]
        if length > 1 and not self._by_gram():
            return super().reduced(workspace, products)
        if not self.a.is_cpu:
            return self._reduced_unread(products)
        a, b = self.a, self.b
        norms, tame = (_checked_product_norms if length == 1 else _checked_gram_norms)(a, b)
        if not tame:
            a, b = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (a, b))
        if products is not None:
            products.add(position_products([a, b]).real)
        return Reduced(norms, self._sums(a, b, norms))

    def _reduced_unread(self, products: PairProducts | None = None) -> Reduced:
        """Compute what `reduced` returns without copying any value to the host."""
        a, a_scale = unit_scaled(self.a, (1, 2))
        b, b_scale = unit_scaled(self.b, (1, 2))
        if a.shape[1] == 1:
            norms = joint_norms(a.transpose(0, 1)) * joint_norms(b.transpose(0, 1))
        else:
            norms = _gram_norms(a, b)
        scale = a_scale.flatten().to(norms.dtype) * b_scale.flatten()
        if products is not None:
            products.add(position_products([a, b]).real * scale[:, None] * scale)
        return Reduced(norms * scale, self._sums(a, b, norms))

    def _by_gram(self) -> bool:
        """Return whether Gram matrices take less time than the gradients themselves.

        They need more products and less memory. On the CPU that pays off for few positions and a large weight.
        """
        length, inputs, outputs = *self.a.shape[1:], self.b.shape[2]
        if length * (inputs + outputs) >= self.numel or self.a.is_complex():
            return False
        return not self.a.is_cpu or (length <= _POSITIONS and self.numel >= _LARGE)

    def _sums(self, a: Tensor, b: Tensor, norms: Tensor) -> Tensor:
        """Compute the two sums; the factors a and b, of gradients with these norms, give the sum of directions."""
        weighted = b * inverse(norms, b.dtype).to(b.dtype)[:, None, None]
        directions = _outer_sum(*self._turned(a, weighted)).to(self.a.dtype)
        return torch.stack([_outer_sum(*self._turned(self.a, self.b)), directions]).flatten(1)[None]


def _outer_sum(a: Tensor, b: Tensor) -> Tensor:
    """Compute Σ b_t a_tᵀ over all examples and positions."""
    return b.flatten(0, 1).mT @ a.flatten(0, 1)


def _checked_product_norms(a: Tensor, b: Tensor) -> tuple[Tensor, bool]:
    """Compute the norms for T = 1 on the CPU, and whether float32 can represent their factors and inverses."""
    a_norms, a_tame = tame_norms(a.transpose(0, 1))
    b_norms, b_tame = tame_norms(b.transpose(0, 1))
    single = a.dtype is torch.float32
    tame = (a_tame or (single and all_tame(a_norms))) and (b_tame or (single and all_tame(b_norms)))
    return a_norms * b_norms, tame


def _gram_norms(a: Tensor, b: Tensor) -> Tensor:
    """Compute the norms by Gram matrices, for values whose fourth powers their dtype can represent."""
    grams = torch.bmm(a, a.mT).mul_(torch.bmm(b, b.mT))
    return grams.sum((1, 2), dtype=widest(grams.device)).clamp(min=0).sqrt()


def _checked_gram_norms(a: Tensor, b: Tensor) -> tuple[Tensor, bool]:
    """Compute `_gram_norms` on the CPU, in float64 for the examples that need it, and whether none does.

    An example needs it if its squares leave the range of float32, or if its positions cancel, so that the sum is much
    smaller than its terms.
    """
    if a.dtype is not torch.float32 or not len(a):
        return _gram_norms(a.double(), b.double()), False
    (length, inputs), outputs = a.shape[1:], b.shape[2]
    grams, b_grams = torch.bmm(a, a.mT), torch.bmm(b, b.mT)
    a_squares, b_squares = _trace(grams), _trace(b_grams)
    squares = grams.mul_(b_grams).sum((1, 2), dtype=torch.float64)
    # Each product may lose the smallest normal number times its other factor: at most 1e-9 of the sum.
    lost = length * torch.finfo(a.dtype).tiny * 1e9
    needed = _trace(grams).mul_(_CANCELLED).add_(a_squares, alpha=lost * outputs).add_(b_squares, alpha=lost * inputs)
    needed.add_(lost * length)
    quotients = squares / needed
    if quotients.min().item() >= 1 and quotients.max().item() < math.inf:
        return squares.sqrt(), True
    doubtful = ~((quotients >= 1) & (quotients < math.inf))
    # For examples without a gradient the norm is 0, as it should be.
    doubtful &= a.flatten(1).any(1) & b.flatten(1).any(1) | squares.isnan()
    norms = squares.clamp(min=0).sqrt()
    norms[doubtful] = _gram_norms(a[doubtful].double(), b[doubtful].double())
    return norms, not bool(doubtful.any()) and all_tame(norms)


def _trace(grams: Tensor) -> Tensor:
    return grams.diagonal(dim1=1, dim2=2).sum(1)
