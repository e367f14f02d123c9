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
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if tensor.layout is not torch.strided or tensor.is_nested or wrapped:
        return id(tensor), version
    # Tensors on the meta device have no address.
    return tensor.data_ptr() or storage_key(tensor), version, tensor.shape, tensor.stride()


class Remembered(Generic[T]):
    """A mapping from tensors to values that keeps at most the last tensor alive."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], tuple[Any, T]] = {}
        # The last tensor, its version and its value.
        self._held: tuple[Tensor, int | None, T] | None = None
        # Keys, storages and values that are not in the table yet.
        self._noted: list[tuple[tuple[object, ...], Any, T]] = []

    @property
    def table(self) -> dict[tuple[object, ...], tuple[Any, T]]:
        """Where the values are, except that of a tensor that is held."""
        return self._found

    def put(self, tensor: Tensor, value: T) -> None:
        """Store a value for the present state of a tensor, without keeping it alive."""
        self._release()
        self._store(_key(tensor), _weak(tensor), value)

    def hold(self, tensor: Tensor, value: T) -> None:
        """Do the same as `put`, at less cost if the next call takes this tensor, which is kept alive until then."""
        if self._held is not None:
            self._release()
        self._held = tensor, None if tensor.is_inference() else tensor._version, value

    def note(self, tensor: Tensor, value: T) -> None:
        """Do the same as `put` for a strided tensor with an address, at less cost if none is looked for afterwards."""
        if self._held is not None:
            self._release()
        version = None if tensor.is_inference() else tensor._version
        key = tensor.data_ptr(), version, tensor.shape, tensor.stride()
        self._noted.append((key, StorageWeakRef(tensor.untyped_storage()), value))

    def find(self, tensor: Tensor) -> T | None:
        """Return the value for the present state of a tensor, or None."""
        self._release()
        found = self._found.get(_key(tensor))
        return None if found is None or _is_gone(found[0]) else found[1]

    def take(self, tensor: Tensor) -> T | None:
        """Remove and return the value for the present state of a tensor, or None."""
        if (held := self.take_held(tensor)) is not None:
            return held
        self._release()
        key = _key(tensor)
        found = self._found.get(key)
        if found is None or _is_gone(found[0]):
            return None
        del self._found[key]
        return found[1]

    def take_held(self, tensor: Tensor) -> T | None:
        """Remove and return the value of the last tensor if it is this one, as it was when it was held, or None."""
        held = self._held
        if held is None or held[0] is not tensor or held[1] != (None if tensor.is_inference() else tensor._version):
            return None
        self._held = None
        return held[2]

    def overwrite(self, tensor: Tensor) -> bool:
        """Find no tensor in the storage of a tensor any more, and return whether there were any."""
        self._release()
        if not self._found:
            return False
        key = storage_key(tensor)
        changed = [known for known, (weak, _) in self._found.items() if getattr(weak, "cdata", None) == key]
        for known in changed:
            # The value stays among those that nothing has taken.
            self._found[(object(),)] = self._found.pop(known)
        return bool(changed)

    def take_gone(self) -> list[T]:
        """Remove and return the values of tensors that no longer exist."""
        self._release()
        gone = [key for key, (reference, _) in self._found.items() if _is_gone(reference)]
        return [self._found.pop(key)[1] for key in gone]

    def take_all(self) -> list[T]:
        """Remove and return all values."""
        noted, self._noted = self._noted, []
        self._release()
        values = [*(value for _, value in self._found.values()), *(value for *_, value in noted)]
        self._found.clear()
        return values

    def _release(self) -> None:
        """Let go of the last tensor, of which no other state than that of its version is known."""
        if self._noted:
            noted, self._noted = self._noted, []
            for key, reference, value in noted:
                self._store(key, reference, value)
        if self._held is None:
            return
        (tensor, version, value), self._held = self._held, None
        now = None if tensor.is_inference() else tensor._version
        self._store(_key(tensor) if now == version else (object(),), _weak(tensor), value)

    def _store(self, key: tuple[object, ...], reference: Any, value: T) -> None:
        known = self._found.pop(key, None)
        if known is not None and _is_gone(known[0]):
            # Memory is used again; the value stays among those that nothing has taken.
            self._found[(object(),)] = known
        self._found[key] = reference, value


def _weak(tensor: Tensor) -> Any:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return weakref.ref(tensor)


def _is_gone(reference: Any) -> bool:
    return bool(reference.expired() if isinstance(reference, StorageWeakRef) else reference() is None)
