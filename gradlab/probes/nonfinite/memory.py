"""Which value lies where in memory: views share it, and what is changed in place is another value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlab.probes.identity import storage_key
from gradlab.probes.nonfinite.values import Source, Value, extremes

_Region = tuple[object, ...]


@dataclass
class _Storage:
    """What is known of one stretch of memory.

    Attributes:
        reference: Keeps its address from being given to other memory.
        regions: The value of each view as it is now, by where it lies.
        writers: What was written to it by operations, in order.
    """

    reference: Any
    regions: dict[_Region, Value] = field(default_factory=dict)
    writers: list[Value] = field(default_factory=list)


class Memory:
    """The values of a pass by the tensors that hold them; no tensor is kept alive.

    Args:
        source_of: Whose a tensor is that no operation has made.
    """

    def __init__(self, source_of: Callable[[Tensor], Source]) -> None:
        self.values: list[Value] = []
        self._source_of = source_of
        self._storages: dict[int, _Storage] = {}

    def read(self, tensor: Tensor) -> Value:
        """The value of a tensor now: what was written to just this place, else what is seen in it."""
        storage = self._storage(tensor)
        region = _region(tensor)
        value = storage.regions.get(region)
        if value is None:
            value = self.new(tensor)
            value.extremes = extremes(tensor)
            value.writers = tuple(storage.writers)
            value.source = None if storage.writers else self._source_of(tensor)
            storage.regions[region] = value
        return value

    def write(self, tensor: Tensor, value: Value, *, in_place: bool) -> None:
        """Note that an operation has made a value: in memory of its own, as a view, or in the place of another."""
        storage = self._storage(tensor)
        if in_place:
            storage.regions.clear()
        if in_place or not storage.regions:
            storage.writers.append(value)
        storage.regions[_region(tensor)] = value

    def new(self, tensor: Tensor) -> Value:
        """A value that nothing is known of yet."""
        value = Value(len(self.values), tensor.dtype)
        self.values.append(value)
        return value

    def forget(self, tensor: Tensor) -> None:
        """Look at a tensor anew when it is read next."""
        self._storages.pop(storage_key(tensor), None)

    def clear(self) -> None:
        """Forget everything."""
        self.values, self._storages = [], {}

    def _storage(self, tensor: Tensor) -> _Storage:
        key = storage_key(tensor)
        storage = self._storages.get(key)
        if storage is None:
            strided = tensor.layout is torch.strided
            # A sparse tensor has no memory of its own to be known by: it is kept.
            reference = StorageWeakRef(tensor.untyped_storage()) if strided else tensor
            storage = self._storages[key] = _Storage(reference)
        return storage


def _region(tensor: Tensor) -> _Region:
    if tensor.layout is not torch.strided:
        return ()
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
