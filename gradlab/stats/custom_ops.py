"""Moments, and sums of squared gradients, as operations of torch, which stand inside compiled graphs as any other does.

A row of the block of moments that `add_moments` adds to has, in float64: the number of finite values, their mean, the
sum of their squared deviations from the mean, the number of other values, and the relative rounding error of the
coarsest sums so far.

Torch may keep compiled code by the names of operations: one that is to do something else needs another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradlab.stats import native
from gradlab.stats.fast_moments import FastMoments
from gradlab.stats.moments import Moments
from gradlab.stats.norms import l2_norms

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


torch.library.define("gradlab::sum_of_squares", "(Tensor x) -> Tensor", tags=torch.Tag.flexible_layout)


@torch.library.impl("gradlab::sum_of_squares", "CompositeExplicitAutograd")  # type: ignore[misc]
def _sum_of_squares(x: Tensor) -> Tensor:
    if (sums := native.sums(x)) is not None:
        return torch.tensor(sums[1], dtype=torch.float64)
    return l2_norms([x])[0].double().square()


@torch.library.register_fake("gradlab::sum_of_squares")  # type: ignore[untyped-decorator]
def _number(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float64)


class _Watched(torch.autograd.Function):
    """A copy, whose backward pass gives the sum of squares of its gradient to a number as that number's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Tensor) -> Tensor:
        """Copy a tensor, since what follows may change it in place, which autograd does not allow for a view."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Pass the gradient on, and return the sum of its squares."""
        return gradient, torch.ops.gradlab.sum_of_squares(gradient)


torch.library.define("gradlab::watch_gradient", "(Tensor x, Tensor[] parts, int row) -> Tensor")


@torch.library.impl("gradlab::watch_gradient", "CompositeImplicitAutograd")  # type: ignore[misc]
def _watch_gradient(x: Tensor, parts: Sequence[Tensor], row: int) -> Tensor:
    if row < 0 or not x.requires_grad:
        return x.clone()
    watched: Tensor = _Watched.apply(x, parts[row])
    return watched


watch_gradient = torch.ops.gradlab.watch_gradient.default
"""`watch_gradient(x, parts, row)` copies x; no copy is left where a compiler has fused it with what follows.

The gradient of `parts[row]`, a float64 number that requires a gradient, is Σ g² over the elements of the gradient g of
the copy. With a negative row, and where x has no graph, it only copies.
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
