"""Which tensors of a forward pass are parts of a whole that ranks have together, from one function to the next."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlab.probes.functions import tensors_in
from gradlab.probes.identity import storage_key

Split = Literal["", "channels", "samples", "unknown"]
"""What ranks have apart of a tensor: nothing, its channels, its examples or positions, or something else."""


def split_of(own: tuple[int, ...], whole: tuple[int, ...], channel: int) -> Split:
    """Return what ranks have apart of a tensor, by the shapes of one rank's part and of the whole.

    Args:
        own: The shape of the part.
        whole: The shape of the whole.
        channel: The dimension of its channels, counted from the end.
    """
    if math.prod(own) == math.prod(whole):
        return ""
    differ = [dim - len(whole) for dim, sizes in enumerate(zip(own, whole, strict=False)) if sizes[0] != sizes[1]]
    if len(own) != len(whole) or len(differ) > 1:
        return "unknown"
    return "channels" if differ == [channel] else "samples"


class SplitSignals:
    """Marks tensors by their memory, without keeping them alive.

    What is computed from a part is a part. What ranks exchange inside of a layer that `parallelize_module` has split is
    not seen here: such a layer's output is marked anew.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[StorageWeakRef, Split]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def of(self, tensor: Tensor) -> Split:
        """Return what the ranks have apart of a tensor."""
        found = self._found.get(storage_key(tensor))
        return "" if found is None or found[0].expired() else found[1]

    def put(self, tensor: Tensor, split: Split) -> None:
        """Mark a tensor, or take its mark away."""
        key = storage_key(tensor)
        if split:
            self._found[key] = StorageWeakRef(tensor.untyped_storage()), split
        else:
            self._found.pop(key, None)

    def follow(self, arguments: Iterable[Any], output: Any) -> None:
        """Mark the output of a function whose arguments are marked."""
        marks = {split for tensor in tensors_in(arguments) if (split := self.of(tensor))}
        mark: Split = "unknown" if len(marks) > 1 else next(iter(marks), "")
        if mark:
            for tensor in tensors_in((output,)):
                self.put(tensor, mark)

    def forget(self) -> None:
        """Forget all tensors."""
        self._found.clear()
