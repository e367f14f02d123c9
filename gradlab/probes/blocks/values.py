"""Identifies tensors of a forward pass, and weights, by memory and version, without keeping any of them alive."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlab.probes.identity import Remembered, storage_key

DATA = -1
"""The number of every value that depends on the data but is not a signal yet: token ids, masks, integers."""

CONSTANT = -2
"""The number of every value that is known not to depend on the data."""


class Values:
    """Numbers that identify tensors in their current version.

    A tensor that no observed function has returned, such as one unpacked from another tensor, has the number of the
    value last stored in its memory.

    Args:
        weights: The parameters. Values computed only from them are weights as well.
        constants: The buffers.
    """

    def __init__(self, weights: Iterable[Tensor], constants: Iterable[Tensor]) -> None:
        self._exact: Remembered[int] = Remembered()
        self._memory: dict[int, tuple[StorageWeakRef, int]] = {}
        self._weights: dict[int, StorageWeakRef | None] = {storage_key(weight): None for weight in weights}
        for constant in constants:
            self.put(constant, CONSTANT)

    def number(self, tensor: Tensor) -> int | None:
        """The number of a tensor; None if no observed function has returned it."""
        found = self._exact.find(tensor)
        if found is not None:
            return found
        last = self._memory.get(storage_key(tensor))
        return None if last is None or last[0].expired() else last[1]

    def is_same(self, tensor: Tensor, number: int) -> bool:
        """Whether a tensor is known to be exactly this value, and not only a view of its memory."""
        return self._exact.find(tensor) == number

    def put(self, tensor: Tensor, number: int) -> None:
        """Assign a number to a tensor in its current version."""
        if tensor.is_inference():
            self._exact.overwrite(tensor)
        self._exact.put(tensor, number)
        reference = _reference(tensor)
        if reference is not None:
            self._memory[storage_key(tensor)] = reference, number

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter, a view of one, or computed only from parameters."""
        reference = self._weights.get(key := storage_key(tensor))
        return key in self._weights and not (reference is not None and reference.expired())

    def put_weight(self, tensor: Tensor) -> None:
        """Record that a tensor was computed only from parameters and constants."""
        if not self.is_weight(tensor) and (reference := _reference(tensor)) is not None:
            self._weights[storage_key(tensor)] = reference


def _reference(tensor: Tensor) -> StorageWeakRef | None:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None
