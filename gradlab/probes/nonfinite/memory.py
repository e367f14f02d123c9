"""The values in memory: views share memory, and a tensor that is changed in place is a new value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlab.probes.identity import storage_key
from gradlab.probes.nonfinite.values import Source, Value, extremes
from gradlab.probes.outputs import refuse_nested

_Region = tuple[object, ...]


@dataclass
class _Storage:
    """The values in one storage.

    Attributes:
        reference: A reference that prevents its address from being reused.
        regions: The current value of each view, by the region that it covers.
        writers: The values that operations have written to it, in order.
    """

    reference: Any
    regions: dict[_Region, Value] = field(default_factory=dict)
    writers: list[Value] = field(default_factory=list)


class Memory:
    """The values of a pass by the tensors that contain them, none of which is kept alive.

    Args:
        source_of: A function that returns the source of a tensor that no operation has returned.
    """

    def __init__(self, source_of: Callable[[Tensor], Source]) -> None:
        self.values: list[Value] = []
        self._source_of = source_of
        self._storages: dict[int, _Storage] = {}

    def read(self, tensor: Tensor) -> Value:
        """The current value of a tensor: the value written to exactly this region, or else one read from it."""
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
        """Record that an operation has returned a value: in new memory, as a view, or in place of another value."""
        storage = self._storage(tensor)
        if in_place:
            storage.regions.clear()
        if in_place or not storage.regions:
            storage.writers.append(value)
        storage.regions[_region(tensor)] = value

    def new(self, tensor: Tensor) -> Value:
        """A value without known properties."""
        refuse_nested([tensor], "origins of NaN")
        value = Value(len(self.values), tensor.dtype)
        self.values.append(value)
        return value

    def forget(self, tensor: Tensor) -> None:
        """Forget the value of a tensor, which is examined again when it is next read."""
        self._storages.pop(storage_key(tensor), None)

    def clear(self) -> None:
        """Forget everything."""
        self.values, self._storages = [], {}

    def _storage(self, tensor: Tensor) -> _Storage:
        refuse_nested([tensor], "origins of NaN")
        key = storage_key(tensor)
        storage = self._storages.get(key)
        if storage is None:
            strided = tensor.layout is torch.strided
            # A sparse tensor has no storage to identify it, so it is kept.
            reference = StorageWeakRef(tensor.untyped_storage()) if strided else tensor
            storage = self._storages[key] = _Storage(reference)
        return storage


def _region(tensor: Tensor) -> _Region:
    if tensor.layout is not torch.strided:
        return ()
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
