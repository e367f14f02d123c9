"""Gradients that are cleared between two backward passes of one step."""

from __future__ import annotations

from torch import nn

from gradlab.probes.backward_passes import after_pass
from gradlab.probes.gradient_states import GradientStates, memory_of
from gradlab.results.grouping import counted


class ClearedGradients:
    """Notices that gradients are cleared or changed between two backward passes of one step.

    So they are between the passes of sharpness-aware minimization, or where a loop ends steps that a probe is not told
    of. What both passes gave the responses belongs to no gradient that an optimizer takes.

    Args:
        model: The model whose parameters have the gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps: set[int] = set()
        self._states = GradientStates()

    def begin(self) -> None:
        """Begin another step."""
        self._states.clear()

    def look(self, step: int) -> None:
        """Compare gradients, between two passes, with what the last pass of the step has left."""
        if any(map(self._states.changed, self._states.taken())):
            self.steps.add(step)

    def arrive(self, step: int) -> None:
        """Compare gradients likewise as a pass begins, which may have added to some, but not to all of them, by now."""
        taken = self._states.taken()
        # What a pass adds to one view of a buffer changes the version of all.
        own = [parameter for parameter in taken if memory_of(parameter) is parameter.grad]
        if any(parameter.grad is None for parameter in own) or (own and all(map(self._states.changed, own))):
            self.steps.add(step)
        after_pass(self._end)

    def _end(self) -> None:
        for parameter in self.model.parameters():
            self._states.take(parameter)

    def notes(self) -> list[str]:
        """Write a sentence on the steps in which gradients were cleared."""
        if not self.steps:
            return []
        return [
            f"{counted(len(self.steps), 'step')} had gradients cleared or changed between backward passes, first step "
            f"{min(self.steps)}: gradients of responses are of all passes of a step; call probe.step() once for each"
        ]
