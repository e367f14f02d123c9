"""Inner products of the gradients of every two examples, of which cosines over all parameters are made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.stats.memory_rows import real_pairs
from gradlab.stats.precision import unit_scaled, widest

_BLOCK = 32
"""Number of examples whose products with all later ones are computed at a time."""

_PIECE = 4096
"""Number of values of two gradients whose products are summed in float32."""

_VALUES = 1 << 24
"""Number of inner products of single positions held at a time: 64 MiB of float32."""


class PairProducts:
    """The inner products of the gradients of every two examples, added up over the parameters of a model.

    Args:
        examples: The number B of examples.

    Attributes:
        total: Their sums, float64 (float32 on mps) of shape (B, B), on the device of the first; None before that.
    """

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.total: Tensor | None = None

    def add(self, products: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        """Add the inner products of some examples with others, real and of shape (rows, columns)."""
        total = self.sums(products.device)
        total[rows, columns] += products.to(total.device)

    def sums(self, device: torch.device) -> Tensor:
        """Return `total`, to which something on this device is about to be added."""
        if self.total is None:
            self.total = torch.zeros(self.examples, self.examples, dtype=widest(device), device=device)
        return self.total


def pair_products(one: Tensor, other: Tensor, tame: bool) -> Tensor:
    """Compute the inner products of two sets of gradients, without synchronizing with their device.

    Args:
        one: The gradients of b examples in k pieces, shape (k, b, p), of a floating or complex dtype.
        other: Those of c examples, shape (k, c, p).
        tame: Whether float32 is known to represent their products.

    Returns:
        The real parts of the inner products, float64 (float32 on mps) of shape (b, c).
    """
    if one.is_complex():
        one, other = (real_pairs(part).flatten(2) for part in (one, other))
    if one.dtype.itemsize < 4:
        one, other = one.float(), other.float()
    wide = widest(one.device)
    if tame or one.dtype is torch.float64:
        if other is one and one.shape[1] >= 2 * _BLOCK and one.is_cpu:
            return _symmetric(one)
        (one, other) = (_in_pieces(part) for part in (one, other))
        return torch.bmm(one, other.mT).sum(0, dtype=wide)
    if one.is_cpu:
        return torch.bmm(one.double(), other.double().mT).sum(0)
    (one, rows), (other, columns) = unit_scaled(one, (0, 2)), unit_scaled(other, (0, 2))
    products = torch.bmm(one, other.mT).sum(0, dtype=wide)
    return products * rows[0].to(wide) * columns[0].to(wide).mT


def _in_pieces(rows: Tensor) -> Tensor:
    """Return rows of shape (1, b, p) in short pieces, as a view of shape (k, b, p / k), if they can be divided."""
    if len(rows) > 1 or rows.shape[2] % _PIECE or not rows.is_cpu:
        return rows
    pieces: Tensor = rows[0].unflatten(1, (-1, _PIECE))
    return pieces.transpose(0, 1)


def _symmetric(rows: Tensor) -> Tensor:
    """Compute the inner products of one set of gradients, those above the diagonal once."""
    blocks = rows.split(_BLOCK, 1)
    products = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=widest(rows.device))
    for place, block in enumerate(blocks):
        start = place * _BLOCK
        found = torch.bmm(block, rows[:, start:].mT).sum(0, dtype=products.dtype)
        products[start : start + block.shape[1], start:] = found
        products[start:, start : start + block.shape[1]] = found.mT
    return products


def position_products(factors: Sequence[Tensor], keys: Tensor | None = None) -> Tensor:
    """Compute the inner products of gradients that are sums of outer products Σ_t a_t ⊗ b_t.

    They are Σ_st ⟨a_s, a_t⟩⟨b_s, b_t⟩, which takes less than the gradients where there are few positions.

    Args:
        factors: For B examples and T positions, a of shape (B, T, I) and b of shape (B, T, O), or one of them.
        keys: Integers of shape (B, T); only positions with equal keys meet.

    Returns:
        The inner products, of the dtype of the factors but at least float32, shape (B, B).
    """
    examples, length = factors[0].shape[:2]
    whole = [part.flatten(0, 1) if part.dtype.itemsize >= 4 else part.flatten(0, 1).float() for part in factors]
    rows = []
    size = max(1, _VALUES // max(1, examples * length**2))
    for start in range(0, examples, size):
        here = slice(start * length, (start + size) * length)
        met = whole[0][here] @ whole[0].mH
        for part in whole[1:]:
            met *= part[here] @ part.mH
        if keys is not None:
            met *= keys.flatten()[here, None] == keys.flatten()
        rows.append(met.view(-1, length, examples, length).sum((1, 3)))
    return torch.cat(rows)


def mean_pair_cosine(products: Tensor, norms: Tensor) -> Tensor:
    """Compute the mean cosine of the angle between the gradients of two different examples.

    Args:
        products: Their inner products, shape (B, B); the diagonal is not read.
        norms: Their norms, shape (B,).

    Returns:
        A tensor of shape (), NaN where fewer than two gradients are nonzero.
    """
    there = norms > 0
    inverse = norms.where(there, 1).reciprocal() * there
    # Divided one side after the other, since a product of two norms may leave the range.
    cosines = products * inverse[:, None] * inverse
    n = there.sum().double() if norms.device.type != "mps" else there.sum().float()
    pairs = n * (n - 1)
    return ((cosines.sum() - cosines.diagonal().sum()) / pairs).where(pairs > 0, float("nan"))
