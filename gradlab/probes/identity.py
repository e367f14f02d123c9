"""Tensors known by their memory: other people's hooks hand on aliases, which are other Python objects."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")


def storage_key(tensor: Tensor) -> int:
    """The identity of the memory that a tensor is a view of; its own, where it has none (sparse ones)."""
    try:
        key: int = tensor.untyped_storage()._cdata
        return key
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _key(tensor: Tensor) -> tuple[object, ...]:
    """What tells a value from others: its place in memory, its shape there, and how often it was changed in place.

    Inference tensors do not tell the last.
    """
    version = None if tensor.is_inference() else tensor._version
    if tensor.layout is not torch.strided or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return id(tensor), version
    # Tensors on the meta device have no address.
    return tensor.data_ptr() or storage_key(tensor), tensor.shape, tensor.stride(), version


class Remembered(Generic[T]):
    """What is known of tensors that may be gone already; none of them is kept alive."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], tuple[Any, T]] = {}

    def put(self, tensor: Tensor, value: T) -> None:
        """Remember something of a tensor as it is now."""
        self._found[_key(tensor)] = _weak(tensor), value

    def find(self, tensor: Tensor) -> T | None:
        """What is known of a tensor as it is now; None where it is not known."""
        found = self._found.get(_key(tensor))
        return None if found is None or _is_gone(found[0]) else found[1]

    def take(self, tensor: Tensor) -> T | None:
        """What is known of a tensor as it is now, which is then forgotten; None where it is not known."""
        found = self._found.pop(_key(tensor), None)
        return None if found is None or _is_gone(found[0]) else found[1]

    def overwrite(self, tensor: Tensor) -> bool:
        """Forget all that lies in the memory of a tensor; whether there was anything."""
        key, before = storage_key(tensor), len(self._found)
        self._found = {known: e for known, e in self._found.items() if getattr(e[0], "cdata", None) != key}
        return len(self._found) < before

    def take_gone(self) -> list[T]:
        """What is known of tensors that are gone; it is then forgotten."""
        gone = [key for key, (reference, _) in self._found.items() if _is_gone(reference)]
        return [self._found.pop(key)[1] for key in gone]

    def take_all(self) -> list[T]:
        """All that is known; it is then forgotten."""
        values = [value for _, value in self._found.values()]
        self._found.clear()
        return values


def _weak(tensor: Tensor) -> Any:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return weakref.ref(tensor)


def _is_gone(reference: Any) -> bool:
    return bool(reference.expired() if isinstance(reference, StorageWeakRef) else reference() is None)
