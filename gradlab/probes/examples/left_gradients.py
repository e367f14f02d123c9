"""Gradients as the passes of a step leave them, and whether somebody clears or changes them before the next pass."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.probes.examples.pieces import Pieces


class LeftGradients:
    """Detects that gradients were changed between two backward passes of one step.

    A step may begin anew: its gradients are cleared, and other passes follow, as in sharpness-aware minimization. What
    was measured of the passes before then belongs to no gradient. If gradients are changed but not cleared, they are no
    longer sums over the examples of all passes.

    Args:
        pieces: The parameters.

    Attributes:
        by_version: Whether gradients change in place only if somebody else changes them, and not by an exchange of
            ranks that the probe does not wait for.
        undone: The parameters whose gradients were changed in this step.
        remaining: The norm of the gradients that were there after that; None if there were none.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.by_version = True
        self.begin()

    def begin(self) -> None:
        """Begin another step."""
        self.undone: set[int] = set()
        self.remaining: Tensor | None = None
        self._left: dict[int, tuple[int, int]] = {}
        self._task = -1

    def take(self, number: int) -> None:
        """Take in the gradient of a parameter as a pass has left it."""
        self._left[number] = self._state(number)

    def take_again(self) -> None:
        """Take in all gradients once more, after what belongs to the pass itself has changed them."""
        for number in self._left:
            self.take(number)

    def failed(self, reached: set[int]) -> None:
        """Take in that a pass has failed after it had added to some gradients, where others are to be kept."""
        self.undone |= reached
        self.remaining = self.pieces.norm_of_gradients()

    def are_undone(self) -> bool:
        """Return whether gradients were changed since the last pass; asked in a pass, it is told once."""
        task = torch._C._current_graph_task_id()
        if task == self._task:
            return False
        self._task = task
        changed = {number for number, state in self._left.items() if state != self._state(number)}
        if not changed:
            return False
        self.undone |= changed
        self._left = {}
        self.remaining = self.pieces.norm_of_gradients()
        return True

    def _state(self, number: int) -> tuple[int, int]:
        gradient = self.pieces.parameters[number].grad
        if gradient is None:
            return 0, 0
        return id(gradient), gradient._version if self.by_version else 0
