"""Gradients that the steps of optimizers have left, and to which later backward passes add."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn

from gradlab.probes.gradient_states import GradientStates, memory_of
from gradlab.stats import l2_norms


class LeftGradients:
    """Detects gradients that nobody clears or changes between a step of their optimizer and the passes after it.

    Those of the parameter that a pass reaches first are not looked at, nor those in one buffer with them, as they have
    been added to by then; nor those that are shards.

    Args:
        parameters: Whose gradients they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = {id(p): p for p in parameters}
        self.forget()

    def forget(self) -> None:
        """Forget all steps: until its next one, nothing is known of what an optimizer has left."""
        self._states = GradientStates()
        self._untouched: set[int] = set()
        self._norms: dict[int, Tensor] = {}
        self._added: set[int] = set()

    def stepped(self, owned: Set[int]) -> None:
        """Take down the gradients of some parameters, as their optimizer has stepped.

        Args:
            owned: Ids of the parameters.
        """
        for key in owned & self.parameters.keys():
            self._drop(key)
            self._states.take(self.parameters[key])
            self._untouched.add(key)

    @torch.no_grad()
    def pass_begun(self, first: Tensor) -> None:
        """Measure what was left, as a pass has added to the gradient of a first parameter alone."""
        memory = memory_of(first)
        for key in [*self._untouched]:
            parameter = self.parameters[key]
            if parameter.grad is None or self._states.changed(parameter) or memory_of(parameter) is memory:
                self._drop(key)
        new = [p for key, p in self.parameters.items() if key in self._untouched and key not in self._norms]
        found = {id(p): g.detach() for p in new if (g := p.grad) is not None and not hasattr(g, "placements")}
        if found:
            self._norms |= zip(found, l2_norms([*found.values()]).unbind(), strict=True)

    def look(self) -> None:
        """Note to which of them the pass has added, at its end or at a step that is made within it."""
        for key in self._norms.keys() & self._untouched:
            if self._states.changed(self.parameters[key]):
                self._added.add(key)
                self._states.take(self.parameters[key])

    def take(self, owned: Set[int]) -> list[Tensor]:
        """Take out the norms of those of some parameters that were added to; 0 where values alone were cleared.

        Args:
            owned: Ids of the parameters.
        """
        taken = [norm for key, norm in self._norms.items() if key in owned & self._added]
        for key in owned & self._untouched:
            self._drop(key)
        return taken

    def _drop(self, key: int) -> None:
        self._untouched.discard(key)
        self._added.discard(key)
        self._norms.pop(key, None)
