"""Classes of torch functions for the graph of a pass: those that apply weights, take slices, or add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradlab.probes.applications import APPLYING
from gradlab.probes.functions import tensors_in

_LOOKUPS = {"__getitem__", "index_select", "gather", "take_along_dim"}
_ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}

PRODUCTS = APPLYING - _LOOKUPS | _ATTENTION | _RECURRENT
"""Functions that apply a weight to a signal, or one signal to another; their outputs have new channels."""

SLICES = {"chunk", "split", "unbind", "select", "narrow", "tensor_split", "index_select", "__getitem__"}
"""Functions that return a part of their argument."""

ENLARGING = {"interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "pixel_shuffle"}
ENLARGING |= {f"{kind}{ndim}d" for kind in ("conv_transpose", "max_unpool") for ndim in (1, 2, 3)}
"""Functions whose output has more positions than their argument."""

_SUMS = {"add", "__add__", "__radd__", "__iadd__"}
_PRODUCT_SUMS = {"addcmul", "addcdiv", "addmm", "addmv", "addbmm", "baddbmm", "addr", "index_add", "scatter_add"}


def is_in_place(name: str) -> bool:
    """Whether a function of this name writes to its first argument."""
    return name == "__setitem__" or (name.startswith("__i") and name.endswith("__")) or _ends_in_place(name)


def applies(name: str, weights: bool, signals: int) -> bool:
    """Whether a function applies a weight to a signal, or one signal to another.

    Args:
        name: The name of the function.
        weights: Whether a weight is among its arguments.
        signals: The number of different signals among its arguments.
    """
    if name in PRODUCTS:
        return weights or signals > 1
    return name in _LOOKUPS and weights


def attends(name: str, signals: int) -> bool:
    """Whether a function multiplies signals with one another."""
    return name in _ATTENTION or (name in PRODUCTS and signals > 1)


@dataclass
class Operand:
    """One of the two operands of an addition.

    Attributes:
        tensors: The tensors from which the operand was computed: only itself if it is a tensor.
        as_added: A function that returns the operand as it is added, with every scale.
        tensor: The operand; None if it exists only within the addition.
    """

    tensors: list[Tensor]
    as_added: Callable[[], Tensor]
    tensor: Tensor | None = None


def operands(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Operand, Operand] | None:
    """The operands that a function adds, with scales: `add` with an alpha, `lerp`, `addcmul`, `index_add` and others.

    Returns:
        The two operands; None if the function does not add two signals that may be a stream and a branch.
    """
    plain = name.removesuffix("_") if _ends_in_place(name) else name
    if plain in _SUMS:
        return _summands(args, kwargs)
    if plain == "lerp":
        return _mixed(args, kwargs)
    if plain in _PRODUCT_SUMS:
        return _product_summands(func, args, dict(kwargs))
    return None


def _summands(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Operand, Operand] | None:
    first, second = (*args, kwargs.get("other"))[:2] if args else (kwargs.get("input"), kwargs.get("other"))
    if not _may_be_stream(first) and not _may_be_stream(second):
        return None
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return None
    return _itself(first), _scaled(second, kwargs.get("alpha", 1))


def _mixed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Operand, Operand] | None:
    """The parts of (1 − w)·x + w·y."""
    values = [*args, *(kwargs[key] for key in ("input", "end", "weight") if key in kwargs)]
    if len(values) != 3 or not isinstance(values[1], Tensor) or not _may_be_stream(values[0]):
        return None
    return _scaled(values[0], 1 - values[2]), _scaled(values[1], values[2])


def _product_summands(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Operand, Operand] | None:
    """The first argument, and the value added to it, which is the function's output for zeros in its place."""
    first = args[0] if args else kwargs.get("input")
    if not isinstance(first, Tensor) or not _may_be_stream(first):
        return None
    beta = kwargs.get("beta", 1)

    def added() -> Tensor:
        zeros = torch.zeros_like(first)
        result = func(zeros, *args[1:], **kwargs) if args else func(**{**kwargs, "input": zeros})
        assert isinstance(result, Tensor)
        return result

    rest = [*tensors_in((*args[1:], *(value for key, value in kwargs.items() if key != "input")))]
    return _scaled(first, beta), Operand(rest, added)


def _itself(tensor: Tensor) -> Operand:
    return Operand([tensor], lambda: tensor, tensor)


def _scaled(tensor: Tensor, factor: Any) -> Operand:
    if not isinstance(factor, Tensor) and factor == 1:
        return _itself(tensor)
    return Operand([tensor, *tensors_in([factor])], lambda: tensor * factor)


def _may_be_stream(value: Any) -> bool:
    """Whether a value has at least dimensions of examples and of channels."""
    return isinstance(value, Tensor) and value.ndim > 1 and value.is_floating_point()


def _ends_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def joined(values: Iterable[int | None]) -> tuple[int, ...]:
    """The numbers that identify signals, without repetitions."""
    return tuple(dict.fromkeys(value for value in values if value is not None and value >= 0))
