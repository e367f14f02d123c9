"""Measured values that still lie on a device, and what rows they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.probes.watch.shares import Found


@dataclass(frozen=True)
class Piece:
    """Part of what a step has shown.

    Attributes:
        values: On any device, of one dimension.
        read: Makes rows of them, once they are here.
    """

    values: Tensor
    read: Callable[[list[float]], Iterable[Found]]


class Fetch:
    """Pieces on their way from their devices, which nothing waits for until they are read.

    Args:
        pieces: Of one step.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._arriving = [(piece.values.to("cpu", non_blocking=True), piece) for piece in pieces]
        devices = {piece.values.device for _, piece in self._arriving if not piece.values.is_cpu}
        self._events = [_recorded(device) for device in devices]

    @property
    def is_local(self) -> bool:
        """Whether all was computed on the CPU, where nothing has to be waited for."""
        return not self._events

    def values(self) -> list[Found]:
        """All values; waits for those that have not arrived."""
        for event in self._events:
            event.synchronize()
        return [value for here, piece in self._arriving for value in piece.read(here.tolist())]


def _recorded(device: torch.device) -> torch.Event:
    event = torch.Event(device)
    # Without a stream it would be recorded on the current device, whichever device it is of.
    event.record(torch.accelerator.current_stream(device))
    return event
