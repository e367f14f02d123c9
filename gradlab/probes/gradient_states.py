"""Whether gradients were cleared or changed since they were last looked at."""

from __future__ import annotations

from torch import Tensor


class GradientStates:
    """Detects that somebody clears or changes gradients, without reading their values.

    Views of one buffer, as data parallelism and flat buffers have them, share its count of changes. Gradients that are
    moved into such a buffer count as what they were.

    Attributes:
        by_version: Whether changes in place are looked for.
    """

    def __init__(self) -> None:
        self.by_version = True
        self.clear()

    def clear(self) -> None:
        """Forget all parameters."""
        self._memory: dict[Tensor, int | None] = {}
        self._versions: dict[int, int] = {}

    def take(self, parameter: Tensor) -> None:
        """Take down the present gradient of a parameter."""
        memory = memory_of(parameter)
        self._memory[parameter] = None if memory is None else id(memory)
        if memory is not None:
            self._versions[id(memory)] = memory._version

    def changed(self, parameter: Tensor) -> bool:
        """Return whether a gradient is not what was taken down of it."""
        before, memory = self._memory[parameter], memory_of(parameter)
        if before is None or memory is None:
            return before is not None or memory is not None
        if before != id(memory):
            return memory is parameter.grad
        return self.by_version and memory._version != self._versions[before]

    def taken(self) -> list[Tensor]:
        """Return the parameters of which a gradient was taken down."""
        return [parameter for parameter, memory in self._memory.items() if memory is not None]


def memory_of(parameter: Tensor) -> Tensor | None:
    """Return the gradient of a parameter, or the buffer that it is a view of."""
    gradient = parameter.grad
    return gradient if gradient is None or gradient._base is None else gradient._base
