"""Functions of torch as a function mode sees them: their arguments, and the operations inside attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_attention = F.multi_head_attention_forward
open_attention = FunctionType(
    _attention.__code__,
    {**_attention.__globals__, "has_torch_function": lambda tensors: False},
    _attention.__name__,
    _attention.__defaults__,
    _attention.__closure__,
)
"""A copy of `F.multi_head_attention_forward` that exposes its inner functions to a mode, rather than being opaque."""
open_attention.__kwdefaults__ = _attention.__kwdefaults__


def function_name(func: Callable[..., Any]) -> str:
    """The name of a torch function without its overload and its module: `matmul` for `torch.linalg.matmul`."""
    return str(getattr(func, "__name__", "")).partition(".")[0].removeprefix("linalg_").removeprefix("_sparse_")


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values, including those in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (inner for inner in value if isinstance(inner, Tensor))
