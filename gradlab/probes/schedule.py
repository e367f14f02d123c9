"""When a probe in a training loop measures, and the probes that are told of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.hooks import Probe

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

Schedule = int | Callable[[int], bool]
"""Every so many steps, starting with step 0, or a predicate of the step's number."""


def log_spaced(per_decade: int = 10) -> Callable[[int], bool]:
    """A schedule of steps 0, 1, 2, … that thins out: `per_decade` steps from each power of ten to the next.

    Args:
        per_decade: Steps between s and 10 s; where so many whole numbers are not there, all of them.

    Raises:
        UsageError: For less than one.
    """
    if per_decade < 1:
        raise UsageError(f"a log-spaced schedule needs at least 1 step per decade, not {per_decade}")

    def measured(step: int) -> bool:
        if step < 1:
            return step == 0
        nearest = round(per_decade * math.log10(step))
        return any(round(10 ** (k / per_decade)) == step for k in range(nearest - 1, nearest + 2))

    return measured


class StepProbe(Probe):
    """A probe of gradients in a training loop: it is told of every optimizer step, and measures some.

    Call `step` once a step, after the backward pass and before the optimizer's step and `zero_grad`. On steps
    that the schedule leaves out nothing is computed.

    Args:
        model: Any `torch.nn.Module`.
        every: Measure every so many steps, or where a function of the step's number says so (`log_spaced`).
        scaler: The GradScaler of mixed-precision training, whose scale is divided out.

    Attributes:
        steps: Optimizer steps so far. Set it when training resumes.

    Raises:
        UsageError: For `every` below 1.
    """

    def __init__(self, model: nn.Module, every: Schedule = 1, scaler: GradScaler | None = None) -> None:
        super().__init__(model)
        if not callable(every) and every < 1:
            raise UsageError(f"every is a number of steps from 1 on, not {every}")
        self.every, self.scaler = every, scaler
        self.steps = 0

    @property
    def due(self) -> bool:
        """Whether the step under way is measured."""
        return self.every(self.steps) if callable(self.every) else self.steps % self.every == 0

    def step(self) -> None:
        """Close a step: the gradients as they are now belong to it.

        Raises:
            GradlabError: Outside the `with` block.
        """
        if self._stack is None:
            raise GradlabError("the probe is not attached: call step() inside its `with` block")
        if self.due:
            self._measure()
        self.steps += 1

    def _measure(self) -> None:
        """Take in the gradients of the step that ends."""
        raise AssertionError("a probe says what it measures")

    def _scale(self, device: torch.device) -> Tensor | float:
        """What the loss was multiplied by, as a tensor: asking the scaler for a number waits for the device."""
        if self.scaler is None or not self.scaler.is_enabled():
            return 1.0
        scale: Tensor = self.scaler.scale(torch.ones((), device=device))
        return scale.double() if device.type != "mps" else scale

    def _name(self, network: str | None) -> str:
        return network or str(getattr(self.model, "name", type(self.model).__name__))
