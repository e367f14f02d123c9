"""Rules for the gradients of single examples at convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.operands import by_example, in_common_dtype, with_bias
from gradlab.probes.examples.rule import Contributions, Rule
from gradlab.stats import Geometry, convolution_gradients, positions_sum


def _convolution(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    if layout.dim:
        return None
    x, g = in_common_dtype(given["input"], g)
    weights = convolution_gradients(x, g, _geometry(given))
    return by_example({"weight": weights, **with_bias(given, lambda: positions_sum(g))}, layout)


def _transposed(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    """Handle the transposed convolution, an adjoint, by exchanging input and gradient."""
    if layout.dim:
        return None
    x, g = in_common_dtype(given["input"], g)
    geometry = _geometry(given)
    beyond = zip(_each(given.get("output_padding", 0), x.ndim - 2), geometry.stride, strict=True)
    # A padding of the output by more than a stride gives the adjoint further positions, at which there is no input.
    x = F.pad(x, [n for more, step in [*beyond][::-1] for n in (0, more // step)])
    return by_example(
        {"weight": convolution_gradients(g, x, geometry), **with_bias(given, lambda: positions_sum(g))}, layout
    )


def _geometry(given: Mapping[str, Any]) -> Geometry:
    shape = tuple(given["weight"].shape)
    n = len(shape) - 2
    padding = 0 if given.get("padding") == "valid" else given.get("padding", 0)
    dilation = _each(given.get("dilation", 1), n)
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, shape[2:], strict=True)]
    return Geometry(shape, _each(given.get("stride", 1), n), _each(padding, n), dilation, given.get("groups", 1))


def _even_padding(given: Mapping[str, Any]) -> bool:
    """Return whether a convolution is applied to a batch, with equal padding on both sides."""
    shape = given["weight"].shape
    dilation = _each(given.get("dilation", 1), len(shape) - 2)
    even = all(d * (k - 1) % 2 == 0 for d, k in zip(dilation, shape[2:], strict=True))
    return given["input"].ndim == len(shape) and (given.get("padding") != "same" or even)


def _each(value: Any, n: int) -> tuple[int, ...]:
    """Return one number per dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


CONVOLUTION = Rule("input weight bias stride padding dilation groups", "weight bias", _convolution, _even_padding)
TRANSPOSED = Rule(
    "input weight bias stride padding output_padding groups dilation", "weight bias", _transposed, _even_padding
)
