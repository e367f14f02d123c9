"""The tensors in the output of a module."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from gradlab.errors import GradlabError


def measurable(output: Any) -> list[tuple[str, Tensor]]:
    """List the floating-point and complex tensors in an output with their positions: `""`, `"[1]"`, `"[key][0]"`.

    Tuples, lists, mappings, dataclasses and other types that `torch.utils._pytree` supports are searched. The position
    of the first tensor is always empty.
    """
    if isinstance(output, Tensor):
        return [("", output)] if output.is_floating_point() or output.is_complex() else []
    found = [(place, t) for place, t in _leaves(output, "") if t.is_floating_point() or t.is_complex()]
    return [("", tensor) if number == 0 else (place, tensor) for number, (place, tensor) in enumerate(found)]


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
        return
    for key, part in _parts(value):
        yield from _leaves(part, f"{place}[{key}]")


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif type(value) in _pytree.SUPPORTED_NODES:
        yield from enumerate(_pytree.tree_leaves(value))


def describe(output: Any) -> str:
    """Describe an output without a measurable tensor in a word or two."""
    return f"{str(output.dtype).removeprefix('torch.')} values" if isinstance(output, Tensor) else type(output).__name__


def output_tensor(name: str, output: Any) -> Tensor:
    """Return the first floating-point tensor in a layer's output.

    Raises:
        GradlabError: If there is none.
    """
    for _, tensor in measurable(output):
        if tensor.is_floating_point():
            return tensor
    raise GradlabError(f"layer {name} returns {describe(output)}, not a floating-point tensor: select another layer")


def logits_of(output: Any) -> Tensor | None:
    """Return what a network answers: its output, or of a named output the logits, else the last hidden state.

    Returns:
        The tensor, or None if the output is none and names none.
    """
    for part in (output, getattr(output, "logits", None), getattr(output, "last_hidden_state", None)):
        if isinstance(part, Tensor):
            return part
    return None


def detached(output: Any) -> Any:
    """Return an output with every tensor in it cut off from its graph."""
    return _pytree.tree_map_only(Tensor, Tensor.detach, output)


def outside_transforms() -> AbstractContextManager[object]:
    """Return a context in which no `torch.func` transform is active, which allow no operation in place on sums."""
    if not torch._C._are_functorch_transforms_active():
        return nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


def unwrapped(tensor: Tensor) -> Tensor:
    """Return the tensor inside of `torch.func` wrappers, which has the values of all examples."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def with_graph(tensor: Tensor) -> Tensor | None:
    """Return the tensor whose graph a backward pass goes through: inside of `vmap`, that of the values of all examples.

    Other transforms of `torch.func` have graphs of their own, so that there is none.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if not torch._C._functorch.is_batchedtensor(tensor):
            return None
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor if tensor.requires_grad else None


def plain(tensor: Tensor) -> Tensor:
    """Return a dense tensor of the values of another one, whose statistics are to be taken.

    Of a tensor inside `torch.func` wrappers, these are the values of all examples; of a sparse one, its zeros are among
    them; of a nested one, the values of all its parts are in one row.
    """
    tensor = unwrapped(tensor)
    if tensor.is_nested:
        return torch.cat([part.flatten() for part in tensor.unbind()])
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def plain_values(tensor: Tensor) -> Tensor:
    """Return what `plain` does.

    Raises:
        GradlabError: If the tensor has no values.
    """
    refuse_without_values(tensor)
    return plain(tensor)


def refuse_without_values(tensor: Tensor) -> None:
    """Check that a tensor has values.

    Raises:
        GradlabError: If it has none.
    """
    if tensor.is_meta or type(tensor).__name__ == "FakeTensor":
        raise GradlabError(
            "the model runs without values, on the meta device or under FakeTensorMode, so that there is nothing to "
            "measure: run it on a device, or outside of the probe"
        )


def refuse_nested(tensors: Iterable[Tensor], what: str) -> None:
    """Check that no tensor is nested.

    Args:
        tensors: The tensors.
        what: What is measured of them, in the plural.

    Raises:
        GradlabError: If one is.
    """
    if any(tensor.is_nested for tensor in tensors):
        raise GradlabError(
            f"{what} are not measured of nested tensors: pad the examples, or run the model on one after the other"
        )
