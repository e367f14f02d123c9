"""Closed-form rules for the gradients of single examples, by function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlab.probes.examples.broadcast_rules import ADD, MULTIPLY, SPREAD, SUBTRACT, broadcast_sums
from gradlab.probes.examples.convolution_rules import CONVOLUTION, TRANSPOSED
from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.operands import at_least_single, by_example, in_common_dtype, position_rows, with_bias
from gradlab.probes.examples.rule import Contributions, Rule
from gradlab.stats import EmbeddingGradients, OuterGradients, RowGradients, normalization_gradients, positions_sum


def _linear(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    x, g = in_common_dtype(given["input"], g)
    if g.ndim == 1:
        if layout.examples > 1:
            return None
        x, g, layout = x[None], g[None], Layout(0, 1)
    a, b = (position_rows(layout.first(tensor)) for tensor in (x, g))
    return {"weight": OuterGradients(a, b), **with_bias(given, lambda: b.sum(1))}


def _matmul(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    x, g = in_common_dtype(given["input"], g)
    a, b = (position_rows(layout.first(tensor)) for tensor in (g, x))
    return {"other": OuterGradients(a, b)}


def _addmm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    found = _matmul({"input": given["mat1"]}, g, layout)
    return {"mat2": found["other"], "input": broadcast_sums(g, given["input"], layout)}


def _batch_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    """Handle batch normalization by running statistics, which do not depend on the batch."""
    if layout.dim:
        return None
    x, g = in_common_dtype(given["input"], g)
    scale, shift = normalization_gradients(x, g, given["running_mean"], given["running_var"], given.get("eps", 1e-5))
    return by_example({"weight": scale, "bias": shift}, layout)


def _layer_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    x, g = in_common_dtype(given["input"], g)
    shape = given["normalized_shape"]
    return _affine(F.layer_norm(x, shape, eps=given.get("eps", 1e-5)), g, len(shape), layout)


def _rms_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    x, g = in_common_dtype(given["input"], g)
    shape = given["normalized_shape"]
    return _affine(F.rms_norm(x, shape, eps=given.get("eps")), g, len(shape), layout)


def _affine(normalized: Tensor, g: Tensor, dims: int, layout: Layout) -> Contributions:
    """Compute the contributions to the scale and shift of the last dimensions."""
    scale, shift = (layout.first(tensor).flatten(-dims) for tensor in (g * normalized, g))
    return {"weight": RowGradients(position_rows(scale).sum(1)), "bias": RowGradients(position_rows(shift).sum(1))}


def _group_norm(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions | None:
    if layout.dim:
        return None
    x, g = in_common_dtype(given["input"], g)
    normalized = F.group_norm(x, given["num_groups"], eps=given.get("eps", 1e-5))
    scale, shift = (RowGradients(positions_sum(tensor)) for tensor in (g * normalized, g))
    return by_example({"weight": scale, "bias": shift}, layout)


def _embedding(given: Mapping[str, Any], g: Tensor, layout: Layout) -> Contributions:
    ids, weight = given["input"], given["weight"]
    padding = given.get("padding_idx")
    rows = position_rows(layout.first(g))
    found = layout.first(ids).reshape(rows.shape[:2])
    if padding is not None:
        rows = rows * (found != padding % len(weight))[..., None]
    return {"weight": EmbeddingGradients(found, rows.to(at_least_single(rows.dtype)), len(weight))}


_MATMUL = Rule("input other", "other", _matmul, lambda given: given["other"].ndim == 2 and given["input"].ndim > 1)

RULES: dict[Callable[..., Any], Rule] = {
    F.linear: Rule("input weight bias", "weight bias", _linear, lambda given: given["weight"].ndim == 2),
    torch.addmm: Rule(
        "input mat1 mat2", "input mat2", _addmm, lambda given: given.get("beta", 1) == given.get("alpha", 1) == 1
    ),
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm), _MATMUL),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), CONVOLUTION),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), TRANSPOSED),
    F.batch_norm: Rule(
        "input running_mean running_var weight bias training momentum eps",
        "weight bias",
        _batch_norm,
        lambda given: not given.get("training") and given["running_mean"] is not None and given["input"].ndim > 1,
    ),
    F.layer_norm: Rule("input normalized_shape weight bias eps", "weight bias", _layer_norm),
    F.rms_norm: Rule("input normalized_shape weight eps", "weight", _rms_norm),
    F.group_norm: Rule("input num_groups weight bias eps", "weight bias", _group_norm),
    F.embedding: Rule(
        "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse",
        "weight",
        _embedding,
        lambda given: not given.get("scale_grad_by_freq"),
    ),
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__), ADD),
    **dict.fromkeys((torch.sub, torch.Tensor.sub, torch.Tensor.sub_, torch.Tensor.__sub__), SUBTRACT),
    **dict.fromkeys((torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__), MULTIPLY),
    **dict.fromkeys(
        (torch.Tensor.expand, torch.Tensor.expand_as, torch.broadcast_to, torch.Tensor.broadcast_to), SPREAD
    ),
}
"""The rules by function."""
