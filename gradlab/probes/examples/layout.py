"""Assignment of the parts of a tensor to examples, by a backward pass in which the examples are scaled.

The gradient at a tensor is linear in the gradient of the model's output. If the output gradient of example i is scaled
by s_i, the gradient of every part of a tensor that belongs to example i alone is scaled by s_i as well. Powers of two
change only exponents, so that this holds to the last bit; they are at most 1, so that nothing overflows. It does not
hold if examples are coupled, by the statistics of a batch or by attention across it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.stats.precision import unit_scaled

_EXPONENTS = 4
"""Number of different factors by which examples are scaled."""


@dataclass(frozen=True)
class Layout:
    """The layout of the examples in a tensor.

    Attributes:
        dim: The dimension of the examples.
        examples: The number B of examples.
        parts: The number of indices of the dimension that belong to each example.
        interleaved: Whether the first part of every example comes before the second part of any, as in the output
            projection of attention, whose rows are positions of examples in the order of the positions.
    """

    dim: int
    examples: int
    parts: int = 1
    interleaved: bool = False

    def first(self, x: Tensor) -> Tensor:
        """Move the examples to the first dimension: shape (B, …), or (B, parts, …) for several parts."""
        x = x.movedim(self.dim, 0) if x.ndim else x[None]
        if self.parts == 1:
            return x
        if self.interleaved:
            return x.reshape(self.parts, self.examples, *x.shape[1:]).transpose(0, 1)
        return x.reshape(self.examples, self.parts, *x.shape[1:])

    def only(self, x: Tensor, examples: range) -> Tensor:
        """Make copies of a tensor that are 0 except at one example each, shape (len(examples), *x.shape)."""
        if not x.ndim:
            return x[None]
        found = x.new_zeros(len(examples), *x.shape)
        for copy, example in zip(found, examples, strict=True):
            start = example * self.parts
            place = slice(example, None, self.examples) if self.interleaved else slice(start, start + self.parts)
            copy.movedim(self.dim, 0)[place] = x.movedim(self.dim, 0)[place]
        return found


def example_factors(examples: int) -> Tensor:
    """Return a power of two for each example, the same at every call, float64 of shape (B,)."""
    generator = torch.Generator().manual_seed(examples)
    exponents = torch.randint(_EXPONENTS, (examples,), generator=generator)
    # At least two examples must differ, and so must the pairs of neighbours, which are most easily confused.
    exponents[1::2] += (exponents[1::2] == exponents[:-1:2][: len(exponents[1::2])]).long()
    return 2.0 ** -exponents.double()


def in_range(gradient: Tensor) -> Tensor:
    """Scale the gradient of each example by a power of two if its backward pass might overflow, or lose digits.

    Args:
        gradient: The gradient of an output, shape (B, …).

    Returns:
        The gradient, in which examples are unchanged if the square of their largest value is in the dtype's range. In
        float16 that value is at least 1, as smaller ones soon lose digits.
    """
    rows = gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None]
    if not rows.numel():
        return gradient
    scaled, factor = unit_scaled(rows, 1)
    numbers = torch.finfo(gradient.dtype)
    least = 1.0 if gradient.dtype is torch.float16 else numbers.tiny**0.5
    outside = (factor > numbers.max**0.5) | (factor < least)
    return torch.where(outside, scaled, rows).view_as(gradient)


def part_norms(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the norms of a gradient over its last and its first dimension, in float64, for later comparison."""
    wide = gradient.detach().abs().double()
    if wide.ndim < 2:
        wide = wide.reshape(-1, 1)
    return torch.linalg.vector_norm(wide, dim=-1), torch.linalg.vector_norm(wide, dim=0)


def find_layout(
    shape: torch.Size, plain: Tensor, scaled: Tensor, factors: Tensor, tolerance: float, floor: float
) -> Layout | None:
    """Find the layout of the examples in a tensor from norms over its last dimension.

    Args:
        shape: The shape of the tensor.
        plain: The norms from `part_norms` for the unscaled gradient, shape `shape[:-1]`.
        scaled: The norms for the gradient with scaled examples.
        factors: The factors of the examples, shape (B,).
        tolerance: The relative error of the arithmetic.
        floor: The norm up to which values carry no information.

    Returns:
        The layout, or None if no dimension holds the examples in order.
    """
    examples = len(factors)
    for dim, size in enumerate(shape[:-1] or shape):
        if size % examples or not size:
            continue
        parts = size // examples
        if dim and parts > 1 and examples > 1:
            continue
        for layout in [Layout(dim, examples, parts), Layout(dim, examples, parts, True)][: 1 + (parts > 1)]:
            expected = layout.first(plain) * factors.view(-1, *[1] * (layout.first(plain).ndim - 1))
            if _agree(layout.first(scaled), expected, tolerance, floor):
                return layout
    return None


def is_pure(
    plain: tuple[Tensor, Tensor], scaled: tuple[Tensor, Tensor], factors: Tensor, tolerance: float, floor: float
) -> bool:
    """Return whether every part of a tensor, along its last or its first dimension, belongs to a single example.

    Args:
        plain: The norms from `part_norms` for the unscaled gradient.
        scaled: The norms for the gradient with scaled examples.
        factors: The factors of the examples, shape (B,).
        tolerance: The relative error of the arithmetic.
        floor: The norm up to which values carry no information.
    """
    levels = factors.unique()
    for before, after in zip(plain, scaled, strict=True):
        if not before.numel():
            return True
        ratios = (after / before.clamp(min=torch.finfo(torch.float64).tiny))[
            before > max(floor, tolerance * before.amax().item())
        ]
        if not len(ratios) or bool(((ratios[:, None] / levels - 1).abs() <= tolerance).any(1).all()):
            return True
    return False


def _agree(found: Tensor, expected: Tensor, tolerance: float, floor: float) -> bool:
    if not expected.numel():
        return True
    allowed = tolerance * (expected + tolerance * expected.where(expected.isfinite(), 0).amax())
    alike = ((found - expected).abs() <= allowed) | (torch.maximum(found, expected) <= 2 * floor)
    # Values that are not finite must be so in both gradients.
    return bool((alike | ~found.isfinite() & ~expected.isfinite()).all())
