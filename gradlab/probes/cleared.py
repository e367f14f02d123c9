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
        self._left: dict[Tensor, tuple[int, int]] = {}

    def look(self, step: int) -> None:
        """Compare, between two passes, gradients with what the last pass of the step has left."""
        if any(_state(parameter) != state for parameter, state in self._left.items()):
            self.steps.add(step)

    def arrive(self, step: int) -> None:
        """Compare the gradients likewise as a pass begins, which may have added to some of them by now."""
        now = {parameter: _state(parameter) for parameter in self._left}
        gone = any(state == _NONE for state in now.values())
        if self._left and (gone or all(state != now[parameter] for parameter, state in self._left.items())):
            self.steps.add(step)
        engine = Variable._execution_engine
        # Queued again from there, so that it comes after what others have queued, such as the joining of ranks.
        engine.queue_callback(lambda: engine.queue_callback(self._end))

    def _end(self) -> None:
        self._left = {p: _state(p) for p in self.model.parameters() if p.grad is not None}

    def notes(self) -> list[str]:
        """Write a sentence on the steps in which gradients were cleared."""
        if not self.steps:
            return []
        return [
            f"{counted(len(self.steps), 'step')} had gradients cleared or changed between backward passes, first step "
            f"{min(self.steps)}: gradients of responses are of all passes of a step; call probe.step() once for each"
        ]


_NONE = (0, 0)


def _state(parameter: Tensor) -> tuple[int, int]:
    """Return the identity and the version of a gradient."""
    gradient = parameter.grad
    return _NONE if gradient is None else (id(gradient), gradient._version)
