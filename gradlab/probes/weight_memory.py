"""Where weights lie in memory, and what was computed from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlab.probes.weights import WeightRow


@dataclass
class Piece:
    """A weight, or a part of it, as a range of memory.

    Attributes:
        rows: The rows to which the weight belongs, several if it is tied.
        start: The offset of the first element, in elements.
        stop: The offset after the last element.
    """

    rows: list[WeightRow]
    start: int = 0
    stop: int = 0


@dataclass
class Memory:
    """Properties of a block of memory.

    Attributes:
        pieces: The weights that lie in it.
        computed_from: The weight from which it was computed using only constants.
        fresh: Whether it was created during the pass without inputs, such as zeros or random numbers.
        reference: A weak reference, which prevents the address from being reused if the memory is freed.
    """

    pieces: list[Piece] = field(default_factory=list)
    computed_from: Piece | None = None
    fresh: bool = False
    reference: StorageWeakRef | None = None

    @property
    def is_weight(self) -> bool:
        """Whether it holds a weight, or values computed from one."""
        return bool(self.pieces) or self.computed_from is not None


def pieces_in(tensor: Tensor, memory: Memory) -> list[Piece]:
    """Return the weights that lie in a tensor, in order."""
    if memory.computed_from is not None:
        return [memory.computed_from]
    start, stop = _stretch(tensor)
    return sorted((p for p in memory.pieces if p.start < stop and p.stop > start), key=lambda piece: piece.start)


def add_piece(pieces: list[Piece], row: WeightRow, tensor: Tensor) -> None:
    """Add a row's weight to the pieces in a block of memory; for tied weights, the first row stays first."""
    start, stop = _stretch(tensor)
    tied = next((piece for piece in pieces if (piece.start, piece.stop) == (start, stop)), None)
    if tied is None:
        pieces.append(Piece([row], start, stop))
    else:
        tied.rows.append(row)


def _stretch(tensor: Tensor) -> tuple[int, int]:
    """Return the range of a tensor in its memory, in elements."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return 0, tensor.numel()
    start = int(tensor.storage_offset())
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + int(extent) + 1
