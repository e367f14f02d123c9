"""Which value of a forward pass a tensor is, and whether it is a weight: by memory and version, none kept alive."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlab.probes.identity import Remembered, storage_key

DATA = -1
"""The number of all that depends on the data and is no signal yet: token ids, masks, whole numbers."""

CONSTANT = -2
"""The number of all that was seen to depend on no data."""


class Values:
    """Numbers of tensors as they are now.

    A tensor that no function was seen to make, as those that are unpacked from another one, is what its memory held
    last.

    Args:
        weights: Parameters. What is computed of them alone is a weight as well.
        constants: Buffers.
    """

    def __init__(self, weights: Iterable[Tensor], constants: Iterable[Tensor]) -> None:
        self._exact: Remembered[int] = Remembered()
        self._memory: dict[int, tuple[StorageWeakRef, int]] = {}
        self._weights: dict[int, StorageWeakRef | None] = {storage_key(weight): None for weight in weights}
        for constant in constants:
            self.put(constant, CONSTANT)

    def number(self, tensor: Tensor) -> int | None:
        """The number of a tensor; None of what no function was seen to make."""
        found = self._exact.find(tensor)
        if found is not None:
            return found
        last = self._memory.get(storage_key(tensor))
        return None if last is None or last[0].expired() else last[1]

    def is_same(self, tensor: Tensor, number: int) -> bool:
        """Whether a tensor is known to be this very value, and not only a view of its memory."""
        return self._exact.find(tensor) == number

    def put(self, tensor: Tensor, number: int) -> None:
        """Give a tensor as it is now a number."""
        if tensor.is_inference():
            self._exact.overwrite(tensor)
        self._exact.put(tensor, number)
        reference = _reference(tensor)
        if reference is not None:
            self._memory[storage_key(tensor)] = reference, number

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter, a view of one, or was computed of parameters alone."""
        reference = self._weights.get(key := storage_key(tensor))
        return key in self._weights and not (reference is not None and reference.expired())

    def put_weight(self, tensor: Tensor) -> None:
        """Note that a tensor was computed of parameters and constants alone."""
        if not self.is_weight(tensor) and (reference := _reference(tensor)) is not None:
            self._weights[storage_key(tensor)] = reference


def _reference(tensor: Tensor) -> StorageWeakRef | None:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None
