"""The backward passes of a step: when each of them ends, and which loss it began from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.accumulation import after_accumulation
from gradlab.probes.backward_passes import after_pass
from gradlab.probes.fully_sharded import gathered_owners
from gradlab.probes.gradient_states import GradientStates, memory_of
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
        begun: A function called within each pass, once it has added to the gradient of a first parameter, with this.

    Attributes:
        passes: The number of passes since the last `reset`.
        losses: The loss that each pass began from, including the scale of mixed precision.
        missed: Whether torch has swapped parameters, as it may when a model is moved, and no pass was seen since: a
            swapped parameter has no hook any more.
    """

    def __init__(
        self,
        model: nn.Module,
        ended: Callable[[], None],
        restarted: Callable[[], None] = lambda: None,
        begun: Callable[[Tensor], None] = lambda first: None,
    ) -> None:
        self.model = model
        self._ended, self._restarted, self._begun = ended, restarted, begun
        self._task = -1
        self._is_put = self._is_begun = False
        self._loss: Tensor | None = None
        self._states = GradientStates()
        self._parameters: list[nn.Parameter] = []
        self._handles: dict[nn.Parameter, tuple[RemovableHandle, int]] = {}
        self.missed = False
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
        self._stack, self._handles, self.missed = stack, {}, False
        for parameter in self._parameters:
            if parameter.is_leaf:
                self._hook(parameter)
        for module, owners in gathered_owners(self.model):
            known = stack.enter_context(ExitStack()), set[Tensor]()
            # It follows the hook in which fully_shard gathers the parameters.
            hook = Hook(partial(self._gathered, owners, *known))
            stack.enter_context(module.register_forward_pre_hook(hook))

    def _hook(self, parameter: nn.Parameter) -> None:
        if (handle := after_accumulation(self._stack, parameter, self._put)) is not None:
            self._handles[parameter] = handle, parameter._cdata

    def _hook_swapped(self) -> None:
        """Register the hooks anew that were lost as torch swapped parameters; behind other people's none is called."""
        for parameter, (handle, place) in [*self._handles.items()]:
            if parameter._cdata != place:
                self.missed = True
                handle.remove()
                self._hook(parameter)

    def loss(self, scale: Tensor | None) -> Tensor | None:
        """Return the sum of the losses, without the scale of mixed precision; None where none is known."""
        if not self.losses:
            return None
        loss = torch.stack([loss.to(self.losses[0].device) for loss in self.losses]).sum()
        return loss if scale is None else loss / scale.to(loss.device)

    @property
    def undone(self) -> bool:
        """Whether gradients were changed or removed since the last pass, so that its step was not made."""
        return self.passes > 0 and any(map(self._states.changed, self._parameters))

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
            self._begun(parameter)
            self._loss = scalar_sum(roots_under_way())
        if within:
            # The pass around it adds to gradients later, if to any.
            return
        self._task = task
        after_pass(self._end)

    def settle(self) -> None:
        """Count the last pass, if it is over and all that it added to gradients was added by passes within it.

        To be called before each pass and each step, as parameters that were swapped get their hooks back here.
        """
        self._hook_swapped()
        if self._is_begun and self._task == -1 and not in_backward():
            self._end()

    def _end(self) -> None:
        self._task, self._is_begun, self.missed = -1, False, False
        loss, self._loss = self._loss, None
        self.passes += 1
        if loss is not None:
            self.losses.append(loss)
        for parameter in self._parameters:
            self._states.take(parameter)
        if not self._is_put:
            return
        self._is_put = False
        with torch.no_grad():
            self._ended()

    def _changed_except(self, parameter: Tensor) -> bool:
        """Return whether gradients were changed or removed since the last pass, the first of the next one aside.

        The others that are in one buffer with the first are aside as well: their versions change together.
        """
        memory = memory_of(parameter)
        others = (other for other in self._parameters if other is not parameter and memory_of(other) is not memory)
        return any(map(self._states.changed, others))
