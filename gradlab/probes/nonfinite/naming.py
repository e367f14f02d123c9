"""ATen's operations: their names for users, the arguments they write to, and those that only pass their input on."""

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
"""Operations for which an infinite input is never a mask."""

_COPIES = {"clone", "conversion", "contiguous", "lift_fresh", "detach", "alias", "cat", "stack"}
_OVERWRITING = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_", "set_"}


@dataclass(frozen=True)
class Effect:
    """The effect of an operation.

    Attributes:
        name: The name that users know.
        function: The name in ATen, without the underscore of in-place operations.
        writes: The names of the arguments to which it writes.
        positions: The names of all arguments, in order.
        takes: Whether it also reads the arguments to which it writes.
        passes: Whether its output has the values of its input, as for views, copies and casts.
        unset: Whether it returns uninitialized memory.
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
    """The effect of an overload of an operation, according to its schema."""
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
    """The name of the `torch.autograd.Function` to which a node belongs; None for torch's own nodes."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return None
    return type(node).__name__.removesuffix("Backward")


def node_in_words(node: Node) -> str:
    """The name, for users, of the operation whose derivative a node computes: `log` for `LogBackward0`."""
    bare = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    return _in_words(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower())
