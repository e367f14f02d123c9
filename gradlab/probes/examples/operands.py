"""The operands of a call in the dtype and shapes in which rules take them, and what they make by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.rule import Contributions
from gradlab.stats import RowGradients


def in_common_dtype(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both to one dtype, at least float32; with mixed precision, a layer's dtype differs from its input's."""
    x = x.detach()
    if x.dtype is g.dtype is torch.float32:
        return x, g
    dtype = at_least_single(torch.promote_types(x.dtype, g.dtype))
    return x.to(dtype), g.to(dtype)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for narrower dtypes, and others as they are."""
    return torch.promote_types(dtype, torch.float32)


def position_rows(x: Tensor) -> Tensor:
    """Reshape (B, …, P) to (B, T, P)."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def by_example(found: Contributions, layout: Layout) -> Contributions:
    """Add the gradients of the rows of each example, if it has several."""
    if layout.parts == 1:
        return found
    return {name: RowGradients(layout.first(part.computed().rows()).sum(1)) for name, part in found.items()}


def with_bias(given: Mapping[str, Any], rows: Callable[[], Tensor]) -> Contributions:
    """Compute the contributions to a bias where there is one."""
    return {} if given.get("bias") is None else {"bias": RowGradients(rows())}
