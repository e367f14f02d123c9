"""Schedules of measurement in a training loop, and probes that are notified of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.facts import name_of
from gradlab.probes.capture import refuse_captured_step
from gradlab.probes.hooks import Probe
from gradlab.probes.outputs import refuse_without_values
from gradlab.probes.ranks import Ranks
from gradlab.probes.replaced import Places

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

Schedule = int | Callable[[int], bool]
"""The number of steps from one measurement to the next, starting at step 0, or a predicate of the step number."""


def log_spaced(per_decade: int = 10) -> Callable[[int], bool]:
    """Make a schedule of logarithmically spaced steps 0, 1, 2, …

    Args:
        per_decade: The number of steps from each power of ten to the next; all integers where there are fewer.

    Raises:
        UsageError: If `per_decade` is less than 1.
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
    """A probe of gradients in a training loop, which is notified of every optimizer step and measures some of them.

    Call `step` once per optimizer step, after the backward pass and before the optimizer's `step` and `zero_grad`. On
    steps outside the schedule nothing is computed.

    Args:
        model: Any `torch.nn.Module`.
        ranks: The processes of a distributed run whose measurements make up the result.
        every: The number of steps from one measurement to the next, or a predicate of the step number (`log_spaced`).
        scaler: The GradScaler of mixed-precision training, whose scale is divided out.

    Attributes:
        steps: The number of optimizer steps so far. Set it when training resumes.

    Raises:
        UsageError: If `every` is below 1.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, every: Schedule = 1, scaler: GradScaler | None = None) -> None:
        super().__init__(model, ranks)
        if not callable(every) and every < 1:
            raise UsageError(f"every is a number of steps from 1 on, not {every}")
        self.every, self.scaler = every, scaler
        self._places = Places(self.model)
        self.steps = 0

    def _enter(self, stack: ExitStack) -> None:
        stack.callback(self._places.look)
        super()._enter(stack)

    def _added(self, *, vectors: bool = True) -> list[str]:
        """Write a sentence on the parameters that were added to the model while the probe was attached."""
        if self._stack is not None:
            self._places.look()
        return self._places.notes(vectors=vectors)

    @property
    def due(self) -> bool:
        """Whether the current step is measured."""
        return self.every(self.steps) if callable(self.every) else self.steps % self.every == 0

    def step(self) -> None:
        """End a step, to which the present gradients belong.

        Raises:
            GradlabError: If called outside the `with` block, if a module of the model was replaced, if gradients have
                no values, on the meta device, or if a CUDA graph is being captured.
        """
        if self._stack is None:
            raise GradlabError("the probe is not attached: call step() inside its `with` block")
        refuse_captured_step()
        if self.due:
            # Function modes of other users are to see the loop alone.
            with torch._C.DisableTorchFunction():
                self._places.check(type(self).__name__)
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        refuse_without_values(parameter.grad)
                self.ranks.remember()
                self._measure()
        self.steps += 1

    def _measure(self) -> None:
        """Measure the gradients of the step that ends."""
        raise AssertionError("a probe says what it measures")

    def _scale(self, device: torch.device) -> Tensor | float:
        """Return the scale of the loss as a tensor, since reading it as a number would synchronize with the device."""
        if self.scaler is None or not self.scaler.is_enabled():
            return 1.0
        scale: Tensor = self.scaler.scale(torch.ones((), device=device))
        return scale.double() if device.type != "mps" else scale

    def _name(self, network: str | None) -> str:
        return network or name_of(self.model)
