"""Which units of an activation are off, and which values lie at the ends of its range."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.stats.precision import widest
from gradlab.stats.workspace import Workspace

NEAR = 0.01
"""Part of a range from whose end on a value is saturated."""

_CHUNK = 1 << 19
"""Elements whose signs are taken at a time on the CPU: 2 MiB in float32."""


def active_counts(x: Tensor, unit_dim: int, *, rectified: bool = False, room: Workspace | None = None) -> Tensor:
    """How often each unit is not exactly 0.

    Args:
        x: An activation, real, of any shape.
        unit_dim: Its dimension of units: 1 of images as torch lays them out, -1 of vectors and tokens.
        rectified: Whether no value is negative, which saves a third of the work.
        room: Memory that calls after one another share.

    Returns:
        Shape (x.shape[unit_dim],), float64 (float32 on mps). NaN counts as 0.
    """
    x, place = x.detach(), unit_dim % x.ndim
    others = [dim for dim in range(x.ndim) if dim != place]
    wide = widest(x.device)
    if not others or not x.numel():
        signs = x.sign().abs_().to(wide)
        return signs.sum(others) if others else signs
    cut = 1 if place == 0 else 0
    counts: list[Tensor] = []
    # A part after another on the CPU, so that signs lie in a small piece of memory, and in the processor's cache.
    for part in x.split(max(1, _CHUNK * x.shape[cut] // x.numel()) if x.is_cpu else x.shape[cut], cut):
        # A sum of signs: comparisons and their sums take several times as long.
        signs = (
            torch.sign(part, out=room.take(part, tuple(part.shape))[0])
            if room and type(part) is Tensor
            else part.sign()
        )
        if not rectified:
            signs = signs.abs_()
        # Float32 holds whole numbers so far.
        exact = torch.float32 if part.numel() <= part.shape[place] << 24 else wide
        counts.append(signs.sum(others, dtype=exact))
    return torch.stack(counts).sum(0, dtype=wide)


def active_units(x: Tensor, unit_dim: int, *, rectified: bool = False) -> Tensor:
    """Return which units are not exactly 0 for some input, at a quarter of the cost of `active_counts`.

    Args:
        x: An activation, real, of any shape.
        unit_dim: Its dimension of units; see `active_counts`.
        rectified: Whether no value is negative.

    Returns:
        1 or 0, shape (x.shape[unit_dim],), of the dtype of x. NaN counts as 0.
    """
    x, place = x.detach(), unit_dim % x.ndim
    if not x.numel():
        return x.new_zeros(x.shape[place])
    # Rows that lie together in memory first: a maximum over several dimensions at once takes three times as long.
    inner = x.flatten(place + 1).amax(-1) if place + 1 < x.ndim else x
    largest = inner.reshape(-1, x.shape[place]).amax(0)
    if not rectified:
        inner = x.flatten(place + 1).amin(-1) if place + 1 < x.ndim else x
        largest = torch.maximum(largest, -inner.reshape(-1, x.shape[place]).amin(0))
    return (largest > 0).to(x)


def saturated_count(y: Tensor, low: float, high: float, *, below: bool = True) -> Tensor:
    """How many values lie within a hundredth of a range of its ends.

    Args:
        y: What a bounded activation gave.
        low: Its lower bound.
        high: Its upper bound.
        below: Whether its lower end counts.

    Returns:
        A number of shape ().
    """
    margin = NEAR * (high - low)
    y = y.detach()
    at_end = y >= high - margin
    return (at_end | (y <= low + margin)).sum() if below else at_end.sum()


def one_sided_rows(y: Tensor, dim: int) -> Tensor:
    """How many rows of a softmax have all but a hundredth of their weight in one place: no gradient passes there.

    Args:
        y: What a softmax gave.
        dim: Its dimension.

    Returns:
        A number of shape ().
    """
    return (y.detach().amax(dim) >= 1 - NEAR).sum()
