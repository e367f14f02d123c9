"""Identification of tensors by their memory, since hooks of other users may return aliases of a tensor."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")


def storage_key(tensor: Tensor) -> int:
    """Return an identifier of a tensor's storage, or of the tensor itself if it has none, as sparse tensors."""
    try:
        key: int = tensor.untyped_storage()._cdata
        return key
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _key(tensor: Tensor) -> tuple[object, ...]:
    """Return a key of a tensor's value: its address, shape, strides and version.

    Inference tensors have no version.
    """
    version = None if tensor.is_inference() else tensor._version
    if tensor.layout is not torch.strided or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return id(tensor), version
    # Tensors on the meta device have no address.
    return tensor.data_ptr() or storage_key(tensor), version, tensor.shape, tensor.stride()


class Remembered(Generic[T]):
    """A mapping from tensors to values that does not keep the tensors alive."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], tuple[Any, T]] = {}

    def put(self, tensor: Tensor, value: T) -> None:
        """Store a value for the present state of a tensor."""
        self._found[_key(tensor)] = _weak(tensor), value

    def find(self, tensor: Tensor) -> T | None:
        """Return the value for the present state of a tensor, or None."""
        found = self._found.get(_key(tensor))
        return None if found is None or _is_gone(found[0]) else found[1]

    def take(self, tensor: Tensor) -> T | None:
        """Remove and return the value for the present state of a tensor, or None."""
        found = self._found.pop(_key(tensor), None)
        return None if found is None or _is_gone(found[0]) else found[1]

    def overwrite(self, tensor: Tensor) -> bool:
        """Forget all tensors in the storage of a tensor, and return whether there were any."""
        key, before = storage_key(tensor), len(self._found)
        self._found = {known: e for known, e in self._found.items() if getattr(e[0], "cdata", None) != key}
        return len(self._found) < before

    def take_gone(self) -> list[T]:
        """Remove and return the values of tensors that no longer exist."""
        gone = [key for key, (reference, _) in self._found.items() if _is_gone(reference)]
        return [self._found.pop(key)[1] for key in gone]

    def take_all(self) -> list[T]:
        """Remove and return all values."""
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
