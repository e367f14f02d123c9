"""Gradients that one step has left, and to which the first backward pass of the next one adds."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn

from gradlab.probes.gradient_states import GradientStates, memory_of
from gradlab.stats import l2_norms


class LeftGradients:
    """Detects gradients that nobody clears or changes between a step and the first backward pass after it.

    Those of the parameter that the pass reaches first are not looked at, nor those in one buffer with them, as it has
    been added to by then; nor those that are shards.
    """

    def __init__(self) -> None:
        self._states = GradientStates()
        self._norms: dict[int, Tensor] = {}

    def begin(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take down the gradients of all parameters, after a step."""
        self._norms = {}
        for parameter in parameters:
            self._states.take(parameter)

    @torch.no_grad()
    def arrive(self, parameters: Sequence[nn.Parameter], first: Tensor) -> None:
        """Measure what was left, as a pass has added to the gradient of the first parameter alone."""
        memory = memory_of(first)
        there = [p for p in parameters if p.grad is not None and p is not first and not hasattr(p.grad, "placements")]
        left = [p for p in there if memory_of(p) is not memory and not self._states.changed(p)]
        if left:
            norms = l2_norms([p.grad.detach() for p in left if p.grad is not None])
            self._norms = {id(p): norm for p, norm in zip(left, norms.unbind(), strict=True)}

    def take(self, owned: Set[int]) -> list[Tensor]:
        """Take out the norms of those that some parameters had, which are 0 where values were cleared alone.

        Args:
            owned: Ids of the parameters.
        """
        return [self._norms.pop(key) for key in [*self._norms] if key in owned]
