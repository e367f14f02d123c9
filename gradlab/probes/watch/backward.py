"""The backward passes of a step: when each of them ends, and which loss it began from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.variable import Variable

from gradlab.probes.accumulation import after_accumulation
from gradlab.probes.fully_sharded import gathered_owners
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.watch.losses import is_part_of_another, is_within_another, roots_under_way, scalar_sum


class BackwardWatch:
    """Detects the end of each backward pass that adds to the gradients of a model's parameters.

    Of shards, a pass may leave that to a later one (`set_requires_gradient_sync(False)`): it counts, with its loss.
    The passes that reentrant checkpointing makes within another one are a part of that one.

    Args:
        model: The model with the parameters.
        ended: A function called at the end of each pass that has put gradients into place.
        restarted: A function called within a pass before which others have changed the gradients of earlier ones.

    Attributes:
        passes: The number of passes since the last `reset`.
        losses: The loss that each pass began from, including the scale of mixed precision.
    """

    def __init__(
        self, model: nn.Module, ended: Callable[[], None], restarted: Callable[[], None] = lambda: None
    ) -> None:
        self.model = model
        self._ended, self._restarted = ended, restarted
        self._task = -1
        self._is_put = self._is_begun = False
        self._loss: Tensor | None = None
        self._state: list[tuple[int, int]] = []
        self._parameters: list[nn.Parameter] = []
        self.reset()

    def reset(self) -> None:
        """Start a new step."""
        if not in_backward():
            self._task = -1
            self._is_begun = False
        self.passes = 0
        self.losses: list[Tensor] = []

    def attach(self, stack: ExitStack) -> None:
        """Register hooks on the parameters, their removal on the stack."""
        # Once: walking through a model's modules takes as long as measuring a small layer.
        self._parameters = [*self.model.parameters()]
        for parameter in self._parameters:
            if parameter.is_leaf:
                after_accumulation(stack, parameter, self._put)
        for module, owners in gathered_owners(self.model):
            known = stack.enter_context(ExitStack()), set[Tensor]()
            # It follows the hook in which fully_shard gathers the parameters.
            hook = Hook(partial(self._gathered, owners, *known))
            stack.enter_context(module.register_forward_pre_hook(hook))

    @property
    def undone(self) -> bool:
        """Whether gradients were changed or removed since the last pass, so that its step was not made."""
        return self.passes > 0 and self._state != self._gradients()

    @property
    def failed(self) -> bool:
        """Whether an exception has ended the last pass, which left gradients of some parameters."""
        return self._task != -1 and not in_backward()

    def _gathered(self, owners: list[nn.Module], stack: ExitStack, known: set[Tensor], *_: object) -> None:
        """Register hooks on whole parameters, to which passes add that leave the shards to a later one."""
        for parameter in (value for owner in owners for value in owner._parameters.values() if value is not None):
            if parameter.requires_grad and not hasattr(parameter, "placements") and parameter not in known:
                known.add(parameter)
                after_accumulation(stack, parameter, self._accumulated)

    def _put(self, parameter: Tensor) -> None:
        self._is_put = True
        self._accumulated(parameter)

    def _accumulated(self, parameter: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task == self._task or is_within_another():
            return
        if (within := is_part_of_another()) and self._task != -1:
            return
        # An exception may have ended the pass before, whose task is then still here.
        if not self._is_begun or self._task != -1:
            self._is_begun = True
            if self.passes and self._changed_except(parameter):
                self.reset()
                self._restarted()
            self._loss = scalar_sum(roots_under_way())
        if within:
            # The pass around it adds to gradients later, if to any.
            return
        self._task = task
        engine = Variable._execution_engine
        # Queued again from there, so that it comes after what others have queued, such as the joining of ranks.
        engine.queue_callback(lambda: engine.queue_callback(self._end))

    def settle(self) -> None:
        """Count the last pass, if it is over and all that it added to gradients was added by passes within it."""
        if self._is_begun and self._task == -1 and not in_backward():
            self._end()

    def _end(self) -> None:
        self._task, self._is_begun = -1, False
        loss, self._loss = self._loss, None
        self.passes += 1
        if loss is not None:
            self.losses.append(loss)
        self._state = self._gradients()
        if not self._is_put:
            return
        self._is_put = False
        with torch.no_grad():
            self._ended()

    def _changed_except(self, parameter: Tensor) -> bool:
        """Return whether gradients were changed or removed since the last pass, the first of the next one aside."""
        states = zip(self._parameters, self._state, self._gradients(), strict=True)
        return any(before != now for p, before, now in states if p is not parameter)

    def _gradients(self) -> list[tuple[int, int]]:
        """Return the identity and the version of each gradient."""
        gradients = [parameter.grad for parameter in self._parameters]
        return [(0, 0) if gradient is None else (id(gradient), gradient._version) for gradient in gradients]
