"""What tells passes apart that may take different ways through a model."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

_VALUES = (bool, int, str, Enum, type(None))
"""Classes of values on which the way through a model may depend, other than on those of tensors."""


def form_of(value: Any, shapes: bool = False, numbers: bool = True) -> object:
    """Return the properties of an argument that passes of one kind share: of a tensor its form, of a flag its value.

    Args:
        value: The argument.
        shapes: Whether tensors of several shapes are told apart, not only of several numbers of dimensions.
        numbers: Whether whole numbers are told apart, which may be sizes.

    Returns:
        A hashable object: a tensor's dtype and shape or number of dimensions; the class and value of a flag, a number
        or a name; the class of a list, tuple or dict with the forms of what it holds; and the class of anything else.
    """
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape) if shapes else value.ndim
    if isinstance(value, _VALUES) and (numbers or type(value) is not int):
        # True equals 1.
        return type(value), value
    if isinstance(value, list | tuple):
        return type(value), *(form_of(inner, shapes, numbers) for inner in value)
    if isinstance(value, dict):
        return dict, *((key, form_of(inner, shapes, numbers)) for key, inner in value.items())
    return type(value)


def modes_of(module: nn.Module) -> tuple[bool, bool, bool]:
    """Return the modes in which a module is called: training, with a graph, for inference."""
    return module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def state_reader(model: nn.Module) -> Callable[[], object]:
    """Return a function that reads the switches of a model's modules: their attributes that are flags or names.

    Modules of torch itself have none that lead to other weights.
    """
    modules = [module for module in model.modules() if not type(module).__module__.startswith("torch.nn.modules.")]
    owned = [vars(module) for module in modules]
    is_value = _IsValue()

    def read() -> object:
        return tuple([(kind, value) for own in owned for value in own.values() if is_value[kind := type(value)]])

    return read


class _IsValue(dict[type, bool]):
    """Whether objects of a class are such values, looked up once for each class."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = issubclass(kind, _VALUES)
        return self[kind]
