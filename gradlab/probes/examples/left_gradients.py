"""Gradients as the passes of a step leave them, and whether somebody clears or changes them before the next pass."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.probes.examples.pieces import Pieces
from gradlab.probes.gradient_states import GradientStates


class LeftGradients:
    """Detects that gradients were changed between two backward passes of one step.

    A step may begin anew: its gradients are cleared, and other passes follow, as in sharpness-aware minimization. What
    was measured of the passes before then belongs to no gradient. If gradients are changed but not cleared, they are no
    longer sums over the examples of all passes.

    Args:
        pieces: The parameters.

    Attributes:
        states: The gradients as passes have left them, by version if gradients change in place only if somebody else
            changes them, and not by an exchange of ranks that the probe does not wait for.
        undone: The parameters whose gradients were changed in this step.
        remaining: The norm of the gradients that were there after that; None if there were none.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.states = GradientStates()
        self.begin()

    def begin(self) -> None:
        """Begin another step."""
        self.undone: set[int] = set()
        self._of_failed: set[int] = set()
        # The parameters to whose gradients each pass has added since gradients were last cleared, by its number.
        self._reached: dict[int, set[int]] = {}
        self.remaining: Tensor | None = None
        self._left: set[int] = set()
        self._task = -1

    def take(self, number: int) -> None:
        """Take in the gradient of a parameter as a pass has left it."""
        self._left.add(number)
        self.states.take(self.pieces.parameters[number])

    def take_again(self) -> None:
        """Take in all gradients once more, after what belongs to the pass itself has changed them."""
        for number in self._left:
            self.take(number)

    def reach(self, number: int) -> None:
        """Take in that the pass under way has added to the gradient of a parameter."""
        self._reached.setdefault(torch._C._current_graph_task_id(), set()).add(number)

    def failed(self, tasks: set[int]) -> None:
        """Take in that passes have failed, which may have added to some gradients, where others are to be kept."""
        reached = set[int]().union(*(self._reached.pop(task, set()) for task in tasks))
        if reached:
            self.undone |= reached
            self._of_failed |= reached
            self.remaining = self.pieces.norm_of_gradients()

    def said(self) -> str:
        """Say which gradients were changed in this step, and how; nothing if none was."""
        if self._of_failed:
            return f"{self.pieces.names(self._of_failed)}: a backward pass that failed has added to the gradient"
        if self.undone:
            return f"{self.pieces.names(self.undone)}: the gradient was changed between two backward passes"
        return ""

    def are_undone(self) -> bool:
        """Return whether gradients were changed since the last pass; asked in a pass, it is told once."""
        task = torch._C._current_graph_task_id()
        if task == self._task:
            return False
        self._task = task
        changed = {number for number in self._left if self.states.changed(self.pieces.parameters[number])}
        if not changed:
            return False
        self.undone |= changed
        self._left, self._reached = set(), {}
        self.remaining = self.pieces.norm_of_gradients()
        return True
