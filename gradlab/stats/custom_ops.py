"""Moments as one operation of torch, which stands inside compiled graphs as any other does.

A row of the block of moments that it adds to has, in float64: the number of finite values, their mean, the sum of
their squared deviations from the mean, the number of other values, and the relative rounding error of the coarsest
sums so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats import native
from gradlab.stats.fast_moments import FastMoments
from gradlab.stats.moments import Moments

WIDTH = 5
"""Number of values in a row."""

torch.library.define(
    "gradlab::add_moments",
    "(Tensor(a!) rows, int row, Tensor x) -> ()",
    # Compiled code may lay out x as it likes: every layout has the same moments, and a copy would cost more than they.
    tags=torch.Tag.flexible_layout,
)


@torch.library.impl("gradlab::add_moments", "CompositeExplicitAutograd")  # type: ignore[misc]
def _add_moments(rows: Tensor, row: int, x: Tensor) -> None:
    if rows.is_cpu and (sums := native.sums(x)) is not None:
        _add_numbers(rows, row, x.numel(), *sums)
        return
    accumulator = FastMoments()
    accumulator.update(x)
    (added,) = accumulator.parts()
    total = row_moments(rows[row]).merge(added)
    rows[row, : WIDTH - 1] = torch.stack((total.count, total.mean, total.m2, total.non_finite))
    rows[row, WIDTH - 1 :].clamp_(min=accumulator.precision)


@torch.library.register_fake("gradlab::add_moments")  # type: ignore[untyped-decorator]
def _nothing(rows: Tensor, row: int, x: Tensor) -> None:
    """What it returns while code is compiled, which is nothing."""


add_moments = torch.ops.gradlab.add_moments.default
"""`add_moments(rows, row, x)` adds the real values of x to a row of `rows`, float64 of shape (S, `WIDTH`), in place.

Whole numbers are added as well. There is no synchronization with an accelerator, and no gradient.
"""


def row_moments(row: Tensor) -> Moments:
    """Return the moments in a row, as 0-dimensional views."""
    count, mean, m2, non_finite = row[: WIDTH - 1].unbind()
    return Moments(count, mean, m2, non_finite)


def _add_numbers(rows: Tensor, row: int, added: int, total: float, squares: float) -> None:
    """Add values on the CPU of which the sum and the sum of squares are known in double precision."""
    memory = rows.numpy()[row]
    mean, known = total / added, float(memory[0])
    m2, delta = max(0.0, squares - total * mean), mean - float(memory[1])
    share = added / (known + added)
    memory[0] = known + added
    memory[1] += delta * share
    memory[2] += m2 + delta * delta * known * share
    memory[4] = max(float(memory[4]), torch.finfo(torch.float64).eps)
