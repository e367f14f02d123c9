"""Gradients that are cleared between two backward passes of one step."""

from __future__ import annotations

from torch import Tensor, nn
from torch.autograd.variable import Variable

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
        self.begin()

    def begin(self) -> None:
        """Begin another step."""
        # The identity and the version of each gradient, as the last pass has left them.
        self._left: dict[Tensor, tuple[int, int]] = {}

    def look(self, step: int) -> None:
        """Compare gradients, between two passes, with what the last pass of the step has left."""
        if any(self._is_gone(parameter) or self._is_changed(parameter) for parameter in self._left):
            self.steps.add(step)

    def arrive(self, step: int) -> None:
        """Compare gradients likewise as a pass begins, which may have added to some, but not to all of them, by now."""
        if any(map(self._is_gone, self._left)) or (self._left and all(map(self._is_changed, self._left))):
            self.steps.add(step)
        engine = Variable._execution_engine
        # Queued again from there, so that it comes after what others have queued, such as the joining of ranks.
        engine.queue_callback(lambda: engine.queue_callback(self._end))

    def _end(self) -> None:
        left = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        self._left = {p: (id(gradient), gradient._version) for p, gradient in left if gradient is not None}

    def _is_gone(self, parameter: Tensor) -> bool:
        return parameter.grad is None

    def _is_changed(self, parameter: Tensor) -> bool:
        """Return whether a gradient was changed in place; data parallelism puts the same values into another tensor."""
        identity, version = self._left[parameter]
        gradient = parameter.grad
        return gradient is not None and id(gradient) == identity and gradient._version != version

    def notes(self) -> list[str]:
        """Write a sentence on the steps in which gradients were cleared."""
        if not self.steps:
            return []
        return [
            f"{counted(len(self.steps), 'step')} had gradients cleared or changed between backward passes, first step "
            f"{min(self.steps)}: gradients of responses are of all passes of a step; call probe.step() once for each"
        ]
