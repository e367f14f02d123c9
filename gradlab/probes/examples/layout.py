"""Which parts of a tensor belong to which example: found by a backward pass whose examples are scaled.

The gradient at a tensor is linear in the gradients of the model's output. Scale the output's row of example i by s_i:
where a part of a tensor belongs to example i alone, its gradient is scaled by s_i, too. With powers of two the
arithmetic is the same but for the exponent, so that this holds to the last bit. Where examples are coupled, by the
statistics of a batch or by attention across it, it does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EXPONENTS = 4
"""Different factors by which examples are scaled."""


@dataclass(frozen=True)
class Layout:
    """Where the examples lie in a tensor.

    Attributes:
        dim: Their dimension.
        examples: B.
        parts: How many consecutive indices of the dimension belong to each.
    """

    dim: int
    examples: int
    parts: int = 1

    def first(self, x: Tensor) -> Tensor:
        """The tensor with its examples as the first dimension: shape (B, …), or (B, parts, …) for several parts."""
        x = x.movedim(self.dim, 0) if x.ndim else x[None]
        return x if self.parts == 1 else x.reshape(self.examples, self.parts, *x.shape[1:])

    def only(self, x: Tensor, examples: range) -> Tensor:
        """Copies of a tensor, in each of which all is 0 but one example: shape (len(examples), *x.shape)."""
        if not x.ndim:
            return x[None]
        found = x.new_zeros(len(examples), *x.shape)
        for copy, example in zip(found, examples, strict=True):
            start = example * self.parts
            copy.narrow(self.dim, start, self.parts).copy_(x.narrow(self.dim, start, self.parts))
        return found


def example_factors(examples: int) -> Tensor:
    """A power of two for each example, the same whenever asked for; float64 of shape (B,)."""
    generator = torch.Generator().manual_seed(examples)
    exponents = torch.randint(_EXPONENTS, (examples,), generator=generator)
    # Two examples must differ, and so must neighbours, which are what is confused most easily.
    exponents[1::2] += (exponents[1::2] == exponents[:-1:2][: len(exponents[1::2])]).long()
    return 2.0 ** exponents.double()


def part_norms(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Norms over the last dimension and over the first, float64: what is kept of a gradient to compare."""
    wide = gradient.detach().abs().double()
    if wide.ndim < 2:
        wide = wide.reshape(-1, 1)
    return torch.linalg.vector_norm(wide, dim=-1), torch.linalg.vector_norm(wide, dim=0)


def find_layout(
    shape: torch.Size, plain: Tensor, scaled: Tensor, factors: Tensor, tolerance: float, floor: float
) -> Layout | None:
    """Where the examples lie in a tensor, by the norms over its last dimension.

    Args:
        shape: Of the tensor.
        plain: As of `part_norms`, of the gradient as it is, shape `shape[:-1]`.
        scaled: Of the gradient when examples are scaled.
        factors: By what.
        tolerance: Relative error that the arithmetic may have.
        floor: Up to which norms tell nothing.

    Returns:
        None where no dimension holds the examples in order.
    """
    examples = len(factors)
    for dim, size in enumerate(shape[:-1] or shape):
        if size % examples or not size:
            continue
        layout = Layout(dim, examples, size // examples)
        if dim and layout.parts > 1 and examples > 1:
            continue
        expected = layout.first(plain) * factors.view(-1, *[1] * (layout.first(plain).ndim - 1))
        if _agree(layout.first(scaled), expected, tolerance, floor):
            return layout
    return None


def is_pure(
    plain: tuple[Tensor, Tensor], scaled: tuple[Tensor, Tensor], factors: Tensor, tolerance: float, floor: float
) -> bool:
    """Whether every part of a tensor belongs to one example, whichever it is: along its last dimension or its first.

    Args:
        plain: As of `part_norms`, of the gradient as it is.
        scaled: Of the gradient when examples are scaled.
        factors: By what.
        tolerance: Relative error that the arithmetic may have.
        floor: Up to which norms tell nothing.
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
    alike = ((found - expected).abs() <= allowed) | (torch.maximum(found, expected) <= 64 * floor)
    # What is not finite in one example must not be so in another.
    return bool((alike | ~found.isfinite() & ~expected.isfinite()).all())
