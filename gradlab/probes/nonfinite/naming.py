"""ATen's operations: what users call them, what they write to, and which of them only hand on what they are given."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import Node

_WORDS = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "linear"), "matmul"),
    **dict.fromkeys(("addmm_activation", "mkldnn_linear", "int_mm", "scaled_mm", "grouped_mm"), "matmul"),
    **dict.fromkeys(("convolution_overrideable", "mkldnn_convolution", "slow_conv2d_forward"), "convolution"),
    **dict.fromkeys(("thnn_conv2d", "conv_depthwise2d", "cudnn_convolution", "slow_conv3d_forward"), "convolution"),
    **dict.fromkeys(("thnn_fused_lstm_cell", "thnn_fused_gru_cell", "mkldnn_rnn_layer", "cudnn_rnn"), "rnn"),
    **dict.fromkeys(("batch_norm_legit", "batch_norm_with_update", "batch_norm_legit_no_training"), "batch_norm"),
    **dict.fromkeys(("cudnn_batch_norm", "miopen_batch_norm", "batch_norm_legit_functional"), "batch_norm"),
    **dict.fromkeys(("linalg_vector_norm", "linalg_norm", "fused_rms_norm"), "norm"),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), "nll_loss"),
    **dict.fromkeys(("true_divide", "divide"), "div"),
    "fused_rms_norm": "rms_norm",
    "safe_softmax": "softmax",
    "to_copy": "conversion",
    "copy": "conversion",
}

_ATTENTION = "scaled_dot_product_"

PRODUCTS = {"matmul", "convolution", "rnn"}
"""Operations that take every input at its value: an infinity is never a mask to them."""

_COPIES = {"clone", "conversion", "contiguous", "lift_fresh", "detach", "alias", "cat", "stack"}
_OVERWRITING = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_", "set_"}


@dataclass(frozen=True)
class Effect:
    """What calling an operation does.

    Attributes:
        name: In users' words.
        function: Its name in ATen, without the mark of what changes its argument.
        writes: Names of the arguments that it writes to.
        positions: Names of all its arguments, in order.
        takes: Whether it also reads those that it writes to.
        passes: Whether its output is its input seen otherwise.
        unset: Whether it gives memory that nobody has written to.
    """

    name: str
    function: str
    writes: frozenset[str]
    positions: tuple[str, ...]
    takes: bool
    passes: bool
    unset: bool


@functools.cache
def effect_of(function: Any) -> Effect:
    """What an overload of an operation does, by its schema."""
    schema = function._schema
    space, _, base = schema.name.partition("::")
    arguments = schema.arguments
    writes = frozenset(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write)
    out = frozenset(a.name for a in arguments if a.is_out)
    bare = base.removesuffix("_")
    name = _in_words(bare) if space == "aten" else f"{space}.{bare}"
    views = any(a.alias_info is not None and not a.alias_info.is_write for a in arguments)
    return Effect(
        name=name,
        function=bare,
        writes=writes,
        positions=tuple(a.name for a in arguments),
        takes=not out and base not in _OVERWRITING,
        passes=views or name in _COPIES,
        unset=bare.startswith(("empty", "new_empty")) or bare == "resize",
    )


def _in_words(base: str) -> str:
    bare = re.sub(r"^_?foreach_", "", base).strip("_").removeprefix("native_")
    bare = bare.removesuffix("_backward")
    return "scaled_dot_product_attention" if bare.startswith(_ATTENTION) else _WORDS.get(bare, bare)


def own_function(node: Node) -> str | None:
    """The name of the `torch.autograd.Function` that a node belongs to; None for one of torch's own nodes."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return None
    return type(node).__name__.removesuffix("Backward")


def node_in_words(node: Node) -> str:
    """What users call the operation whose derivative a node computes: `log` of `LogBackward0`."""
    bare = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    return _in_words(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower())
